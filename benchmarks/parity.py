"""Check that a net gives the same results on the default device as on the CPU:

    python -m benchmarks.parity --model resnet50 --out parity.json

With the same weights and images, compares the logits in test mode, the loss of a training step without dropout, and the
loss after its update. float32 is compared with matrix products at the highest precision and at the default one (TF32 on
a GPU); then bfloat16, for which parameters, batch statistics and loss must stay float32. On a machine without a GPU,
the CPU with the zoo's kernels is compared with the CPU without them.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import zoo
from benchmarks import command
from train import cli, flags
from train.recipe import InputError

# Maximum difference from float32 on the CPU, relative to the largest logit or to the loss.
TOLERANCES = {"float32, highest": 1e-3, "float32": 2e-2, "bfloat16": 1e-1}
BATCH = 8


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Command-line flags."""

    model: str = "sam_alexnet"
    """Registered image classifier."""
    out: Path | None = None
    """JSON file to write."""


def main(argv: list[str]) -> None:
    """Run the command. Fails if a difference exceeds its tolerance."""
    arguments = flags.parse(Arguments, argv, "benchmarks.parity", __doc__)
    if zoo.get_entry(arguments.model).objective != "classification":
        raise InputError(f"{arguments.model} is not a classifier: use an image classifier")
    command.check_out(arguments.out)
    cli.prepare_environment()
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms:
        os.environ["JAX_PLATFORMS"] = f"{platforms},cpu"
    record = {**command.head("benchmarks.parity", warn=False), "model": arguments.model}
    record["results"] = compare(arguments.model)
    command.write(record, arguments.out)
    for row in record["results"]:
        print(
            f"{arguments.model}, {row['dtype']} on {row['platform']}: logits {row['logits']:.1e}, losses"
            f" {row['loss']:.1e} and {row['loss_after_update']:.1e} from the CPU's"
        )
    if wrong := [row["dtype"] for row in record["results"] if row["error"]]:
        raise RuntimeError(f"{arguments.model} gives different results in {', '.join(wrong)}")


def compare(model: str) -> list[dict[str, Any]]:
    """Return one row per dtype, with `error` where a tolerance is exceeded or a dtype is wrong."""
    import jax

    from train.engine.parallel import Devices

    device = jax.local_devices()[0]
    reference = Devices([jax.devices("cpu")[0]], kernels=())
    tested = Devices([device])
    expected = _values(reference, model, "float32", "highest")
    rows = []
    for name, tolerance in TOLERANCES.items():
        dtype, _, precision = name.partition(", ")
        found = _values(tested, model, dtype, precision or "default")
        scale = abs(expected["logits"]).max()
        row = {
            "dtype": name,
            "platform": device.platform,
            "logits": float(abs(found["logits"] - expected["logits"]).max() / scale),
            "loss": abs(found["losses"][0] / expected["losses"][0] - 1),
            "loss_after_update": abs(found["losses"][1] / expected["losses"][1] - 1),
            "dtypes": found["dtypes"],
        }
        differences = (row["logits"], row["loss"], row["loss_after_update"])
        too_far = not all(value <= tolerance for value in differences)  # also NaN
        row["error"] = too_far or found["dtypes"] != ["float32"]
        rows.append(row)
    return rows


def _values(devices: Any, model: str, dtype: str, precision: str) -> dict[str, Any]:
    """Compute on these devices: logits [B, classes], the losses of two training steps, and the dtypes of the state."""
    import jax
    import numpy as np

    from benchmarks.random_data import dataset_of, first_batch, random_samples
    from benchmarks.zoo_worker import ADAM, CONTEXT
    from train.engine.stage import initial_state, make_steps
    from train.recipe import ModelOptions, Recipe, Stage
    from train.setup import resolve

    entry = zoo.get_entry(model)
    module = zoo.create_model(model)
    rates = [n for n in ("dropout_rate", "conv_dropout_rate") if hasattr(module, n)]
    recipe = Recipe(
        model=model,
        model_options=ModelOptions(dict.fromkeys(rates, 0.0)),
        batch_size=BATCH,
        dtype="bfloat16" if dtype == "bfloat16" else "float32",
        stages=(Stage(optimizer=ADAM),),
    )
    samples = random_samples(np.random.default_rng(0), (BATCH, *entry.input_shape))
    dataset = dataset_of({"train": samples}, entry.num_classes)
    experiment = resolve(recipe, dataset=dataset, devices=devices)
    (plan,) = experiment.stages
    made = make_steps(experiment, plan)
    with jax.default_device(jax.devices("cpu")[0]):  # so that all have the same weights
        variables = jax.device_get(experiment.initial_variables())
    batch = devices.split(first_batch(experiment, plan))
    with jax.default_matmul_precision(precision):
        outputs = devices.map_eval_step(made.evaluate)(devices.replicate(variables), batch)
        step = devices.compile_train_step(made.train)
        state = devices.replicate(initial_state(experiment, plan, variables))
        losses = []
        for _ in range(2):
            state, metrics = step(state, batch, CONTEXT)
            losses.append(float(metrics["loss"]))
    leaves = jax.tree.leaves((state.params, state.batch_stats, metrics["loss"]))
    return {
        "logits": np.asarray(outputs["logits"], np.float32).reshape(BATCH, -1),
        "losses": losses,
        "dtypes": sorted({str(leaf.dtype) for leaf in leaves}),
    }


if __name__ == "__main__":
    cli.main(main)
