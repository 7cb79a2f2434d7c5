"""matplotlib with its own default settings instead of those of the user's environment and matplotlibrc.

Everything that draws imports matplotlib from here.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


def _import_matplotlib() -> None:
    """Import matplotlib even if MPLBACKEND names a backend that is not installed.

    Notebooks set it for their child processes, to a module that exists only in the notebook's environment.
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
        ):  # as matplotlib does, for notebooks that import this module
            matplotlib.rcParams["backend"] = backend


_import_matplotlib()

import matplotlib  # noqa: E402
from matplotlib.axes import Axes as Axes  # noqa: E402
from matplotlib.figure import Figure as Figure  # noqa: E402
from matplotlib.lines import Line2D as Line2D  # noqa: E402
from matplotlib.ticker import MaxNLocator as MaxNLocator  # noqa: E402


@contextlib.contextmanager
def default_settings() -> Iterator[None]:
    """Context (or function decorator) in which matplotlib has its default settings instead of the user's.

    A matplotlibrc with `text.usetex`, for example, would need an installation of LaTeX.
    """
    settings: Any = {k: v for k, v in matplotlib.rcParamsDefault.items() if k != "backend"}
    with matplotlib.rc_context(settings):
        yield
