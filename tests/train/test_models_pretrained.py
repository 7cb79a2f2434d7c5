"""`python -m train.models --pretrained`."""

import pytest

from train import models


@pytest.mark.parametrize(
    ("arguments", "expected", "absent"),
    [
        ([], ["resnet50-11ad3fa6.pth", "0.35 0.5 0.75 1.0 1.3 1.4", "and 29 more"], []),
        (["resnet50"], ["keras_no_top", "sha256:0676ba61", "md5:2cb95161c4"], ["vgg16"]),
        (["*alexnet*"], ["alexnet-owt-7be5be79.pth"], ["resnet50"]),
    ],
)
def test_published_weights_are_listed(call, arguments, expected, absent):
    status, out, err = call(models, *arguments, "--pretrained")
    assert (status, err) == (0, "")
    assert all(text in out for text in expected)
    assert not any(text in out for text in absent)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["alexnet"], "no published weights are listed for 'alexnet'"),
        (["resnet5"], "unknown model 'resnet5': did you mean resnet50"),
        (["*x*y*z*"], "unknown model '*x*y*z*'"),
        (["--image-size", "3"], "combine it with a model name or pattern only"),
    ],
)
def test_bad_input_is_one_line(call, arguments, message):
    status, out, err = call(models, *arguments, "--pretrained")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_listing_does_not_import_jax(command_environment):
    import subprocess
    import sys

    code = "import sys, zoo.pretrained.sources; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], env=command_environment, check=True)
