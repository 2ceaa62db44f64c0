"""Mistakes are met by clear errors before any training; a failing training leaves no mess."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.utils import Bunch
from torch import nn

import sklearn_simclr._transformer as transformer_module
from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.augmentation import AffineAugmentation, FeatureCorruption, SimCLRAugmentation
from sklearn_simclr.encoders import ConvNetEncoder, MLPEncoder, ResNetEncoder


@pytest.fixture
def no_training(monkeypatch):
    """Fail if an epoch is asked for, or the statistics of all of X, which may take minutes."""
    channel_statistics = transformer_module.channel_statistics

    def train(*args, **kwargs):
        pytest.fail("training has started")
        yield

    def statistics(samples, indices=None):
        assert indices is not None, "the statistics of all of X were computed"
        return channel_statistics(samples, indices)

    monkeypatch.setattr(transformer_module, "train", train)
    monkeypatch.setattr(transformer_module, "channel_statistics", statistics)


def refused(model, X, match, error=ValueError):
    """Check that fit and partial_fit refuse, with the same message."""
    for method in (model.fit, model.partial_fit):
        with pytest.raises(error, match=match):
            method(X)
    assert not model.__sklearn_is_fitted__()


# ------------------------------------------------------------------------------------------------
# X


def test_a_single_image_with_channels_first():
    images = np.random.default_rng(0).random((20, 3, 8, 9))
    model = SimCLRTransformer(channel_axis=1, max_epochs=1, random_state=0).fit(images)
    with pytest.raises(ValueError, match=r"a single image\. Pass X\[None\]"):
        model.transform(images[0])
    assert model.transform(images[0][None]).shape == (1, 128)


@pytest.mark.parametrize("channel_axis", [-1, 1])
def test_a_single_grey_image(channel_axis):
    images = np.random.default_rng(0).random((20, 8, 9))
    model = SimCLRTransformer(channel_axis=channel_axis, max_epochs=1, random_state=0).fit(images)
    with pytest.raises(ValueError, match=r"\(8, 9\) looks as if it were a single image\."):
        model.transform(images[0])
    assert model.transform(images[:1]).shape == (1, 128)


@pytest.mark.parametrize("X", [(image for image in np.zeros((9, 8, 8))), Bunch(data=[0]), None])
def test_what_is_no_sequence(X):
    message = f"got a {type(X).__name__}. Pass list(X) for a generator, X.data for a Bunch"
    refused(SimCLRTransformer(), X, re.escape(message), TypeError)


def test_a_series_of_arrays():
    X = pd.Series(list(np.zeros((4, 8, 8))))
    refused(SimCLRTransformer(), X, r"Series of 4 arrays.* Pass np\.stack\(list\(X\)\)")


@pytest.mark.parametrize("name", ["image", 0])
def test_a_frame_with_a_column_of_arrays(name):
    X = pd.DataFrame({name: list(np.zeros((4, 8, 8)))})
    message = re.escape(
        f"Frame of 4 arrays, not an array of numbers. Pass np.stack(list(X[{name!r}]))"
    )
    refused(SimCLRTransformer(), X, message)


def test_a_series_of_polars_that_holds_arrays():
    polars = pytest.importorskip("polars")
    X = polars.Series(np.zeros((4, 64)))
    refused(SimCLRTransformer(), X, r"Series of 4 arrays.* Pass np\.stack\(list\(X\)\)")


IMAGES = np.random.default_rng(0).random((6, 8, 8, 3))


def with_value(value, dtype=np.float64):
    images = IMAGES.astype(dtype)
    images[3, 2, 1, 0] = value
    return images


BAD_X = {
    "one image": (IMAGES[:1], r"Found array with 1 sample\(s\).*minimum of 2 is required"),
    "no image": (IMAGES[:0], r"Found array with 0 sample\(s\)"),
    "empty list": ([], "1D array|0 sample"),
    "images without pixels": (IMAGES[:, :0], r"0 feature\(s\)"),
    "NaN": (with_value(np.nan), "contains NaN"),
    "infinity": (with_value(np.inf), "contains infinity"),
    "too large for float32": (with_value(1e300), "too large for dtype"),
    "ragged list of images": (
        [IMAGES[0], IMAGES[1, :4]],
        "ragged.*images to one size",
    ),
    "ragged list of rows": ([[1, 2], [3]], "ragged"),
    "ragged object array": (
        np.array([IMAGES[0], IMAGES[1, :4], None], dtype=object)[:2],
        "same shape|ragged|sequence",
    ),
    "files that are not there": (["a.png", "b.png"], r"2 of 2 .*\n  a\.png: No such file.*"),
    "frame of such files": (pd.DataFrame({"file": ["a.png", "b.png"]}), r"\n  b\.png: No such"),
    "one file": ("a.png", r"single path 'a.png'.* Pass \[path\]"),
    "files and numbers": (["a.png", 3], "row 1 is 3"),
    "names in bytes": ([b"a.png", b"b.png"], "single column of str or Path; got other text"),
    "two columns of text": (np.array([["a", "b"], ["c", "d"]]), "in a single column"),
    "frame of two columns of text": (pd.DataFrame({"a": ["x"] * 2, "b": ["y"] * 2}), "'x'|text"),
    "complex": (IMAGES + 1j, "[Cc]omplex data not supported"),
    "object": (with_value(None, object), "NaN|number"),
    "dictionary in it": (with_value({"a": 1}, object), "number"),
    "five axes": (IMAGES[:, None], r"got shape \(6, 1, 8, 8, 3\)"),
    "one axis": (IMAGES.ravel(), "Reshape your data"),
    "a number": (np.float64(3), "array|scalar|samples"),
    "None": (None, "NoneType|None|array"),
    "channels look first": (
        IMAGES.transpose(0, 3, 1, 2),
        r"\(6, 3, 8, 8\) looks as if the channels came first.*channel_axis=1",
    ),
}


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(("X", "match"), BAD_X.values(), ids=BAD_X)
def test_bad_x(simclr, X, match):
    refused(simclr(), X, match, (ValueError, TypeError))


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("container", [sparse.csr_matrix, sparse.csr_array, sparse.coo_array])
def test_sparse_x(simclr, container):
    X = container(np.eye(8))
    refused(simclr(encoder="mlp"), X, "[Ss]parse", TypeError)
    refused(simclr(image_shape=(2, 4)), X, "[Ss]parse", TypeError)


@pytest.mark.usefixtures("no_training")
def test_channels_look_last(simclr):
    match = r"looks as if the channels came last.*channel_axis=-1"
    refused(simclr(channel_axis=1), IMAGES, match)


@pytest.mark.parametrize(
    "shape, said, found, other", [((20, 6, 8, 8), -1, "first", 1), ((20, 8, 8, 6), 1, "last", -1)]
)
def test_channels_of_unusual_numbers_that_look_misplaced_are_warned_of(
    simclr, shape, said, found, other
):
    X = np.random.default_rng(0).random(shape)
    message = rf"channels came {found}, .* Pass channel_axis={other} if they did"
    with pytest.warns(UserWarning, match=message):
        model = simclr(max_epochs=1, channel_axis=said).fit(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simclr(max_epochs=1, channel_axis=other).fit(X)
        model.transform(X)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("shape", "image_shape", "match"),
    [
        ((6, 63), (8, 8), r"image_shape=\(8, 8, 1\) needs rows of 64 values.*\(6, 63\)"),
        ((6, 64), (8, 8, 3), r"image_shape=\(8, 8, 3\) needs rows of 192 values"),
        ((6, 8, 8), (4, 16), r"image_shape=\(4, 16, 1\).*images of \(8, 8, 1\)"),
        ((6, 8, 8, 3), (8, 8), r"image_shape=\(8, 8, 1\).*images of \(8, 8, 3\)"),
    ],
)
def test_image_shape_that_contradicts_x(simclr, shape, image_shape, match):
    refused(simclr(image_shape=image_shape), np.ones(shape), match)


@pytest.mark.parametrize("method", ["transform", "score"])
def test_not_fitted(simclr, method):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(simclr(), method)(IMAGES)
    with pytest.raises(NotFittedError):
        simclr().get_feature_names_out()


@pytest.fixture(scope="module")
def fitted():
    """Model of images (8, 8, 3) in 0..255."""
    images = (IMAGES * 255).astype(np.uint8)
    images[:, 0] = 0, 0, 255
    return SimCLRTransformer(ConvNetEncoder(width=4), max_epochs=1, batch_size=6).fit(images)


BAD_LATER_X = {
    "wrong number of channels": (IMAGES[..., :1] * 255, r"\(8, 8, 1\).*fitted on.*\(8, 8, 3\)"),
    "no channels": (IMAGES[..., 0] * 255, r"\(8, 8, 1\).*fitted on.*\(8, 8, 3\)"),
    "wrong size": (IMAGES[:, :6] * 255, r"\(6, 8, 3\).*fitted on.*\(8, 8, 3\)"),
    "turned": (np.ones((6, 3, 8, 8)), "channels came first"),
    "vectors": (IMAGES.reshape(6, -1) * 255, r"vectors.*fitted on images.*\(8, 8, 3\)"),
    "one image alone": (IMAGES[0] * 255, r"a single image\. Pass X\[None\]"),
    "no image": (IMAGES[:0] * 255, r"0 sample\(s\)"),
    "NaN": (with_value(np.nan), "contains NaN"),
    "infinity": (with_value(np.inf), "contains infinity"),
    "other range of pixels": (IMAGES, r"values in \[0, 1\].*0\.\.255.*X \* 255"),
    "float32 of another range": (IMAGES.astype(np.float32), r"values in \[0, 1\]"),
    "files that are not there": (["a.png"] * 6, r"6 of 6 .*\n  a\.png: No such file"),
}


@pytest.mark.parametrize("method", ["transform", "score", "partial_fit"])
@pytest.mark.parametrize(("X", "match"), BAD_LATER_X.values(), ids=BAD_LATER_X)
@pytest.mark.usefixtures("no_training")
def test_bad_x_after_fit(fitted, X, match, method):
    with pytest.raises(ValueError, match=match):
        getattr(fitted, method)(X)
    assert fitted.n_iter_ == 1


@pytest.mark.usefixtures("no_training")
def test_one_image_after_fit(fitted):
    one = (IMAGES[:1] * 255).astype(np.uint8)
    for method in (fitted.score, fitted.partial_fit):
        with pytest.raises(ValueError, match=r"1 sample\(s\)"):
            method(one)
    assert fitted.transform(one).shape == (1, 8)


def test_another_number_of_features_after_fit(simclr, vectors):
    model = simclr(encoder="mlp").fit(vectors)
    for method in (model.transform, model.score, model.partial_fit):
        with pytest.raises(ValueError, match=r"X has 5 features.*expecting 6 features"):
            method(vectors[:, :5])
        with pytest.raises(ValueError, match=r"images.*fitted on vectors"):
            method(np.ones((4, 2, 3)))
    assert model.n_iter_ == 2


def test_warm_start_on_other_images(simclr, photos, digits):
    model = simclr(warm_start=True).fit(digits[0])
    with pytest.raises(ValueError, match="fitted on images"):
        model.fit(photos[0])
    assert model.n_iter_ == 2


# ------------------------------------------------------------------------------------------------
# Parameters

NAN, INF = float("nan"), float("inf")
BAD_PARAMETERS = {
    "encoder": [3, None, "", "resnet19", "ResNet18", ["mlp"], object(), np.zeros(3)],
    "augmentation": [3, None, "", "crop", "SimCLR", ["simclr"], object()],
    "projection_dim": [0, -1, 1.5, 8.0, "8", None, INF, [8]],
    "projection_layers": [-1, 4, 2.0, "2", None],
    "output_layer": [-1, 4, 3, 1.0, "h", None],  # 3 is beyond the two layers
    "loss": ["ntxent", "SupCon", 3, None, ["nt_xent"]],
    "temperature": [0, -0.5, NAN, INF, "0.5", None, 1j],
    "optimizer": ["adam", "SGD", 3, None, torch.optim.SGD],
    "learning_rate": [0, -1, NAN, INF, "fast", None],
    "weight_decay": [-1e-6, NAN, INF, "none", None],
    "batch_size": [1, 0, -1, 2.5, 16.0, "256", None, INF],
    "max_epochs": [0, -1, 1.5, 2.0, "3", None, INF],
    "image_shape": [64, "8x8", (), (8,), (8, 8, 1, 1), (0, 8), (-8, -8), (8.0, 8.0), ("8", "8")],
    "channel_axis": [0, 2, 3, -2, None, "last", 1.0],
    "image_size": [0, -1, 8.5, "8", (8, 8)],
    "device": ["", "gpu", "cuda:99", "meta", 3, None, ["cpu"]],
    "precision": ["float16", "fp32", torch.float32, 32, None],
    "compile": ["yes", "reduce-overhead", 1.5, None],
    "n_jobs": [0, 1.5, "2", "all", [1]],
    "warm_start": ["yes", 3, None],
    "checkpoint_dir": [3, True, b"checkpoints", ["checkpoints"]],
    "cache_dir": [3, True, ["cache"]],
    "on_bad_files": ["ignore", None, True, 3],
    "random_state": [-1, 1.5, "seed", np.random.default_rng(0)],
    "verbose": [-1, "yes", None],
}


def test_every_parameter_is_tried():
    assert set(BAD_PARAMETERS) == set(SimCLRTransformer().get_params())


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in BAD_PARAMETERS.items() for value in values],
    ids=repr,
)
def test_bad_parameters(simclr, digits, name, value):
    rows = digits[0].reshape(64, -1)
    params = {"image_shape": (8, 8)} | {name: value}
    match = f"{name}.*{re.escape(repr(value))}"
    refused(simclr(**params), rows, re.compile(match, re.DOTALL), (ValueError, TypeError))


@pytest.mark.parametrize(("name", "value"), [("temperature", -1), ("batch_size", 0)])
def test_bad_parameters_between_two_partial_fits(simclr, digits, name, value):
    model = simclr().partial_fit(digits[0]).set_params(**{name: value})
    with pytest.raises(ValueError, match=f"'{name}'.*{value}"):
        model.partial_fit(digits[0])
    assert model.n_iter_ == 1


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("augmentation", "match"),
    [
        (SimCLRAugmentation(crop_scale=(2, 1)), r"'crop_scale'.*\(2, 1\)"),
        (SimCLRAugmentation(crop_scale=(0, 1)), r"'crop_scale'.*\(0, 1\)"),
        (SimCLRAugmentation(crop_scale=(0.1, 0.5, 1)), r"'crop_scale'.*\(0.1, 0.5, 1\)"),
        (SimCLRAugmentation(crop_scale=0.5), "'crop_scale'.*0.5"),
        (SimCLRAugmentation(crop_scale=(0.1, "1")), r"'crop_scale'.*\(0.1, '1'\)"),
        (SimCLRAugmentation(crop_scale=(0.1, NAN)), r"'crop_scale'.*nan"),
        (SimCLRAugmentation(flip_p=1.5), "'flip_p'.*1.5"),
        (SimCLRAugmentation(color_strength=-1), "'color_strength'.*-1"),
        (SimCLRAugmentation(color_strength=INF), "'color_strength'.*inf"),
        (SimCLRAugmentation(color_p="often"), "'color_p'.*'often'"),
        (SimCLRAugmentation(grayscale_p=NAN), "'grayscale_p'.*nan"),
        (SimCLRAugmentation(blur_p=None), "'blur_p'.*None"),
        (SimCLRAugmentation(size=0), "'size'.*0"),
        (SimCLRAugmentation(size=(8, 8)), r"'size'.*\(8, 8\)"),
        (AffineAugmentation(degrees=-1), "'degrees'.*-1"),
        (AffineAugmentation(translate="far"), "'translate'.*'far'"),
        (AffineAugmentation(scale=(0, 1)), r"'scale'.*\(0, 1\)"),
        (AffineAugmentation(scale=(1.2, 0.8)), r"'scale'.*\(1.2, 0.8\)"),
        (AffineAugmentation(scale=(0.5, INF)), r"'scale'.*inf"),
        (AffineAugmentation(shear=90), "'shear'.*90"),
        (AffineAugmentation(noise=-0.1), "'noise'.*-0.1"),
        (AffineAugmentation(noise=INF), "'noise'.*inf"),
        (SimCLRAugmentation, "augmentation.*SimCLRAugmentation"),
    ],
    ids=str,
)
def test_bad_options_of_augmentations(simclr, augmentation, match):
    refused(simclr(augmentation=augmentation), IMAGES, match, (ValueError, TypeError))


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("rate", [0, 1.5, -0.1, NAN, "half", None])
def test_bad_options_of_feature_corruption(simclr, vectors, rate):
    model = simclr(encoder="mlp", augmentation=FeatureCorruption(rate))
    refused(model, vectors, f"'rate'.*{rate!r}")


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("encoder", "match"),
    [
        (ResNetEncoder(depth=17), "'depth'.*17"),
        (ResNetEncoder(depth="18"), "'depth'.*'18'"),
        (ResNetEncoder(width=0), "'width'.*0"),
        (ResNetEncoder(width=NAN), "'width'.*nan"),
        (ResNetEncoder(width=INF), "'width'.*inf"),
        (ResNetEncoder(stem="tiny"), "'stem'.*'tiny'"),
        (ConvNetEncoder(width=0), "'width'.*0"),
        (ConvNetEncoder(width=1.5), "'width'.*1.5"),
        (ConvNetEncoder(n_layers=0), "'n_layers'.*0"),
        (MLPEncoder(hidden_dim=0), "'hidden_dim'.*0"),
        (MLPEncoder(n_layers="4"), "'n_layers'.*'4'"),
        (ResNetEncoder, "encoder.*ResNetEncoder"),
    ],
    ids=str,
)
def test_bad_options_of_encoders(simclr, encoder, match):
    refused(simclr(encoder=encoder), IMAGES, match, (ValueError, TypeError))


class Shaped(nn.Module):
    """Encoder that returns whatever it is told to."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)

    def __repr__(self):
        return "Shaped()"


OUTPUTS = {
    "a feature map": (
        lambda x: x,
        r"shape \(n, d\).*returned torch.float32 of shape \(2, 3, 8, 8\)",
    ),
    "one number an image": (
        lambda x: x.mean((1, 2, 3)),
        r"\(n, d\).*returned torch.float32 of shape \(2,\)",
    ),
    "another number of rows": (
        lambda x: x.flatten(1)[:1],
        r"\(n, d\).*returned torch.float32 of shape \(1, 192\)",
    ),
    "a tuple": (lambda x: (x.flatten(1), x), r"\(n, d\).*returned tuple"),
    "an array": (lambda x: x.flatten(1).numpy(), r"\(n, d\).*returned ndarray"),
    "None": (lambda x: None, r"\(n, d\).*returned NoneType"),
    "integers": (lambda x: x.flatten(1).long(), r"float32 tensor.*returned torch.int64"),
    "nothing, it fails": (lambda x: x @ torch.ones(5, 5), "cannot take input.*RuntimeError"),
}


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(("make", "match"), OUTPUTS.values(), ids=OUTPUTS)
def test_encoder_whose_output_is_not_one_row_an_image(simclr, make, match):
    refused(simclr(encoder=Shaped(make)), IMAGES, re.compile(r"encoder=Shaped .*" + match))


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    "encoder", [nn.Flatten(), nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).requires_grad_(False)]
)
def test_nothing_to_train(simclr, encoder):
    match = re.compile(r"encoder=.*projection_layers", re.DOTALL)
    refused(simclr(encoder=encoder, projection_layers=0), IMAGES, match)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("factory", "match"),
    [
        (lambda: 3, "'encoder' factory must return an nn.Module, got int"),
        (lambda: nn.Linear, "'encoder' factory must return an nn.Module"),
        (nn.Linear, "encoder.*Linear"),
        (lambda: 1 / 0, "encoder"),
    ],
    ids=["a number", "a class", "needs arguments", "fails"],
)
def test_factory_that_makes_no_module(simclr, factory, match):
    refused(simclr(encoder=factory), IMAGES, match, (ValueError, TypeError))


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("params", "images", "match"),
    [
        ({"encoder": ConvNetEncoder()}, False, "needs images.*vectors of 6.*image_shape"),
        ({"encoder": ResNetEncoder()}, False, "needs images.*vectors of 6.*image_shape"),
        ({"encoder": "resnet18"}, False, "needs images.*vectors of 6.*image_shape"),
        ({"encoder": "mobilenet_v3_small"}, False, "needs images.*vectors of 6.*image_shape"),
        ({"augmentation": "scarf"}, True, "FeatureCorruption.*does not suit X.*images"),
        ({"augmentation": FeatureCorruption()}, True, "does not suit X.*images"),
        ({"augmentation": "simclr"}, False, "SimCLRAugmentation.*does not suit X.*vectors"),
        ({"augmentation": AffineAugmentation()}, False, "does not suit X.*vectors"),
        ({"image_size": 8}, False, "image_size=8 needs images.*vectors"),
        ({"encoder": "vit_b_16", "image_size": 20}, True, "encoder='vit_b_16'.*image_size"),
        ({"encoder": "alexnet"}, True, "encoder='alexnet'.*image_size"),
    ],
    ids=str,
)
def test_parts_that_do_not_suit_x(simclr, vectors, params, images, match):
    if not images:
        params = {"encoder": "mlp"} | params
    refused(simclr(**params), IMAGES if images else vectors, match)


VIEWS = {
    "None": (lambda batch: None, r"failed on a batch of shape \(2, 3, 8, 8\)"),
    "an array": (lambda batch: batch.numpy(), r"failed on a batch"),
    "a scalar": (lambda batch: batch.sum(), r"failed on a batch|one float view a sample"),
    "half the rows": (lambda batch: batch[:1], "one float view a sample"),
    "twice the rows": (lambda batch: torch.cat([batch, batch]), "one float view a sample"),
    "integers": (lambda batch: (batch * 255).long(), "one float view a sample|failed"),
    "other channels": (lambda batch: batch[:, :2], r"failed on a batch"),
    "two views": (lambda batch: (batch, batch), r"failed on a batch"),
    "nothing, it fails": (lambda batch: 1 / 0, "ZeroDivisionError"),
    "two arguments": (lambda batch, generator: batch, "TypeError"),
}


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(("views", "match"), VIEWS.values(), ids=VIEWS)
def test_callable_that_makes_no_views(simclr, views, match):
    refused(simclr(augmentation=views), IMAGES, re.compile("augmentation=.*(" + match + ")"))


def test_batch_larger_than_the_data_works_and_says_so(simclr, digits):
    images = digits[0][:10]
    with pytest.warns(UserWarning, match="batch_size=16 is larger than the data.*10 samples") as w:
        model = simclr(batch_size=16).fit(images)
    assert len(w) == 1
    assert w[0].filename == __file__  # it points at the call of fit
    assert model.transform(images).shape == (10, 4)


def test_no_warning_if_the_data_fill_a_batch(simclr, digits, recwarn):
    simclr(batch_size=16).fit(digits[0][:16])
    simclr(batch_size=16).fit(digits[0][:17])
    assert recwarn.list == []


@pytest.mark.parametrize("n_images", [2, 3, 17])
def test_no_batch_of_one_image(simclr, digits, n_images):
    features = simclr(batch_size=2).fit_transform(digits[0][:n_images])
    assert np.isfinite(features).all() and len(features) == n_images


def test_a_refused_refit_keeps_the_old_model(simclr, digits, vectors):
    images, _ = digits
    model = simclr().fit(images)
    features = model.transform(images)
    for X in (IMAGES[:1], with_value(np.nan), vectors):
        with pytest.raises(ValueError):
            model.fit(X)
        assert_array_equal(model.transform(images), features)


# ------------------------------------------------------------------------------------------------
# A loss that is not finite


class BreaksLater:
    """Views that are images until `broken` is set."""

    def __init__(self, value):
        self.value, self.broken = value, False

    def __call__(self, batch):
        return batch + 0.1 * torch.randn_like(batch) + (self.value if self.broken else 0)


class Breaker:
    """Callback that breaks the views after some epochs, and keeps the features of then."""

    def __init__(self, views, after, probe):
        self.views, self.after, self.probe, self.features = views, after, probe, None

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if fitted_estimator.n_iter_ == self.after:
            self.views.broken = True
            self.features = fitted_estimator.transform(self.probe)


@pytest.mark.parametrize("value", [NAN, INF])
def test_last_good_state_is_kept_if_the_loss_breaks(simclr, digits, value):
    images, _ = digits
    views = BreaksLater(value)
    breaker = Breaker(views, 2, images)
    model = simclr(augmentation=views, max_epochs=5, optimizer="sgd", learning_rate=0.123)
    model.set_callbacks(breaker)
    with pytest.raises(FloatingPointError, match=r"Epoch 3 .*nan.*temperature=0\.5"):
        model.fit(images)
    assert model.n_iter_ == len(model.loss_curve_) == 2
    assert np.isfinite(model.loss_)
    assert_array_equal(model.transform(images), breaker.features)
    assert all(np.isfinite(values).all() for values in model._weights.values())

    # It can be trained on.
    views.broken = False
    model.set_callbacks().set_params(warm_start=True).fit(images)
    assert model.n_iter_ == 7


class RaisesLater(BreaksLater):
    """Views that are images until `broken` is set, and then raise in the middle of an epoch."""

    n_views_left = 3

    def __call__(self, batch):
        self.n_views_left -= self.broken
        if self.n_views_left < 0:
            raise self.value
        return batch + 0.1 * torch.randn_like(batch)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (KeyboardInterrupt, pytest.warns(UserWarning, match="interrupted by user after 2 of 5")),
        (RuntimeError, pytest.raises(RuntimeError)),
    ],
)
def test_last_whole_epoch_is_kept_if_training_is_interrupted(simclr, digits, error, outcome):
    images, _ = digits
    views = RaisesLater(error)
    breaker = Breaker(views, 2, images)
    model = simclr(augmentation=views, max_epochs=5, learning_rate=0.05).set_callbacks(breaker)
    with outcome:
        model.fit(images)
    assert model.n_iter_ == len(model.loss_curve_) == 2
    assert_array_equal(model.transform(images), breaker.features)


class OverflowsAfter(nn.Module):
    """Encoder that overflows after some training steps."""

    def __init__(self, n_steps):
        super().__init__()
        self.linear = nn.Linear(64, 4)
        self.register_buffer("steps_left", torch.tensor(n_steps))

    def forward(self, x):
        if self.training:
            self.steps_left -= 1
        h = self.linear(x.flatten(1))
        return h if self.steps_left >= 0 else h * INF


def test_encoder_that_overflows(simclr, digits):
    images, _ = digits  # 4 batches
    model = simclr(encoder=OverflowsAfter(4 + 2), max_epochs=5)
    with pytest.raises(FloatingPointError, match=r"Epoch 2 .*nan.*encoder or augmentation"):
        model.fit(images)
    assert model.n_iter_ == 1
    assert model._weights["encoder.steps_left"] == 2
    assert np.isfinite(model.transform(images)).all()


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_nothing_is_stored_if_the_first_epoch_breaks(simclr, digits, method):
    views = BreaksLater(INF)
    views.broken = True
    model = simclr(augmentation=views)
    with pytest.raises(FloatingPointError, match="Epoch 1 "):
        getattr(model, method)(digits[0])
    assert not hasattr(model, "loss_curve_") and not hasattr(model, "n_iter_")
    with pytest.raises(NotFittedError):
        model.transform(digits[0])


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_an_earlier_model_is_kept_if_the_first_epoch_breaks(simclr, digits, photos, method):
    images, _ = digits
    views = BreaksLater(INF)
    model = simclr(augmentation=views).fit(images)
    features = model.transform(images)
    views.broken = True
    with pytest.raises(FloatingPointError):
        getattr(model, method)(photos[0] if method == "fit" else images)
    assert model.n_iter_ == 2
    assert_array_equal(model.transform(images), features)


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd", "lars"])
def test_enormous_learning_rate(simclr, digits, optimizer):
    model = simclr(optimizer=optimizer, learning_rate=1e38, precision="float32", max_epochs=10)
    with pytest.raises(FloatingPointError, match="learning rate"):
        model.fit(digits[0])


def test_bytes_of_which_none_is_bright_are_warned_of(simclr, digits):
    bytes_ = digits[0].astype(np.uint8)  # from 0 to 16
    with pytest.warns(UserWarning, match=r"its largest value is 16: .* Pass X / 16"):
        simclr(max_epochs=1).fit(bytes_)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simclr(max_epochs=1).fit(15 * bytes_)


def test_masks_in_bytes_are_refused_by_a_model_of_masks(simclr, digits):
    masks = digits[0] > 8
    model = simclr(max_epochs=1).fit(masks)
    with pytest.raises(ValueError, match=r"its largest value is 1, .* Pass X\.astype\(float\)"):
        model.transform(masks.astype(np.uint8))
