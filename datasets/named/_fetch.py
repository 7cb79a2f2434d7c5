"""Files that may be fetched without asking anyone, into the cache."""

from pathlib import Path

from datasets.cache import cache_dir
from datasets.dataset import InputError, Progress


def fetch(url: str, md5: str, name: str, progress: Progress | None = None) -> Path:
    """The file at a URL, from the cache if it is there, its hash checked each time.

    `name` is its path in the cache. A download appears whole or not at all. Raises InputError when it fails, or when
    what came is another file.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    path = cache_dir() / name
    elsewhere = f"fetch it where there is a network and put it at {path}"
    bar = _Bar(f"downloading {path.name} (MiB)", progress) if progress else False
    try:
        pooch.retrieve(
            url,
            known_hash=f"md5:{md5}",
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(progressbar=bar),
        )
    except OSError as error:  # all of requests' are, also those that are ValueErrors
        raise InputError(f"cannot download {url} ({_reason(error)}): {elsewhere}") from error
    except ValueError as error:
        raise InputError(
            f"what {url} gave is not the file that was published (md5 {md5} expected): try again, or"
            f" {elsewhere}"
        ) from error
    return path


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        response.close()  # its connection is open still
    if response is not None or getattr(error, "strerror", None):
        return str(error).splitlines()[0]
    return type(error).__name__


class _Bar:
    """What pooch calls while it downloads."""

    def __init__(self, text: str, progress: Progress) -> None:
        self.total = 0
        self._text, self._progress, self._done = text, progress, 0

    def update(self, count: int) -> None:
        self._done += count
        self._progress(self._text, self._done >> 20, self.total >> 20)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass
