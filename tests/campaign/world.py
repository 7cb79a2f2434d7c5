"""The data, the commands and their reference results."""

import csv
import dataclasses
import functools
import json
import pickle
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from PIL import Image

from tests.campaign import results
from tests.campaign.processes import Command, run, tail, words
from train import recipes
from train.recipe import Augmentation, Optimizer, Recipe, Stage

FOUR_DEVICES = (("XLA_FLAGS", "--xla_force_host_platform_device_count=4"),)
# Variants of a run: flags and environment variables.
VARIANTS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "single stage": ("--epochs 6", ()),
    "staged": ("--from-recipe campaign --batch-size 8", ()),
    "early stopped": (
        "--epochs 9 --stages.0.early-stop.patience 2 --stages.0.early-stop.min-delta 0.5",
        (),
    ),
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
ROOT = Path(__file__).parents[2]
LARGE_DISK = 512 * 1024  # KiB
STUDY = (
    "--model tests.registered_net:net --batch-size 8 --epochs 2 --folds 2"
    " --vary lr=0.01,0.001 --out study"
)
RUN = "RUN"
IN_TREE = (("PYTHONPATH", "tree"),)
ROW = "table1-attention-16"  # of the paper below


# Files that `benchmarks.tables` and `benchmarks.record` need: they write into their own source tree.
TREE = ("benchmarks", "datasets", "docs", "train", "zoo")
TREE_FILES = ("README.md", "CHANGELOG.md", "mkdocs.yml", "pyproject.toml")
PAGE = "docs/models/alexnet.md"  # removed, so that there is something to write


@dataclasses.dataclass(frozen=True)
class Plain:
    """A command other than `train.run`, which is rerun after a fault."""

    command: Command
    produced: Callable[[Path], Any]  # reads its output from its working folder
    reads_run: bool = False  # its first argument is RUN, a placeholder for a run directory
    second_run: bool = False  # it also reads the run with seed 1
    in_tree: bool = False  # it runs in a copy of the source tree, in its working folder
    prints: bool = False  # its stdout is deterministic, except for lines with times

    def on(self, run_dir: Path) -> Command:
        """Fill in the run directory."""
        given = (run_dir if word == RUN else word for word in self.command.words)
        return dataclasses.replace(self.command, words=words(*given))

    def stable(self, stdout: str) -> str:
        """The deterministic part of its stdout."""
        lines = stdout.splitlines() if self.prints else []
        return "\n".join(x for x in lines if "time_ms" not in x and " MB," not in x)


@dataclasses.dataclass(frozen=True)
class Reference:
    """The result of a command without faults."""

    seconds: float
    content: Any
    stdout: str = ""
    bytes: int = 0  # total size of its output


class World:
    """A folder with data, caches and reference results."""

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
        (root / "references").mkdir()
        for name in TREE:  # copied at the start: the original may be edited in the meantime
            shutil.copytree(ROOT / name, root / "tree" / name)
        for name in TREE_FILES:
            shutil.copy2(ROOT / name, root / "tree")
        (root / "tree" / PAGE).unlink()

    def reference(self, command: str, variant: str = "", seed: int = 0) -> Reference:
        """The reference result of a command, computed by the first process that needs it."""
        path = self.root / "references" / f"{command} {variant} {seed}.pickle"
        with filelock.FileLock(f"{path}.lock"):
            if not path.exists():
                path.write_bytes(pickle.dumps(self._undisturbed(command, variant, seed)))
            found: Reference = pickle.loads(path.read_bytes())
        return found

    def _undisturbed(self, command: str, variant: str, seed: int) -> Reference:
        """Run a command without faults; twice if its time matters, since the first run also compiles."""
        once = seed > 0 or (not variant and self.plain[command].in_tree)
        for name in ("compiling", "reference")[once:]:
            cwd = self.root / "references" / f"{command} {variant} {seed} {name}"
            cwd.mkdir()
            if command == "train.run":
                given = self.train(variant, cwd / "run", seed)
            else:
                plain = self.plain[command]
                given = plain.on(self.finished) if plain.reads_run else plain.command
                self.furnish(plain, cwd)
            before = size_of(cwd)
            ended = run(given, cwd)
            if ended.status != 0:
                raise RuntimeError(f"{command} fails without a fault: {tail(ended.stderr, 30)}")
        written = size_of(cwd) - before
        if command == "train.run":
            self._commit(cwd / "run")
            return Reference(ended.seconds, results.of_run(cwd / "run"), bytes=written)
        content, stdout = plain.produced(cwd), plain.stable(ended.stdout)
        return Reference(ended.seconds, content, stdout, written)

    @property
    def finished(self) -> Path:
        """A finished run directory."""
        self.reference("train.run", "single stage")
        return self.root / "references" / "train.run single stage 0 reference" / "run"

    def _commit(self, run_dir: Path) -> None:
        """Mark a run as from committed code, which `benchmarks.record` requires."""
        path = run_dir / "env.json"
        facts = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps(facts | {"git_dirty": False, "git_commit": "0" * 40}))

    def furnish(self, plain: Plain, cwd: Path) -> None:
        """Put what a command needs into its working folder."""
        if plain.in_tree:
            shutil.copytree(self.root / "tree", cwd / "tree")
        if plain.second_run:
            self.reference("train.run", "single stage", 1)

    def train(self, variant: str, workdir: Path | None, seed: int = 0) -> Command:
        """The command that trains a variant."""
        flags, variables = VARIANTS[variant]
        place = () if workdir is None else ("--workdir", workdir)
        given = words("--model", "tests.registered_net:net", "--dataset", self.data, *place)
        given += words("--seed", seed, *flags.split())
        if "--batch-size" not in flags:
            given += words("--batch-size", 8)
        return Command("train.run", given, variables)

    @functools.cached_property
    def plain(self) -> dict[str, Plain]:
        """The commands other than `train.run`, by name."""
        data, tiny = self.data, "benchmarks.tiny_net:tiny_net"
        smoke = words("pig_faces", "--scale", "smoke", "--rows", ROW, "--out", "results")
        row = Path("results", "smoke", "pig_faces", ROW, "seed0")
        second = self.root / "references" / "train.run single stage 1 reference" / "run"
        commands = [
            Plain(Command("train.evaluate", words(RUN)), _nothing, reads_run=True, prints=True),
            Plain(
                Command("train.predict", words(RUN, data, "--output", "out.csv")),
                lambda cwd: (cwd / "out.csv").read_bytes(),
                reads_run=True,
                prints=True,
            ),
            Plain(
                Command("train.study", words("--dataset", data, *STUDY.split())),
                lambda cwd: _study(cwd / "study"),
            ),
            Plain(
                Command("train.compare", words(RUN, second, "--out", "x.html")),
                lambda cwd: _percentages(cwd / "x.html"),
                reads_run=True,
                second_run=True,
            ),
            Plain(Command("train.models", words("*tiny*")), _nothing, prints=True),
            Plain(
                Command("train.data", words("show", data, "--image-size", 8, "--out", "x.png")),
                lambda cwd: [(cwd / name).read_bytes() for name in ("x.png", "x_classes.png")],
                prints=True,
            ),
            Plain(
                Command("train.data", words("prepare", data, "--out", ".", "--name", "pets")),
                lambda cwd: results.of_files(cwd / "pets" / "1.0.0"),
                prints=True,
            ),
            Plain(
                Command("train.reproduce", smoke),
                lambda cwd: results.of_run(cwd / row)["test.json"],
            ),
            Plain(
                Command("benchmarks.record", words(RUN, "--name", "pets"), IN_TREE, cold=True),
                lambda cwd: _json(cwd / "tree" / "benchmarks" / "results" / "runs" / "pets.json"),
                reads_run=True,
                in_tree=True,
            ),
            Plain(Command("benchmarks.tables", (), IN_TREE, cold=True), _pages, in_tree=True),
            Plain(
                Command("benchmarks.gpu", words("--dry-run", "--parts", "parity", "--out", "gpu")),
                lambda cwd: _steps(cwd / "gpu" / "gpu.json"),
            ),
        ]
        timed = {
            "coverage": "--repeats 2",
            "members": "--cases vade_tiny --seeds 2 --epochs 1",
            "linear_baseline": f"--dataset {data} --sizes 4 --c 0.01",
            "input_pipeline": "--num-workers 1 --decoders pillow --images 16 --image-size 16"
            " --batch-size 4 --cached-images 64 --rounds 1",
            "augmentation": f"--model {tiny} --batch-size 4 --rounds 1 --seconds 0.05",
            "epoch": f"--model {tiny} --images 32 --batch-size 16 --feeds cached --rounds 1",
            "scaling": f"--model {tiny} --simulate 2 --batch-size 4",
            "parity": f"--model {tiny}",
            "startup": f"--model {tiny} --batch-size 4 --rounds 1",
            "table1": f"--models {tiny} --batch-sizes 8 --rounds 1 --train-images 16"
            " --validation-images 8 --test-images 8",
            "throughput": f"--models {tiny} --batch-sizes 2 4 --modes test --rounds 1"
            " --seconds 0.05 --resume",
        }
        for name, flags in timed.items():
            given = words(*flags.split(), "--out", "x.json")
            commands.append(
                Plain(Command(f"benchmarks.{name}", given), lambda cwd: _json(cwd / "x.json"))
            )
        return {plain.command.name: plain for plain in commands}

    # Folders of a trial.

    def folder(self, number: int) -> Path:
        """Create an empty working folder for a trial."""
        path = self.tries / f"{number}"
        path.mkdir()
        return path

    def resize(self, path: Path, kilobytes: int) -> None:
        """Change the size of a folder's file system."""
        _system("mount", "-o", f"remount,size={kilobytes}k", str(path))

    def unmount(self, path: Path) -> None:
        """Remove the file system of a folder."""
        _system("umount", "-l", str(path))

    def mount(self, path: Path) -> None:
        """Mount a file system on a folder. RuntimeError if that is not possible."""
        _system("mount", "-t", "tmpfs", "-o", f"size={LARGE_DISK}k", "campaign", str(path))

    def close(self) -> None:
        """Remove everything, including mounts of an interrupted trial."""
        for path in self.tries.iterdir():
            if path.is_mount():
                self.unmount(path)
        shutil.rmtree(self.root, ignore_errors=True)

    def remove(self, path: Path) -> None:
        """Remove the folder of a trial and the files next to it."""
        for found in (path, *self.tries.glob(f"{path.name}.*")):
            if found.is_dir():
                shutil.rmtree(found, ignore_errors=True)
            else:
                found.unlink(missing_ok=True)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _nothing(cwd: Path) -> Any:
    return None


def _json(path: Path) -> Any:
    """Content of a JSON file without numbers and dates, since measured times vary. None if it is incomplete."""
    content = json.loads(path.read_text("utf-8"))
    return _outline(content) if content.get("complete", True) else None


def _steps(path: Path) -> Any:
    """Steps of `benchmarks.gpu`, which writes its record before each step. None unless all are done."""
    steps = json.loads(path.read_text("utf-8"))["steps"]
    is_done = steps and all(step["state"] == "done" for step in steps.values())
    return _outline(steps) if is_done else None


def _study(path: Path) -> Any:
    """The scores of all runs of a study, and what remains of its work. None unless all runs are done."""
    with open(path / "study.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or any(row["state"] != "done" for row in rows):
        return None
    files = sorted(p.relative_to(path).as_posix() for p in path.glob("runs/*/*"))
    scores = [{k: v for k, v in row.items() if k != "train_time_ms"} for row in rows]
    return scores, files, sorted(p.name for p in path.rglob("*.part"))


VARYING = (
    "date",
    "command",
    "glibc_tunables",
)  # the last one depends on whether a process restarted itself


def _outline(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _outline(v) for k, v in value.items() if k not in VARYING}
    if isinstance(value, list):
        return [_outline(item) for item in value]
    return "number" if isinstance(value, int | float) else value


def _percentages(path: Path) -> list[str]:
    """Scores on a page, which also contains the paths of runs. ValueError if the page is truncated."""
    text = path.read_text("utf-8")
    if not text.rstrip().endswith("</html>"):
        raise ValueError(f"{path.name} has no end")
    return re.findall(r"\d+\.\d+%", text)


def _pages(cwd: Path) -> Any:
    tree = cwd / "tree"
    (tree / PAGE).stat()  # raises OSError if it has not been written yet
    return results.of_files(tree / "docs") | {"README": (tree / "README.md").read_text("utf-8")}


def _system(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{done.stderr.strip()}: start the campaign as root")
