"""Disturb every command at random moments, repeat it, and compare:  python -m tests.campaign --minutes 10

A try starts a command and kills or interrupts it, fills its disk, makes one of its files unreadable, tears one, or
starts a second command beside it. Then the cause is removed and the same command is run again: it must end with status
0 and with the result of an undisturbed one, bit for bit. Three things are counted, and must be zero:

    lost           the command does not go on after the disturbance, or its result is not that of an undisturbed one
    wrong records  it reports success, and what it leaves is not what an undisturbed one leaves
    tracebacks     anything but lines of text on stderr

The tries follow from `--seed`; the moment at which a process is hit also depends on the machine. Checkpoints are saved
after every epoch, however short. The record is written after each try.
"""

import dataclasses
import itertools
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tyro

from tests.campaign.processes import (
    NOBODY,
    Command,
    Ended,
    Process,
    environment,
    preload,
    run,
    tail,
    words,
)

SIGNALS = {
    "kill": signal.SIGKILL,
    "int": signal.SIGINT,
    "term": signal.SIGTERM,
    "hup": signal.SIGHUP,
}
# Faults of a command, each as often as it is listed.
TRAINING_FAULTS = (
    *("kill", "kill", "kill twice", "int", "term", "hup", "full disk", "full disk"),
    *("unreadable file", "torn file", "torn file", "twins", "rivals", "without a folder"),
)
PLAIN_FAULTS = ("kill", "int", "term", "hup", "full disk", "twins")
READING_FAULTS = ("unreadable file", "torn file")
COMMANDS = {
    "train.evaluate": (*PLAIN_FAULTS, *READING_FAULTS),
    "train.predict": (*PLAIN_FAULTS, *READING_FAULTS),
    "train.models": PLAIN_FAULTS,
    "train.data show": PLAIN_FAULTS,
    "train.data prepare": PLAIN_FAULTS,
    "train.reproduce": PLAIN_FAULTS,
}
COLD_SHARE = 0.1  # of the tries with a signal: processes that also import everything
START_SECONDS = (
    0.5  # of a cold process, before its first line; Python itself does not survive a signal there
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Flags."""

    minutes: float = 10.0
    """Start no try after this time."""
    tries: int = 100_000
    """Make at most this many tries."""
    seed: int = 0
    """Seed of the tries."""
    out: Path | None = None
    """JSON file for the record."""


@dataclasses.dataclass(frozen=True)
class Try:
    """One disturbance of one command."""

    number: int
    command: str
    fault: str
    variant: str = ""  # of a training run

    def __str__(self) -> str:
        return f"{self.command}{f' ({self.variant})' if self.variant else ''}: {self.fault}"


def plan(seed: int) -> Iterator[Try]:
    """Yield tries: training and other commands in turn, all faults of each before any comes again."""
    from tests.campaign.world import VARIANTS

    rng = random.Random(seed)
    training = _shuffled(rng, [("train.run", f, v) for f in TRAINING_FAULTS for v in VARIANTS])
    others = _shuffled(rng, [(c, f, "") for c, faults in COMMANDS.items() for f in faults])
    for number in itertools.count():
        yield Try(number, *next(others if number % 2 else training))


def _shuffled(
    rng: random.Random, deck: list[tuple[str, str, str]]
) -> Iterator[tuple[str, str, str]]:
    while True:
        yield from rng.sample(deck, len(deck))


class Disturbance:
    """Runs one try and collects what is wrong with it."""

    def __init__(self, world: Any, attempt: Try, seed: int) -> None:
        from tests.campaign import results
        from tests.campaign import world as worlds

        self._results, self._stable = results, worlds.stable
        self.world, self.attempt = world, attempt
        self.rng = random.Random(f"{seed} {attempt.number}")
        self.findings: list[tuple[str, str]] = []
        self.folder: Path = world.folder(attempt.number)

    def run(self) -> list[tuple[str, str]]:
        """Run the try. Returns pairs of a category and a text."""
        if self.attempt.command == "train.run":
            self._training()
        else:
            self._plain()
        if not self.findings:
            self.world.remove(self.folder)
        return self.findings

    def _found(self, category: str, text: str) -> None:
        self.findings.append((category, text))

    def _check_end(self, ended: Ended, allowed: set[int], what: str) -> None:
        """Check the status and the form of a process that was disturbed."""
        if ended.status is None:
            self._found("lost", f"{what} does not end; {tail(ended.stderr)}")
        elif ended.status not in allowed:
            self._found("wrong status", f"{what}: {ended.status}; {tail(ended.stderr)}")
        if re.search(r"Traceback \(most|Exception ignored|Fatal Python error", ended.stderr):
            self._found("traceback", f"{what}: {tail(ended.stderr, 12)}")

    # Training.

    def _training(self) -> None:
        fault, variant = self.attempt.fault, self.attempt.variant
        reference = self.world.trained(variant)
        workdir = self.folder / "run"
        command = self.world.train(variant, workdir)
        if fault in SIGNALS or fault == "kill twice":
            for _ in range(1 + (fault == "kill twice")):
                self._signal(command, SIGNALS[fault.partition(" ")[0]], reference.seconds)
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

    def _signal(
        self, command: Command, number: int, seconds: float, cwd: Path | None = None
    ) -> Ended:
        cold = self.rng.random() < COLD_SHARE
        moment = self.rng.uniform(0, 1.05) * seconds
        if cold:
            moment = START_SECONDS + self.rng.uniform(0, 1) * (seconds + 4)
        process = Process(command, cwd or self.folder, cold=cold)
        process.send_after(moment, number)
        ended = process.wait()
        # 130: interrupted. A signal that arrives before its handler is set ends the process in the usual way.
        self._check_end(
            ended, {0, 130, -number}, f"after {moment:.2f} s{' (cold)' if cold else ''}"
        )
        return ended

    def _finish(
        self, command: Command, workdir: Path, reference: Any, user: int | None = None
    ) -> None:
        """Run the same command to its end: it must succeed and leave what an undisturbed one leaves."""
        ended = run(command, self.folder, user=user)
        self._check_end(ended, {0}, "again")
        if ended.status != 0:
            self._found("lost", f"{ended.status}: {tail(ended.stderr)}")
            return
        self._compare(workdir, reference.content)

    def _compare(self, workdir: Path, expected: dict[str, Any], category: str = "lost") -> None:
        try:
            found = self._results.of_run(workdir)
        except (OSError, ValueError, KeyError) as error:
            self._found("wrong record", f"success, but {error}")
            return
        if different := self._results.differences(found, expected):
            self._found("wrong record", f"{', '.join(different)} differ")

    def _train_on_full_disk(self, command: Command, workdir: Path, reference: Any) -> None:
        size = self.rng.randint(0, reference.bytes // 1024 + 64)
        mounted = self.world.full_disk(self.folder, max(4, size))
        largest = None if mounted else self.rng.randint(0, reference.bytes // 8)
        try:
            ended = run(command, self.folder, max_file_bytes=largest)
            self._check_end(ended, {0, 1, 2}, f"disk of {size} KiB")
            if mounted:
                self.world.make_room(self.folder)
            self._finish(command, workdir, reference)
        finally:
            if mounted:
                self.world.unmount(self.folder)

    def _interrupted(self, command: Command, seconds: float, user: int | None = None) -> None:
        """Begin a run, and stop it somewhere."""
        process = Process(command, self.folder, user=user)
        process.send_after(self.rng.uniform(0.4, 1.2) * seconds, signal.SIGTERM)
        self._check_end(process.wait(), {0, 130, -signal.SIGTERM}, "stopped")

    def _train_with_unreadable_file(self, command: Command, workdir: Path, reference: Any) -> None:
        user = NOBODY if os.getuid() == 0 else None
        self.folder.chmod(0o777)
        self._interrupted(command, reference.seconds, user)
        file = self._choose(workdir)
        if file is None:
            return self._finish(command, workdir, reference, user)
        mode = file.stat().st_mode
        before = self._results.of_files(workdir, (".lock",))
        file.chmod(0)
        ended = run(command, self.folder, user=user)
        self._check_end(ended, {0, 1, 2}, f"{file.name} is unreadable")
        if file.exists():
            file.chmod(mode)
        if ended.status in (1, 2):
            if str(workdir) not in ended.stderr:
                self._found(
                    "lost", f"{file.name} is unreadable, and not named: {tail(ended.stderr)}"
                )
            missing = set(before) - set(self._results.of_files(workdir, (".lock",)))
            if missing:
                self._found("lost", f"{file.name} is unreadable, and {min(missing)} is gone")
        self._finish(command, workdir, reference, user)

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
        self._check_end(ended, {0, 1, 2}, what)
        if ended.status == 0:
            # Lines of a log that were torn off before its checkpoint cannot come back.
            found, expected = self._results.of_run(workdir), reference.content
            different = set(self._results.differences(found, expected))
            if self._results.only_shorter(found["metrics.jsonl"], expected["metrics.jsonl"]):
                different -= {"metrics.jsonl"}
            if all(row in expected["summary.csv"] for row in found["summary.csv"]):
                different -= {"summary.csv"}
                if (
                    file.name == "summary.csv"
                ):  # from which the best epoch's training accuracy comes
                    different -= {"test.json"}
            if different:
                self._found("wrong record", f"{what}: {', '.join(sorted(different))} differ")
        elif str(workdir) not in ended.stderr:
            self._found("lost", f"{what}, and not named: {tail(ended.stderr)}")
        shutil.rmtree(workdir)
        backup.rename(workdir)
        self._finish(command, workdir, reference)

    def _choose(self, root: Path) -> Path | None:
        """Choose a file of a run directory; TensorBoard's are only written."""
        files = [p for p in sorted(root.rglob("*")) if p.is_file() and p.name != ".lock"]
        files = [p for p in files if "tensorboard" not in p.parts]
        return self.rng.choice(files) if files else None

    def _tear(self, file: Path) -> str:
        content = file.read_bytes()
        kinds = ["cut", "zeros", "garbage"]
        if file.suffix not in (".jsonl", ".csv", ".json", ".html", ".png"):
            kinds.append("flipped bit")  # in text, nothing would tell it
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

    def _at_once(
        self, first: Command, second: Command, seconds: float, cwd: Path | None = None
    ) -> list[Ended]:
        one = Process(first, cwd or self.folder)
        time.sleep(self.rng.choice([0.0, self.rng.uniform(0, 1) * seconds]))
        two = Process(second, cwd or self.folder)
        return [one.wait(), two.wait()]

    def _check_pair(self, both: list[Ended]) -> None:
        for ended in both:
            self._check_end(ended, {0, 2}, "one of two")
        if not any(ended.status == 0 for ended in both):
            self._found("lost", f"both failed: {' & '.join(tail(e.stderr, 1) for e in both)}")

    def _train_rivals(self, workdir: Path) -> None:
        """Two runs with different settings in one folder: one is refused, and the record is that of the other."""
        variant = self.attempt.variant
        references = [self.world.trained(variant, seed) for seed in (0, 1)]
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
            self._found("lost", f"{len(runs)} run directories of two runs")
        for path in runs:
            self._compare(path, reference.content)

    # Other commands.

    def _plain(self) -> None:
        name, fault = self.attempt.command, self.attempt.fault
        reference, plain = self.world.reference(name), self.world.plain[name]
        command = plain.command
        if plain.reads_run:  # a copy, which is compared
            copy = self.folder.with_name(f"{self.folder.name}.run")
            shutil.copytree(self.world.finished, copy)
            command = dataclasses.replace(command, words=words(copy, *command.words[1:]))
            before = self._results.of_files(copy)
        if fault in SIGNALS:
            ended = self._signal(command, SIGNALS[fault], reference.seconds)
            self._check_output(ended, plain, reference)
            left = [p.name for p in self.folder.glob(".*.part")]
            if left and fault == "int":
                self._found("lost", f"{left} left")
        elif fault == "full disk":
            self._on_full_disk(command, reference)
        elif fault == "twins":
            both = self._at_once(command, command, reference.seconds)
            self._check_pair(both)
        else:
            self._with_bad_file(command, copy, fault, plain, reference)
        self._repeat(command, plain, reference)
        if plain.reads_run:
            if self._results.of_files(copy) != before:
                self._found("wrong record", "the run directory has changed")
            shutil.rmtree(copy)

    def _on_full_disk(self, command: Command, reference: Any) -> None:
        size = self.rng.randint(4, max(8, reference.bytes // 1024 + 16))
        mounted = self.world.full_disk(self.folder, size)
        writes = bool(reference.bytes)
        try:
            ended = run(
                command,
                self.folder,
                max_file_bytes=None if mounted or not writes else self.rng.randint(0, 4096),
                stdout=None if writes else Path("/dev/full"),
            )
            self._check_end(ended, {0, 1, 2}, f"disk of {size} KiB")
            if mounted:
                self.world.make_room(self.folder)
                self._repeat(command, self.world.plain[self.attempt.command], reference)
        finally:
            if mounted:
                self.world.unmount(self.folder)

    def _with_bad_file(
        self, command: Command, copy: Path, fault: str, plain: Any, reference: Any
    ) -> None:
        file = self._choose(copy)
        assert file is not None
        content, mode = file.read_bytes(), file.stat().st_mode
        user = NOBODY if os.getuid() == 0 and fault == "unreadable file" else None
        self.folder.chmod(0o777)
        if fault == "torn file":
            what = f"{file.relative_to(copy)} {self._tear(file)}"
        else:
            what = f"{file.relative_to(copy)} is unreadable"
            file.chmod(0)
        ended = run(command, self.folder, user=user)
        file.write_bytes(content)
        file.chmod(mode)
        self._check_end(ended, {0, 1, 2}, what)
        self._check_output(ended, plain, reference)
        if ended.status in (1, 2) and str(copy) not in ended.stderr:
            self._found("lost", f"{what}, and not named: {tail(ended.stderr)}")

    def _check_output(self, ended: Ended, plain: Any, reference: Any) -> None:
        """What a disturbed command has reported as done, or left in its place, is right."""
        if ended.status == 0:
            self._check_success(ended, plain, reference)
            return
        try:
            content = plain.produced(self.folder)
        except OSError:  # not all of it is there
            return
        if content is not None and content != reference.content:
            self._found("wrong record", f"an unfinished output stands in its place; {ended.status}")

    def _check_success(self, ended: Ended, plain: Any, reference: Any) -> None:
        if self._stable(self.attempt.command, ended.stdout) != reference.stdout:
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
}


class Record:
    """Counts of tries and findings, as they are written to a JSON file."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._began = time.monotonic()
        self._tries: list[Try] = []
        self._failures: list[dict[str, Any]] = []

    def add(self, attempt: Try, findings: list[tuple[str, str]]) -> None:
        """Count a try, and write the file."""
        from train.record.directory import write_json

        self._tries.append(attempt)
        self._failures += [
            {"try": attempt.number, "what": str(attempt), "category": category, "text": text}
            for category, text in findings
        ]
        if self._arguments.out:
            write_json(self._arguments.out, self.content())

    def content(self) -> dict[str, Any]:
        """The record."""
        from train.record.environment import cpu_model, versions

        count = Counter(failure["category"] for failure in self._failures)
        return {
            "command": f"python -m tests.campaign --seed {self._arguments.seed}",
            "commit": _commit(),
            "versions": versions(),
            "platform": platform.platform(),
            "cpu": cpu_model(),
            "seed": self._arguments.seed,
            "minutes": round((time.monotonic() - self._began) / 60, 1),
            "tries": len(self._tries),
            **{name: count[category] for category, name in CATEGORIES.items()},
            "by_command": dict(sorted(Counter(t.command for t in self._tries).items())),
            "by_fault": dict(sorted(Counter(t.fault for t in self._tries).items())),
            "by_variant": dict(
                sorted(Counter(t.variant for t in self._tries if t.variant).items())
            ),
            "failures": self._failures,
        }

    @property
    def failed(self) -> bool:
        """Whether anything was found."""
        return bool(self._failures)


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return done.stdout.strip()


def main() -> int:
    """Run the campaign. Returns the exit status: 1 if anything was found."""
    arguments = tyro.cli(Arguments, prog="python -m tests.campaign", description=__doc__)
    root = Path(tempfile.mkdtemp(prefix="campaign-"))
    root.chmod(0o777)
    os.environ.update(environment(root / "cache"))
    os.umask(0)  # so that another user may write to the caches
    record = Record(arguments)
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    say(f"preparing in {root}")
    preload()
    from tests.campaign.world import World
    from train.engine import fit

    fit.MIN_CHECKPOINT_SECONDS = 0.0
    world, deadline = World(root), time.monotonic() + 60 * arguments.minutes
    try:
        for attempt in itertools.islice(plan(arguments.seed), arguments.tries):
            if time.monotonic() > deadline:
                break
            began = time.monotonic()
            findings = Disturbance(world, attempt, arguments.seed).run()
            record.add(attempt, findings)
            left = max(0.0, (deadline - time.monotonic()) / 60)
            say(
                f"{attempt.number + 1}  {attempt}: {'ok' if not findings else 'FAILED'}"
                f"  {time.monotonic() - began:.1f} s  {left:.0f} min left"
            )
            for category, text in findings:
                say(f"    {category}: {text}")
    finally:
        if not record.failed:
            shutil.rmtree(root, ignore_errors=True)
    content = record.content()
    print({name: content[name] for name in ("tries", *CATEGORIES.values())})
    return int(record.failed)


if __name__ == "__main__":
    sys.exit(main())
