"""Exit statuses, one-line errors, startup."""

import errno
import io
import os
import platform
import signal
import subprocess
import sys
import threading
import time

import pytest

from train import cli, stopping, streams
from train.recipe import InputError
from train.record import log, terminal


def outcome(monkeypatch, capsys, error, *arguments):
    """Return exit status and stderr of a command that raises `error`."""
    monkeypatch.setattr(sys, "argv", ["command", *arguments])

    def command(argv):
        assert "--debug" not in argv
        raise error

    with pytest.raises(SystemExit) as stopped:
        cli.main(command)
    return stopped.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (InputError("no folder here: use another"), 2, "error: no folder here: use another\n"),
        (cli.RunError("diverged at step 7"), 1, "error: diverged at step 7\n"),
        (cli.Interrupted("interrupted at step 7, saved"), 130, "interrupted at step 7, saved\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "no space left on the disk"),
        (
            ValueError("... Os error: No space left on device (code 28)"),
            1,
            "no space left on the disk",
        ),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
            1,
            "smaller --batch-size",
        ),
        (MemoryError(), 1, "smaller --batch-size"),
        (KeyError("x"), 1, "error: KeyError: 'x' (add --debug for the traceback)\n"),
        (RuntimeError("first line\nsecond line"), 1, "RuntimeError: first line (add --debug"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_failure_is_one_line_with_a_status(monkeypatch, capsys, error, status, text):
    code, stderr = outcome(monkeypatch, capsys, error)
    assert code == status
    assert text in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("package", ["zoo", "datasets", "train.recipe"])
def test_input_errors_of_every_package_exit_with_2(monkeypatch, capsys, package):
    module = __import__(package, fromlist=["InputError"])
    assert outcome(monkeypatch, capsys, module.InputError("bad\nthing"))[0] == 2


def test_debug_shows_the_traceback(monkeypatch, capsys):
    code, stderr = outcome(monkeypatch, capsys, InputError("bad"), "--debug")
    assert code == 2
    assert "Traceback" in stderr


def test_success_passes_the_arguments_and_does_not_exit(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", "--debug", "a"])
    calls = []
    cli.main(calls.append)  # SystemExit would fail the test
    assert calls == [["a"]]
    assert capsys.readouterr() == ("", "")


def test_environment_keeps_values_set_by_the_user(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_foo=1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/mine")
    cli.prepare_environment()
    assert os.environ["XLA_FLAGS"] == "--xla_foo=1 --xla_cpu_experimental_ynn_fusion_type="
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/mine"
    cli.prepare_environment()
    assert os.environ["XLA_FLAGS"].count("ynn") == 1
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=all")
    cli.prepare_environment()
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_experimental_ynn_fusion_type=all"


POLICY = "always [madvise] never\n"

SCRIPT = """
import os, sys
from pathlib import Path
from train import cli, huge_pages

huge_pages._POLICY = Path(os.environ["POLICY"])
cli.has_nvidia_hardware = lambda: "GPU" in os.environ

def command(argv):
    print("began", os.getpid())
    if "clears" in argv:  # as a wrapper of the interpreter might
        os.environ.pop("GLIBC_TUNABLES", None)
    cli.prepare_environment(large_arrays="small" not in argv)
    print("tunables", os.environ.get("GLIBC_TUNABLES"), cli.TUNABLES)
    print(argv, sys.stdin.read(), sys.flags.utf8_mode)
    sys.stdout.flush()
    os._exit(7)

if __name__ == "__main__":
    cli.main(command)
"""

HUGE = "glibc.malloc.hugetlb=1"


@pytest.fixture
def started(tmp_path, command_environment):
    """Run the script above as `python WORDS`. Returns its number of starts, its tunables and the rest of its output."""

    def run(words, policy=POLICY, **variables):
        (tmp_path / "script.py").write_text(SCRIPT)
        if policy is not None:
            (tmp_path / "policy").write_text(policy)
        environment = {k: v for k, v in command_environment.items() if k != "GLIBC_TUNABLES"}
        environment |= {"POLICY": str(tmp_path / "policy"), **variables}
        if "JAX_PLATFORMS" not in variables:
            del environment["JAX_PLATFORMS"]
        done = subprocess.run(
            [sys.executable, *words],
            env=environment,
            cwd=tmp_path,
            input="typed",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 7, done.stderr
        *began, values, rest = done.stdout.splitlines()
        assert began == [began[0]] * len(began)  # the same process ID
        return len(began), values.removeprefix("tunables "), rest

    return run


needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="huge pages are a setting of glibc"
)


@pytest.mark.slow
@needs_glibc
@pytest.mark.parametrize(
    ("words", "rest"),
    [
        (["script.py", "a b", "--x"], "['a b', '--x'] typed 0"),
        (["-m", "script", "c"], "['c'] typed 0"),
        (["-X", "utf8=1", "-W", "error", "-u", "-m", "script"], "[] typed 1"),
    ],
)
def test_a_command_restarts_once_for_huge_pages(started, words, rest):
    assert started(words) == (2, f"{HUGE} {HUGE}", rest)


@pytest.mark.slow
@needs_glibc
@pytest.mark.parametrize(("name", "count"), [("jax-zoo", 2), ("other", 1)])
def test_the_console_command_restarts_once_for_huge_pages(started, tmp_path, name, count):
    text = "import sys, script\nscript.cli.main(script.command, sys.argv[1:])\n"
    (tmp_path / name).write_text(text)
    starts, _, rest = started([name, "c d"])
    assert (starts, rest) == (count, "['c d'] typed 0")


@pytest.mark.slow
@needs_glibc
def test_restarting_keeps_other_tunables_and_never_loops(started):
    both = f"glibc.malloc.check=0:{HUGE}"
    starts, tunables, _ = started(["script.py"], GLIBC_TUNABLES="glibc.malloc.check=0")
    assert (starts, tunables) == (2, f"{both} {both}")
    assert started(["script.py", "clears"])[:2] == (2, f"{HUGE} {HUGE}")
    assert started(["script.py"], GPU="1", JAX_PLATFORMS="cpu")[0] == 2


@pytest.mark.slow
@needs_glibc
@pytest.mark.parametrize(
    ("words", "options", "values"),
    [
        (["script.py"], {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, None),  # set by the user
        (["script.py"], {"policy": "[always] madvise never\n"}, "None "),
        (["script.py"], {"policy": None}, "None "),
        (["script.py"], {"GPU": "1"}, "None "),
        (["script.py", "small"], {}, "None "),
        # The interpreter was not started for the command alone: only child processes get huge pages.
        (["-c", "import script; script.cli.main(script.command)"], {}, f"{HUGE} "),
        (["-c", "import runpy; runpy.run_module('script', run_name='__main__')"], {}, f"{HUGE} "),
        (["-m", "trace", "--count", "-C", "counts", "script.py"], {}, f"{HUGE} "),
    ],
)
def test_commands_that_do_not_restart(started, words, options, values):
    starts, tunables, _ = started(words, **options)
    assert starts == 1
    assert tunables == (values or "glibc.malloc.hugetlb=0 glibc.malloc.hugetlb=0")


STREAMS = """
import os, sys
from train import cli

def command(argv):
    for number in range(200):
        cli.say(f"step {number} of b\\udce9.jpg")
    with open("saved", "w") as file:  # must not get the number of a closed stream
        file.write("x")
        file.flush()
        os.write(2, b"from C\\n")
    if "early" in argv:
        for _ in range(100_000):
            print("a row")
    cli.result("\\u732b b\\udce9.jpg")
    if "fails" in argv:
        raise cli.RunError("no way")

cli.main(command)
"""


@pytest.fixture
def shell(tmp_path, command_environment):
    """Run a shell command in which $RUN is the script above. Returns status, stdout and stderr."""

    def call(text, **variables):
        (tmp_path / "streams.py").write_text(STREAMS)
        environment = command_environment | {"RUN": f"{sys.executable} streams.py", **variables}
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", text],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
        )
        assert (tmp_path / "saved").read_text() == "x"
        return done.returncode, done.stdout, done.stderr.decode()

    return call


@pytest.mark.parametrize(
    ("text", "status", "stdout"),
    [
        ("$RUN 2>&1 | head -1", 0, b"step 0"),
        ("$RUN | (exec <&-; sleep 0.2)", 0, b""),  # closed when all work is done
        ("$RUN early | head -1", 1, b"a row"),  # closed before
        ("$RUN 2>&-", 0, b"\xe7\x8c\xab"),
        ("$RUN >&-", 0, b""),
        ("$RUN >&- 2>&- <&-", 0, b""),
        ("$RUN fails 2>&-", 1, b"\xe7\x8c\xab"),
        ("$RUN > /dev/full", 1, b""),
        ("$RUN 2> /dev/full", 0, b"\xe7\x8c\xab"),
        ("PYTHONIOENCODING=ascii $RUN", 0, b"\\u732b b\\udce9.jpg\n"),
        ("PYTHONUNBUFFERED=1 $RUN | (exec <&-; sleep 0.2)", 0, b""),
    ],
)
def test_streams_that_are_closed_broken_or_of_another_encoding(shell, text, status, stdout):
    found = shell(text)
    assert found[0] == status, found
    assert found[1].startswith(stdout)
    assert "Traceback" not in found[2]
    assert "Exception ignored" not in found[2]


def test_a_slow_reader_of_stderr_gets_what_comes_later():
    """Of a stream that does not wait, such as a terminal that another program has set so."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with (
        open(reader, "rb", buffering=0) as file,
        streams._Unbreakable(io.BufferedWriter(io.FileIO(writer, "w")), "utf-8") as stream,
    ):
        for _ in range(2000):  # 200 kB, more than a pipe holds
            stream.write("x" * 99 + "\n")
            stream.flush()
        os.set_blocking(reader, False)
        while file.read(1 << 20):
            pass
        stream.write("error: the last line\n")
        stream.flush()
        assert file.read(1 << 20).endswith(b"error: the last line\n")


def test_names_that_are_not_utf_8_are_shown_with_a_replacement_character(shell):
    assert "step 7 of b\N{REPLACEMENT CHARACTER}.jpg\n" in shell("$RUN")[2]


def test_an_error_of_the_system_names_the_file(monkeypatch, capsys):
    error = PermissionError(errno.EACCES, "Permission denied", "/data/x")
    code, stderr = outcome(monkeypatch, capsys, error)
    assert (code, stderr.partition(";")[0]) == (1, "error: /data/x: Permission denied")


def test_a_platform_that_does_not_exist_is_named(monkeypatch):
    import jax

    def local_devices():
        raise AssertionError

    monkeypatch.setattr(jax, "local_devices", local_devices)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(InputError, match="JAX_PLATFORMS is cuda, and JAX finds no such device"):
        cli.report_devices()


def test_a_thread_leaves_the_signals_alone():
    """Only the main thread can set handlers: a notebook may train in another one."""
    before, seen = signal.getsignal(signal.SIGINT), []

    def train():
        with cli.StopRequest() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_an_unused_nvidia_gpu_is_reported(monkeypatch, capsys):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(cli, "has_nvidia_hardware", lambda: True)
    cli.report_devices()
    assert "an NVIDIA GPU, but JAX does not use it: install with" in capsys.readouterr().err
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # the user chose the CPU: no warning
    cli.report_devices()
    stderr = capsys.readouterr().err
    assert "NVIDIA" not in stderr
    assert " on cpu: 4 x cpu" in stderr


def test_first_signal_requests_a_stop_and_the_second_interrupts(monkeypatch):
    import signal

    before = signal.getsignal(signal.SIGINT)
    with cli.StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        signal.raise_signal(signal.SIGINT)  # the same Ctrl-C, delivered again by a parent process
        monkeypatch.setattr(stopping, "SAME_SIGNAL_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_notebook_says_that_training_stops(monkeypatch):
    """Its stderr has no file descriptor."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with cli.StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.poll()
    assert "stopping after the current step" in stream.getvalue()


def test_stderr_is_wrapped_once(monkeypatch):
    raw = io.BufferedWriter(io.FileIO(2, "w", closefd=False))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, "utf-8"))
    streams.protect()
    once = sys.stderr
    assert isinstance(once, streams._Unbreakable)
    streams.protect()
    assert sys.stderr is once


def test_progress_without_a_terminal_prints_a_line_every_30_seconds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = cli.Progress(stream)
    progress.start("epoch 1", total=100)
    for done in range(1, 101):
        now[0] += 1.0
        progress.update(done, "loss 0.5")
    progress.stop()
    assert stream.getvalue().splitlines() == [
        "epoch 1 30/100  loss 0.5  1:10 left",
        "epoch 1 60/100  loss 0.5  40 s left",
        "epoch 1 90/100  loss 0.5  10 s left",
    ]


def test_no_time_left_before_it_can_be_measured(monkeypatch):
    """Units that are reported at once, at the start, say nothing about the others."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rate = terminal.Rate(0)
    for done in range(1, 51):  # loaded ahead
        assert rate.time_left(done, 100 - done) == ""
    now[0] = 0.9
    assert rate.time_left(51, 49) == ""
    now[0] = 4.0
    assert rate.time_left(54, 46) == "46 s left"


def test_time_left_of_a_stage_counts_validation_and_does_not_restart_with_an_epoch(monkeypatch):
    """Three epochs of 10 steps of a second, each validated in 20 seconds; the first step after validation comes early,
    since it was dispatched before."""
    now, seen = [0.0], {}
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    writer = terminal.TerminalWriter(num_stages=1)
    update = writer._progress.update
    monkeypatch.setattr(
        writer._progress,
        "update",
        lambda done, note, left: (seen.update({step: left}), update(done, note, left)),
    )
    for step in range(1, 31):
        now[0] += 0.01 if step % 10 == 1 else 1.0
        record = log.StepRecord(
            step=step,
            epoch=1 + (step - 1) // 10,
            stage="train",
            values={"loss": 0.5},
            epoch_step=1 + (step - 1) % 10,
            steps_per_epoch=10,
            steps_left=30 - step,
        )
        writer.step(record)
        now[0] += 20.0 if step % 10 == 0 else 0.0
    assert (seen[1], seen[2], seen[10]) == ("", "28 s left", "20 s left")
    # 29 seconds for 10 steps, and a step at once: 55 seconds for the other 19 steps.
    assert [seen[step] for step in (11, 12, 13)] == ["55 s left", "49 s left", "44 s left"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1:00"), (3599, "59:59"), (3661, "1:01:01")],
)
def test_durations(seconds, text):
    assert cli.duration(seconds) == text


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--list-models"], ["--list-datasets"], ["--list-recipes"]],
    ids=lambda a: a[0],
)
def test_help_and_lists_do_not_import_jax(arguments, command_environment):
    """So that they take less than a second."""
    code = (
        "import sys; from train import cli, run\n"
        "try: cli.main(run.main)\n"
        "finally: print('loaded', *({'jax', 'numpy', 'flax', 'tensorflow'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=command_environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr.strip() == "loaded"
