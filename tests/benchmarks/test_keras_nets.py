"""The Keras versions of the nets compute what the zoo computes. Keras is a dependency of the tests."""

import functools

import jax
import numpy as np
import pytest

import zoo
from benchmarks import throughput, workers
from benchmarks.peers import NOT_AVAILABLE, keras_nets, keras_worker
from benchmarks.zoo_worker import Zoo

TINY = [name for name in keras_nets.NETS if name.endswith("_tiny")]
# In CI, parameters of the tiny nets and of one larger net per family are counted.
COUNTED = {*TINY, "pig_alexnet", "cifar_alexnet_1", "vgg11", "resnet18", "mobilenet_v2"}

# Attention, deconvolutions and Keras's normalization; tests/zoo compares the other blocks with Keras.
COMPARED = {"sam_alexnet_tiny", "deconv_alexnet_tiny"}


def only(names, chosen):
    """The names as parameters; those that are not among the chosen are long tests."""
    return [pytest.param(n, marks=() if n in chosen else pytest.mark.long) for n in names]


@pytest.fixture(autouse=True)
def keras_may_broadcast():
    """Allow implicit rank promotion, which the suite forbids, since Keras's layers use it."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def zeros(monkeypatch):
    """Initialize Keras's kernels with zeros; its own initializer would be compiled once per shape."""
    import keras

    kernel = keras.initializers.GlorotUniform
    monkeypatch.setattr(kernel, "__call__", lambda _, shape, dtype=None: np.zeros(shape, dtype))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Path of a net's weights and batch, and the zoo's losses, by the net's name."""

    @functools.cache
    def of(model):
        path = str(tmp_path_factory.mktemp(model) / "reference.npz")
        return path, Zoo(devices=1).reference(model, 10, batch_size=4, path=path)

    return of


@pytest.mark.slow
@pytest.mark.parametrize("model", only(keras_nets.NETS, COUNTED))
def test_parameter_counts(model, zeros):
    entry = zoo.get_entry(model)
    assert (keras_nets.NETS[model][0],) * 2 == entry.input_shape[:2]
    net = keras_nets.create(model, entry.num_classes)
    assert keras_nets.count_parameters(net) == zoo.model_info(model).parameters


@pytest.mark.slow
@pytest.mark.parametrize("model", only(TINY, COMPARED))
def test_losses(model, zeros, reference):
    path, losses = reference(model)
    baseline = keras_worker.Keras().compare(model, 10, path)
    assert throughput.difference(losses, baseline) is None


@pytest.mark.slow
def test_a_different_epsilon_is_detected(zeros, reference, monkeypatch):
    """The check is sensitive to details of a net."""
    path, losses = reference("deconv_alexnet_tiny")
    monkeypatch.setitem(keras_nets.KERAS_NORM, "epsilon", 1e-5)
    baseline = keras_worker.Keras().compare("deconv_alexnet_tiny", 10, path)
    assert "is a different net" in throughput.difference(losses, baseline)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "dtype"),
    [
        ("train", "bfloat16"),
        ("test", "float32"),
        pytest.param("train", "float32", marks=pytest.mark.long),
        pytest.param("test", "bfloat16", marks=pytest.mark.long),
    ],
)
def test_a_step_is_built_and_run(mode, dtype):
    import keras

    worker = keras_worker.Keras()
    shape = [2, 28, 28, 3]
    try:
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
