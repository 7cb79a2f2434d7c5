"""Errors for unusable input, shared by all packages."""


class InputError(ValueError):
    """Invalid input from the caller. The message is one line: what is wrong, where, and what to do."""


class InUse(InputError):
    """Another process is writing to the same folder."""


class ImageTooSmall(InputError):
    """The images are too small: the model's pooling leaves an empty feature map."""
