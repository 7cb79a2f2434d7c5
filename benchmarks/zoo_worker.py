"""The zoo's side of benchmarks.throughput: the very step that train.run compiles, on data that are there."""

import contextlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import zoo
from benchmarks import workers
from benchmarks.peers import BETAS, EPSILON, LEARNING_RATE
from train.engine import steps
from train.engine.inputs import ImageInputs, Inputs, VectorInputs
from train.engine.objectives import get_objective
from train.engine.optimizers import build_optimizer
from train.engine.parallel import Devices
from train.recipe import Augmentation, Optimizer, Stage
from zoo.operations import plain_operations, uses_cpu_forms

ADAM = Optimizer("adam", LEARNING_RATE, b1=BETAS[0], b2=BETAS[1], epsilon=EPSILON)


class Zoo:
    """What the coordinator calls."""

    def __init__(self, *, use_cache: bool = False, devices: int | None = None):
        """`devices`: how many to use (default: all)."""
        # A cached program hides what compiling costs.
        jax.config.update("jax_enable_compilation_cache", use_cache)
        self.devices = Devices(jax.local_devices()[:devices])

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
        height, width, _ = zoo.get_entry(model).input_shape
        module = without_dropout(zoo.create_model(model, num_classes))
        rng = np.random.default_rng(0)
        variables = steps.init_variables(module, (height, width, 3), seed=0)
        # Biases and statistics that are all alike would fit anywhere.
        variables = jax.tree.map(
            lambda leaf: (
                rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
                if leaf.ndim == 1
                else np.asarray(leaf)
            ),
            jax.device_get(variables),
        )
        batch = random_batch(rng, (batch_size, height, width, 3), num_classes)
        flat = {
            "/".join(key.key for key in keys): leaf
            for keys, leaf in jax.tree.leaves_with_path(variables)
        }
        np.savez(path, image=batch["image"], label=batch["label"], **flat)

        # On a GPU the default is TF32, whose three digits would not tell two nets apart.
        with jax.default_matmul_precision("highest"):
            objective = "classification"
            inputs = _inputs([batch_size, height, width, 3])
            test_step = self._test_step(module, objective, inputs)
            logits = test_step(variables, self.devices.split(batch))["logits"]
            logits = logits.reshape(-1, num_classes)
            test = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
            losses = {"test": float(test)}
            train_step = self._train_step(module, objective, inputs)
            state = self._train_state(variables)
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

        It counts a loop's body once, and the forms for a CPU are full of loops: there it counts the net of its own
        operations, another program. Ask for `peak_memory` before.
        """
        clock = (CLOCK,) if self.training else ()
        with plain_operations() if uses_cpu_forms() else contextlib.nullcontext():
            lowered = self.step.lower(self.state, self.batch, *clock)
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
        options = {} if dtype == "float32" else {"dtype": dtype}
        module = zoo.create_model(model, num_classes, **options)
        objective = zoo.get_entry(model).objective
        inputs = _inputs(images)
        variables = steps.init_variables(module, tuple(images[1:]), seed)
        batch = random_batch(np.random.default_rng(seed), tuple(images), num_classes)
        self.batch = self.devices.split(batch)
        self.training = mode == "train"
        if self.training:
            self.step = self._train_step(module, objective, inputs)
            self.state = self._train_state(variables)
        else:
            self.step = self._test_step(module, objective, inputs)
            self.state = self.devices.replicate(variables)
        jax.block_until_ready((self.batch, self.state))
        return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))

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
        module = without_dropout(zoo.create_model(model, num_classes))
        variables = steps.init_variables(module, tuple(images[1:]), seed=0)
        batch = self.devices.split(
            random_batch(np.random.default_rng(0), tuple(images), num_classes)
        )
        inputs = _inputs(images)
        found = []
        with jax.default_matmul_precision("highest"):
            step = self._train_step(module, "classification", inputs)
            state = self._train_state(variables)
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

    def _train_step(self, module: Any, objective: str, inputs: Inputs) -> Any:
        """The engine's own training step."""
        step = steps.make_train_step(
            get_objective(objective).build(self.devices.synchronised(module), Stage()),
            build_optimizer(ADAM),
            inputs,
            Augmentation(),
        )
        return self.devices.compile_train_step(step)

    def _train_state(self, variables: Any) -> Any:
        """The first state for that step."""
        return self.devices.replicate(steps.init_state(variables, build_optimizer(ADAM)))

    def _test_step(self, module: Any, objective: str, inputs: Inputs) -> Any:
        """The engine's evaluation step, without fetching its outputs to the host."""
        step = steps.make_eval_step(get_objective(objective).build(module, Stage()), inputs)
        return jax.pmap(
            step, steps.AXIS, in_axes=(None, 0), out_axes=0, devices=self.devices.devices
        )


def _inputs(shape: list[int]) -> Inputs:
    """Of a batch of images or vectors of that shape."""
    if len(shape) == 4:
        return ImageInputs(zoo.Preprocessing(zoo.ResizeRule((shape[1], shape[2]))))
    return VectorInputs(tuple(shape[1:]))


CLOCK = steps.Clock(np.uint32(0), np.int32(0))


def without_dropout(module: Any) -> Any:
    """The same net with every dropout rate at zero, so that a step depends on nothing random."""
    rates = [name for name in ("dropout_rate", "conv_dropout_rate") if hasattr(module, name)]
    return module.clone(**dict.fromkeys(rates, 0.0))


def accessed_gbytes(compiled: Any, devices: int = 1) -> float | None:
    """What the instructions of a compiled program read and write, in GB, by XLA's count: more than what
    reaches the memory where caches hold some of it. None where XLA does not count."""
    cost = compiled.cost_analysis() or {}
    return cost["bytes accessed"] * devices / 1e9 if "bytes accessed" in cost else None


def random_batch(
    rng: np.random.Generator, shape: tuple[int, ...], num_classes: int
) -> dict[str, np.ndarray]:
    """A batch as the pipeline gives it: images [B, H, W, C], or vectors [B, N] as of features after a ReLU."""
    return {
        "image": rng.integers(0, 256, shape, np.uint8)
        if len(shape) == 4
        else rng.random(shape, np.float32),
        "label": rng.integers(0, num_classes, shape[0], np.int32),
        "index": np.arange(shape[0], dtype=np.int32),
    }


def best_time(function: Any, argument: jax.Array) -> float:
    """Seconds of the fastest of five calls, after two."""
    times = []
    for _ in range(7):
        began = time.perf_counter()
        jax.block_until_ready(function(argument))
        times.append(time.perf_counter() - began)
    return min(times[2:])


if __name__ == "__main__":
    workers.serve(Zoo())
