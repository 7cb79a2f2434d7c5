"""A process of `benchmarks.members`: one measurement. Prints its times as a line of JSON."""

import contextlib
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.workers import die_with_parent
from train import cli, jobs
from train.jobs import Job
from train.recipe import Optimizer, Pixels, Recipe, Stage, with_values
from train.studies import members

RATES, DECAYS, SEEDS, FOLDS = (3e-4, 1e-3, 3e-3, 1e-2), (1e-5, 1e-3), 3, 5
NETS = ("sam_alexnet_tiny", "mobilenet_v2_tiny", "resnet_tiny")
NET_MEMBERS, NET_BATCH, NET_STEPS = 4, 32, 20


def vade_jobs(model: str, count: int, epochs: int) -> list[Job]:
    """Seeds of a VaDE on the pixels of digits."""
    optimizer = Optimizer(learning_rate=1e-3)
    recipe = Recipe(
        model=model,
        dataset="digits",
        features=Pixels(),
        batch_size=64,
        stages=(
            Stage(name="codes", objective="autoencoder", epochs=epochs, optimizer=optimizer),
            Stage(
                name="mixture",
                objective="vade",
                start="mixture",
                epochs=epochs,
                optimizer=optimizer,
            ),
        ),
    )
    return [
        Job(f"{seed}", with_values(recipe, {"seed": seed}), figures=False) for seed in range(count)
    ]


def head_jobs(settings: dict[str, Any]) -> list[Job]:
    """Heads of a frozen MobileNetV2: folds, seeds, learning rates and weight decays."""
    pretrained = settings["pretrained"]
    recipe = Recipe(
        model="mobilenet_v2",
        pretrained=pretrained,
        dataset=settings["dataset"],
        published_splits="pool",
        image_size=None if pretrained else 96,
        folds=FOLDS,
        stages=(Stage(freeze=("backbone",), epochs=settings["epochs"], optimizer=Optimizer()),),
    )
    grid = itertools.product(range(FOLDS), range(SEEDS if pretrained else 1), RATES, DECAYS)
    made: list[Job] = []
    for fold, seed, rate, decay in itertools.islice(itertools.cycle(grid), settings["count"]):
        values = {"fold": fold, "seed": seed, "stages.0.optimizer.weight_decay": decay}
        values["stages.0.optimizer.learning_rate"] = rate * (1 + len(made) / 1e6)  # all distinct
        made.append(Job(f"{len(made)}", with_values(recipe, values), figures=False))
    return made


def run(settings: dict[str, Any], root: Path) -> dict[str, Any]:
    """Run the jobs of a case, together or alone; return `seconds`, `ended` of each job, and `parts`."""
    is_heads = settings["case"] == "heads"
    made = (
        head_jobs(settings)
        if is_heads
        else vade_jobs(settings["case"], settings["count"], settings["epochs"])
    )
    cli.prepare_environment()
    import train.run
    import train.setup  # noqa: F401  imports are not measured

    ended: list[float] = []
    parts: dict[str, float] = {}
    began = time.perf_counter()

    def after(job: Job, outcome: jobs.Outcome) -> None:
        if outcome.state != "done":
            raise SystemExit(f"{job.name}: {outcome}")
        ended.append(time.perf_counter() - began)

    def say(text: str) -> None:
        if text.startswith("training "):
            parts["ready"] = round(time.perf_counter() - began, 2)
        cli.say(text)

    if settings["side"] == "together":
        (group,) = members.groups(made)
        members.run_group(group, root, say=say, after=after)
        parts["trained, and first run tested"] = round(ended[0], 2)
    else:
        jobs.run_jobs(made, root, after=after)
    return {"seconds": time.perf_counter() - began, "ended": ended, "parts": parts}


def steps() -> dict[str, Any]:
    """Time steps of convolutional nets: members stacked in one program, and one after another."""
    return {"nets": [_time_steps(name) for name in NETS]}


def _time_steps(name: str) -> dict[str, Any]:
    cli.prepare_environment()
    import jax
    import jax.numpy as jnp
    import numpy as np

    import zoo
    from train.engine import steps as engine
    from train.engine.inputs import ImageInputs
    from train.engine.objectives import classification
    from train.engine.optimizers import build_optimizer
    from train.engine.parallel import Devices
    from train.recipe import Augmentation
    from zoo.common.resize import ResizeRule

    module = zoo.create_model(name, 10)
    height, width, _ = zoo.get_entry(name).input_shape
    inputs = ImageInputs(zoo.Preprocessing(ResizeRule((height, width))))
    optimizer, devices = build_optimizer(Optimizer()), Devices()
    step = engine.make_train_step(classification(module), optimizer, inputs, Augmentation())
    rng = np.random.default_rng(0)

    def state(seed: int) -> Any:
        variables = engine.init_variables(module, inputs.shape, seed)
        return engine.init_state(variables, optimizer)

    def batch() -> dict[str, np.ndarray]:
        return {
            "image": rng.integers(0, 256, (NET_BATCH, *inputs.shape), np.uint8),
            "label": rng.integers(0, 10, NET_BATCH, np.int32),
            "index": np.arange(NET_BATCH, dtype=np.int32),
        }

    batches = [batch() for _ in range(NET_MEMBERS)]
    context = engine.RngContext(np.uint32(0), np.int32(0))
    alone = devices.compile_train_step(step)
    states = [devices.replicate(state(seed)) for seed in range(NET_MEMBERS)]
    placed = [devices.split(one) for one in batches]

    def run_alone() -> None:
        for index, one in enumerate(placed):
            states[index], metrics = alone(states[index], one, context)
        jax.block_until_ready((states, metrics))

    together = devices.map_members(
        lambda state, context, batch: step(state, batch, context), (0, None, 0), (0, 0)
    )
    stacked = devices.replicate(
        jax.tree.map(lambda *x: jnp.stack(x), *(state(s) for s in range(NET_MEMBERS)))
    )
    # [devices, members, B, ...] on one device
    all_batches = devices.replicate(jax.tree.map(lambda *x: np.stack(x)[None], *batches))

    def run_together() -> None:
        nonlocal stacked
        stacked, metrics = together(stacked, context, all_batches)
        jax.block_until_ready((stacked, metrics))

    times: dict[str, list[float]] = {}
    for _ in range(3):  # alternating
        for key, call in (("alone_ms", run_alone), ("together_ms", run_together)):
            call()
            began = time.perf_counter()
            for _ in range(NET_STEPS):
                call()
            elapsed = 1000 * (time.perf_counter() - began) / NET_STEPS
            times.setdefault(key, []).append(elapsed)
    best = {key: round(min(values), 2) for key, values in times.items()}
    return {"model": name, "members": NET_MEMBERS, "batch_size": NET_BATCH, **best}


def main(folder: str, settings: dict[str, Any]) -> None:
    """Run one measurement and print its times."""
    with contextlib.redirect_stdout(sys.stderr):
        answer = steps() if settings["case"] == "steps" else run(settings, Path(folder, "runs"))
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    die_with_parent()
    main(sys.argv[1], json.loads(sys.argv[2]))
