"""Inject faults into every command at random moments, rerun it, and compare:

    python -m tests.campaign --minutes 10 --out campaign.json

A trial starts a command and kills or interrupts it, fills its disk, makes one of its files unreadable, corrupts one, or
runs a second command in parallel. Then the fault is removed and the same command is run again: it must exit with status
0 and give the result of an undisturbed run, bit for bit (for measured times: the same fields). Three counts must be
zero:

    lost           the command does not recover from the fault, or not from its last checkpoint
    wrong records  it reports success, but its output differs from that of an undisturbed run
    tracebacks     anything but plain messages on stderr

So must a fourth, wrong statuses: an undocumented exit status, a slow stop, or a leftover process. A round has at least
ten trials per command. They are determined by `--seed`; the moment at which a process is hit also depends on the
machine. Checkpoints are saved after every epoch, however short. The same command with the same --out continues, and
repeats failed trials. Requires Linux, and root to mount a file system for a full disk.
"""

import contextlib
import dataclasses
import itertools
import json
import multiprocessing
import os
import platform
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro

from tests.campaign import results
from tests.campaign.processes import (
    Command,
    Ended,
    Process,
    environment,
    own_mounts,
    preload,
    run,
    tail,
)
from tests.campaign.world import LARGE_DISK, VARIANTS, World

ROOT = Path(__file__).parents[2]
SIGNALS = {
    "kill": signal.SIGKILL,
    "int": signal.SIGINT,
    "term": signal.SIGTERM,
    "hup": signal.SIGHUP,
}
# Faults per command; each occurs as often as it is listed.
TRAINING_FAULTS = (
    *("kill", "kill", "kill twice", "int", "term", "hup", "full disk", "full disk"),
    *("unreadable file", "torn file", "torn file", "twins", "rivals", "without a folder"),
)
WRITING_FAULTS = (*SIGNALS, *SIGNALS, "full disk", "twins")
READING_FAULTS = (*SIGNALS, "full disk", "twins", *2 * ("unreadable file", "torn file"))
COMMANDS = {
    "train.evaluate": READING_FAULTS,
    "train.predict": READING_FAULTS,
    "train.compare": READING_FAULTS,
    "train.models": WRITING_FAULTS,
    "train.data show": WRITING_FAULTS,
    "train.data prepare": WRITING_FAULTS,
    "train.reproduce": WRITING_FAULTS,
    "train.study": WRITING_FAULTS,
    **{
        f"benchmarks.{name}": WRITING_FAULTS
        for name in (
            *("augmentation", "coverage", "epoch", "gpu", "input_pipeline", "linear_baseline"),
            *(
                "members",
                "parity",
                "record",
                "scaling",
                "startup",
                "table1",
                "tables",
                "throughput",
            ),
        )
    },
}
COLD_SHARE = 0.1  # of the trials with a signal: processes that also import everything
COLD_SECONDS = 4.0  # approximate additional time that they take
LATE_SECONDS = 10.0  # from a signal to the end; 2 on an idle machine
REFUSED, INTERRUPTED = 2, 130


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    minutes: float = 10.0
    """Do not start trials after this time."""
    tries: int = 0
    """Number of trials (default: one round)."""
    seed: int = 0
    """Seed of the trials."""
    only: tuple[str, ...] = ()
    """Test only these commands, such as "train.data prepare"."""
    jobs: int = 2
    """Number of trials run in parallel."""
    out: Path | None = None
    """JSON file for the record. An existing record of the same trials is continued."""


@dataclasses.dataclass(frozen=True)
class Try:
    """A trial: one fault in one command."""

    number: int
    command: str
    fault: str
    variant: str = ""  # of a training run

    def __str__(self) -> str:
        return f"{self.command}{f' ({self.variant})' if self.variant else ''}: {self.fault}"


ROUND = (
    *(("train.run", fault, variant) for fault in TRAINING_FAULTS for variant in VARIANTS),
    *((command, fault, "") for command, faults in COMMANDS.items() for fault in faults),
)


def plan(seed: int) -> Iterator[Try]:
    """Yield trials indefinitely: rounds in random order."""
    rng = random.Random(seed)
    numbers = itertools.count()
    while True:
        for command, fault, variant in rng.sample(ROUND, len(ROUND)):
            yield Try(next(numbers), command, fault, variant)


def chosen(arguments: Arguments) -> list[Try]:
    """Return the trials of a campaign."""
    unknown = set(arguments.only) - {"train.run", *COMMANDS}
    if unknown:
        raise SystemExit(f"--only {min(unknown)}: use {', '.join(['train.run', *COMMANDS])}")
    tries = (t for t in plan(arguments.seed) if not arguments.only or t.command in arguments.only)
    one_round = sum(not arguments.only or c in arguments.only for c, _, _ in ROUND)
    return list(itertools.islice(tries, arguments.tries or one_round))


class Disturbance:
    """Runs one trial and collects its findings."""

    def __init__(self, world: Any, attempt: Try, seed: int) -> None:
        self.world, self.attempt = world, attempt
        self.rng = random.Random(f"{seed} {attempt.number}")
        self.findings: list[tuple[str, str]] = []
        self.folder: Path = world.folder(attempt.number)

    def run(self) -> list[tuple[str, str]]:
        """Run the trial. Returns (category, text) pairs."""
        try:
            if self.attempt.fault == "full disk":
                self.world.mount(self.folder)
            if self.attempt.command == "train.run":
                self._training()
            else:
                self._plain()
        except Exception as error:  # in the campaign, or from files that a command left
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._found("error", f"{error!r} in line {where.lineno} of {Path(where.filename).name}")
        finally:
            if self.folder.is_mount():
                self.world.unmount(self.folder)
        if not self.findings:
            self.world.remove(self.folder)
        return self.findings

    def _found(self, category: str, text: str) -> None:
        self.findings.append((category, text))

    def _check_end(self, ended: Ended, allowed: set[int], what: str) -> None:
        """Check the exit status and stderr of a process with a fault."""
        if ended.status is None:
            self._found("lost", f"{what} does not end; {tail(ended.stderr)}")
        elif ended.seconds_to_stop > LATE_SECONDS:
            self._found(
                "wrong status", f"{what}: ended {ended.seconds_to_stop:.0f} s after a signal"
            )
        elif ended.status not in allowed:
            self._found("wrong status", f"{what}: {ended.status}; {tail(ended.stderr)}")
        if re.search(r"Traceback \(most|Exception ignored|Fatal Python error", ended.stderr):
            self._found("traceback", f"{what}: {tail(ended.stderr, 12)}")

    # Training.

    def _training(self) -> None:
        fault, variant = self.attempt.fault, self.attempt.variant
        reference = self.world.reference("train.run", variant)
        workdir = self.folder / "run"
        command = self.world.train(variant, workdir)
        if fault in SIGNALS or fault == "kill twice":
            for _ in range(1 + (fault == "kill twice")):
                ended = self._signal(command, SIGNALS[fault.partition(" ")[0]], reference.seconds)
                if "saved in" in ended.stderr and not self._checkpoints(workdir):
                    self._found("lost", f"nothing is saved: {tail(ended.stderr)}")
            self._finish(command, workdir, reference)
        elif fault == "full disk":
            self._train_on_full_disk(command, workdir, reference)
        elif fault == "unreadable file":
            self._train_with_unreadable_file(command, workdir, reference)
        elif fault == "torn file":
            self._train_with_torn_file(command, workdir, reference)
        elif fault == "twins":
            both = self._at_once(command, command, reference.seconds)
            self._check_pair(both)
            self._finish(command, workdir, reference)
        elif fault == "rivals":
            self._train_rivals(workdir)
        else:
            self._train_without_a_folder(reference)

    def _signal(self, command: Command, number: int, seconds: float) -> Ended:
        # The staged recipe is registered in this process only.
        cold = command.cold or (self.rng.random() < COLD_SHARE and self.attempt.variant != "staged")
        moment = self.rng.uniform(0, 1.05) * (seconds + COLD_SECONDS * (cold and not command.cold))
        if cold:
            command = command.with_variables(GLIBC_TUNABLES="")  # it may restart itself
            if self.rng.random() < 0.5:  # it also compiles
                cache = self.folder.with_name(f"{self.folder.name}.cache")
                command = command.with_variables(JAX_COMPILATION_CACHE_DIR=cache)
        process = Process(command, self.folder, cold=cold)
        process.send_after(moment, number)
        ended = process.wait()
        what = f"{signal.Signals(number).name} after {moment:.2f} s{' (cold)' if cold else ''}"
        self._check_end(ended, {0, -number if number == signal.SIGKILL else INTERRUPTED}, what)
        if left := process.leftovers():
            self._found("wrong status", f"{what}: {len(left)} processes are left")
        return ended

    def _finish(self, command: Command, workdir: Path, reference: Any) -> None:
        """Run the same command to completion: it must succeed with the output of an undisturbed run."""
        checkpoints = self._checkpoints(workdir)
        ended = run(command, self.folder)
        self._check_end(ended, {0}, "again")
        if ended.status != 0:
            self._found("lost", f"{ended.status}: {tail(ended.stderr)}")
            return
        resumed = re.search(r"resuming after epoch \d+, step (\d+)", ended.stderr)
        if checkpoints and (resumed is None or int(resumed[1]) < max(checkpoints)):
            self._found("lost", f"not resumed from {max(checkpoints)}: {resumed and resumed[0]}")
        self._compare(workdir, reference.content)

    def _checkpoints(self, workdir: Path) -> list[int]:
        """Steps of a run's complete checkpoints."""
        return [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal()]

    def _compare(self, workdir: Path, expected: dict[str, Any]) -> None:
        try:
            found = results.of_run(workdir)
        except (OSError, ValueError, KeyError) as error:
            self._found("wrong record", f"success, but {error}")
            return
        if different := results.differences(found, expected):
            self._found("wrong record", f"{', '.join(different)} differ")

    def _train_on_full_disk(self, command: Command, workdir: Path, reference: Any) -> None:
        with self._disk(reference) as what:
            self._check_end(run(command, self.folder), {0, 1, REFUSED}, what)
        self._finish(command, workdir, reference)

    @contextlib.contextmanager
    def _disk(self, reference: Any) -> Iterator[str]:
        """Leave little space in the working folder."""
        used = sum(p.stat().st_blocks * 512 for p in self.folder.rglob("*"))
        size = self.rng.randint(0, reference.bytes // 1024 + 64)
        self.world.resize(self.folder, used // 1024 + max(4, size))
        yield f"disk with {size} KiB"
        self.world.resize(self.folder, LARGE_DISK)

    def _interrupted(self, command: Command, seconds: float) -> None:
        """Start a run and stop it at a random moment."""
        process = Process(command, self.folder)
        process.send_after(self.rng.uniform(0.4, 1.2) * seconds, signal.SIGTERM)
        self._check_end(process.wait(), {0, INTERRUPTED}, "stopped")

    def _train_with_unreadable_file(self, command: Command, workdir: Path, reference: Any) -> None:
        self._interrupted(command, reference.seconds)
        file = self._choose(workdir)
        if file is None:
            return self._finish(command, workdir, reference)
        mode = file.stat().st_mode
        before = results.of_files(workdir, (".lock",))
        file.chmod(0)
        ended = run(command, self.folder, limited=True)
        self._check_end(ended, {0, 1, REFUSED}, f"{file.name} is unreadable")
        if file.exists():
            file.chmod(mode)
        if ended.status in (1, REFUSED):
            if str(workdir) not in ended.stderr:
                self._found(
                    "lost", f"{file.name} is unreadable, but not named: {tail(ended.stderr)}"
                )
            missing = set(before) - set(results.of_files(workdir, (".lock",)))
            if missing:
                self._found("lost", f"{file.name} is unreadable, and {min(missing)} is missing")
        self._finish(command, workdir, reference)

    def _train_with_torn_file(self, command: Command, workdir: Path, reference: Any) -> None:
        self._interrupted(command, reference.seconds)
        file = self._choose(workdir)
        if file is None:
            return self._finish(command, workdir, reference)
        backup = self.folder / "backup"
        shutil.copytree(workdir, backup)
        how = self._tear(file)
        what = f"{file.relative_to(workdir)} {how}"
        ended = run(command, self.folder)
        self._check_end(ended, {0, 1, REFUSED}, what)
        if ended.status == 0:
            # Log lines lost before the checkpoint cannot be restored.
            found, expected = results.of_run(workdir), reference.content
            different = set(results.differences(found, expected))
            if results.only_shorter(found["metrics.jsonl"], expected["metrics.jsonl"]):
                different -= {"metrics.jsonl"}
            if all(row in expected["summary.csv"] for row in found["summary.csv"]):
                different -= {"summary.csv"}
                if file.name == "summary.csv":  # has the best epoch's training accuracy
                    different -= {"test.json"}
            if different:
                self._found("wrong record", f"{what}: {', '.join(sorted(different))} differ")
        elif str(workdir) not in ended.stderr:
            self._found("lost", f"{what}, but not named: {tail(ended.stderr)}")
        shutil.rmtree(workdir)
        backup.rename(workdir)
        self._finish(command, workdir, reference)

    def _choose(self, root: Path) -> Path | None:
        """Choose a file of a run directory, except TensorBoard's, which are never read."""
        files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.name != ".lock"]
        files = [p for p in files if "tensorboard" not in p.parts]
        return self.rng.choice(files) if files else None

    def _tear(self, file: Path) -> str:
        content = file.read_bytes()
        kinds = ["cut", "zeros", "garbage"]
        if file.suffix not in (".jsonl", ".csv", ".json", ".html", ".png"):
            kinds.append("flipped bit")  # undetectable in text
        kind = self.rng.choice(kinds)
        place = self.rng.randrange(len(content) + 1)
        if kind == "cut":
            content = content[:place]
        elif kind == "zeros":
            content = content[:place] + bytes(len(content) - place)
        elif kind == "garbage":
            content += self.rng.randbytes(40)
        elif content:
            changed = bytearray(content)
            changed[place % len(content)] ^= 1 << self.rng.randrange(8)
            content = bytes(changed)
        file.write_bytes(content)
        return f"{kind} at {place}"

    def _at_once(self, first: Command, second: Command, seconds: float) -> list[Ended]:
        one = Process(first, self.folder)
        time.sleep(self.rng.choice([0.0, self.rng.uniform(0, 1) * seconds]))
        two = Process(second, self.folder)
        return [one.wait(), two.wait()]

    def _check_pair(self, both: list[Ended]) -> None:
        for ended in both:
            self._check_end(ended, {0, REFUSED}, "one of two")
        if not any(ended.status == 0 for ended in both):
            self._found("lost", f"both failed: {' & '.join(tail(e.stderr, 1) for e in both)}")

    def _train_rivals(self, workdir: Path) -> None:
        """Start two runs with different settings in one folder: one is refused, and the record is the other's."""
        variant = self.attempt.variant
        references = [self.world.reference("train.run", variant, seed) for seed in (0, 1)]
        commands = [self.world.train(variant, workdir, seed) for seed in (0, 1)]
        both = self._at_once(*commands, references[0].seconds)
        self._check_pair(both)
        if all(ended.status == 0 for ended in both):
            self._found("wrong record", "two runs with different settings succeeded in one folder")
        for ended, command, reference in zip(both, commands, references, strict=True):
            if ended.status == 0:
                self._finish(command, workdir, reference)

    def _train_without_a_folder(self, reference: Any) -> None:
        command = self.world.train(self.attempt.variant, None)
        self.rng.seed(0)  # in the same second
        both = self._at_once(command, command, 0.0)
        for ended in both:
            self._check_end(ended, {0}, "one of two")
        runs = sorted((self.folder / "runs").iterdir())
        if len(runs) != 2:
            self._found("lost", f"{len(runs)} run directories for two runs")
        for path in runs:
            self._compare(path, reference.content)

    # Other commands.

    def _plain(self) -> None:
        name, fault = self.attempt.command, self.attempt.fault
        reference, plain = self.world.reference(name), self.world.plain[name]
        command = plain.command
        if plain.reads_run:  # a copy, which is compared with its original state
            copy = self.folder.with_name(f"{self.folder.name}.run")
            shutil.copytree(self.world.finished, copy)
            command = plain.on(copy)
            before = results.of_files(copy)
        self.world.furnish(plain, self.folder)
        if fault in SIGNALS:
            ended = self._signal(command, SIGNALS[fault], reference.seconds)
            self._check_output(ended, plain, reference)
            left = [p.name for p in self.folder.glob(".*.part")]
            if left and fault == "int":
                self._found("lost", f"leftover files: {left}")
        elif fault == "full disk":
            self._on_full_disk(command, plain, reference)
        elif fault == "twins":
            both = self._at_once(command, command, reference.seconds)
            self._check_pair(both)
        else:
            self._with_bad_file(command, copy, fault, plain, reference)
        self._repeat(command, plain, reference)
        if plain.reads_run and results.of_files(copy) != before:
            self._found("wrong record", "the run directory has changed")

    def _on_full_disk(self, command: Command, plain: Any, reference: Any) -> None:
        if not reference.bytes:  # it only prints
            ended = run(command, self.folder, stdout=Path("/dev/full"))
            self._check_end(ended, {1}, "stdout is full")
            return
        with self._disk(reference) as what:
            ended = run(command, self.folder)
            self._check_end(ended, {0, 1, REFUSED}, what)
            self._check_output(ended, plain, reference)

    def _with_bad_file(
        self, command: Command, copy: Path, fault: str, plain: Any, reference: Any
    ) -> None:
        file = self._choose(copy)
        assert file is not None
        content, mode = file.read_bytes(), file.stat().st_mode
        if fault == "torn file":
            what = f"{file.relative_to(copy)} {self._tear(file)}"
        else:
            what = f"{file.relative_to(copy)} is unreadable"
            file.chmod(0)
        ended = run(command, self.folder, limited=True)
        file.write_bytes(content)
        file.chmod(mode)
        self._check_end(ended, {0, 1, REFUSED}, what)
        self._check_output(ended, plain, reference)
        if ended.status in (1, REFUSED) and str(copy) not in ended.stderr:
            self._found("lost", f"{what}, but not named: {tail(ended.stderr)}")

    def _check_output(self, ended: Ended, plain: Any, reference: Any) -> None:
        """Check what a command with a fault reported as done, or left at its output path."""
        if ended.status == 0:
            self._check_success(ended, plain, reference)
            return
        try:
            content = plain.produced(self.folder)
        except OSError:  # incomplete
            return
        except ValueError as error:
            return self._found("wrong record", f"corrupt output at the final path: {error}")
        if content is not None and content != reference.content:
            self._found("wrong record", f"unfinished output at the final path; {ended.status}")

    def _check_success(self, ended: Ended, plain: Any, reference: Any) -> None:
        if plain.stable(ended.stdout) != reference.stdout:
            self._found("wrong record", f"stdout differs: {tail(ended.stdout)}")
        if plain.produced(self.folder) != reference.content:
            self._found("wrong record", "the output differs")

    def _repeat(self, command: Command, plain: Any, reference: Any) -> None:
        ended = run(command, self.folder)
        self._check_end(ended, {0}, "again")
        if ended.status != 0:
            self._found("lost", f"{ended.status}: {tail(ended.stderr)}")
        else:
            self._check_success(ended, plain, reference)


CATEGORIES = {
    "lost": "lost",
    "wrong record": "wrong_records",
    "traceback": "tracebacks",
    "wrong status": "wrong_statuses",
    "error": "errors",
}


class Record:
    """Counts of trials and findings, written to a JSON file after each trial."""

    def __init__(self, arguments: Arguments, tries: Sequence[Try]) -> None:
        """Start a record, or continue the one in --out."""
        self._arguments, self._tries = arguments, tries
        self._began = time.monotonic()
        self._passed: set[int] = set()
        self._failures: list[dict[str, Any]] = []
        self._mended: list[dict[str, Any]] = []
        self._commits = [_commit()]
        self._minutes = 0.0
        if arguments.out and arguments.out.exists():
            old = json.loads(arguments.out.read_text("utf-8"))
            if (old["seed"], old["only"]) != (arguments.seed, list(arguments.only)):
                raise SystemExit(
                    f"--out {arguments.out} has different trials: use its flags or another file"
                )
            self._passed = set(map(int, old["passed"].split()))
            self._failures, self._mended = old["failures"], old["failures_before"]
            self._commits = list(dict.fromkeys([*old["commits"], *self._commits]))
            self._minutes = old["minutes"]

    def left(self) -> list[Try]:
        """Trials that have not passed, failed ones first."""
        failed = {failure["try"] for failure in self._failures}
        left = [t for t in self._tries if t.number not in self._passed]
        return sorted(left, key=lambda t: t.number not in failed)

    def add(self, attempt: Try, findings: Sequence[tuple[str, str]]) -> None:
        """Count a trial, and write the file."""
        from train.record.directory import write_json

        if not findings:
            self._passed.add(attempt.number)
        repeated = [f for f in self._failures if f["try"] == attempt.number]
        self._mended += repeated
        self._failures = [f for f in self._failures if f not in repeated]
        self._failures += [
            {"try": attempt.number, "what": str(attempt), "category": category, "text": text}
            for category, text in findings
        ]
        if self._arguments.out:
            write_json(self._arguments.out, self.content())

    def content(self) -> dict[str, Any]:
        """The record."""
        from train.record.environment import cpu_model, versions

        failed = {failure["try"] for failure in self._failures}
        made = [t for t in self._tries if t.number in self._passed | failed]
        count = Counter(failure["category"] for failure in self._failures)

        def by(field: str) -> dict[str, int]:
            return dict(sorted(Counter(v for t in made if (v := getattr(t, field))).items()))

        return {
            "command": f"python -m tests.campaign --seed {self._arguments.seed}",
            "only": list(self._arguments.only),
            "commits": self._commits,
            "versions": versions(),
            "platform": platform.platform(),
            "cpu": cpu_model(),
            "seed": self._arguments.seed,
            "minutes": round(self._minutes + (time.monotonic() - self._began) / 60, 1),
            "tries": len(made),
            **{name: count[category] for category, name in CATEGORIES.items()},
            "by_command": by("command"),
            "by_fault": by("fault"),
            "by_variant": by("variant"),
            "passed": " ".join(map(str, sorted(self._passed))),
            "failures": self._failures,
            "failures_before": self._mended,  # of trials that have been repeated since
        }

    @property
    def failed(self) -> bool:
        """Whether any trial failed."""
        return bool(self._failures)


def _commit() -> str:
    from train.record.environment import own_commit

    commit, dirty = own_commit(ROOT)
    return f"{commit} with changes" if dirty else commit


_world: Any = None
_deadline = 0.0


def _begin_worker() -> None:
    """Leave Ctrl-C to the main process, which ends this one and thereby its commands."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _disturb(job: tuple[Try, int]) -> tuple[Try, list[tuple[str, str]] | None, float]:
    """Run a trial in a worker process, unless the time is up."""
    began = time.monotonic()
    findings = None if began > _deadline else Disturbance(_world, *job).run()
    return job[0], findings, time.monotonic() - began


def main() -> int:
    """Run the campaign. Returns the exit status: 1 if any trial failed."""
    global _world, _deadline
    arguments = tyro.cli(Arguments, prog="python -m tests.campaign", description=__doc__)
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    tries = chosen(arguments)
    record = Record(arguments, tries)
    left = record.left()
    _deadline = time.monotonic() + 60 * arguments.minutes
    root = Path(tempfile.mkdtemp(prefix="campaign-"))
    os.environ.update(environment(root / "cache"))
    own_mounts()
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT also as a background job
        signal.signal(number, signal.default_int_handler)
    say(f"preparing in {root}")
    preload()
    from benchmarks import startup
    from train.engine import fit

    fit.MIN_CHECKPOINT_SECONDS = 0.0
    # One of its 13 commands is enough.
    startup.TIMED_COMMANDS = dict([*startup.TIMED_COMMANDS.items()][-1:])
    _world = World(root)
    fork = multiprocessing.get_context("fork")
    try:
        with fork.Pool(arguments.jobs, _begin_worker) as pool:
            jobs = [(attempt, arguments.seed) for attempt in left]
            for done, (attempt, findings, seconds) in enumerate(
                pool.imap_unordered(_disturb, jobs), 1
            ):
                if findings is None:
                    continue
                record.add(attempt, findings)
                minutes = max(0.0, (_deadline - time.monotonic()) / 60)
                state = "FAILED" if findings else "ok"
                say(
                    f"{done} of {len(left)}  {attempt}: {state}  {seconds:.1f} s  {minutes:.0f} min left"
                )
                for category, text in findings:
                    say(f"    trial {attempt.number}, {category}: {text}")
    except KeyboardInterrupt:
        say("interrupted; run the same command to continue" if arguments.out else "interrupted")
        return INTERRUPTED
    finally:
        if not record.failed:
            _world.close()
    content = record.content()
    print({name: content[name] for name in ("tries", *CATEGORIES.values())})
    return int(record.failed)


if __name__ == "__main__":
    sys.exit(main())
