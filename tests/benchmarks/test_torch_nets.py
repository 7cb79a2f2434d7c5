"""The torch versions of the nets compute what the zoo computes. Needs torch (the extra `bench`)."""

import pytest

import zoo
from benchmarks import throughput
from benchmarks.zoo_worker import Zoo

torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[bench]'")

from benchmarks.peers import torch_nets, torch_worker  # noqa: E402


@pytest.mark.parametrize("model", torch_nets.NETS)
def test_parameter_counts(model):
    with torch.device("meta"):  # shapes without memory
        net = torch_nets.create(model, zoo.get_entry(model).num_classes)
    assert torch_nets.count_parameters(net) == zoo.model_info(model).parameters


# Every architecture: the tiny variant of each family, and other variants with small nets.
@pytest.mark.parametrize(
    "model",
    [
        *(name for name in torch_nets.NETS if name.endswith("_tiny")),
        pytest.param("cifar_alexnet_1", marks=pytest.mark.long),
        pytest.param("deconv_alexnet_1_factored", marks=pytest.mark.long),
    ],
)
def test_losses(model, tmp_path):
    path = str(tmp_path / "reference.npz")
    reference = Zoo().reference(model, 10, batch_size=4, path=path)
    baseline = torch_worker.Torch(compiled=False).compare(model, 10, path)
    assert throughput.difference(reference, baseline) is None


def epochs(worker, folder):
    """Losses of five epochs of 72 images, in batches of 16, after the first one."""
    built = worker.build_epoch(
        str(folder), "deconv_alexnet_tiny", 16, "float32", [28, 28], 72, 3, num_workers=0
    )
    assert built["images"] == 64  # the incomplete last batch is dropped
    return [worker.run_epoch()["loss"] for _ in range(5)]


def test_an_epoch_is_trained(image_folder):
    from benchmarks.peers.torch_epoch import TorchEpoch

    losses = epochs(TorchEpoch(compiled=False), image_folder)
    assert losses[-1] < losses[0]


def test_an_epoch_in_memory_is_trained(image_folder):
    """The CPU runs the step that a GPU captures."""
    from benchmarks.peers.torch_graph import TorchGraph

    worker = TorchGraph()
    losses = epochs(worker, image_folder)
    assert losses[-1] < losses[0]
    assert worker.data.shape == (72, 3, 28, 28) and worker.samples == 72
    assert worker.images.is_contiguous(memory_format=torch.channels_last)


def test_windows_are_cut_from_images_in_memory():
    """Of the images that `index` names, each at its own place."""
    from benchmarks.peers.torch_graph import TorchGraph

    worker = TorchGraph()
    worker.data = torch.arange(2 * 3 * 6 * 6, dtype=torch.uint8).reshape(2, 3, 6, 6)
    worker.data_labels, worker.size = torch.tensor([5, 7]), [4, 4]
    worker.index = torch.tensor([1, 2, 3])  # 2 and 3: other windows of images 0 and 1
    worker.offset = torch.tensor([[0, 0], [2, 1], [1, 2]])
    worker._train_step = lambda: None
    worker._step()
    expected = [worker.data[1, :, :4, :4], worker.data[0, :, 2:, 1:5], worker.data[1, :, 1:5, 2:]]
    assert torch.equal(worker.images, torch.stack(expected))
    assert worker.labels.tolist() == [7, 5, 7]


def test_a_different_epsilon_is_detected(tmp_path, monkeypatch):
    """The check is sensitive to details of a net."""
    path = str(tmp_path / "reference.npz")
    reference = Zoo().reference("sam_alexnet_tiny", 10, batch_size=4, path=path)
    monkeypatch.setattr(torch_nets, "KERAS_NORM_EPSILON", 1e-5)
    baseline = torch_worker.Torch(compiled=False).compare("sam_alexnet_tiny", 10, path)
    assert "is a different net" in throughput.difference(reference, baseline)
