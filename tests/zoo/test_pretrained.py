"""Loading pretrained weights: equality with the origins, and one-line errors for weights that do not fit."""

import collections
import dataclasses
import functools
import gc
import hashlib
import http.server
import json
import logging
import shutil
import threading
import warnings

import h5py
import jax
import numpy as np
import parity
import pytest
import safetensors.numpy
import torch_files

import zoo
from zoo import registry
from zoo.pretrained import load, names, sources
from zoo.pretrained.readers import read

SIZE = (32, 32)


def error_of_load(*arguments, **options) -> str:
    with pytest.raises(zoo.InputError) as caught:
        load(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


# Keras


def remove_names(path) -> None:
    with h5py.File(path, "a") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)


SMALL = {"table": parity.SMALL_MOBILENET}


@pytest.fixture(scope="module")
def keras_files(tmp_path_factory):
    """Files in each format of a small MobileNetV2, and of one nested under another head, with images and logits."""
    import keras

    root = tmp_path_factory.mktemp("keras")
    images = np.random.default_rng(1).uniform(-1, 1, (2, *SIZE, 3)).astype(np.float32)
    with parity.KERAS_MAY_BROADCAST():
        whole = parity.keras_application(parity.small_mobilenet, SIZE, alpha=0.35)
        body = parity.keras_application(parity.small_mobilenet, SIZE, alpha=0.35, include_top=False)
        nested = keras.Sequential(
            [
                keras.layers.Input((*SIZE, 3)),
                keras.layers.Rescaling(1 / 255, offset=-0.5),
                body,
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dropout(0.2),
                keras.layers.Dense(6, name="mine", bias_initializer="uniform"),
            ]
        )
        pooled = keras.layers.GlobalAveragePooling2D()(body.output)
        hidden = keras.layers.Dense(8)(pooled)
        flat = keras.Model(body.input, keras.layers.Dense(3)(hidden))  # a head of two layers
        for name, model in (("whole", whole), ("nested", nested), ("flat", flat)):
            model.save(root / f"{name}.keras")
            logging.disable(logging.WARNING)  # Keras warns that .h5 is legacy
            model.save(root / f"{name}.h5")
            logging.disable(logging.NOTSET)
            model.save_weights(root / f"{name}.weights.h5")
    body_model = keras.Sequential([body, keras.layers.GlobalAveragePooling2D()])
    body_model.build((None, *SIZE, 3))
    logits = {
        "whole": parity.keras_logits(whole, images),
        "nested": parity.keras_logits(nested, (images + 0.5) * 255),
        "features": parity.keras_logits(body_model, images),
    }
    for name in ("whole", "nested"):  # Keras before 3.9 wrote no names
        nameless = root / f"{name}.nameless.weights.h5"
        shutil.copy(root / f"{name}.weights.h5", nameless)
        remove_names(nameless)
    return root, images, logits


def logits_of(loaded, images):
    return parity.zoo_logits(loaded.module, loaded.variables, images)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["keras", "h5", "weights.h5", "nameless.weights.h5"])
def test_keras_model_computes_the_same(keras_files, ending):
    root, images, logits = keras_files
    loaded = load("mobilenet_v2", root / f"whole.{ending}", image_size=32, **SMALL)
    assert (loaded.module.width, loaded.module.variant) == (0.35, "keras")
    np.testing.assert_allclose(logits_of(loaded, images), logits["whole"], atol=1e-4)
    assert "67 of 67 tensors loaded" in loaded.report
    assert loaded.preprocessing == zoo.Preprocessing(
        zoo.ResizeRule(SIZE), scale=1 / 127.5, mean=(1.0, 1.0, 1.0)
    )


@pytest.mark.slow
def test_every_variable_of_a_keras_model_is_loaded(tmp_path):
    """With all 17 blocks. test_mobilenet.py shows that these variables give the same logits."""
    path = tmp_path / "whole.keras"
    with parity.KERAS_MAY_BROADCAST():
        model = parity.keras_application("MobileNetV2", SIZE, alpha=0.35)
        model.save(path)
    loaded = load("mobilenet_v2", path)
    assert "262 of 262 tensors loaded" in loaded.report
    expected = parity.keras_variables(model, parity.mobilenet_path)
    np.testing.assert_equal(parity.flatten(loaded.variables), parity.flatten(expected))


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["keras", "h5", "weights.h5", "nameless.weights.h5"])
def test_nested_keras_backbone_is_loaded_with_its_head(keras_files, ending):
    root, images, logits = keras_files
    loaded = load("mobilenet_v2", root / f"nested.{ending}", image_size=32, **SMALL)
    assert loaded.module.num_classes == 6
    np.testing.assert_allclose(logits_of(loaded, images), logits["nested"], atol=1e-4)
    if "weights" not in ending:  # the configuration has the Rescaling layer
        assert loaded.preprocessing == zoo.Preprocessing(
            zoo.ResizeRule(SIZE), scale=1 / 255, mean=(0.5, 0.5, 0.5)
        )
    else:
        assert "preprocessing assumed" in loaded.report


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["keras", "h5", "weights.h5"])
def test_keras_head_that_does_not_fit_is_newly_initialized(keras_files, ending):
    root, images, logits = keras_files
    path = root / f"flat.{ending}"
    assert "has no head that fits" in error_of_load("mobilenet_v2", path, **SMALL)
    loaded = load("mobilenet_v2", path, 3, image_size=32, **SMALL)
    assert "65 of 67 tensors loaded; newly initialized: head (seed 0)" in loaded.report
    assert "options variant=keras width=0.35" in loaded.report
    assert "images of 32x32" in loaded.report
    assert loaded.report.count("dense") == 2  # both are reported as not loaded
    features = load("mobilenet_v2", path, 0, image_size=32, **SMALL)
    np.testing.assert_allclose(logits_of(features, images), logits["features"], atol=1e-4)


@pytest.mark.slow
def test_another_number_of_classes_gives_a_new_head_from_the_seed(keras_files, caplog):
    root, images, _ = keras_files
    path = str(root / "whole.keras")
    with caplog.at_level(logging.INFO, logger="zoo"):
        module, variables, _ = zoo.load_pretrained("mobilenet_v2", path, 3, **SMALL)
    assert "newly initialized: head (seed 0)" in caplog.text
    assert "not loaded: predictions/kernel (10 classes)" in caplog.text
    assert module.num_classes == 3
    original = load("mobilenet_v2", path, **SMALL).variables
    same_seed = load("mobilenet_v2", path, 3, **SMALL).variables
    other_seed = load("mobilenet_v2", path, 3, seed=1, **SMALL).variables
    kernel = variables["params"]["head"]["kernel"]
    assert kernel.shape == (1280, 3)
    assert np.array_equal(kernel, same_seed["params"]["head"]["kernel"])
    assert not np.array_equal(kernel, other_seed["params"]["head"]["kernel"])
    np.testing.assert_equal(variables["params"]["features"], original["params"]["features"])


@pytest.mark.slow
def test_keras_weights_of_another_model_are_rejected(keras_files):
    root, _, _ = keras_files
    for ending in ("keras", "h5", "weights.h5"):
        text = error_of_load("resnet50", root / f"whole.{ending}")
        assert "whole" in text and "Conv1" in text
    assert "does not fit mobilenet_v2" in error_of_load(
        "mobilenet_v2", root / "whole.keras", width=0.5, **SMALL
    )
    text = error_of_load("mobilenet_v2", root / "whole.keras", variant="torch", **SMALL)
    assert "has weights for variant='keras', not 'torch'" in text


@pytest.mark.slow
def test_small_keras_resnet(tmp_path):
    """Keras's ResNet code with fewer blocks. Files without names depend on the order of layers."""
    with parity.KERAS_MAY_BROADCAST():
        model = parity.keras_application(parity.small_resnet, SIZE)
        model.save(tmp_path / "m.keras")
        model.save_weights(tmp_path / "m.weights.h5")
    remove_names(tmp_path / "m.weights.h5")
    images, _ = parity.batch(SIZE, 2)
    expected = parity.keras_logits(model, images)
    options = {"blocks": (2, 1), "widths": (64, 8)}
    for name in ("m.keras", "m.weights.h5"):
        module = zoo.create_model("resnet50", 10, variant="keras", **options)
        layers = names.keras_layers(module)
        assert list(layers) == [la.name for la in model.layers if la.variables]
        loaded = load("resnet50", tmp_path / name, image_size=32, **options)
        np.testing.assert_allclose(logits_of(loaded, images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("top", [True, False])
def test_small_keras_vgg(tmp_path, top):
    """Layers have VGG16's names. Keras's published files predate Keras 2, in which a kernel is named W."""
    options = {"convolutions": (1, 2), "widths": (4, 8), "head_widths": (16, 16)}
    module = zoo.create_model("vgg16", 5, variant="keras", **options)
    variables = random_variables(module, SIZE)
    path = tmp_path / "vgg.h5"
    with h5py.File(path, "w") as file:
        layers = names.keras_layers(module)
        layers = {k: v for k, v in layers.items() if top or k.startswith("block")}
        file.attrs["layer_names"] = np.array(["input_1", *layers], "S")
        file.create_group("input_1").attrs["weight_names"] = []
        for layer, where in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([f"{layer}_W_1:0", f"{layer}_b_1:0"], "S")
            group[f"{layer}_W_1:0"] = variables[f"params/{where}/kernel"]
            group[f"{layer}_b_1:0"] = variables[f"params/{where}/bias"]
    loaded = load("vgg16", path, 5, image_size=32, **options)
    for leaf, array in parity.flatten(loaded.variables).items():
        same = np.array_equal(array, variables[leaf])
        assert same or not top and leaf.split("/")[1] in ("top", "head"), leaf
    assert ("newly initialized: top/fc1, top/fc2, head" in loaded.report) == (not top)


# torch


def random_variables(module, size=(64, 64)) -> dict[str, np.ndarray]:
    """Random variables of a module by leaf, with positive variances."""
    image = jax.ShapeDtypeStruct((1, *size, 3), np.float32)
    shapes = parity.flatten_shapes(jax.eval_shape(module.init, jax.random.key(0), image))
    rng = np.random.default_rng(0)
    return {leaf: rng.uniform(0.1, 1, shape).astype(np.float32) for leaf, shape in shapes.items()}


def torch_state(module, modules) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Random variables, and the torch state dict that must be converted to them."""
    leaves = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    torch_names = {path: name for name, path in modules.items()}
    variables, state = random_variables(module), {}
    for leaf, array in variables.items():
        path, _, variable = leaf.partition("/")[2].rpartition("/")
        layout = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]
        name = f"{torch_names[path]}.{leaves.get(variable, variable)}"
        state[name] = array.transpose(layout).copy()
        if variable == "mean":
            state[f"{torch_names[path]}.num_batches_tracked"] = np.array(7)
    return variables, state


def save_torch(path, state, save=torch_files.save_new) -> None:
    save(path, collections.OrderedDict((k, torch_files.Tensor(v)) for k, v in state.items()))


TORCH = {
    "alexnet_torchvision": {"widths": (4, 6, 8, 8, 6), "head_widths": (8, 8)},
    "vgg_tiny": {},
    "resnet_tiny": {},
    "mobilenet_v2_tiny": {},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "origin"),
    [(n, "torchvision") for n in TORCH] + [(n, "timm") for n in TORCH if "alexnet" not in n],
)
def test_state_dicts_are_converted(tmp_path, name, origin):
    options = TORCH[name] | ({"width": 1.0} if "mobile" in name else {})
    module = zoo.create_model(name, 5, **options)
    modules = {"torchvision": names.torchvision_modules, "timm": names.timm_modules}[origin](module)
    variables, state = torch_state(module, modules)
    if (name, origin) == ("vgg_tiny", "timm"):  # convolutions instead of dense layers
        state["pre_logits.fc1.weight"] = state["pre_logits.fc1.weight"].reshape(32, 32, 1, 1)
        state["pre_logits.fc2.weight"] = state["pre_logits.fc2.weight"].reshape(32, 32, 1, 1)
    save_torch(tmp_path / "new.pth", state)
    save_torch(
        tmp_path / "old.pth", {f"module.{k}": v for k, v in state.items()}, torch_files.save_old
    )
    safetensors.numpy.save_file(state, tmp_path / "w.safetensors")
    files = ["new.pth", "old.pth", "w.safetensors"]
    if name == "resnet_tiny":
        for prefix in ("_orig_mod.", "model.", "backbone.", "module._orig_mod.model."):
            save_torch(tmp_path / f"{prefix}pth", {prefix + k: v for k, v in state.items()})
            files.append(f"{prefix}pth")
    for file in files:
        loaded = load(name, tmp_path / file, **options)
        np.testing.assert_equal(parity.flatten(loaded.variables), variables)
        assert loaded.preprocessing.mean == (0.485, 0.456, 0.406)


# Copied from the state dicts of torchvision and timm.
@pytest.mark.parametrize(
    ("model", "origin", "name", "path"),
    [
        ("alexnet_torchvision", "torchvision", "features.8", "conv4/conv"),
        ("vgg16", "torchvision", "features.28", "block5/conv3/conv"),
        ("vgg16", "torchvision", "classifier.3", "top/fc2"),
        ("vgg16", "timm", "pre_logits.fc1", "top/fc1"),
        ("vgg16", "timm", "head.fc", "head"),
        ("resnet50", "torchvision", "layer3.5.bn3", "layer3/5/conv3/norm"),
        ("resnet50", "timm", "layer1.0.downsample.1", "layer1/0/downsample/norm"),
        ("mobilenet_v2", "torchvision", "features.1.conv.2", "features/1/project/norm"),
        ("mobilenet_v2", "torchvision", "features.17.conv.1.0", "features/17/depthwise/conv"),
        ("mobilenet_v2", "timm", "blocks.0.0.conv_pw", "features/1/project/conv"),
        ("mobilenet_v2", "timm", "blocks.6.0.bn3", "features/17/project/norm"),
        ("mobilenet_v2", "timm", "bn2", "features/18/norm"),
    ],
)
def test_names_of_origins(model, origin, name, path):
    modules = {"torchvision": names.torchvision_modules, "timm": names.timm_modules}[origin]
    assert modules(zoo.create_model(model))[name] == path


@pytest.fixture(scope="module")
def resnet_state():
    module = zoo.create_model("resnet_tiny", 5)
    return torch_state(module, names.torchvision_modules(module))[1]


def without(state, name):
    return {k: v for k, v in state.items() if k != name}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "layer1.0.bn2.running_var"), "layer1.0.bn2.running_var is missing"),
        (lambda s: s | {"layer9.weight": np.ones(3)}, "layer9.weight is not in the model"),
        (
            lambda s: s | {"bn1.weight": np.ones(9, np.float32)},
            "bn1.weight has shape [9] in the zoo's layout, the model's params/conv1/norm/scale has [8]",
        ),
        (lambda s: without(s, "fc.bias"), "fc.bias is missing"),
        (
            lambda s: s | {"bn1.bias": np.full(8, np.nan, np.float32)},
            "NaN or inf, first in bn1.bias",
        ),
        (lambda s: s | {"bn1.bias": np.full(8, 1e300)}, "NaN or inf, first in bn1.bias"),
        (
            lambda s: {"encoder.weight": np.ones((3, 3))},
            "no weights of resnet_tiny, but encoder.weight;",
        ),
        (
            lambda s: {f"{k}s": v for k, v in s.items()},
            "contains no weights of resnet_tiny",
        ),
    ],
)
def test_state_dicts_that_do_not_fit(tmp_path, resnet_state, change, message):
    path = tmp_path / "w.pth"
    save_torch(path, change(resnet_state))
    text = error_of_load("resnet_tiny", path)
    assert message in text
    assert "w.pth" in text


@pytest.mark.slow
def test_state_dict_without_a_head_requires_num_classes(tmp_path, resnet_state):
    path = tmp_path / "w.pth"
    save_torch(path, {k: v for k, v in resnet_state.items() if not k.startswith("fc.")})
    assert "set num_classes" in error_of_load("resnet_tiny", path)
    assert load("resnet_tiny", path, 3).module.num_classes == 3
    assert "head" not in load("resnet_tiny", path, 0).variables["params"]


@pytest.mark.slow
def test_weights_of_this_zoo(tmp_path):
    module = zoo.create_model("sam_alexnet_tiny", 5)
    variables = random_variables(module, (64, 64))
    path = tmp_path / "weights.safetensors"
    zoo.save_variables(path, parity.unflatten(variables))
    preprocessing = zoo.Preprocessing(zoo.ResizeRule((64, 64)), mean=(0.1, 0.2, 0.3))
    (tmp_path / "model.json").write_text(json.dumps({"preprocessing": preprocessing.to_json()}))
    loaded = load("sam_alexnet_tiny", path)
    np.testing.assert_equal(parity.flatten(loaded.variables), variables)
    assert loaded.preprocessing == preprocessing
    assert load("sam_alexnet_tiny", path, 2).module.num_classes == 2
    text = error_of_load("sam_alexnet_tiny", _renamed(path))
    assert (
        "foreign.safetensors does not fit sam_alexnet_tiny: torchvision has no such model" in text
    )


def test_weights_of_version_0_1_have_its_options(tmp_path):
    """A best/ folder of format 1: today's defaults do not fit its weights. Options of the caller take precedence."""
    old = {"norm_layers": (), "attention_norm": False}
    module = zoo.create_model("sam_alexnet_tiny", 5, **old)
    variables = parity.unflatten(random_variables(module, (64, 64)))
    zoo.save_variables(tmp_path / "weights.safetensors", variables)
    rule = zoo.Preprocessing(zoo.ResizeRule((64, 64)))
    description = {"model": "sam_alexnet_tiny", "options": {"norm": False, "dropout_rate": 0.9}}
    description |= {"preprocessing": rule.to_json()}
    path = tmp_path / "model.json"
    path.write_text(json.dumps(description | {"format": 1}))
    loaded = load("sam_alexnet_tiny", tmp_path)
    assert loaded.options == old
    assert loaded.report.endswith("options norm_layers=() attention_norm=False of version 0.1")
    np.testing.assert_equal(loaded.variables["params"], variables["params"])
    assert "is missing" in error_of_load("sam_alexnet_tiny", tmp_path, norm_layers=(1,))
    path.write_text(json.dumps(description | {"format": 2}))
    assert "conv1/norm/mean is missing" in error_of_load("sam_alexnet_tiny", tmp_path)
    path.write_text(json.dumps(description | {"options": 3}))
    assert "model.json is damaged" in error_of_load("sam_alexnet_tiny", tmp_path)


def test_weights_are_found_in_a_run_directory(tmp_path):
    module = zoo.create_model("sam_alexnet_tiny", 5)
    variables = parity.unflatten(random_variables(module, (64, 64)))
    zoo.save_variables(tmp_path / "best" / "weights.safetensors", variables)
    for path in (tmp_path, tmp_path / "best"):
        loaded = load("sam_alexnet_tiny", path)
        np.testing.assert_equal(loaded.variables["params"], variables["params"])
    digest = hashlib.sha256((tmp_path / "best" / "weights.safetensors").read_bytes())
    assert loaded.sha256 == digest.hexdigest()


def test_weights_of_a_model_for_smaller_images_are_rejected(tmp_path):
    """With the size from their model.json, the requested model would only complain about its pooling."""
    module = zoo.create_model("mobilenet_v2_tiny", 5)
    path = tmp_path / "weights.safetensors"
    zoo.save_variables(path, parity.unflatten(random_variables(module, (32, 32))))
    small = zoo.Preprocessing(zoo.ResizeRule((32, 32)))
    (tmp_path / "model.json").write_text(json.dumps({"preprocessing": small.to_json()}))
    text = error_of_load("sam_alexnet_tiny", path)
    assert f"{path} does not fit sam_alexnet_tiny: " in text
    assert text.endswith("use weights of this model")


def _renamed(path):
    other = path.with_name("foreign.safetensors")
    arrays = {k.replace("params/", ""): v for k, v in read(path).items()}
    safetensors.numpy.save_file({k: v for k, v in arrays.items() if "/" in k}, other)
    return other


# Sources


def test_published_sources():
    found = [
        (zoo.get_entry(name), s)
        for name in zoo.list_models()
        for s in zoo.get_entry(name).pretrained
    ]
    assert len({(source.host, source.path) for _, source in found}) == len(found) == 70
    for entry, source in found:
        no_top = source.tag == "keras_no_top"
        assert source.num_classes == (0 if no_top else entry.num_classes), (entry.name, source)
    assert zoo.model_info("vgg16").pretrained == ("torchvision", "keras", "keras_no_top")


def test_url_hash_and_crop_of_a_torchvision_source():
    source = sources.find_source("resnet50", "torchvision_v2")
    assert source.url == "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"
    assert source.hash == "sha256:11ad3fa6"
    assert source.preprocessing.rule.crop_fraction == 224 / 232


@pytest.mark.slow
def test_keras_sources_match_the_installed_keras(monkeypatch):
    """Same URL and MD5 as Keras requests for its own models."""
    import keras
    from keras.src.utils import file_utils

    requested = []

    class Requested(Exception):
        pass

    def get_file(name, url, *, file_hash=None, **_):
        requested.append((url, file_hash and f"md5:{file_hash}"))
        raise Requested

    monkeypatch.setattr(file_utils, "get_file", get_file)
    small = {"alpha": 0.35, "input_shape": (96, 96, 3)}
    cases = {
        ("vgg16", "keras"): ("VGG16", {}),
        ("vgg16", "keras_no_top"): ("VGG16", {"include_top": False}),
        ("resnet50", "keras"): ("ResNet50", {}),
        ("resnet50", "keras_no_top"): ("ResNet50", {"include_top": False}),
        ("mobilenet_v2", "keras"): ("MobileNetV2", small),
        ("mobilenet_v2", "keras_no_top"): ("MobileNetV2", {"include_top": False, **small}),
    }

    def zeros(self, shape, dtype=None):
        return np.zeros(shape, dtype)

    monkeypatch.setattr(keras.initializers.GlorotUniform, "__call__", zeros)
    for (model, tag), (function, options) in cases.items():
        with pytest.raises(Requested):
            getattr(keras.applications, function)(weights="imagenet", **options)
        choice = (0.35, 96) if model == "mobilenet_v2" else ()
        source = sources.find_source(model, tag, *choice)
        assert requested[-1] == (source.url, source.hash)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            ("resnet50", "torchvison"),
            {},
            "no source 'torchvison' for resnet50: use torchvision, torch",
        ),
        (("alexnet", "torchvision"), {}, "no source 'torchvision' for alexnet: use hf://"),
        (("resnet50", "none.pth"), {}, "no file none.pth"),
        (("resnet50", "a/none"), {}, "no file a/none"),
        (("resnet50", "hf://timm"), {}, "use hf://owner/name"),
        (("resnet50", "hf://a/../../b"), {}, "use hf://owner/name"),
        (("mobilenet_v2", "keras"), {"width": 0.6}, "widths 0.35, 0.5, 0.75, 1.0, 1.3, 1.4"),
        (("mobilenet_v2", "keras"), {"image_size": 100}, "sizes 96, 128, 160, 192, 224"),
        (("resnet50", "torchvision"), {"image_size": 0}, "use at least 1 pixel"),
        (("resnet5", "torchvision"), {}, "did you mean resnet50"),
    ],
)
def test_invalid_sources_are_rejected(arguments, options, message):
    assert message in error_of_load(*arguments, **options)


@pytest.mark.parametrize(
    ("model", "pixel", "expected"),
    [
        ("vgg16", [1, 2, 3], [3 - 103.939, 2 - 116.779, 1 - 123.68]),
        ("mobilenet_v2", [0, 255, 51], [-1, 1, -0.6]),
    ],
)
def test_keras_preprocessing_equals_keras(model, pixel, expected):
    import keras

    from train.engine.inputs import normalize

    images = np.array(pixel, np.float32).reshape(1, 1, 1, 3)
    actual = normalize(images, sources.find_source(model, "keras").preprocessing)
    np.testing.assert_allclose(np.ravel(actual), expected, rtol=1e-5)
    from_keras = getattr(keras.applications, model).preprocess_input(images.copy())
    np.testing.assert_allclose(actual, from_keras, rtol=1e-5)


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; while `broken`, sends only half of each."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests, self.broken = {}, [], False


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802
        self.server.requests.append(self.path)
        content = self.server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.server.broken else content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    with Server() as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, 0.01))
        thread.start()
        base = f"http://127.0.0.1:{server.server_address[1]}/"
        monkeypatch.setattr(sources, "BASE_URLS", dict.fromkeys(sources.BASE_URLS, base))
        monkeypatch.setenv("JAX_ZOO_CACHE", str(tmp_path / "cache"))
        yield server
        server.shutdown()
        thread.join()


def source_of(path, hash_=None) -> sources.Source:
    return sources.Source("tag", "hf", path, hash_, 5, zoo.Preprocessing(zoo.ResizeRule((64, 64))))


def cached_files(tmp_path) -> set[str]:
    return {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}


SHA256_OF_ABC = "sha256:ba7816bf"
MD5_OF_ABC = "md5:900150983cd24fb0d6963f7d28e17f72"


@pytest.mark.parametrize("expected", [SHA256_OF_ABC, MD5_OF_ABC, None])
def test_files_are_downloaded_once(server, tmp_path, expected):
    server.files["/a/b.pth"] = b"abc"
    for _ in range(2):
        assert sources.fetch(source_of("a/b.pth", expected)).read_bytes() == b"abc"
    assert server.requests == ["/a/b.pth"]
    assert cached_files(tmp_path) == {"b.pth"} | (set() if expected else {"b.pth.sha256"})


@pytest.mark.parametrize("expected", [SHA256_OF_ABC, MD5_OF_ABC])
def test_download_with_a_wrong_hash_is_rejected(server, tmp_path, expected):
    server.files["/b.pth"] = b"abd"
    with pytest.raises(zoo.InputError, match="is not the published file"):
        sources.fetch(source_of("b.pth", expected))
    assert cached_files(tmp_path) == set()


@pytest.mark.parametrize("expected", [SHA256_OF_ABC, None])
def test_modified_cached_file_is_rejected(server, expected):
    server.files["/b.pth"] = b"abc"
    sources.fetch(source_of("b.pth", expected)).write_bytes(b"abd")
    with pytest.raises(zoo.InputError, match="b.pth is not the published file .* delete it"):
        sources.fetch(source_of("b.pth", expected))


@pytest.mark.slow
@pytest.mark.parametrize("failure", ["interrupted", "missing", "offline"])
def test_failed_downloads(server, tmp_path, monkeypatch, failure):
    server.files["/b.pth"] = b"abc" * 100_000
    server.broken = failure == "interrupted"
    path = "none.pth" if failure == "missing" else "b.pth"
    if failure == "offline":
        monkeypatch.setattr(sources, "BASE_URLS", {"hf": "http://127.0.0.1:9/"})
    with pytest.raises(zoo.InputError) as caught:
        sources.fetch(source_of(path))
    text = str(caught.value)
    assert "\n" not in text
    assert sources.BASE_URLS["hf"] + path in text
    assert f"put it at {tmp_path / 'cache' / 'weights' / 'hf' / path}" in text
    assert cached_files(tmp_path) == set()
    server.broken = False
    # requests leaves the socket of a broken transfer to the garbage collector.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del caught
        gc.collect()
    if failure == "interrupted":
        assert sources.fetch(source_of(path)).stat().st_size == 300_000


def test_published_weights_from_download_to_logits(server, tmp_path, monkeypatch, resnet_state):
    path = tmp_path / "w.pth"
    save_torch(path, resnet_state)
    server.files["/tiny.pth"] = path.read_bytes()
    source = sources.Source(
        "torchvision",
        "torchvision",
        "tiny.pth",
        None,
        5,
        sources.torch_preprocessing(64, 73),
    )
    entry = dataclasses.replace(zoo.get_entry("resnet_tiny"), pretrained=(source,))
    monkeypatch.setitem(registry._ENTRIES, "resnet_tiny", entry)
    module, variables, preprocessing = zoo.load_pretrained("resnet_tiny", "torchvision")
    assert preprocessing.rule.crop_fraction == 64 / 73
    logits = parity.zoo_logits(module, variables, np.zeros((1, 64, 64, 3), np.float32))
    assert logits.shape == (1, 5)


def test_timm_model_from_hugging_face(server, resnet_state):
    config = {
        "architecture": "resnet_tiny",
        "pretrained_cfg": {
            "input_size": [3, 64, 64],
            "interpolation": "bicubic",
            "crop_pct": 0.95,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "num_classes": 5,
        },
    }
    folder = "/timm/tiny.in1k/resolve/0a1b2c"
    server.files[f"{folder}/config.json"] = json.dumps(config).encode()
    server.files[f"{folder}/model.safetensors"] = safetensors.numpy.save(resnet_state)
    loaded = load("resnet_tiny", "hf://timm/tiny.in1k@0a1b2c")
    assert loaded.preprocessing == zoo.Preprocessing(
        zoo.ResizeRule((64, 64), "crop", "bicubic", 0.95), mean=(0.5,) * 3, std=(0.25,) * 3
    )
    server.files.clear()
    load("resnet_tiny", "hf://timm/tiny.in1k@0a1b2c")  # from the cache

    broken = [{"model_type": "bert"}, [1], config["pretrained_cfg"] | {"mean": [0.5]}]
    for index, content in enumerate(broken):
        server.files[f"/a/{index}/resolve/main/config.json"] = json.dumps(content).encode()
        assert "not a timm configuration" in error_of_load("resnet_tiny", f"hf://a/{index}")


def test_wrappers_are_removed_only_if_names_stay_distinct():
    arrays = {
        "backbone.conv1.weight": np.ones(1),
        "module.head.bias": np.ones(2),
        "fc.bias": np.ones(3),
    }
    assert list(names.without_wrappers(arrays)) == ["conv1.weight", "head.bias", "fc.bias"]
    arrays["model.fc.bias"] = np.ones(4)
    assert names.without_wrappers(arrays) is arrays
