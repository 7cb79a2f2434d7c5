"""Building blocks of self-contained HTML pages: style, sections, tables, images."""

import base64
import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #666; --line: #ddd; --page: #fff; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --soft: #a0a0a0; --line: #3a3a3a; --page: #161616; --card: #222; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
.soft { color: var(--soft); } .badge { background: #b35c00; color: #fff; border-radius: .3rem;
  padding: .05rem .5rem; font-size: .8rem; vertical-align: middle; }
.numbers { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; padding: 0; list-style: none; }
.numbers li { background: var(--card); border-radius: .5rem; padding: .6rem 1rem; min-width: 7rem; }
.numbers b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; overflow-wrap: break-word; } table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
img { max-width: 100%; height: auto; background: #fff; border-radius: .4rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .8rem; padding: 0;
  list-style: none; font-size: .85rem; line-height: 1.35; }
.gallery li { background: var(--card); border-radius: .5rem; padding: .5rem; }
.gallery img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; margin-bottom: .3rem; }
.gallery span, .gallery small { display: block; } .gallery small { color: var(--soft); }
pre { background: var(--card); padding: .8rem; border-radius: .4rem; overflow-x: auto; font-size: .85rem; }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """Build a complete page from its parts; empty parts are omitted."""
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def text(value: Any) -> str:
    """Convert a value to text with HTML markup escaped."""
    return html.escape(str(value))


def section(title: str, body: str) -> str:
    """Build a heading and its body; an empty string for an empty body."""
    return f"<h2>{text(title)}</h2>{body}" if body else ""


def image(path: Path, title: str) -> str:
    """Embed a .png or .jpg file in the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    kind = "png" if path.suffix == ".png" else "jpeg"
    return f'<img alt="{text(title)}" src="data:image/{kind};base64,{data}">'


def table(heading: Iterable[str], rows: Iterable[Iterable[Any]], numeric: bool = False) -> str:
    """Build a table; an empty string without rows. With `numeric`, all columns except the first are right-aligned."""

    def cells(tag: str, values: Iterable[Any]) -> str:
        classes = (" class=n" if numeric and i else "" for i in range(1000))
        return "".join(
            f"<{tag}{c}>{text(v)}</{tag}>" for c, v in zip(classes, values, strict=False)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f"<div class=scroll><table><tr>{cells('th', heading)}</tr>{body}</table></div>"
        if body
        else ""
    )
