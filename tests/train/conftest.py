"""A run of `small_net` in place of the one of larger models."""

import pytest

from tests.small_net import registered, registered_net, small_net

__all__ = ["registered_net", "small_net"]


@pytest.fixture(scope="session")
def trained(image_folder, tmp_path_factory):
    from train import run

    workdir = tmp_path_factory.mktemp("runs") / "pens"
    text = f"--model small_net --dataset {image_folder} --workdir {workdir} --epochs 2"
    text += " --lr 0.01 --batch-size 16 --model-options norm_momentum=0.5 dropout_rate=0.0"
    with registered():
        arguments = run.parse(text.split())
        run.run(arguments.recipe, arguments.workdir)
    return workdir


@pytest.fixture(scope="module")
def small_run(small_net, trained):
    """Run directory of a finished run of two epochs, trained on four simulated devices."""
    return trained


@pytest.fixture(autouse=True)
def _no_figures(request, monkeypatch):
    """Runs that a test function makes draw no figures, which would take most of their time.

    Runs of fixtures draw figures, and so do those of tests with the mark `figures`.
    """
    if request.node.get_closest_marker("figures") is None:
        monkeypatch.setattr("train.results._write_figures", lambda *arguments: None)
