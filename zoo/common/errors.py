"""The error of the whole project for input that cannot be used."""


class InputError(ValueError):
    """Something that the caller gave cannot be used; the message is one line that says what to do."""


class ImageTooSmall(InputError):
    """Images of which a model's pooling leaves nothing; a larger size helps."""
