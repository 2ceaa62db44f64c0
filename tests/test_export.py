"""to_torch and to_onnx against transform; gradients, weights and files of what they return."""

import copy
import io
import pickle
import subprocess
import sys

import cloudpickle
import numpy as np
import pytest
import skops.io
import torch
import torchvision
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from skops.io.exceptions import UntrustedTypesFoundException
from torch import nn
from torchvision.transforms.v2 import functional as TF

from sklearn_simclr import SimCLRClassifier, SimCLRTransformer
from sklearn_simclr._kernels import resizing_matrices
from sklearn_simclr.encoders import ConvNetEncoder, MLPEncoder, ResNetEncoder

RESNET = ResNetEncoder(width=0.03)
DEEP = {"projection_layers": 3, "projection_dim": 5}


def oblong(photos):
    return photos[:, :12]  # (n, 12, 16, 3)


def rows(images):
    return images.reshape(len(images), -1)


def channels_first(photos):
    return oblong(photos).transpose(0, 3, 1, 2)


def unit(photos):
    return (photos / 255).astype(np.float32)


def small_factory():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6))


def same(X):
    return X


# Parameters, the fixture that X comes from, and what is done to that.
CASES = {
    "grey floats": ({}, "digits", same),
    "grey floats resized": ({"image_size": 11}, "digits", same),
    "grey, channels first": ({"channel_axis": 1}, "digits", lambda X: X[:, None]),
    "colour bytes": ({"encoder": RESNET}, "photos", oblong),
    "colour bytes shrunk": ({"encoder": RESNET, "image_size": 9}, "photos", oblong),
    "colour bytes enlarged": ({"image_size": 16}, "photos", oblong),
    "colour bytes, channels first": ({"channel_axis": 1}, "photos", channels_first),
    "unit floats": ({"encoder": RESNET}, "photos", unit),
    "rows": ({"image_shape": (8, 8)}, "digits", rows),
    "rows in colour": ({"image_shape": (16, 16, 3)}, "photos", rows),
    "vectors": ({"encoder": MLPEncoder(hidden_dim=8)}, "vectors", same),
    "middle layer": (DEEP | {"output_layer": 1}, "digits", same),
    "z": (DEEP | {"output_layer": 3}, "digits", same),
    "z, linear head": ({"projection_layers": 1, "output_layer": 1}, "photos", same),
    "factory": ({"encoder": small_factory}, "digits", same),
    "large stem": ({"encoder": ResNetEncoder(width=0.03, stem="large")}, "photos", same),
}
cases = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def fitted(request):
    """Return a function that fits the model of a case once, and gives it and its X."""
    models = {}

    def make(name):
        if name not in models:
            params, source, change = CASES[name]
            X = request.getfixturevalue(source)
            X = change(X[0] if isinstance(X, tuple) else X)
            defaults = {"encoder": ConvNetEncoder(width=4, n_layers=2), "projection_dim": 8}
            defaults |= {"batch_size": 16, "max_epochs": 2, "random_state": 0}
            models[name] = SimCLRTransformer(**defaults | params).fit(X), X
        return models[name]

    return make


def through(module, X):
    with torch.no_grad():
        return module(torch.tensor(X)).numpy()


# ------------------------------------------------------------------------------------------------
# The module


@cases
def test_module_gives_the_features_of_transform(fitted, name):
    model, X = fitted(name)
    features = model.transform(X)
    module = model.to_torch()
    assert_allclose(through(module, X), features, rtol=1e-5, atol=1e-5)
    assert_allclose(through(module, X[3:4]), features[3:4], rtol=1e-5, atol=1e-5)
    assert through(module, X[:0]).shape == (0, features.shape[1])
    assert np.ptp(features, axis=0).max() > 1e-3  # else anything would do


@cases
def test_module_is_plain(fitted, name):
    module = fitted(name)[0].to_torch()
    assert isinstance(module, nn.Module) and not any(part.training for part in module.modules())
    for value in (*module.parameters(), *module.buffers()):
        assert value.device.type == "cpu" and not value.is_inference()
        assert value.dtype == torch.float32 or not value.is_floating_point()
    assert all(param.requires_grad for param in module.parameters())


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8, bool])
def test_module_takes_every_dtype(fitted, dtype):
    model, X = fitted("grey floats")
    X = (X > 8) if dtype is bool else X.astype(dtype)
    assert_allclose(through(model.to_torch(), X), model.transform(X), rtol=1e-5, atol=1e-5)


def test_bytes_stay_bytes_where_fit_has_seen_unit_pixels(fitted, photos):
    model, X = fitted("unit floats")
    module = model.to_torch()
    features = model.transform(X)
    assert_allclose(through(module, photos[0]), model.transform(photos[0]), rtol=1e-5, atol=1e-5)
    assert_allclose(through(module, photos[0]), features, rtol=1e-4, atol=1e-4)


def test_pixels_in_other_units_are_taken_as_they_are(fitted):
    model, X = fitted("colour bytes")
    with pytest.raises(ValueError, match=r"fitted on pixels in 0\.\.255"):
        model.transform(unit(X))
    module = model.to_torch()
    x = torch.tensor(unit(X)).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor(model.mean_)[:, None, None]) / torch.tensor(model.scale_)[:, None, None]
    with torch.no_grad():
        assert_allclose(through(module, unit(X)), module.encoder(x).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "forms"),
    [
        ("grey floats", [same, rows, lambda X: X[..., None]]),
        ("grey, channels first", [same, rows, lambda X: X[:, 0]]),
        ("rows in colour", [same, lambda X: X.reshape(-1, 16, 16, 3)]),
        ("colour bytes, channels first", [same, rows]),
    ],
)
def test_images_may_lie_in_rows_and_lack_an_axis_of_one(fitted, name, forms):
    model, X = fitted(name)
    module = model.to_torch()
    for form in forms:
        assert_allclose(through(module, form(X)), model.transform(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("grey floats", (4, 8, 9), r"takes X of shape \('n', 8, 8\), got \(4, 8, 9\)"),
        ("grey floats", (8, 8), r"takes X of shape \('n', 8, 8\), got \(8, 8\)"),
        ("colour bytes", (4, 3, 12, 16), r"\('n', 12, 16, 3\), got \(4, 3, 12, 16\)"),
        ("colour bytes, channels first", (4, 12, 16, 3), r"\('n', 3, 12, 16\), got"),
        ("vectors", (4, 5), r"\('n', 6\), got \(4, 5\)"),
        ("vectors", (6,), r"\('n', 6\), got \(6,\)"),
    ],
)
def test_other_shapes_are_refused(fitted, name, shape, message):
    with pytest.raises(ValueError, match=message):
        fitted(name)[0].to_torch()(torch.zeros(shape))


def test_module_of_a_model_of_image_files_takes_their_pixels(simclr, photos, tmp_path):
    paths = []
    for number, pixels in enumerate(photos[0]):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    model = simclr(image_size=8).fit(paths)
    assert model.image_shape_ == (16, 16, 3)
    module = model.to_torch()
    assert_allclose(through(module, photos[0]), model.transform(paths), rtol=1e-5, atol=1e-5)


def test_module_follows_output_layer_as_it_is_now(simclr, digits):
    model = simclr(**DEEP).fit(digits[0])
    before = model.to_torch()
    features = model.transform(digits[0])
    for output_layer, width in enumerate([features.shape[1], *2 * [features.shape[1]], 5]):
        model.set_params(output_layer=output_layer)
        found = through(model.to_torch(), digits[0])
        assert found.shape == (64, width)
        assert_allclose(found, model.transform(digits[0]), rtol=1e-5, atol=1e-5)
    assert_allclose(through(before, digits[0]), features, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="output_layer=2 is not a layer"):
        simclr(projection_layers=1).fit(digits[0]).set_params(output_layer=2).to_torch()


@pytest.mark.parametrize("method", ["to_torch", "to_onnx"])
@pytest.mark.parametrize("estimator", [SimCLRTransformer, SimCLRClassifier])
def test_unfitted_models_are_refused(estimator, method, tmp_path):
    with pytest.raises(NotFittedError):
        getattr(estimator(), method)(*[tmp_path / "model.onnx"][: method == "to_onnx"])


@pytest.mark.parametrize("encoder", [ConvNetEncoder(width=4, n_layers=2), small_factory()])
def test_nothing_is_shared(simclr, digits, encoder):
    images, _ = digits
    model = simclr(encoder=encoder).fit(images)
    features = model.transform(images)
    first, second = model.to_torch(), model.to_torch()
    with torch.no_grad():
        for value in (*first.parameters(), *first.buffers()):
            value.zero_()
    assert_array_equal(model.transform(images), features)
    assert_allclose(through(second, images), features, rtol=1e-5, atol=1e-5)
    model.partial_fit(images)
    assert not np.allclose(model.transform(images), features)
    assert_allclose(through(second, images), features, rtol=1e-5, atol=1e-5)


def test_frozen_layers_stay_frozen(simclr, digits):
    encoder = small_factory()
    encoder[1].requires_grad_(False)
    module = simclr(encoder=encoder).fit(digits[0]).to_torch()
    frozen = {name for name, param in module.named_parameters() if not param.requires_grad}
    assert frozen == {"encoder.1.weight", "encoder.1.bias"}


@pytest.mark.parametrize(
    "context", [torch.inference_mode, torch.no_grad, lambda: torch.device("meta")]
)
def test_module_does_not_depend_on_what_the_caller_has_switched_on(fitted, context):
    model, X = fitted("colour bytes shrunk")
    with context():
        module = model.to_torch()
    assert_allclose(through(module, X), model.transform(X), rtol=1e-5, atol=1e-5)
    module(torch.tensor(X)).sum().backward()


@pytest.mark.parametrize("sizes", [(8, 8, 12), (16, 20, 9), (33, 17, 64), (50, 30, 12), (9, 9, 3)])
def test_resizing_matrices_are_the_resize_of_torchvision(sizes):
    height, width, size = sizes
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    rows, columns = resizing_matrices(*sizes)
    expected = TF.resize(images.double(), [size, size], antialias=True)
    assert_allclose(rows @ images @ columns, expected, atol=1e-6)


# ------------------------------------------------------------------------------------------------
# Training it further


@pytest.mark.parametrize("name", ["vectors", "grey floats resized", "middle layer"])
def test_gradients_are_those_of_finite_differences(fitted, name):
    model, X = fitted(name)
    module = model.to_torch().double()
    x = torch.tensor(X[:2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x, eps=1e-7, atol=1e-4, fast_mode=True)
    weight = next(module.encoder.parameters())
    assert torch.autograd.gradcheck(
        lambda w: torch.func.functional_call(module, {"encoder." + first_name(module): w}, (x,)),
        weight,
        eps=1e-7,
        atol=1e-4,
        fast_mode=True,
    )


def first_name(module):
    return next(name for name, _ in module.encoder.named_parameters())


def test_fine_tuning_in_torch(fitted, photos):
    model, X = fitted("colour bytes shrunk")
    module, before = model.to_torch(), model.transform(X)
    labels = torch.tensor(photos[1])
    network = nn.Sequential(module, nn.Linear(module.n_features, 2)).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(network(torch.tensor(X)), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(param.grad is not None for param in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert not np.allclose(through(module.eval(), X), before, atol=1e-3)
    assert_array_equal(model.transform(X), before)


def test_module_moves(fitted):
    model, X = fitted("grey floats resized")
    module = model.to_torch().to("meta")
    assert module(torch.zeros(3, 8, 8, device="meta")).device.type == "meta"
    assert {value.device.type for value in (*module.parameters(), *module.buffers())} == {"meta"}
    half = model.to_torch().to(torch.bfloat16)
    assert_allclose(half(torch.tensor(X)).float().detach(), model.transform(X), rtol=0.1, atol=0.1)


# ------------------------------------------------------------------------------------------------
# Its weights elsewhere


def test_state_dict_holds_the_weights_and_the_normalisation(fitted):
    model, _ = fitted("middle layer")
    state = model.to_torch().state_dict()
    kept = {name for name in model._weights if name.startswith(("encoder.", "head.0.", "head.1."))}
    assert set(state) == kept | {"mean", "scale"}
    for name in kept:
        assert_array_equal(state[name].numpy(), model._weights[name])
    assert_array_equal(state["mean"].numpy(), model.mean_)
    assert_array_equal(state["scale"].numpy(), model.scale_)


def test_state_dict_is_saved_and_loaded_as_data(fitted, tmp_path):
    model, X = fitted("middle layer")
    torch.save(model.to_torch().state_dict(), tmp_path / "weights.pt")
    other = clone(model).set_params(random_state=1).fit(X).to_torch()
    assert not np.allclose(through(other, X), model.transform(X), atol=1e-3)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert_allclose(through(other, X), model.transform(X), rtol=1e-5, atol=1e-5)


def test_weights_start_another_training(fitted, photos, tmp_path):
    model, X = fitted("colour bytes")
    module = model.to_torch()
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    encoder = ResNetEncoder(width=0.03, weights=tmp_path / "weights.pt")
    network = encoder.build((3, 12, 16)).eval()
    x = torch.rand(2, 3, 12, 16)
    with torch.no_grad():
        assert_allclose(network(x), module.encoder(x), rtol=1e-5, atol=1e-6)
    assert SimCLRTransformer(encoder, max_epochs=1, batch_size=16).fit(X).n_iter_ == 1


def test_weights_of_a_resnet_go_into_torchvisions(photos):
    encoder = ResNetEncoder(18, stem="large")
    model = SimCLRTransformer(encoder, max_epochs=1, batch_size=4).fit(photos[0][:4])
    module = model.to_torch()
    network = torchvision.models.resnet18()
    network.fc = nn.Identity()
    network.load_state_dict(module.encoder.state_dict())
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert_allclose(network.eval()(x), module.encoder(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["colour bytes shrunk", "z", "vectors"])
def test_module_is_pickled_and_copied(fitted, name):
    model, X = fitted(name)
    module = model.to_torch()
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    for other in (
        pickle.loads(pickle.dumps(module)),
        copy.deepcopy(module),
        torch.load(file, weights_only=False),
    ):
        assert_array_equal(through(other, X), through(module, X))
    file.seek(0)
    with pytest.raises(pickle.UnpicklingError, match="Weights only"):
        torch.load(file, weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["colour bytes shrunk", "grey floats"])
def test_exported_program_runs_without_this_package(fitted, name, tmp_path):
    model, X = fitted(name)
    program = torch.export.export(
        model.to_torch(), (torch.tensor(X[:2]),), dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    torch.export.save(program, tmp_path / "model.pt2")
    np.save(tmp_path / "X.npy", X)
    code = (
        "import sys, numpy as np, torch\n"
        "sys.modules['sklearn_simclr'] = None\n"
        "module = torch.export.load('model.pt2').module()\n"
        "with torch.no_grad():\n"
        "    np.save('features.npy', module(torch.from_numpy(np.load('X.npy'))).numpy())\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    features = np.load(tmp_path / "features.npy")
    assert_allclose(features, model.transform(X), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------
# ONNX


def session_of(model, folder, **params):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = folder / "model.onnx"
    model.to_onnx(path, **params)
    assert list(folder.iterdir()) == [path]  # the weights are in it
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "name",
    [
        "grey floats resized",
        "colour bytes shrunk",
        "colour bytes, channels first",
        "vectors",
        "middle layer",
        pytest.param("grey floats", marks=pytest.mark.slow),
        pytest.param("grey, channels first", marks=pytest.mark.slow),
        pytest.param("colour bytes", marks=pytest.mark.slow),
        pytest.param("unit floats", marks=pytest.mark.slow),
        pytest.param("rows in colour", marks=pytest.mark.slow),
        pytest.param("z", marks=pytest.mark.slow),
        pytest.param("large stem", marks=pytest.mark.slow),
    ],
)
def test_onnx_gives_the_features_of_transform(fitted, name, tmp_path):
    model, X = fitted(name)
    session = session_of(model, tmp_path)
    features = model.transform(X)
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    is_bytes = X.dtype == np.uint8
    assert given.type == ("tensor(uint8)" if is_bytes else "tensor(float)")
    assert (given.name, given.shape[0]) == ("X", "n")
    assert (returned.name, returned.shape) == ("output", ["n", features.shape[1]])
    X = X if is_bytes else X.astype(np.float32)
    X = X.reshape(len(X), *given.shape[1:])
    for chosen in (slice(None), slice(1), slice(3, 10)):
        (found,) = session.run(None, {"X": X[chosen]})
        assert_allclose(found, features[chosen], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("grey floats", [8, 8]),
        ("grey, channels first", [8, 8]),
        ("colour bytes", [12, 16, 3]),
        ("colour bytes, channels first", [3, 12, 16]),
        ("vectors", [6]),
    ],
)
def test_layout_of_samples(fitted, name, shape):
    assert fitted(name)[0].to_torch().sample_shape == tuple(shape)


def test_onnx_of_another_input_type(simclr, fitted, photos, tmp_path):
    model, X = fitted("colour bytes, channels first")
    session = session_of(model, tmp_path, input_dtype="float32")
    (found,) = session.run(None, {"X": X.astype(np.float32)})
    assert_allclose(found, model.transform(X), rtol=1e-4, atol=1e-5)
    model = simclr().fit(unit(photos[0]))
    session = session_of(model, tmp_path, input_dtype="uint8")
    (found,) = session.run(None, {"X": photos[0]})
    assert_allclose(found, model.transform(photos[0]), rtol=1e-4, atol=1e-5)
    model = simclr().fit(unit(photos[0]) - 0.5)
    with pytest.raises(ValueError, match=r"^input_dtype='uint8' cannot hold pixels from -0\.5"):
        model.to_onnx(tmp_path / "model.onnx", input_dtype="uint8")
    with pytest.raises(ValueError, match="input_dtype='int8' is none of 'auto', 'uint8'"):
        model.to_onnx(tmp_path / "model.onnx", input_dtype="int8")


class CountsRows(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 4)

    def forward(self, x):
        return self.linear(x.view(len(x), -1))


def test_onnx_refuses_an_encoder_that_fixes_the_number_of_rows(simclr, digits, tmp_path):
    model = simclr(encoder=CountsRows()).fit(digits[0])
    assert_allclose(
        through(model.to_torch(), digits[0]), model.transform(digits[0]), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(ValueError, match=r"any number of rows.*write x\.shape\[0\] for len\(x\)"):
        model.to_onnx(tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_onnx_says_how_its_packages_are_installed(fitted, monkeypatch, tmp_path):
    def without_packages(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'onnxscript'")

    monkeypatch.setattr(torch.onnx, "export", without_packages)
    with pytest.raises(ImportError, match=r"onnx onnxscript\. \(No module named 'onnxscript'"):
        fitted("vectors")[0].to_onnx(tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_onnx_says_what_is_not_installed(fitted, package, root, tmp_path):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(fitted("vectors")[0]))
    code = (
        f"import pathlib, pickle, sys; sys.modules[{package!r}] = None\n"
        "model = pickle.loads(pathlib.Path('model.pkl').read_bytes())\n"
        "try:\n"
        "    model.to_onnx('model.onnx')\n"
        "except ImportError as error:\n"
        "    assert 'pip install onnx onnxscript' in str(error), error\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    code = f"import sys; sys.path.insert(0, {root!r})\n{code}"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_onnx_into_a_folder_that_is_not_there(fitted, tmp_path):
    with pytest.raises(FileNotFoundError):
        fitted("vectors")[0].to_onnx(tmp_path / "none" / "model.onnx")


# ------------------------------------------------------------------------------------------------
# The classifier


@pytest.fixture(scope="module")
def classifier(digits):
    images, labels = digits
    simclr = SimCLRTransformer(
        ConvNetEncoder(width=4, n_layers=2), batch_size=16, max_epochs=1, image_size=10
    )
    few = np.where(np.arange(64) < 40, labels + 3, -1)
    return SimCLRClassifier(
        simclr, method="fine_tuning", distill=False, max_iter=5, random_state=0
    ).fit(images, few)


def test_classifier_gives_logits(classifier, digits):
    images, _ = digits
    logits = through(classifier.to_torch(), images)
    assert_allclose(logits, classifier.decision_function(images), rtol=1e-4, atol=1e-4)
    probabilities = torch.softmax(torch.tensor(logits), 1)
    assert_allclose(probabilities, classifier.predict_proba(images), rtol=1e-4, atol=1e-5)
    assert_array_equal(classifier.classes_[logits.argmax(1)], classifier.predict(images))


def test_classifier_of_two_classes_gives_two_logits(simclr, photos):
    images, labels = photos
    model = SimCLRClassifier(
        simclr(output_layer=2), method="linear", distill=False, random_state=0
    ).fit(images, np.array(["cat", "dog"])[labels])
    logits = through(model.to_torch(), images)
    assert logits.shape == (32, 2)
    assert_allclose(
        logits[:, 1] - logits[:, 0], model.decision_function(images), rtol=1e-4, atol=1e-4
    )
    assert_array_equal(model.classes_[logits.argmax(1)], model.predict(images))


def test_classifier_as_onnx(classifier, digits, tmp_path):
    images, _ = digits
    session = session_of(classifier, tmp_path)
    (logits,) = session.run(["output"], {"X": images.astype(np.float32)})
    assert_allclose(logits, classifier.decision_function(images), rtol=1e-4, atol=1e-4)


def test_classifier_and_its_module_share_nothing(classifier, digits):
    images, _ = digits
    expected = classifier.predict_proba(images)
    module = classifier.to_torch()
    with torch.no_grad():
        for param in module.parameters():
            param.zero_()
    assert_array_equal(classifier.predict_proba(images), expected)
    assert {"classifier.weight", "classifier.bias"} <= set(module.state_dict())


# ------------------------------------------------------------------------------------------------
# What the user guide says of formats


RAN = []


class Stranger:
    """Augmentation that runs code of a stranger's when it is unpickled."""

    def __call__(self, batch):
        return batch

    def __reduce__(self):
        return strangers_code, ()


def strangers_code():
    RAN.append("code")


class Unknown:
    """Augmentation of a class that nobody has agreed to."""

    built = 0

    def __new__(cls):
        cls.built += 1
        return super().__new__(cls)

    def __call__(self, batch):
        return batch


def test_skops_builds_nothing_that_is_not_trusted(simclr):
    data = skops.io.dumps(simclr(augmentation=Unknown()))
    types = skops.io.get_untrusted_types(data=data)
    own = [name for name in types if name.startswith("sklearn_simclr.")]
    assert sorted({*types} - {*own}) == [f"{__name__}.Unknown"]
    built = Unknown.built
    with pytest.raises(UntrustedTypesFoundException):
        skops.io.loads(data, trusted=own)
    assert Unknown.built == built
    skops.io.loads(data, trusted=types)
    assert Unknown.built == built + 1


def test_pickle_runs_code_and_weights_only_does_not(simclr):
    RAN.clear()
    model = simclr(augmentation=Stranger())
    file = io.BytesIO()
    torch.save({"weights": Stranger()}, file)
    file.seek(0)
    with pytest.raises(pickle.UnpicklingError, match="Weights only"):
        torch.load(file, weights_only=True)
    assert RAN == []
    pickle.loads(pickle.dumps(model))
    assert RAN == ["code"]


def test_skops_lists_what_is_not_of_this_package(simclr, digits):
    images, _ = digits
    model = simclr(encoder=small_factory, device=torch.device("cpu")).fit(images)
    data = skops.io.dumps(model)
    types = skops.io.get_untrusted_types(data=data)
    others = {name for name in types if not name.startswith("sklearn_simclr.")}
    assert others == {f"{__name__}.small_factory", "torch.device"}
    assert_array_equal(
        skops.io.loads(data, trusted=types).transform(images), model.transform(images)
    )
    pipeline = make_pipeline(simclr(), LogisticRegression()).fit(*digits)
    types = skops.io.get_untrusted_types(data=skops.io.dumps(pipeline))
    assert all(name.startswith("sklearn_simclr.") for name in types)


def test_skops_does_not_take_modules(simclr, digits):
    model = simclr(encoder=small_factory()).fit(digits[0])
    with pytest.raises(Exception):  # noqa: B017  whatever it is
        skops.io.dumps(model)


def test_cloudpickle_takes_what_pickle_cannot_name(simclr, digits):
    images, _ = digits

    def factory():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))

    model = simclr(encoder=factory, augmentation=lambda batch: batch + 0.1).fit(images)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(model)
    loaded = pickle.loads(cloudpickle.dumps(model))
    assert_array_equal(loaded.transform(images), model.transform(images))
    assert_array_equal(
        loaded.partial_fit(images).transform(images), model.partial_fit(images).transform(images)
    )


def test_an_explicit_device_is_kept(simclr, digits):
    model = simclr().fit(digits[0]).set_params(device="cuda:99")
    loaded = pickle.loads(pickle.dumps(model))
    with pytest.raises(ValueError, match="device='cuda:99' cannot be used"):
        loaded.transform(digits[0])
    assert_array_equal(loaded.set_params(device="cpu").transform(digits[0]).shape[0], 64)
