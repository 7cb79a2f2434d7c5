"""Shared code of the benchmark commands: flag checks, record headers and output."""

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from train import cli, stopping
from train.recipe import InputError
from train.record.environment import ROOT, is_checkout
from zoo.common.files import check_output_file

# Flags whose values are paths on this machine; omitted from recorded commands.
LOCAL_FLAGS = ("--torch-python", "--out", "--figures")
RESUME = "--resume"  # also omitted: a resumed command gives the same record
MAX_LOAD = 0.5  # load average above which times are unreliable


# Flag checks. All raise InputError.


def check_at_least_one(arguments: Any, names: Iterable[str]) -> None:
    """Check that counts are positive."""
    for name in names:
        if getattr(arguments, name) < 1:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} is {getattr(arguments, name)}: use at least 1")


def check_images(images: int, batch_size: int) -> None:
    """Check that the images fill at least two batches."""
    if images < 2 * batch_size:
        raise InputError(
            f"--images {images} is too few for a batch size of {batch_size}: use at least {2 * batch_size}"
        )


def check_torch_python(path: Path | None) -> None:
    """Check that the interpreter for torch exists and is executable."""
    if path and not os.access(path, os.X_OK):
        raise InputError(
            f"--torch-python {path} is not an executable: use the path of an interpreter"
        )


def check_out(out: Path | None, *, folder: bool = False) -> None:
    """Check that the record can be written; `folder`: an existing folder is allowed."""
    if out is None or (folder and out.is_dir()):
        return
    if out.suffix != ".json":
        raise InputError(
            f"--out {out}: use a file that ends in .json{' or an existing folder' if folder else ''}"
        )
    check_output_file(out, "--out")


def check_checkout(tool: str) -> None:
    """Check that the command runs from a source tree, not from an installed package."""
    if not is_checkout(ROOT):
        raise InputError(
            f"{tool} writes into the repository, but runs from {ROOT}, which is not a source tree:"
            " run it in a clone"
        )


# Records.


def head(tool: str, *, environment: bool = True, warn: bool = True) -> dict[str, Any]:
    """Return the first fields of a record: command, date, load, and the versions and devices of this process.

    Call it before any work. Warns if the machine is busy, since times are then unreliable.
    """
    load = os.getloadavg()[0]
    if warn and load > MAX_LOAD:
        cli.say(f"warning: this machine is busy (load {load:.1f}): times will be slow and noisy")
    record = {
        "format": 1,
        "command": portable(tool, sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d"),
        "load_before": round(load, 2),
    }
    if environment:
        from train.record.environment import environment as describe_environment

        facts = describe_environment()
        del facts["command"]
        record["environment"] = facts
    return record


def portable(tool: str, words: Sequence[str]) -> str:
    """Format a command without the flags that name paths on this machine."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in LOCAL_FLAGS:
            skip = True
        elif word == RESUME:
            continue
        elif word.partition("=")[0] not in LOCAL_FLAGS:
            kept.append(word)
    return shlex.join(["python", "-m", tool, *kept])


def write(record: dict[str, Any], out: Path | None) -> None:
    """Write a record if a file was given."""
    if out:
        from train.record.directory import write_json

        write_json(out, record)
        cli.say(f"written: {out}")


def run_process(words: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return its status and output. It is killed when this command is interrupted.

    `options` are those of Popen.
    """
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    with subprocess.Popen(words, **options) as process:
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    stdout, stderr = process.communicate(timeout=0.2)
                    return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)
                stopping.check()
        except BaseException:
            process.kill()
            raise
