"""The data, the commands and their undisturbed results."""

import dataclasses
import functools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.campaign import results
from tests.campaign.processes import Command, Ended, run, tail, words
from train import recipes
from train.recipe import Augmentation, Optimizer, Recipe, Stage

FOUR_DEVICES = (("XLA_FLAGS", "--xla_force_host_platform_device_count=4"),)
# Variant of a run: its flags, and its environment variables.
VARIANTS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "single stage": ("--epochs 6", ()),
    "staged": ("--from-recipe campaign --batch-size 8", ()),
    "early stopped": ("--epochs 60 --stages.0.early-stop.patience 2 --lr 0.05", ()),
    "resident": ("--epochs 6 --feed cached", ()),
    "four devices": ("--epochs 6", FOUR_DEVICES),
}
STAGED = Recipe(
    name="campaign",
    model="tests.registered_net:net",
    stages=(
        Stage("head", epochs=3, freeze=("backbone",), optimizer=Optimizer(learning_rate=0.01)),
        Stage("all", epochs=3, augment=Augmentation(flip=True)),
    ),
)
ROW = "table1-attention-16"  # of the paper below


@dataclasses.dataclass(frozen=True)
class Plain:
    """A command other than `train.run`, which is repeated from the start when it was disturbed."""

    command: Command
    produced: Callable[[Path], Any]  # what it leaves in its working folder
    reads_run: bool = False  # its first argument is a run directory


@dataclasses.dataclass(frozen=True)
class Reference:
    """The undisturbed result of a command."""

    seconds: float
    content: Any
    stdout: str = ""
    bytes: int = 0  # of everything that it wrote


class World:
    """A folder with data, caches and references, which are made when they are first used."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "pets"
        rng = np.random.default_rng(0)
        for label, name in enumerate(("cat", "dog")):
            (self.data / name).mkdir(parents=True)
            for number in range(30):
                image = rng.integers(0, 120, (12, 14, 3)) + 100 * (np.arange(3) == label)
                Image.fromarray(image.astype(np.uint8)).save(self.data / name / f"{number}.png")
        recipes.RECIPES[STAGED.name] = STAGED
        self.tries = root / "tries"
        self.tries.mkdir()
        self.can_mount = self._mount(root / "probe", 64)
        if self.can_mount:
            self.unmount(root / "probe")

    # Training.

    def train(self, variant: str, workdir: Path | None, seed: int = 0) -> Command:
        """The command that trains a variant."""
        flags, variables = VARIANTS[variant]
        place = () if workdir is None else ("--workdir", workdir)
        given = words("--model", "tests.registered_net:net", "--dataset", self.data, *place)
        given += words("--seed", seed, *flags.split())
        if "--batch-size" not in flags:
            given += words("--batch-size", 8)
        return Command("train.run", given, variables)

    @functools.cache  # noqa: B019
    def trained(self, variant: str, seed: int = 0) -> Reference:
        """The undisturbed run of a variant. Run twice, since the first also compiles."""
        for name in ("compiling", "reference"):
            workdir = self.root / "references" / f"{variant}-{seed}-{name}"
            workdir.parent.mkdir(exist_ok=True)
            ended = self._undisturbed(self.train(variant, workdir, seed), workdir.parent)
        size = sum(p.stat().st_size for p in workdir.rglob("*") if p.is_file())
        return Reference(ended.seconds, results.of_run(workdir), bytes=size)

    @property
    def finished(self) -> Path:
        """A finished run directory."""
        self.trained("single stage")
        return self.root / "references" / "single stage-0-reference"

    # Other commands.

    @functools.cached_property
    def plain(self) -> dict[str, Plain]:
        """The commands other than `train.run`, by name."""
        run_dir, data = self.finished, self.data
        commands = [
            Plain(Command("train.evaluate", words(run_dir)), _nothing, reads_run=True),
            Plain(
                Command("train.predict", words(run_dir, data, "--output", "out.csv")),
                lambda cwd: _texts(cwd, "out.csv"),
                reads_run=True,
            ),
            Plain(Command("train.models", words("*tiny*")), _nothing),
            Plain(
                Command("train.data", words("show", data, "--image-size", 8, "--out", "x.png")),
                lambda cwd: _texts(cwd, "x.png", "x_classes.png"),
            ),
            Plain(
                Command("train.data", words("prepare", data, "--out", ".", "--name", "pets")),
                lambda cwd: sorted(p.name for p in (cwd / "pets" / "1.0.0").iterdir()),
            ),
            Plain(
                Command(
                    "train.reproduce",
                    words("pig_faces", "--scale", "smoke", "--rows", ROW, "--out", "results"),
                ),
                lambda cwd: results.of_run(cwd / "results" / "smoke" / "pig_faces" / ROW / "seed0")[
                    "test.json"
                ],
            ),
        ]
        return {plain.command.name: plain for plain in commands}

    @functools.cache  # noqa: B019
    def reference(self, name: str) -> Reference:
        """The undisturbed result of a command other than `train.run`."""
        plain = self.plain[name]
        for part in ("compiling", "reference"):
            cwd = self.root / "references" / f"{name}-{part}"
            cwd.mkdir(parents=True)
            ended = self._undisturbed(plain.command, cwd)
        size = sum(p.stat().st_size for p in cwd.rglob("*") if p.is_file())
        return Reference(ended.seconds, plain.produced(cwd), stable(name, ended.stdout), size)

    @staticmethod
    def _undisturbed(command: Command, cwd: Path) -> Ended:
        ended = run(command, cwd)
        if ended.status != 0:
            raise RuntimeError(f"{command.name} fails undisturbed: {tail(ended.stderr, 30)}")
        return ended

    # Folders of one try.

    def folder(self, number: int) -> Path:
        """An empty working folder for a try."""
        path = self.tries / f"{number}"
        path.mkdir()
        return path

    def full_disk(self, path: Path, kilobytes: int) -> bool:
        """Give a folder a file system of its own of this size. Returns False where that is not possible."""
        return self.can_mount and self._mount(path, kilobytes)

    def make_room(self, path: Path) -> None:
        """Enlarge the file system of a folder."""
        _system("mount", "-o", "remount,size=512m", str(path))

    def unmount(self, path: Path) -> None:
        """Remove the file system of a folder."""
        _system("umount", "-l", str(path))

    def _mount(self, path: Path, kilobytes: int) -> bool:
        path.mkdir(exist_ok=True)
        size = f"size={kilobytes}k,mode=777"
        return _system("mount", "-t", "tmpfs", "-o", size, "campaign", str(path))

    def remove(self, path: Path) -> None:
        """Remove the folder of a try, and its output."""
        shutil.rmtree(path, ignore_errors=True)
        for file in self.tries.glob(f"{path.name}.*"):
            file.unlink()


def stable(name: str, stdout: str) -> str:
    """The part of a command's stdout that does not vary: without times and sizes."""
    if name == "train.reproduce":
        return ""  # a table with times
    kept = [line for line in stdout.splitlines() if "time_ms" not in line and " MB," not in line]
    return "\n".join(kept)


def _nothing(cwd: Path) -> Any:
    return None


def _texts(cwd: Path, *names: str) -> dict[str, bytes]:
    return {name: (cwd / name).read_bytes() for name in names}


def _system(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, env=os.environ).returncode == 0
    except OSError:
        return False
