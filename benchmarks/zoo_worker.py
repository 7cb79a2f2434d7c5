"""The zoo's side of benchmarks.throughput: the very step that train.run compiles, on data that are there."""

import sys
import time
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import zoo
from benchmarks import workers
from benchmarks.peers import BETAS, EPSILON, LEARNING_RATE
from benchmarks.random_data import dataset_of, first_batch, random_samples
from train.engine import steps
from train.engine.experiment import Experiment
from train.engine.parallel import Devices
from train.engine.stage import first_state, make_steps
from train.recipe import ModelOptions, Optimizer, Recipe, Stage
from train.setup import resolve
from zoo import cpu

ADAM = Optimizer("adam", LEARNING_RATE, b1=BETAS[0], b2=BETAS[1], epsilon=EPSILON)


class Zoo:
    """What the coordinator calls."""

    def __init__(
        self,
        *,
        use_cache: bool = False,
        devices: int | None = None,
        without: Collection[str] = (),
    ):
        """`devices`: how many to use (default: all). `without`: forms of `zoo.cpu` to leave out, or "all"."""
        # A cached program hides what compiling costs.
        jax.config.update("jax_enable_compilation_cache", use_cache)
        left = None  # what suits the devices
        if without:
            left = cpu.FORMS - (cpu.FORMS if "all" in without else frozenset(without))
        self.devices = Devices(jax.local_devices()[:devices], forms=left)
        self.step: Any = None  # what `run` times

    def describe(self) -> dict[str, Any]:
        """Versions, machine and commit."""
        from train.record.environment import environment

        facts = environment()
        del facts["command"]  # this worker's own
        return facts

    def measure_peak(self, dtype: str) -> dict[str, float]:
        """What one device does at best: GFLOP/s of a large matrix product, GB/s of a large sum."""
        device = self.devices.devices[0]
        side = 2048 if device.platform == "cpu" else 8192
        matrix = jax.device_put(jnp.ones((side, side), dtype), device)
        # Larger than any cache: 256 MB on a CPU, 2 GB elsewhere.
        vector = jax.device_put(
            jnp.ones(64_000_000 if device.platform == "cpu" else 512_000_000, jnp.float32), device
        )
        product = best_time(jax.jit(lambda a: a @ a), matrix)
        addition = best_time(jax.jit(lambda a: a + 1), vector)
        return {
            "gflops_per_sec": 2 * side**3 / product / 1e9,
            "gbytes_per_sec": 2 * vector.nbytes / addition / 1e9,
        }

    def reference(self, model: str, num_classes: int, batch_size: int, path: str) -> dict[str, Any]:
        """Write weights and a batch to `path` (see benchmarks.peers), for a peer to compute the same:
        the loss in test mode, in training mode without dropout, and after one update."""
        images = [batch_size, *zoo.get_entry(model).input_shape]
        experiment = self._resolve(
            model, num_classes, images, dropout=False, objective="classification"
        )
        (plan,) = experiment.stages
        rng = np.random.default_rng(0)
        # Biases and statistics that are all alike would fit anywhere.
        variables = jax.tree.map(
            lambda leaf: (
                rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
                if leaf.ndim == 1
                else np.asarray(leaf)
            ),
            jax.device_get(experiment.initial_variables()),
        )
        batch = first_batch(experiment, plan)
        flat = {
            "/".join(key.key for key in keys): leaf
            for keys, leaf in jax.tree.leaves_with_path(variables)
        }
        np.savez(path, image=batch["image"], label=batch["label"], **flat)

        # On a GPU the default is TF32, whose three digits would not tell two nets apart.
        with jax.default_matmul_precision("highest"):
            made, split = make_steps(experiment, plan), self.devices.split(batch)
            logits = self.devices.map_eval_step(made.evaluate)(variables, split)["logits"]
            logits = logits.reshape(-1, num_classes)
            test = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
            losses = {"test": float(test)}
            train_step = self.devices.compile_train_step(made.train)
            state = self.devices.replicate(first_state(experiment, plan, variables))
            for name in ("train", "train_after_update"):
                state, metrics = train_step(state, self.devices.split(batch), CLOCK)
                losses[name] = float(metrics["loss"])
        parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        return {"parameters": parameters, "losses": losses}

    def build(
        self, model: str, num_classes: int, mode: str, dtype: str, images: list[int], seed: int
    ) -> dict[str, Any]:
        """Compile a step, and run it for the first time. `images`: shape of a batch of what the model takes."""
        parameters = self.prepare(model, num_classes, mode, dtype, images, seed)
        began = time.perf_counter()
        self.run(1)
        return {
            "parameters": parameters,
            "compile_time": time.perf_counter() - began,
            "devices": len(self.devices),
        }

    def demand(self) -> dict[str, float | None]:
        """What a step of the net computes (GFLOP), reads and writes (GB), counted by XLA.

        It counts a loop's body once, and the fast forms for a CPU are full of loops: there it counts the net as Flax
        makes it, another program. Ask for `peak_memory` before.
        """
        plain = Devices(self.devices.devices, forms=())
        if self.training:
            lowered = plain.compile_train_step(self.made.train).lower(self.state, self.batch, CLOCK)
        else:
            lowered = plain.map_eval_step(self.made.evaluate).lower(self.state, self.batch)
        compiled = lowered.compile()
        return {
            # Of the program as written, before XLA fuses: the same on any device.
            "gflops": lowered.cost_analysis()["flops"] * len(self.devices) / 1e9,
            "gbytes": accessed_gbytes(compiled, len(self.devices)),
        }

    def prepare(
        self, model: str, num_classes: int, mode: str, dtype: str, images: list[int], seed: int
    ) -> int:
        """Weights and a random batch of shape `images` on the devices; how many parameters there are."""
        experiment = self._resolve(model, num_classes, images, dtype=dtype, seed=seed)
        (plan,) = experiment.stages
        self.made = made = make_steps(experiment, plan)
        state = self.devices.replicate(first_state(experiment, plan, None))
        self.batch = self.devices.split(first_batch(experiment, plan))
        self.training = mode == "train"
        if self.training:
            self.step, self.state = self.devices.compile_train_step(made.train), state
        else:
            self.step, self.state = self.devices.map_eval_step(made.evaluate), state.variables()
        jax.block_until_ready((self.batch, self.state))
        return sum(leaf.size for leaf in jax.tree.leaves(state.params))

    def run(self, steps: int) -> float:
        """Seconds of so many steps, the last one finished."""
        began = time.perf_counter()
        if self.training:
            for _ in range(steps):
                self.state, metrics = self.step(self.state, self.batch, CLOCK)
            jax.block_until_ready((self.state, metrics))
        else:
            for _ in range(steps):
                jax.block_until_ready(self.step(self.state, self.batch))
        return time.perf_counter() - began

    def losses(self, model: str, num_classes: int, images: list[int], count: int) -> list[float]:
        """Losses of so many training steps without dropout on one random batch of shape `images`: the same on
        any number of devices, up to rounding."""
        experiment = self._resolve(
            model, num_classes, images, dropout=False, objective="classification"
        )
        (plan,) = experiment.stages
        batch = self.devices.split(first_batch(experiment, plan))
        found = []
        with jax.default_matmul_precision("highest"):
            step = self.devices.compile_train_step(make_steps(experiment, plan).train)
            state = self.devices.replicate(first_state(experiment, plan, None))
            for _ in range(count):
                state, metrics = step(state, batch, CLOCK)
                found.append(float(metrics["loss"]))
        return found

    def peak_memory(self) -> float:
        """In MB: of one device where it counts its own, else of the process."""
        statistics = self.devices.devices[0].memory_stats() or {}
        if "peak_bytes_in_use" in statistics:
            return statistics["peak_bytes_in_use"] / 1e6
        return workers.peak_process_memory()

    def _resolve(
        self,
        model: str,
        num_classes: int,
        images: list[int],
        *,
        dtype: Any = "float32",
        dropout: bool = True,
        objective: str | None = None,
        seed: int = 0,
    ) -> Experiment:
        """What `train.run` would train on random samples of shape `images`, [B, H, W, 3] or [B, D]. Without dropout
        a step depends on nothing random."""
        entry = zoo.get_entry(model)
        module = zoo.create_model(model, num_classes)
        rates = () if dropout else ("dropout_rate", "conv_dropout_rate")
        recipe = Recipe(
            model=model,
            model_options=ModelOptions({name: 0.0 for name in rates if hasattr(module, name)}),
            image_size=images[1] if tuple(images[1:]) != entry.input_shape else None,
            batch_size=images[0],
            dtype=dtype,
            seed=seed,
            stages=(Stage(objective=objective or entry.objective, optimizer=ADAM),),
        )
        samples = random_samples(np.random.default_rng(seed), images)
        dataset = dataset_of({"train": samples}, num_classes, seed)
        return resolve(recipe, dataset=dataset, devices=self.devices)


CLOCK = steps.Clock(np.uint32(0), np.int32(0))


def accessed_gbytes(compiled: Any, devices: int = 1) -> float | None:
    """What the instructions of a compiled program read and write, in GB, by XLA's count: more than what
    reaches the memory where caches hold some of it. None where XLA does not count."""
    cost = compiled.cost_analysis() or {}
    return cost["bytes accessed"] * devices / 1e9 if "bytes accessed" in cost else None


def best_time(function: Any, argument: jax.Array) -> float:
    """Seconds of the fastest of five calls, after two."""
    times = []
    for _ in range(7):
        began = time.perf_counter()
        jax.block_until_ready(function(argument))
        times.append(time.perf_counter() - began)
    return min(times[2:])


if __name__ == "__main__":
    workers.serve(Zoo(without=sys.argv[1:]))
