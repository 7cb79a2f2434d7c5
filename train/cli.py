"""What every command shares: start-up environment, one-line errors, exit codes, progress.

Imports the standard library only; JAX starts after `prepare_environment`.

Exit status: 0 done; 1 failed while running; 2 wrong usage or bad input; 130 interrupted (state saved).
"""

import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets.cache import cache_dir
from train import huge_pages
from train.errors import Diverged as Diverged
from train.errors import InputError, Interrupted, RunError, UsageError, exhausted
from train.record.environment import TUNABLES as TUNABLES
from train.record.terminal import Progress as Progress
from train.record.terminal import count as count
from train.record.terminal import duration as duration
from train.record.terminal import progress_callback as progress_callback
from train.record.terminal import say as say

YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"


def main(command: Callable[[list[str]], None]) -> None:
    """Run a command with the process's arguments, and exit with the status that its outcome has."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        with huge_pages.started_for(command):
            command([a for a in arguments if a != "--debug"])
        sys.stdout.flush()
    except (Interrupted, KeyboardInterrupt) as error:
        _fail(str(error) or "interrupted", 130)
    except BrokenPipeError:  # the reader of our output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            traceback.print_exc()
        _fail(*explain(error))


def _fail(message: str, status: int) -> None:
    print(f"{'' if status == 130 else 'error: '}{' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def explain(error: Exception) -> tuple[str, int]:
    """One line and an exit status for anything that can go wrong."""
    text = f"{error}"
    if isinstance(error, InputError | UsageError):
        return text, 2
    if isinstance(error, RunError):
        return text, 1
    lacking = exhausted(error)
    if lacking == "disk":
        return (
            "no space left on the disk: what was saved before is kept;"
            " free some space, then run the same command again to go on",
            1,
        )
    if lacking == "memory":
        return (
            "out of memory on the device: give a smaller --batch-size, such as half of this one;"
            " what was saved before is kept",
            1,
        )
    first = (text.strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {first} (add --debug for the traceback)", 1


def prepare_environment(*, large_arrays: bool = True) -> None:
    """Settings that JAX reads when it starts. What the user has set is left as it is.

    With `large_arrays`, a command on a CPU may start again here, for `train.huge_pages`: call it before anything that
    must not be done twice.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if YNN_FLAG not in flags:
        # jaxlib 0.10.2 fuses CPU code through YNNPACK: wrong results in a known case, and our nets two to
        # three times slower (SAM-AlexNet, batch 16, two cores: 1309 instead of 802 ms a training step).
        os.environ["XLA_FLAGS"] = f"{flags} {YNN_FLAG}=".strip()
    # Cold compilation takes 5 to 35 s on two cores; later runs read it from here.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "xla"))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    on_gpu = has_nvidia_hardware() and "cpu" not in os.environ.get("JAX_PLATFORMS", "")
    if large_arrays and not on_gpu:
        huge_pages.take()


def report_devices() -> list[Any]:
    """Name backend and devices on stderr, and warn when NVIDIA hardware is there but unused."""
    import jax

    devices = jax.local_devices()
    backend, kind = devices[0].platform, devices[0].device_kind
    cores = f", {os.cpu_count()} cores" if backend == "cpu" else ""
    say(f"JAX {jax.__version__} on {backend}: {len(devices)} x {kind}{cores}")
    asked_for_cpu = "cpu" in os.environ.get("JAX_PLATFORMS", "")
    if backend == "cpu" and not asked_for_cpu and has_nvidia_hardware():
        say(
            "warning: there is an NVIDIA GPU here that JAX does not use:"
            " install with `pip install -e '.[cuda]'` (or set JAX_PLATFORMS=cpu to hide this line)"
        )
    return devices


def has_nvidia_hardware() -> bool:
    """Whether this machine shows an NVIDIA device or its driver."""
    return (
        Path("/proc/driver/nvidia/version").exists()
        or Path("/dev/nvidia0").exists()
        or shutil.which("nvidia-smi") is not None
    )


class StopRequest:
    """Turns the first Ctrl-C (or SIGTERM) into a wish that the loop grants after the step at hand; a second
    one interrupts at once."""

    # A terminal and a parent process may both pass on the same Ctrl-C.
    SAME_WISH_SECONDS = 0.5

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0

    def __enter__(self) -> "StopRequest":
        signals = (signal.SIGINT, signal.SIGTERM)
        self._previous = {number: signal.signal(number, self._handle) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        if self.requested:
            if time.monotonic() - self._since > self.SAME_WISH_SECONDS:
                raise KeyboardInterrupt
            return
        self.requested, self._since = True, time.monotonic()
        say("\nstopping after this step, then saving (once more to stop at once)")
