"""What the commands of this folder share: checks of their flags, the head of a record, and writing it."""

import os
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from train import cli
from train.recipe import InputError

# Flags whose values are of one machine only, with the word after them.
THIS_MACHINES = ("--torch-python", "--out", "--figures")
BUSY = 0.5  # load average from which times are not to be trusted


# Flags. All raise InputError for what cannot be timed.


def check_at_least_one(arguments: Any, names: Iterable[str]) -> None:
    """Numbers that are counts."""
    for name in names:
        if getattr(arguments, name) < 1:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} is {getattr(arguments, name)}: give at least 1")


def check_images(images: int, batch_size: int) -> None:
    """Whether there will be batches to time."""
    if images < 2 * batch_size:
        raise InputError(
            f"--images {images} are too few for batches of {batch_size}: give at least {2 * batch_size}"
        )


def check_torch_python(path: Path | None) -> None:
    """Whether peers can be started."""
    if path and not os.access(path, os.X_OK):
        raise InputError(f"--torch-python {path} is no interpreter: give its path")


def check_out(out: Path | None, *, folder: bool = False) -> None:
    """Whether the record can be written in the end."""
    if out is None or (folder and out.is_dir()):
        return
    if out.suffix != ".json":
        what = " and is no folder" if folder else ""
        raise InputError(f"--out {out} does not end in .json{what}")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}")


# Records.


def head(tool: str, *, environment: bool = True, warn: bool = True) -> dict[str, Any]:
    """What a record begins with: command, date, how busy the machine is, and the versions and devices of this
    process. To be called before the work; warns on a busy machine, whose times are of little use."""
    load = os.getloadavg()[0]
    if warn and load > BUSY:
        cli.say(f"warning: this machine is busy (load {load:.1f}): expect slow and uneven times")
    record = {
        "format": 1,
        "command": portable(tool, sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d"),
        "load_before": round(load, 2),
    }
    if environment:
        from train.record.environment import environment as facts_of_process

        facts = facts_of_process()
        del facts["command"]
        record["environment"] = facts
    return record


def portable(tool: str, words: Sequence[str]) -> str:
    """The command as a reader would type it, without this machine's paths."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in THIS_MACHINES:
            skip = True
        elif word.partition("=")[0] not in THIS_MACHINES:
            kept.append(word)
    return shlex.join(["python", "-m", tool, *kept])


def write(record: dict[str, Any], out: Path | None) -> None:
    """Write a record, if a file was asked for."""
    if out:
        from train.record.directory import write_json

        write_json(out, record)
        cli.say(f"written: {out}")
