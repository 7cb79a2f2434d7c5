import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import zoo
from benchmarks import command, throughput
from benchmarks.peers import BASELINES
from benchmarks.workers import worker_command
from benchmarks.zoo_worker import Zoo
from train.recipe import InputError

ROOT = Path(__file__).parents[2]
PEAK = {"gflops_per_sec": 100.0, "gbytes_per_sec": 10.0}
FAKE = worker_command("tests.benchmarks.fake_worker")
CONV_NET = "tests.registered_net:conv_net"


def run(baselines=(), reference="Fake", **options):
    """Run the benchmark with fake workers; `baselines` and `reference` name their classes in fake_worker."""
    arguments = throughput.Arguments(
        models=("sam_alexnet_tiny",), batch_sizes=(8,), seconds=0.05, rounds=3, **options
    )
    commands = {"zoo": [*FAKE, reference], **{name: [*FAKE, name] for name in baselines}}
    object.__setattr__(arguments, "peers", tuple(baselines))
    return throughput.run(arguments, commands)


def test_results_have_timms_names():
    train, test = run()["results"]
    assert train["train_samples_per_sec"] == 800.0  # 8 images in 10 ms
    assert train["train_step_time"] == 10.0
    assert train["train_batch_size"] == 8
    assert train["train_img_size"] == 64
    assert train["param_count"] == 0.07
    assert test["infer_samples_per_sec"] == 800.0
    assert test["infer_step_time"] == 10.0
    assert train["gflops_per_sec"] == 200.0  # 2 GFLOP in 10 ms
    assert train["compile_time"] == 1.5
    assert train["peak_memory_mb"] > 1
    assert len(train["train_step_times"]) == 3


@pytest.mark.slow
def test_rates_are_relative_to_the_measured_peak():
    """2 GFLOP and 50 MB in 10 ms; the peak of the fake device is 100 GFLOP/s and 10 GB/s."""
    train, _ = run()["results"]
    assert (train["gflops_per_sec"], train["gflops_share_of_peak"]) == (200.0, 2.0)
    assert (train["gbytes_per_sec"], train["gbytes_share_of_peak"]) == (5.0, 0.5)
    two_devices, _ = run(reference="Described")["results"]
    assert two_devices["gflops_share_of_peak"] == 1.0
    assert two_devices["gbytes_share_of_peak"] == 0.25


def test_uncounted_operations_have_no_rate():
    timing = throughput.Timing("m", "torch", "train", 4, (64, 64), "float32", step_times=[3])
    row = timing.record(PEAK)
    assert row["gbytes_per_sec"] is None and row["gbytes_share_of_peak"] is None
    assert throughput.rate_cells(row, "gbytes") == ("", "")


@pytest.mark.slow
def test_speedup_is_over_the_baseline():
    rows = run(["Slower"])["results"]
    assert [row["implementation"] for row in rows] == ["zoo", "Slower"] * 2
    assert rows[1]["zoo_speedup"] == 3.0
    assert rows[0]["zoo_speedup"] is None


FAILURES = {
    "DifferentNet": "is a different net: 66,363 parameters, the zoo's has 66,362",
    "DifferentLoss": "is a different net: its train loss is 4.001000, the zoo's 4.000000",
    "NotInstalled": (
        "torchvision is not installed: python -m pip install -e '.[bench]', or --torch-python"
    ),
    "NotAvailable": "model not available in this library",
    "Failing": "RuntimeError: no kernel for this",
    "OutOfMemory": "out of memory",
    "Dying": "exited with status 3: last line",
}


@pytest.mark.slow
def test_failing_baselines_are_recorded_with_their_errors():
    """The zoo and the other baseline are still timed."""
    zoo_row, *failed, last = run([*FAILURES, "Slower"], modes=("train",))["results"]
    assert zoo_row["train_step_time"] == 10.0
    assert {row["implementation"]: row["error"] for row in failed} == FAILURES
    assert not any("train_step_time" in row for row in failed)
    assert last["zoo_speedup"] == 3.0


def test_the_table_shows_errors_verbatim(capsys):
    """Brackets are not interpreted as markup."""
    throughput.show(run(["NotInstalled"], modes=("train",)))
    assert "'.[bench]'" in capsys.readouterr().out


@pytest.mark.slow
def test_a_slow_build_is_recorded_with_its_error():
    rows = run(["Sleeping"], modes=("train",), limit=2.0)["results"]
    assert rows[1]["error"] == "took more than 2 s"


def test_baselines_are_timed_if_the_zoo_fails():
    rows = run(["Slower"], reference="OutOfMemory", modes=("train",))["results"]
    assert rows[0]["error"] == "out of memory"
    assert rows[1]["train_step_time"] == 30.0
    assert rows[1]["zoo_speedup"] is None


def test_implementations_take_turns(monkeypatch):
    """Each round starts with the next implementation, and each turn with a step that is not timed."""
    order, counts = [], []

    class FakeWorker:
        def __init__(self, name):
            self.name = name

        def call(self, method, **arguments):
            if method == "run":
                order.append(self.name)
                counts.append(arguments["steps"])
            return 0.1

    names = ["zoo", "a", "b"]
    timings = {n: throughput.Timing("m", n, "train", 8, (64, 64), "float32") for n in names}
    workers = {n: FakeWorker(n) for n in names}
    throughput.take_turns(workers, dict.fromkeys(names, 5), timings, rounds=4)
    assert counts == [1, 5] * 12
    assert (
        order[::2]
        == order[1::2]
        == ["zoo", "a", "b", "a", "b", "zoo", "b", "zoo", "a", "zoo", "a", "b"]
    )
    assert timings["a"].step_times == pytest.approx([20.0] * 4)


def test_step_time_is_the_median_with_minimum_and_maximum():
    timing = throughput.Timing("m", "zoo", "train", 4, (64, 64), "float32", step_times=[3, 1, 9])
    record = timing.record(PEAK)
    assert record["train_step_time"] == statistics.median([3, 1, 9])
    assert (record["train_step_time_min"], record["train_step_time_max"]) == (1, 9)


@pytest.mark.slow
def test_files_contain_the_results(tmp_path):
    record = run(["Slower", "OutOfMemory"])
    throughput.write(tmp_path / "times.json", record)
    assert json.loads((tmp_path / "times.json").read_text()) == record
    with open(tmp_path / "times.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert rows[0]["train_samples_per_sec"] == "800.0"
    assert rows[2]["error"] == "out of memory"


def test_the_recorded_command_omits_paths_of_this_machine():
    words = ["--models", "a", "--torch-python", "/x/python", "--peers", "torch", "--out=/y/z.json"]
    words += ["--figures", "/y"]
    shown = command.portable("benchmarks.throughput", words)
    assert shown == "python -m benchmarks.throughput --models a --peers torch"


@pytest.mark.slow
def test_the_table_shows_speedups_and_errors(capsys):
    throughput.show(run(["Slower", "OutOfMemory"], modes=("train",)))
    text = capsys.readouterr().out
    assert "3.00 x" in text
    assert "out of memory" in text


@pytest.mark.slow
def test_files_in_a_folder_are_named_after_model_device_and_versions(tmp_path, call, monkeypatch):
    commands = {
        "zoo": [*FAKE, "Described"],
        "torch": [*FAKE, "Torch"],
        "keras": [*FAKE, "OutOfMemory"],
    }
    monkeypatch.setattr(throughput, "worker_commands", lambda *_: commands)
    words = ["--models", "sam_alexnet_tiny", "--batch-sizes", "8", "16", "--rounds", "2"]
    words += ["--seconds", "0.05", "--peers", "torch", "keras", "--out", tmp_path]
    status, out, err = call(throughput, *words)
    assert status == 0, err
    stem = "throughput_sam_alexnet_tiny_2x_nvidia_h200_float32_jax_0.10.2_torch_2.13.0"
    names = [f"{stem}.csv", f"{stem}.json", f"{stem}_sam_alexnet_tiny.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert "out of memory" in out and "of peak" in out
    record = json.loads((tmp_path / names[1]).read_text())
    sizes = [row.get("train_batch_size") for row in record["results"]]
    assert sizes == [8] * 3 + [None] * 3 + [16] * 3 + [None] * 3
    several = {"results": [{"model": m, "dtype": "bfloat16"} for m in "ab"]}
    facts = {"backend": "cpu", "cores": 2, "devices": ["cpu"], "versions": {"jax": "0.12.0"}}
    name = throughput.default_name(several | {"environment": {"zoo": facts}})
    assert name == "throughput_2_models_cpu_2_cores_bfloat16_jax_0.12.0.json"


@pytest.mark.slow
def test_a_stopped_command_is_resumed(tmp_path, call, monkeypatch):
    """What was measured is in the file, and neither measured nor checked again."""
    out, called = tmp_path / "times.json", []
    commands = {"zoo": [*FAKE, "Described"], "keras": [*FAKE, "Slower"]}
    time_one, compare = throughput.time_one, throughput.compare

    def time_or_stop(*arguments):
        if len(called) == 2:
            raise KeyboardInterrupt
        called.append(arguments[-2:])
        return time_one(*arguments)

    monkeypatch.setattr(throughput, "worker_commands", lambda *_: commands)
    monkeypatch.setattr(throughput, "time_one", time_or_stop)
    words = ["--models", "sam_alexnet_tiny", "--batch-sizes", "8", "16", "--modes", "train", "test"]
    words += ["--rounds", "1", "--seconds", "0.05", "--peers", "keras", "--resume", "--out", out]
    assert call(throughput, *words)[0] == 130
    record = json.loads(out.read_text())
    assert called == [("train", 8), ("test", 8)]
    assert (record["complete"], len(record["results"]), len(record["checks"])) == (False, 4, 1)

    called[:] = called[:1]
    monkeypatch.setattr(
        throughput,
        "compare",
        lambda m, c, limit: compare(m, {"zoo": c["zoo"]}, 1) if len(c) == 1 else 1 / 0,
    )
    assert call(throughput, *words)[0] == 130  # one more
    assert called[1:] == [("train", 16)]
    called.clear()
    status, _, err = call(throughput, *words)
    assert status == 0, err
    assert called == [("test", 16)]
    record = json.loads(out.read_text())
    assert (record["complete"], len(record["results"]), len(record["checks"])) == (True, 8, 1)
    assert all(row["implementation"] != "keras" or row["zoo_speedup"] for row in record["results"])

    status, _, err = call(throughput, *words, "--dtype", "bfloat16")
    assert status == 2 and "has the results of another command: use another --out" in err
    record["environment"]["zoo"]["devices"] = ["NVIDIA H100"]
    out.write_text(json.dumps(record))
    status, _, err = call(throughput, *words)
    assert status == 2 and "was measured with other devices: use another --out" in err
    out.write_text("[")
    status, _, err = call(throughput, *words)
    assert status == 2 and "cannot be read" in err


@pytest.mark.slow
def test_figures_show_only_timed_models(tmp_path, monkeypatch):
    from train.report import figures

    drawn = []
    monkeypatch.setattr(
        figures, "throughput_curves", lambda panels, path, title: drawn.append((panels, path.name))
    )
    record = run(["Slower", "OutOfMemory"], reference="Described", modes=("train",))
    record["results"].append({"model": "gone", "implementation": "zoo", "error": "out of memory"})
    throughput.draw(record, tmp_path, "times")
    [(panels, name)] = drawn
    assert name == "times_sam_alexnet_tiny.png"
    assert list(panels["train"]) == ["zoo", "Slower", "OutOfMemory"]
    assert panels["train"]["zoo"] == [pytest.approx((8, 800, 800, 800))]
    assert panels["train"]["OutOfMemory"] == []


@pytest.mark.slow
def test_the_speed_table_shows_errors_and_all_baselines(tmp_path, monkeypatch):
    from benchmarks import tables

    record = run(["Slower", "OutOfMemory"], reference="Described", modes=("train",))
    record["environment"]["Slower"] = {"Slower": "1.2"}
    throughput.write(tmp_path / "throughput_x.json", record)
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "runs")
    heading, _, *rows = tables.speed_table(tables.ROOT).splitlines()
    assert "| images/s | Slower | OutOfMemory | hardware, versions |" in heading
    [row] = [row for row in rows if "not measured" not in row]
    assert "| 800 | **3.00**: 267 | out of memory | NVIDIA H200" in row and "Slower 1.2 |" in row


def test_the_speed_table_says_that_no_gpu_was_measured(tmp_path, monkeypatch):
    from benchmarks import tables

    monkeypatch.setattr(tables, "RESULTS", tmp_path / "runs")
    record = run(["Slower"], reference="Described", modes=("train",))
    for backend, rows in (("gpu", 1), ("cpu", 2)):
        record["environment"]["zoo"]["backend"] = backend
        throughput.write(tmp_path / "throughput_x.json", record)
        lines = tables.speed_table(tables.ROOT).splitlines()[2:]
        assert len(lines) == rows
    assert lines[-1] == "| all |  |  | not measured | not measured | a GPU |"


def test_a_model_without_baselines_is_timed_alone():
    arguments = throughput.Arguments(models=("vade_tiny",), modes=("train",), seconds=0.05)
    object.__setattr__(arguments, "peers", ("Slower",))
    commands = {"zoo": [*FAKE, "Fake"], "Slower": [*FAKE, "Slower"]}
    reference, baseline = throughput.run(arguments, commands)["results"]
    assert reference["train_step_time"] == 10.0 and reference["train_img_size"] == 16
    assert baseline["error"] == "model not available in this library"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ("sam_alexnt",)}, "unknown model 'sam_alexnt'"),
        ({"models": ()}, "--models is empty"),
        ({"batch_sizes": (16, 0)}, "--batch-sizes has 0"),
        ({"rounds": 0}, "--rounds is 0"),
        ({"seconds": 0.0}, "above 0"),
        ({"torch_python": Path("/no/such/python")}, "/no/such/python is not an executable"),
        ({"out": Path("times.txt")}, "use a file that ends in .json or an existing folder"),
        ({"resume": True}, "--resume needs a file: use --out FILE.json"),
        ({"out": Path("/no/such/folder/a.json")}, "its folder does not exist: create it first"),
        (
            {"figures": Path("/no/such/folder")},
            "--figures /no/such/folder is not an existing folder",
        ),
    ],
)
def test_bad_flags_are_rejected_before_any_work(options, message):
    with pytest.raises((InputError, zoo.InputError), match=message):
        throughput.check(throughput.Arguments(**options))


def test_baselines_have_flags_and_workers():
    flags = throughput.Arguments.__dataclass_fields__["peers"].type.__args__[0].__args__
    assert set(flags) == set(BASELINES)
    for module, _ in BASELINES.values():
        assert (ROOT / Path(*module.split("."))).with_suffix(".py").exists()


def test_only_torch_uses_the_other_interpreter():
    commands = throughput.worker_commands(list(BASELINES), Path("/elsewhere/python"))
    elsewhere = {name for name, words in commands.items() if words[0] == "/elsewhere/python"}
    assert elsewhere == {"torch", "torch-compile"}


@pytest.mark.slow
def test_operations_and_memory_of_the_zoo_are_counted(registered_net):
    """XLA omits multiplications with padding and counts activations."""
    worker, demand = Zoo(devices=1), {}
    for mode in ("train", "test"):
        built = worker.build(CONV_NET, 10, mode, "float32", [4, 32, 32, 3], 0)
        assert built["parameters"] == (27 + 1) * 16 + (9 * 16 + 1) * 32 + (32 + 1) * 10
        # Times are not compared: on a busy machine a test step may take longer than a training step.
        assert built["compile_time"] > 0 and worker.run(2) > 0
        demand[mode] = worker.demand()
    multiplications = 27 * 16 * 32**2 + 9 * 16 * 32 * 16**2 + 32 * 10
    train, test = demand["train"], demand["test"]
    assert test["gflops"] == pytest.approx(4 * 2 * multiplications / 1e9, rel=0.1)
    assert 2 * test["gflops"] < train["gflops"] < 4 * test["gflops"]
    assert train["gbytes"] > test["gbytes"] > 0
    assert worker.peak_memory() > 100


@pytest.mark.long  # the dry run of `make bench-gpu` in CI does the same with another net
def test_the_zoo_is_timed_for_real(command_environment, tmp_path):
    """The full command on a small net."""
    out = tmp_path / "times.json"
    words = f"--models {CONV_NET} --batch-sizes 4 --rounds 2 --seconds 0.1 --out"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.throughput", *words.split(), str(out)],
        cwd=ROOT,
        env=command_environment | {"XLA_FLAGS": "--xla_backend_optimization_level=0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    train, test = record["results"]
    assert train["train_step_time"] > 0 and test["infer_step_time"] > 0
    assert train["gflops"] > 2 * test["gflops"] > 0
    assert train["peak_memory_mb"] > 100
    assert record["environment"]["zoo"]["git_commit"]
    assert "conv_net" in done.stdout


ONE_OF_EACH_OBJECTIVE = ["sam_alexnet_tiny", "conv_autoencoder_tiny", "vade_tiny", "gmvae_tiny"]


def test_objectives_are_complete():
    objectives = [zoo.get_entry(name).objective for name in ONE_OF_EACH_OBJECTIVE]
    assert set(objectives) == {zoo.get_entry(name).objective for name in zoo.list_models()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [*ONE_OF_EACH_OBJECTIVE[1:3], pytest.param(ONE_OF_EACH_OBJECTIVE[3], marks=pytest.mark.long)],
)
def test_steps_of_autoencoders_are_timed(model):
    """The training step of the model's own objective updates it; the test step evaluates it."""
    entry = zoo.get_entry(model)
    worker = Zoo()
    words = (entry.num_classes, "train", "float32", [4, *entry.input_shape], 0)
    assert worker.build(model, *words)["parameters"] == zoo.model_info(model).parameters
    step = int(worker.state.step)
    worker.run(2)
    assert worker.state.step == step + 2
    worker.build(model, entry.num_classes, "test", *words[2:])
    outputs = worker.step(worker.state, worker.batch)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(outputs))
    assert worker.run(2) > 0


@pytest.mark.slow
def test_operations_in_loops_of_the_cpu_kernels_are_counted():
    """The CPU kernels compute this net's 3x3 convolutions on 16 images in a loop. `train.models` reports 210.73 MFLOPs
    per image; XLA omits multiplications with padding, up to 14% for a small image, and counts activations."""
    worker = Zoo()
    worker.build("deconv_alexnet_2", 10, "test", "float32", [16, 28, 28, 3], 0)
    demand = worker.demand()
    assert demand["gflops"] == pytest.approx(16 * 0.21073, rel=0.15)
    # Inputs and outputs of the convolutions: 3 + 64 + 64 channels of 28x28, 64 + 128 + 256 of 14x14.
    assert demand["gbytes"] > 16 * 4 * 2 * (28 * 28 * 128 + 14 * 14 * 384) / 1e9
