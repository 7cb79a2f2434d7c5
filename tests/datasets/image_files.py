"""Write folders and archives of small images."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def png(seed: int = 0, size: tuple[int, int] = (6, 5), format: str = "PNG", **options) -> bytes:
    """Encode an image of noise; `size` is height and width."""
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format, **options)
    return file.getvalue()


def images(*folders: str, count: int = 10, first: int = 0) -> dict[str, bytes]:
    """Return the paths and contents of `count` different images per folder, with seeds from `first` on."""
    return {
        f"{folder}/{i}.png": png(first + 1000 * number + i)
        for number, folder in enumerate(folders)
        for i in range(count)
    }


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    """Write files below a folder."""
    root.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def write_zip(path: Path, files: dict[str, bytes], **options) -> Path:
    """Write files into a zip."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    """Write files into a tar."""
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path
