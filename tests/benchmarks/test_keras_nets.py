"""The Keras versions of the nets compute what the zoo computes. Keras is a dependency of the tests."""

from unittest import mock

import jax
import numpy as np
import pytest

import zoo
from benchmarks import throughput, workers
from benchmarks.peers import NOT_AVAILABLE, keras_nets, keras_worker
from benchmarks.zoo_worker import Zoo

TINY = [name for name in keras_nets.NETS if name.endswith("_tiny")]


@pytest.fixture(autouse=True)
def keras_may_broadcast():
    """Allow implicit rank promotion, which the suite forbids, since Keras's layers use it."""
    with jax.numpy_rank_promotion("allow"):
        yield


def zeros(self, shape, dtype=None):
    return np.zeros(shape, dtype)  # Keras's initializer would be compiled once per shape


@pytest.mark.parametrize("model", keras_nets.NETS)
def test_parameter_counts(model):
    import keras

    entry = zoo.get_entry(model)
    assert (keras_nets.NETS[model][0],) * 2 == entry.input_shape[:2]
    with mock.patch.object(keras.initializers.GlorotUniform, "__call__", zeros):
        net = keras_nets.create(model, entry.num_classes)
    assert keras_nets.count_parameters(net) == zoo.model_info(model).parameters


@pytest.mark.parametrize("model", TINY)
def test_losses(model, tmp_path):
    path = str(tmp_path / "reference.npz")
    reference = Zoo(devices=1).reference(model, 10, batch_size=4, path=path)
    baseline = keras_worker.Keras().compare(model, 10, path)
    assert throughput.difference(reference, baseline) is None


def test_a_different_epsilon_is_detected(tmp_path, monkeypatch):
    """The check is sensitive to details of a net."""
    path = str(tmp_path / "reference.npz")
    reference = Zoo(devices=1).reference("deconv_alexnet_tiny", 10, batch_size=4, path=path)
    monkeypatch.setitem(keras_nets.KERAS_NORM, "epsilon", 1e-5)
    baseline = keras_worker.Keras().compare("deconv_alexnet_tiny", 10, path)
    assert "is a different net" in throughput.difference(reference, baseline)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_is_built_and_run(dtype):
    import keras

    worker = keras_worker.Keras()
    shape = [2, 28, 28, 3]
    try:
        for mode in ("train", "test"):
            built = worker.build("deconv_alexnet_tiny", 10, mode, dtype, shape, seed=0)
            assert built["parameters"] == zoo.model_info("deconv_alexnet_tiny").parameters
            assert built["compile_time"] > 0 and built["gbytes"] > 0
            before = [np.asarray(value, np.float32) for value in worker.state[0]]
            assert worker.run(2) > 0
            after = [np.asarray(value, np.float32) for value in worker.state[0]]
            moved = any((a != b).any() for a, b in zip(before, after, strict=True))
            assert moved == (mode == "train")
        assert worker.peak_memory() > 100
    finally:
        keras.config.set_dtype_policy("float32")


def test_a_model_without_a_keras_version_is_unsupported():
    with pytest.raises(workers.Unsupported) as error:
        keras_nets.create("conv_autoencoder", 0)
    assert workers.explain(error.value) == NOT_AVAILABLE == "model not available in this library"
