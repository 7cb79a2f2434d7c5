"""Keras worker of benchmarks.throughput: Keras 3 on JAX, `python -m benchmarks.peers.keras_worker`.

The fastest configuration of Keras that we know: its layers, losses and optimizers in a custom step, compiled into one
program by `jax.jit` with donated state (`stateless_call` and `stateless_apply`, Keras's guide "Writing a training loop
in JAX"). `model.fit` and `train_on_batch` compile nearly the same program, with more work on the host: copies from and
to the variables, metrics, callbacks. bfloat16 means Keras's mixed precision for training, and bfloat16 weights for
testing. As in the zoo's worker, images are uint8 on the device and scaled in the step.
"""

import sys
import time
from typing import Any

from benchmarks.peers import BETAS, EPSILON, LEARNING_RATE, keras_nets  # isort: skip

import jax
import keras
import numpy as np

from benchmarks import workers

POLICIES = {
    ("train", "float32"): "float32",
    ("test", "float32"): "float32",
    ("train", "bfloat16"): "mixed_bfloat16",
    ("test", "bfloat16"): "bfloat16",
}


class Keras:
    """Builds and times steps of Keras models."""

    state: list[Any]  # parameters; statistics and seeds; the optimizer's moments

    def __init__(self) -> None:
        # The cache would hide the cost of compiling.
        jax.config.update("jax_enable_compilation_cache", False)

    def describe(self) -> dict[str, Any]:
        """Return versions and device."""
        return {
            "python": sys.version.split()[0],
            "keras": keras.__version__,
            "jax": jax.__version__,
            "device": jax.local_devices()[0].device_kind,
        }

    def compare(self, model: str, num_classes: int, path: str) -> dict[str, Any]:
        """Return the number of parameters, and the losses of `zoo_worker.Zoo.reference` with the weights in `path`."""
        with np.load(path) as file:
            arrays = dict(file)
        keras.config.set_dtype_policy("float32")
        net = keras_nets.create(model, num_classes, arrays["image"].shape[1:3])
        keras_nets.load_weights(net, arrays)
        for layer in net.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
        self._place(net, arrays["image"], arrays["label"])
        losses = {}
        with jax.default_matmul_precision("highest"):
            logits = self._compile_test_step()(*self.state[:2], self.images)
            losses["test"] = float(cross_entropy(self.labels, logits))
            self.step = self._compile_train_step()
            for name in ("train", "train_after_update"):
                *self.state, loss = self.step(*self.state, self.images, self.labels)
                losses[name] = float(loss)
        return {"parameters": keras_nets.count_parameters(net), "losses": losses}

    def build(
        self, model: str, num_classes: int, mode: str, dtype: str, images: list[int], seed: int
    ) -> dict[str, Any]:
        """Compile a step and run it once."""
        keras.utils.set_random_seed(seed)
        keras.config.set_dtype_policy(POLICIES[mode, dtype])
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 256, images, np.uint8)
        label = rng.integers(0, num_classes, len(image), np.int32)
        net = keras_nets.create(model, num_classes, (images[1], images[2]))
        self._place(net, image, label)
        self.training = mode == "train"
        self.step = self._compile_train_step() if self.training else self._compile_test_step()
        began = time.perf_counter()
        if self.training:
            lowered = self.step.lower(*self.state, self.images, self.labels)
        else:
            lowered = self.step.lower(*self.state[:2], self.images)
        cost = lowered.compile().cost_analysis() or {}
        self.run(1)  # reuses the compiled program
        accessed = cost.get("bytes accessed")
        return {
            "parameters": keras_nets.count_parameters(net),
            "compile_time": time.perf_counter() - began,
            "gbytes": accessed / 1e9 if accessed else None,
        }

    def run(self, steps: int) -> float:
        """Return the seconds of `steps` steps, until the last one has finished."""
        began = time.perf_counter()
        if self.training:
            for _ in range(steps):
                *self.state, loss = self.step(*self.state, self.images, self.labels)
            jax.block_until_ready((self.state, loss))
        else:
            for _ in range(steps):
                jax.block_until_ready(self.step(*self.state[:2], self.images))
        return time.perf_counter() - began

    def peak_memory(self) -> float:
        """Return the peak memory in MB: of the device if it reports its own, else of the process."""
        statistics = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in statistics:
            return statistics["peak_bytes_in_use"] / 1e6
        return workers.peak_process_memory()

    def _place(self, net: keras.Model, images: np.ndarray, labels: np.ndarray) -> None:
        """Set up the batch and the state of a step: parameters, statistics and the optimizer's moments."""
        self.net = net
        self.optimizer = keras.optimizers.Adam(LEARNING_RATE, *BETAS, EPSILON)
        self.optimizer.build(net.trainable_variables)
        self.images, self.labels = jax.device_put((images, labels))
        self.state = [
            [variable.value for variable in variables]
            for variables in (
                net.trainable_variables,
                net.non_trainable_variables,
                self.optimizer.variables,
            )
        ]

    def _compile_train_step(self) -> Any:
        def loss_of(trainable: Any, fixed: Any, images: Any, labels: Any) -> Any:
            logits, fixed = self.net.stateless_call(trainable, fixed, images, training=True)
            return cross_entropy(labels, logits), fixed

        def step(trainable: Any, fixed: Any, moments: Any, images: Any, labels: Any) -> Any:
            gradient = jax.value_and_grad(loss_of, has_aux=True)
            (loss, fixed), gradients = gradient(trainable, fixed, images, labels)
            trainable, moments = self.optimizer.stateless_apply(moments, gradients, trainable)
            return trainable, fixed, moments, loss

        return jax.jit(step, donate_argnums=(0, 1, 2))

    def _compile_test_step(self) -> Any:
        def step(trainable: Any, fixed: Any, images: Any) -> Any:
            return self.net.stateless_call(trainable, fixed, images, training=False)[0]

        return jax.jit(step)


def cross_entropy(labels: Any, logits: Any) -> Any:
    """Return the mean cross-entropy over the batch."""
    losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return keras.ops.mean(losses)


if __name__ == "__main__":
    workers.serve(Keras())
