"""Download freely available files to the cache."""

from pathlib import Path

from datasets.cache import cache_dir
from datasets.dataset import InputError, Progress


def fetch(url: str, md5: str, name: str, progress: Progress | None = None) -> Path:
    """Download a file, unless it is in the cache, and return its path. The hash is checked every time.

    `name` is the path in the cache, where the file appears atomically. Raises InputError if the download fails or its
    hash differs.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    path = cache_dir() / name
    by_hand = f"download it elsewhere and put it at {path}"
    bar = _Bar(f"downloading {path.name} (MiB)", progress) if progress else False
    try:
        pooch.retrieve(
            url,
            known_hash=f"md5:{md5}",
            fname=path.name,
            path=path.parent,
            downloader=pooch.HTTPDownloader(progressbar=bar),
        )
    except OSError as error:  # includes all errors of requests, even those that are ValueErrors
        raise InputError(f"cannot download {url} ({_reason(error)}): {by_hand}") from error
    except ValueError as error:
        raise InputError(
            f"{url} is not the published file (expected md5 {md5}): try again, or {by_hand}"
        ) from error
    return path


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        response.close()  # the connection is still open
    if response is not None or getattr(error, "strerror", None):
        return str(error).splitlines()[0]
    return type(error).__name__


class _Bar:
    """Progress bar with the interface that pooch expects."""

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
