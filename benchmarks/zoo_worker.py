"""Zoo worker of benchmarks.throughput: the steps that train.run compiles, on data already in device memory."""

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
from train.engine.stage import initial_state, make_steps
from train.recipe import ModelOptions, Optimizer, Recipe, Stage
from train.setup import resolve
from zoo import cpu

ADAM = Optimizer("adam", LEARNING_RATE, b1=BETAS[0], b2=BETAS[1], epsilon=EPSILON)


class Zoo:
    """Builds and times steps of the zoo's models."""

    def __init__(
        self,
        *,
        use_cache: bool = False,
        devices: int | None = None,
        without: Collection[str] = (),
    ):
        """Create a worker.

        Args:
          use_cache: use the compilation cache, which hides the cost of compiling.
          devices: number of devices (default: all).
          without: CPU kernels of `zoo.cpu` to disable, or "all".
        """
        jax.config.update("jax_enable_compilation_cache", use_cache)
        left = None  # the devices' default
        if without:
            left = cpu.KERNELS - (cpu.KERNELS if "all" in without else frozenset(without))
        self.devices = Devices(jax.local_devices()[:devices], kernels=left)
        self.step: Any = None  # the step that `run` times

    def describe(self) -> dict[str, Any]:
        """Return versions, machine and commit."""
        from train.record.environment import environment

        facts = environment()
        del facts["command"]  # the worker's command, not the benchmark's
        return facts

    def measure_peak(self, dtype: str) -> dict[str, float]:
        """Measure the peak of one device: GFLOP/s of a large matrix product, GB/s of a large sum."""
        device = self.devices.devices[0]
        size = 2048 if device.platform == "cpu" else 8192
        matrix = jax.device_put(jnp.ones((size, size), dtype), device)
        # Larger than any cache: 256 MB on a CPU, 2 GB elsewhere.
        vector = jax.device_put(
            jnp.ones(64_000_000 if device.platform == "cpu" else 512_000_000, jnp.float32), device
        )
        product = best_time(jax.jit(lambda a: a @ a), matrix)
        addition = best_time(jax.jit(lambda a: a + 1), vector)
        return {
            "gflops_per_sec": 2 * size**3 / product / 1e9,
            "gbytes_per_sec": 2 * vector.nbytes / addition / 1e9,
        }

    def reference(self, model: str, num_classes: int, batch_size: int, path: str) -> dict[str, Any]:
        """Write weights and a batch to `path` (see `benchmarks.peers`), and return reference values for baselines.

        Returns the number of parameters, and the losses in test mode, in training mode without dropout, and after one
        update.
        """
        images = [batch_size, *zoo.get_entry(model).input_shape]
        experiment = self._resolve(
            model, num_classes, images, dropout=False, objective="classification"
        )
        (plan,) = experiment.stages
        rng = np.random.default_rng(0)
        # Random biases and statistics: constant ones would hide weights copied to the wrong place.
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

        # On a GPU, the default is TF32, whose three digits are too few to distinguish two nets.
        with jax.default_matmul_precision("highest"):
            made, split = make_steps(experiment, plan), self.devices.split(batch)
            logits = self.devices.map_eval_step(made.evaluate)(variables, split)["logits"]
            logits = logits.reshape(-1, num_classes)
            test = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
            losses = {"test": float(test)}
            train_step = self.devices.compile_train_step(made.train)
            state = self.devices.replicate(initial_state(experiment, plan, variables))
            for name in ("train", "train_after_update"):
                state, metrics = train_step(state, self.devices.split(batch), CONTEXT)
                losses[name] = float(metrics["loss"])
        parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        return {"parameters": parameters, "losses": losses}

    def build(
        self, model: str, num_classes: int, mode: str, dtype: str, images: list[int], seed: int
    ) -> dict[str, Any]:
        """Compile a step and run it once. `images`: shape of a batch of the model's inputs."""
        parameters = self.prepare(model, num_classes, mode, dtype, images, seed)
        began = time.perf_counter()
        self.run(1)
        return {
            "parameters": parameters,
            "compile_time": time.perf_counter() - began,
            "devices": len(self.devices),
        }

    def demand(self) -> dict[str, float | None]:
        """Return the GFLOP of a step, and the GB that it reads and writes, as counted by XLA.

        XLA counts the body of a loop once, and the CPU kernels contain loops, so the counted program uses Flax's layers
        instead. Compiling it changes `peak_memory`: call that first.
        """
        step = self.step  # without kernels, such as on a GPU, compiling it again reuses the program
        if self.devices.platform == "cpu":
            plain = Devices(self.devices.devices, kernels=())
            wrap = plain.compile_train_step if self.training else plain.map_eval_step
            step = wrap(self.made.train if self.training else self.made.evaluate)
        context = (CONTEXT,) if self.training else ()
        lowered = step.lower(self.state, self.batch, *context)
        compiled = lowered.compile()
        return {
            # Counted before XLA's optimizations: the same on any device.
            "gflops": lowered.cost_analysis()["flops"] * len(self.devices) / 1e9,
            "gbytes": accessed_gbytes(compiled, len(self.devices)),
        }

    def prepare(
        self, model: str, num_classes: int, mode: str, dtype: str, images: list[int], seed: int
    ) -> int:
        """Put weights and a random batch of shape `images` on the devices; return the number of parameters."""
        experiment = self._resolve(model, num_classes, images, dtype=dtype, seed=seed)
        (plan,) = experiment.stages
        self.made = made = make_steps(experiment, plan)
        state = self.devices.replicate(initial_state(experiment, plan, None))
        self.batch = self.devices.split(first_batch(experiment, plan))
        self.training = mode == "train"
        if self.training:
            self.step, self.state = self.devices.compile_train_step(made.train), state
        else:
            self.step, self.state = self.devices.map_eval_step(made.evaluate), state.variables()
        jax.block_until_ready((self.batch, self.state))
        return sum(leaf.size for leaf in jax.tree.leaves(state.params))

    def run(self, steps: int) -> float:
        """Return the seconds of `steps` steps, until the last one has finished."""
        began = time.perf_counter()
        if self.training:
            for _ in range(steps):
                self.state, metrics = self.step(self.state, self.batch, CONTEXT)
            jax.block_until_ready((self.state, metrics))
        else:
            for _ in range(steps):
                jax.block_until_ready(self.step(self.state, self.batch))
        return time.perf_counter() - began

    def losses(self, model: str, num_classes: int, images: list[int], count: int) -> list[float]:
        """Return the losses of `count` training steps without dropout on one random batch of shape `images`.

        Up to rounding, they do not depend on the number of devices.
        """
        experiment = self._resolve(
            model, num_classes, images, dropout=False, objective="classification"
        )
        (plan,) = experiment.stages
        batch = self.devices.split(first_batch(experiment, plan))
        found = []
        with jax.default_matmul_precision("highest"):
            step = self.devices.compile_train_step(make_steps(experiment, plan).train)
            state = self.devices.replicate(initial_state(experiment, plan, None))
            for _ in range(count):
                state, metrics = step(state, batch, CONTEXT)
                found.append(float(metrics["loss"]))
        return found

    def peak_memory(self) -> float:
        """Return the peak memory in MB: of one device if it reports its own, else of the process."""
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
        """Resolve a recipe on random samples of shape `images`, [B, H, W, 3] or [B, D], as `train.run` does.

        Without dropout, a step is deterministic.
        """
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
        # An autoencoder has no classes, but a data set has at least two.
        dataset = dataset_of({"train": samples}, num_classes or 2, seed)
        return resolve(recipe, dataset=dataset, devices=self.devices)


CONTEXT = steps.RngContext(np.uint32(0), np.int32(0))


def accessed_gbytes(compiled: Any, devices: int = 1) -> float | None:
    """Return the GB that a compiled program reads and writes, as counted by XLA; None if it does not count.

    Includes cache hits, so the traffic to memory may be smaller.
    """
    cost = compiled.cost_analysis() or {}
    return cost["bytes accessed"] * devices / 1e9 if "bytes accessed" in cost else None


def best_time(function: Any, argument: jax.Array) -> float:
    """Return the seconds of the fastest of five calls, after two warm-up calls."""
    times = []
    for _ in range(7):
        began = time.perf_counter()
        jax.block_until_ready(function(argument))
        times.append(time.perf_counter() - began)
    return min(times[2:])


if __name__ == "__main__":
    workers.serve(Zoo(without=sys.argv[1:]))
