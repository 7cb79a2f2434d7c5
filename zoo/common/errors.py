"""The error of the whole project for input that cannot be used, and its hints."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something that the caller gave cannot be used; the message is one line that says what to do."""


class ImageTooSmall(InputError):
    """Images of which a model's pooling leaves nothing; a larger size helps."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str, *, cutoff: float = 0.5) -> str:
    """A hint at the nearest known names, or `otherwise` where none is near."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=cutoff)
    return f"did you mean {' or '.join(near)}?" if near else otherwise
