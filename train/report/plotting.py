"""matplotlib with its own default settings instead of those of the user's environment and matplotlibrc.

Everything that draws imports matplotlib from here.
"""

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def _import_matplotlib() -> None:
    """Import matplotlib also if MPLBACKEND names a backend that is not installed.

    Notebooks set it for their child processes, to a module that only exists in their own environment.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend is not None:
        with contextlib.suppress(
            ValueError
        ):  # as matplotlib does, for a notebook that imported this module
            matplotlib.rcParams["backend"] = backend


_import_matplotlib()

import matplotlib  # noqa: E402
from matplotlib.axes import Axes as Axes  # noqa: E402
from matplotlib.figure import Figure as Figure  # noqa: E402
from matplotlib.lines import Line2D as Line2D  # noqa: E402
from matplotlib.ticker import MaxNLocator as MaxNLocator  # noqa: E402

from zoo.common.files import write_atomically  # noqa: E402

DPI = 110


@contextlib.contextmanager
def default_settings() -> Iterator[None]:
    """Context, or decorator of a function, in which matplotlib has its default settings instead of the user's.

    A matplotlibrc with `text.usetex`, for example, would need an installation of LaTeX.
    """
    settings: Any = {k: v for k, v in matplotlib.rcParamsDefault.items() if k != "backend"}
    with matplotlib.rc_context(settings):
        yield


def shorten(name: str, limit: int = 18) -> str:
    """Truncate a long name for a label, and escape "$", which would start a formula."""
    name = name if len(name) <= limit else name[: limit - 1] + "…"
    return name.replace("$", r"\$")


def finish(figure: Figure, path: Path, title: str = "") -> None:
    """Lay a figure out and write it as .png, atomically; equal figures are equal files."""
    if title:
        figure.suptitle(shorten(title, 90), fontsize=11)
    content = io.BytesIO()
    with warnings.catch_warnings():
        # Class names in scripts that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        layout = figure.get_layout_engine()
        if layout is not None:
            # Saving would compute the layout twice, which takes most of the time.
            figure.set_dpi(DPI)
            layout.execute(figure)
            figure.set_layout_engine("none")
        # matplotlib's version is left out. The name tells figures from data.
        figure.savefig(content, format="png", dpi=DPI, metadata={"Software": "jax-zoo"})
    write_atomically(path, content.getvalue())
