"""Locks between processes. At the top level, imports only the standard library."""

import contextlib
import os
from collections.abc import Callable, Iterator

from zoo.common.errors import InUse


@contextlib.contextmanager
def locked(path: str | os.PathLike[str], busy: str, warn: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock on the file `path`, which is created and not removed.

    Args:
      path: the lock file, in an existing folder.
      busy: message if another process holds the lock.
      warn: called with a message if the file system has no locks, as is the case for some network file systems; the
        block then runs without a lock.

    Raises:
      InUse: another process holds the lock.
      OSError: the file cannot be created or written.
    """
    import filelock  # takes 0.1 s

    with open(path, "a"):  # raises errors of the file itself, to tell them from those of `acquire`
        pass
    # A marker file instead of a lock would outlive a killed process.
    lock = filelock.FileLock(path, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise InUse(busy) from None
    except OSError as error:
        warn(
            f"note: {os.path.dirname(path) or '.'} is not locked ({error.strerror}):"
            " do not start a second command on it while this one runs"
        )
    try:
        yield
    finally:
        lock.release()
