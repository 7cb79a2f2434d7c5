"""Hooks of `mkdocs build`: pages and links that lie outside of docs/.

The README is the site's front page. Links are written for a reader of the repository; where they leave docs/, the file
is copied into the site. A link to a file that does not exist is left as it is, and fails the build.
"""

import logging
import posixpath
import re
import sys
from pathlib import Path

from markdown import Extension
from markdown.preprocessors import Preprocessor
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.pages import as_markdown  # noqa: E402

# Pages by their path in the repository, and their address in the site.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/NOTES.md": "speed/notes.md",
}
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")


class _AsMarkdown(Preprocessor):
    def run(self, lines):
        return as_markdown("\n".join(lines)).split("\n")


class DocstringMarkdown(Extension):
    """Read lists and placeholders as docstrings write them."""

    def extendMarkdown(self, md):  # noqa: N802
        md.preprocessors.register(_AsMarkdown(md), "docstrings", 28)  # before fenced code, 25


def on_config(config):
    """Called with the settings."""
    # One line of a docstring may describe two parameters: "folds, fold: ...".
    several = re.compile(r"parameter '\w+, ", re.IGNORECASE)
    logger = logging.getLogger("mkdocs.plugins.griffe")
    logger.addFilter(lambda record: not several.search(record.getMessage()))
    config.markdown_extensions.append(DocstringMarkdown())
    return config


def on_files(files, config):
    """Called with the files of docs/."""
    for path, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Called with the text of each page."""
    uri = page.file.src_uri
    path = {v: k for k, v in PAGES.items()}.get(uri, f"docs/{uri}")

    def rewritten(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[1]))
        if target in PAGES:
            found = PAGES[target]
        elif target.startswith("docs/"):
            found = target.removeprefix("docs/")
        elif (ROOT / target).is_file():
            found = f"files/{target}"
            if files.get_file_from_path(found) is None:
                files.append(File.generated(config, found, abs_src_path=str(ROOT / target)))
        else:
            return match[1]
        return posixpath.relpath(found, posixpath.dirname(uri) or ".")

    return LINK.sub(rewritten, markdown)
