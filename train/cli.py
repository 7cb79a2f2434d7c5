"""Shared by all commands: startup environment, one-line errors, exit statuses, progress.

Imports only the standard library; JAX is imported after `prepare_environment`.

Exit status: 0 success; 1 failed while running; 2 wrong usage or bad input; 130 interrupted (state saved).
"""

import os
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from datasets.cache import cache_dir
from train import huge_pages, stopping, streams
from train.errors import Diverged as Diverged
from train.errors import InputError, Interrupted, RunError, UsageError, exhausted
from train.record.environment import TUNABLES as TUNABLES
from train.record.terminal import Progress as Progress
from train.record.terminal import count as count
from train.record.terminal import duration as duration
from train.record.terminal import interval_text as interval_text
from train.record.terminal import progress_callback as progress_callback
from train.record.terminal import say as say
from train.stopping import StopRequest as StopRequest

if TYPE_CHECKING:
    from datasets import Dataset

YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"


def main(command: Callable[[list[str]], None], arguments: Sequence[str] | None = None) -> None:
    """Run a command with these arguments (default: the process's). On failure, print a line and exit with a status."""
    streams.protect()
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    done = False
    try:
        with huge_pages.restart_allowed(command):
            command([a for a in arguments if a != "--debug"])
        done = True
        sys.stdout.flush()
    except (Interrupted, KeyboardInterrupt) as error:
        _fail(str(error) or "interrupted", 130)
    except BrokenPipeError:  # the reader of stdout, such as `head`, has closed it
        streams.to_devnull(sys.stdout)
        if not done:
            _fail("stdout was closed before all results were written", 1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        _fail(*explain(error))


def say_notes(dataset: "Dataset") -> None:
    """Print the data set's notes for the user."""
    for note in dataset.notes:
        say(f"note: {note}")


def say_skipped(dataset: "Dataset", listed_in: Path | None = None) -> None:
    """Print how many images cannot be decoded, and either the file that lists them or the first one."""
    if not dataset.bad_images:
        return
    bad = dataset.bad_images[0]
    where = f": {listed_in}" if listed_in else f", starting with {bad.id} ({bad.reason})"
    say(f"warning: skipped {count(len(dataset.bad_images), 'file')} that cannot be decoded{where}")


def result(text: str) -> None:
    """Print the last result on stdout, ignoring a reader that has closed it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        streams.to_devnull(sys.stdout)


def is_ascii(stream: TextIO) -> bool:
    """Whether a stream can write non-ASCII characters only as escape sequences."""
    try:
        "\u732b".encode(stream.encoding or "utf-8")
    except (LookupError, UnicodeEncodeError):
        return True
    return False


def _fail(message: str, status: int) -> None:
    stopping.reported()
    try:
        sys.stdout.flush()
    except OSError:  # otherwise, Python would retry at exit and print a traceback
        streams.to_devnull(sys.stdout)
    print(f"{'' if status == 130 else 'error: '}{' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def explain(error: Exception) -> tuple[str, int]:
    """Return a one-line message and an exit status for any exception."""
    text = f"{error}"
    if isinstance(error, InputError | UsageError):
        return text, 2
    if isinstance(error, RunError):
        return text, 1
    resource = exhausted(error)
    if resource == "disk":
        return (
            "no space left on the disk: files saved earlier are kept;"
            " free some space, then run the same command again to resume",
            1,
        )
    if resource == "memory":
        return (
            "out of memory on the device: use a smaller --batch-size, such as half the current one;"
            " files saved earlier are kept",
            1,
        )
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return (
            f"{os.fsdecode(error.filename)}: {error.strerror}; files saved earlier are kept (add --debug for the"
            " traceback)",
            1,
        )
    first = (text.strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {first} (add --debug for the traceback)", 1


def prepare_environment(*, large_arrays: bool = True) -> None:
    """Set the environment variables that JAX reads at startup. Values set by the user are kept.

    With `large_arrays`, a command on a CPU may restart its process here to get huge pages (`train.huge_pages`), so call
    this function before anything that must not run twice.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if YNN_FLAG not in flags:
        # jaxlib 0.10.2 fuses CPU code through YNNPACK, which gives wrong results in a known case and makes the zoo's
        # nets two to three times slower (SAM-AlexNet, batch 16, two cores: 1309 instead of 802 ms per training step).
        os.environ["XLA_FLAGS"] = f"{flags} {YNN_FLAG}=".strip()
    # Nothing is set for GPUs: no flag has been measured on one, and XLA's defaults include autotuning, command buffers
    # and Triton fusions. Settings for GPUs belong here.
    # Compilation takes 5 to 35 s on two cores; later runs read its result from this cache.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "xla"))
    # JAX's limit of one second leaves out most programs of a small net: compiled again, they took 3 of 21 s of a study.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # scikit-learn's OpenMP threads would otherwise spin while they wait: t-SNE of 800 codes took 25 instead of 3.5 s on
    # two cores that other programs used.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    on_gpu = has_nvidia_hardware() and "cpu" not in os.environ.get("JAX_PLATFORMS", "")
    if large_arrays and not on_gpu:
        huge_pages.enable()


def report_devices() -> list[Any]:
    """Report the backend and devices on stderr, and warn if an NVIDIA GPU is present but unused."""
    import jax

    from train.engine.parallel import local_devices

    devices = local_devices()
    backend, kind = devices[0].platform, devices[0].device_kind
    cores = f", {os.cpu_count()} cores" if backend == "cpu" else ""
    say(f"JAX {jax.__version__} on {backend}: {len(devices)} x {kind}{cores}")
    asked_for_cpu = "cpu" in os.environ.get("JAX_PLATFORMS", "")
    if backend == "cpu" and not asked_for_cpu and has_nvidia_hardware():
        say(
            "warning: this machine has an NVIDIA GPU, but JAX does not use it:"
            " install with `pip install -e '.[cuda]'` (or set JAX_PLATFORMS=cpu to hide this warning)"
        )
    return devices


def has_nvidia_hardware() -> bool:
    """Whether this machine has an NVIDIA device or driver."""
    return (
        Path("/proc/driver/nvidia/version").exists()
        or Path("/dev/nvidia0").exists()
        or shutil.which("nvidia-smi") is not None
    )
