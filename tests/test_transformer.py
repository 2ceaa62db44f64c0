"""Training and features: what fit, partial_fit, transform and score promise."""

import contextlib
import copy
import gc
import itertools
import os
import pickle
import random
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context, get_config
from sklearn.base import BaseEstimator, clone
from torch import nn
from torchvision.transforms import v2

import sklearn_simclr._transformer as transformer_module
from sklearn_simclr import SimCLRTransformer, _progress, _run, _training
from sklearn_simclr.augmentation import (
    AffineAugmentation,
    Compose,
    FeatureCorruption,
    Flip,
    SimCLRAugmentation,
)
from sklearn_simclr.encoders import ConvNetEncoder, MLPEncoder, ResNetEncoder
from sklearn_simclr.losses import dcl, nt_xent
from sklearn_simclr.optim import (
    DEFAULT_LEARNING_RATE,
    DEFAULT_WEIGHT_DECAY,
    default_learning_rate,
)


def dropout_factory():
    """Encoder of images (8, 8) that draws from torch's global generator in training."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5))


def global_noise(batch):
    """Views that draw from torch's global generator."""
    return batch + 0.1 * torch.randn_like(batch)


class GlobalNoise(BaseEstimator):
    """A step of a composition that draws from torch's global generator."""

    def make_params(self, shape, generator):
        return {"noise": 0.1 * torch.randn(shape)}

    def apply(self, batch, params):
        return batch + params["noise"]

    def __call__(self, batch, generator):
        return self.apply(batch, self.make_params(batch.shape, generator))


RANDOM_PARTS = {
    "ours": {},
    "step of views": {"augmentation": Compose([("flip", Flip()), ("noise", GlobalNoise())])},
    "dropout": {"encoder": dropout_factory},
    "callable views": {"augmentation": global_noise},
}
random_parts = pytest.mark.parametrize("parts", RANDOM_PARTS.values(), ids=RANDOM_PARTS)


# ------------------------------------------------------------------------------------------------
# The same seed, the same result, and nothing else touched


@random_parts
def test_same_random_state_gives_the_same_model_to_the_last_bit(simclr, digits, parts):
    images, _ = digits
    first, second = (simclr(**parts).fit(images) for _ in range(2))
    assert first.loss_curve_ == second.loss_curve_
    assert_array_equal(first.transform(images), second.transform(images))
    assert first.score(images) == second.score(images)
    assert joblib.hash(first) == joblib.hash(second)


@pytest.mark.parametrize("encoder", ["auto", ResNetEncoder(width=0.05)], ids=["auto", "resnet"])
def test_same_random_state_on_photographs(photos, encoder):
    images, _ = photos
    models = [SimCLRTransformer(encoder, max_epochs=2, batch_size=8, random_state=5)] * 2
    first, second = (clone(model).fit(images) for model in models)
    assert_array_equal(first.transform(images), second.transform(images))


def test_other_random_state_gives_other_features(simclr, digits):
    images, _ = digits
    first, second = (simclr(random_state=seed).fit(images) for seed in (0, 1))
    assert not np.allclose(first.transform(images), second.transform(images), atol=1e-2)
    unseeded = [simclr(random_state=None, max_epochs=1).fit(images) for _ in range(2)]
    assert not np.allclose(*(model.transform(images) for model in unseeded), atol=1e-2)


def test_random_state_instance_is_drawn_from(simclr, digits):
    images, _ = digits
    state = np.random.RandomState(3)
    first, second = (simclr(random_state=state, max_epochs=1).fit(images) for _ in range(2))
    again = simclr(random_state=np.random.RandomState(3), max_epochs=1).fit(images)
    assert_array_equal(first.transform(images), again.transform(images))
    assert not np.allclose(first.transform(images), second.transform(images), atol=1e-2)


def test_global_generators_do_not_reach_the_result(simclr, digits):
    images, _ = digits
    features = []
    for seed in (1, 2):
        with seeded_process(seed):
            model = simclr(encoder=dropout_factory, augmentation=global_noise).fit(images)
        features.append(model.transform(images))
    assert_array_equal(*features)


@contextmanager
def seeded_process(seed):
    """Seed every global generator and put it back."""
    saved = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        yield
    finally:
        torch.set_rng_state(saved[0])
        np.random.set_state(saved[1])
        random.setstate(saved[2])


def settings():
    """Everything of the process that a fit might set and leave."""
    return {
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": [torch.is_autocast_enabled(device) for device in ("cpu", "cuda", "mps")],
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "matmul precision": torch.get_float32_matmul_precision(),
        "cudnn": [
            getattr(torch.backends.cudnn, name)
            for name in ("enabled", "benchmark", "deterministic", "allow_tf32")
        ],
        "mkldnn": torch.backends.mkldnn.enabled,
        "denormal": torch.tensor(1e-40).mul(1).item(),
        "scikit-learn": get_config(),
        "numpy errors": np.geterr(),
    }


SETTINGS = settings()  # before any fit


def process_state():
    """Everything of the process that a fit might leave changed."""
    numpy_state = np.random.get_state(legacy=False)
    return settings() | {
        "torch rng": torch.get_rng_state().tolist(),
        "numpy rng": (numpy_state["state"]["key"].tolist(), numpy_state["state"]["pos"]),
        "python rng": random.getstate(),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
    }


@random_parts
@pytest.mark.parametrize("method", ["fit", "partial_fit", "transform", "score"])
def test_process_is_left_as_it_was(simclr, digits, parts, method):
    images, _ = digits
    model = simclr(**parts, max_epochs=1)
    if method in ("transform", "score"):
        model.fit(images)
    torch.set_num_threads(2)
    try:
        before = process_state()
        getattr(model, method)(images)
        after = process_state()
    finally:
        torch.set_num_threads(1)
    assert after == before
    assert settings() == SETTINGS


def test_process_is_left_as_it_was_by_a_training_that_fails(simclr, digits):
    before = process_state()
    with pytest.raises(FloatingPointError):
        simclr(augmentation=lambda batch: batch * torch.rand(1) * torch.inf).fit(digits[0])
    assert process_state() == before


@random_parts
def test_fits_in_two_threads_equal_fits_in_a_row(simclr, digits, parts):
    images, _ = digits

    def features(seed):
        model = simclr(random_state=seed, max_epochs=6, **parts)
        return model.fit(images).transform(images)

    in_a_row = [features(seed) for seed in range(4)]
    with ThreadPoolExecutor(2) as pool:
        at_once = list(pool.map(features, range(4)))
    for one, other in zip(in_a_row, at_once, strict=True):
        assert_array_equal(one, other)


@pytest.fixture
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "parts",
    [{}, {"encoder": dropout_factory}, {"encoder": "mlp", "optimizer": "lars"}],
    ids=["convnet", "dropout", "lars"],
)
def test_same_features_under_another_default_dtype(simclr, digits, request, parts):
    images, _ = digits
    expected = simclr(**parts).fit(images)
    request.getfixturevalue("float64_by_default")
    model = simclr(**parts).fit(images)
    assert model.loss_curve_ == expected.loss_curve_
    assert_array_equal(model.transform(images), expected.transform(images))
    assert model.score(images) == expected.score(images)
    assert all(values.dtype != np.float64 for values in model._weights.values())
    assert torch.get_default_dtype() == torch.float64


@pytest.mark.parametrize(
    "context",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        lambda: torch.autocast("cpu", enabled=False),
        lambda: torch.device("meta"),  # stands for any other default device
    ],
    ids=["no_grad", "inference_mode", "autocast", "no autocast", "default device"],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_same_features_whatever_the_caller_has_switched_on(simclr, digits, context, precision):
    images, _ = digits
    expected = simclr(precision=precision).fit(images)
    with context():
        features, score = expected.transform(images), expected.score(images)
        model = simclr(precision=precision).fit(images)
    assert_array_equal(features, expected.transform(images))
    assert score == expected.score(images)
    assert model.loss_curve_ == expected.loss_curve_
    assert_array_equal(model.transform(images), features)


# ------------------------------------------------------------------------------------------------
# Training


def test_training_lowers_the_loss_and_tells_images_apart(simclr, digits):
    images, _ = digits
    params = {"encoder": ConvNetEncoder(width=16), "learning_rate": 0.005}
    model = simclr(**params, max_epochs=40).fit(images)
    assert model.loss_curve_[-1] < model.loss_curve_[0] - 0.5
    untrained = simclr(**params | {"learning_rate": 1e-9, "max_epochs": 1}).fit(images)
    assert model.score(images) > untrained.score(images) + 0.05


def test_fitted_attributes(simclr, digits):
    images, _ = digits
    model = simclr(max_epochs=3)
    assert model.fit(images) is model
    assert model.n_iter_ == len(model.loss_curve_) == 3
    assert model.loss_ == model.loss_curve_[-1]
    assert 0 < model.loss_ < 2 * np.log(31)
    assert model.n_features_in_ == 64
    assert model.image_shape_ == (8, 8, 1)
    assert model.encoder_name_ == "ConvNetEncoder(n_layers=2, width=4)"
    assert model.augmentation_name_ == "AffineAugmentation()"
    assert model.optimizer_name_ == "muon"
    assert model.temperature_ == 0.5
    assert model.learning_rate_ == default_learning_rate(model.optimizer_name_, 16)
    assert model.weight_decay_ == DEFAULT_WEIGHT_DECAY[model.optimizer_name_]
    # Statistics of the channel, with pixels brought from 0..16 to [0, 1].
    assert model.pixel_range_ == (0, 16)
    assert_allclose(model.mean_, [images.mean() / 16], rtol=1e-5)
    assert_allclose(model.scale_, [images.std() / 16], rtol=1e-5)


def test_fitted_attributes_of_vectors(simclr, vectors):
    model = simclr(encoder="mlp", optimizer="sgd", weight_decay=0.25, batch_size=20).fit(vectors)
    assert model.image_shape_ is None and model.pixel_range_ is None
    assert model.encoder_name_ == "MLPEncoder()"
    assert model.augmentation_name_ == "FeatureCorruption(rate=0.4)"
    assert model.temperature_ == 0.5
    assert model.optimizer_name_ == "sgd"
    assert model.learning_rate_ == default_learning_rate("sgd", 16)
    assert model.weight_decay_ == 0.25
    assert_allclose(model.mean_, vectors.mean(0), rtol=1e-5)
    assert_allclose(model.scale_, vectors.std(0), rtol=1e-5)


def test_auto_optimizer_of_vectors_is_adamw(simclr, vectors):
    model = simclr(encoder="mlp", batch_size=16).fit(vectors)
    assert (model.optimizer_name_, model.learning_rate_, model.weight_decay_) == (
        "adamw",
        DEFAULT_LEARNING_RATE["adamw"],
        DEFAULT_WEIGHT_DECAY["adamw"],
    )


@pytest.mark.parametrize(
    ("size", "channels", "name"),
    [(8, 1, "ConvNetEncoder"), (16, 3, "ConvNetEncoder"), (24, 3, "ResNetEncoder")],
)
def test_auto_encoder_depends_on_the_size_of_the_images(size, channels, name):
    images = np.random.default_rng(0).random((4, size, size, channels))
    model = SimCLRTransformer(max_epochs=1, batch_size=4, random_state=0).fit(images)
    assert model.encoder_name_.startswith(name)
    views = "AffineAugmentation()" if channels == 1 else "SimCLRAugmentation()"
    assert model.augmentation_name_ == views


def test_constant_feature_is_not_divided_by_zero(simclr, vectors):
    constant = vectors.copy()
    constant[:, 2] = 7
    model = simclr(encoder="mlp").fit(constant)
    assert model.scale_[2] == 1
    assert np.isfinite(model.transform(constant)).all()


def test_fit_ignores_y(simclr, digits):
    images, labels = digits
    assert joblib.hash(simclr().fit(images, labels)) == joblib.hash(simclr().fit(images))


def test_fit_does_not_change_x(simclr, vectors):
    images = np.random.default_rng(0).random((8, 8, 8)).astype(np.float32)
    rows = vectors.astype(np.float32)
    for X, params in ((images, {}), (rows, {"encoder": "mlp"})):
        before = X.copy()
        model = simclr(**params, max_epochs=1, batch_size=8).fit(X)
        model.transform(X)
        model.score(X)
        assert_array_equal(X, before)


def test_fit_transform_equals_fit_then_transform(simclr, digits):
    images, _ = digits
    assert_array_equal(simclr().fit_transform(images), simclr().fit(images).transform(images))


def test_second_fit_starts_anew(simclr, digits, photos):
    model = simclr().fit(photos[0])
    assert joblib.hash(model.fit(digits[0])) == joblib.hash(simclr().fit(digits[0]))


def linear_encoder():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8))


def test_warm_start_goes_on_from_the_present_weights(simclr, digits):
    images, _ = digits
    # Without batch normalisation and with hardly any learning rate, the features stay.
    params = {"encoder": linear_encoder, "projection_layers": 1, "precision": "float32"}
    untrained = simclr(**params, learning_rate=1e-12).fit(images).transform(images)
    model = simclr(**params, learning_rate=0.1, warm_start=True).fit(images)
    trained, curve = model.transform(images), model.loss_curve_
    assert not np.allclose(trained, untrained, atol=0.1)

    model.set_params(learning_rate=1e-12, max_epochs=3).fit(images)
    assert_allclose(model.transform(images), trained, atol=1e-5)
    assert model.n_iter_ == 5
    assert model.loss_curve_[:2] == curve and len(model.loss_curve_) == 5
    assert model.learning_rate_ == 1e-12


def test_warm_start_draws_new_views(simclr, digits):
    images, _ = digits
    params = {"encoder": linear_encoder, "projection_layers": 1, "learning_rate": 1e-12}
    model = simclr(**params, warm_start=True, max_epochs=1).fit(images)
    model.fit(images)
    assert model.loss_curve_[0] != model.loss_curve_[1]


def test_warm_start_of_an_unfitted_model_is_a_plain_fit(simclr, digits):
    images, _ = digits
    warm = simclr(warm_start=True).fit(images).transform(images)
    assert_array_equal(warm, simclr().fit(images).transform(images))


def test_warm_start_keeps_what_fit_has_learned_of_the_input(simclr, digits):
    images, _ = digits
    model = simclr(warm_start=True).fit(images)
    mean, pixel_range = model.mean_, model.pixel_range_
    model.fit(images / 2)
    assert_array_equal(model.mean_, mean)
    assert model.pixel_range_ == pixel_range


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd", "lars"])
def test_partial_fit_carries_everything_from_epoch_to_epoch(simclr, digits, monkeypatch, optimizer):
    images, _ = digits
    params = {"encoder": dropout_factory, "optimizer": optimizer, "learning_rate": 0.01}
    in_parts = simclr(**params)
    for epoch in range(1, 4):
        assert in_parts.partial_fit(images) is in_parts
        assert in_parts.n_iter_ == epoch

    # At a constant learning rate, three epochs of fit are the same.
    monkeypatch.setattr(transformer_module, "warmup_cosine", lambda *args: 1.0)
    at_once = simclr(**params, max_epochs=3).fit(images)
    assert in_parts.loss_curve_ == at_once.loss_curve_
    assert_array_equal(in_parts.transform(images), at_once.transform(images))


def test_partial_fit_goes_on_after_a_pickle(simclr, digits, tmp_path):
    images, _ = digits
    straight = simclr().partial_fit(images)
    joblib.dump(straight, tmp_path / "model")
    resumed = joblib.load(tmp_path / "model").partial_fit(images)
    straight.partial_fit(images)
    assert_array_equal(resumed.transform(images), straight.transform(images))


def test_partial_fit_goes_on_after_fit(simclr, digits):
    images, _ = digits
    model = simclr().fit(images)
    before = model.transform(images)
    model.partial_fit(images[:32])
    assert model.n_iter_ == 3
    assert not np.array_equal(model.transform(images), before)


def test_partial_fit_with_another_optimizer(simclr, digits):
    images, _ = digits
    model = simclr(optimizer="adamw").partial_fit(images)
    model.set_params(optimizer="sgd").partial_fit(images)
    assert (model.n_iter_, model.optimizer_name_) == (2, "sgd")


def test_fit_after_partial_fit_starts_anew(simclr, digits):
    images, _ = digits
    model = simclr().partial_fit(images[:32]).partial_fit(images)
    assert joblib.hash(model.fit(images)) == joblib.hash(simclr().fit(images))


class Clock:
    """A clock that views move on, by so many seconds at each call, of which a batch has two."""

    def __init__(self, seconds):
        self.seconds, self.now = seconds, 1000.0

    def __call__(self):
        return self.now

    def views(self, batch):
        self.now += self.seconds
        return batch + 0.1 * torch.randn_like(batch)


@pytest.fixture
def timed(simclr, monkeypatch):
    """Return a function that makes a verbose transformer whose steps take so many seconds."""

    def make(seconds, **params):
        clock = Clock(seconds / 2)
        monkeypatch.setattr(_progress, "perf_counter", clock)
        return simclr(augmentation=clock.views, verbose=1, precision="float32", **params)

    return make


def test_nothing_is_printed_unless_asked(simclr, digits, capsys):
    simclr(max_epochs=3).fit(digits[0]).partial_fit(digits[0]).transform(digits[0])
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_verbose_prints_what_is_trained_and_a_line_an_epoch(timed, digits, capsys):
    model = timed(0.25, max_epochs=3, device="cpu").fit(digits[0])  # 4 batches of 16 an epoch
    losses = [f"{loss:.4f}" for loss in model.loss_curve_]
    assert capsys.readouterr().out.splitlines() == [
        "SimCLRTransformer on cpu in float32: ConvNetEncoder(n_layers=2, width=4) on 64 images of "
        "shape (8, 8, 1), 3 epochs of 4 batches of 16",
        f"epoch 1/3  loss {losses[0]}  64 images/s  2 s left",
        f"epoch 2/3  loss {losses[1]}  64 images/s  1 s left",
        f"epoch 3/3  loss {losses[2]}  64 images/s  3 s in all",
    ]


def test_verbose_tells_early_how_long_a_long_training_may_take(timed, digits, vectors, capsys):
    timed(3.0, max_epochs=100).fit(digits[0][:33])  # batches of 11
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 101  # with 3 steps of 3 s an epoch, its own line is as early
    timed(3.0, max_epochs=100).fit(digits[0])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 102 and lines[1] == "5.3 images/s: about 20 min for 100 epochs"
    assert lines[2].endswith("5.3 images/s  20 min left")
    timed(3.0, encoder=MLPEncoder(4), max_epochs=2).fit(np.repeat(vectors, 2, axis=0))
    lines = capsys.readouterr().out.splitlines()
    assert "96 vectors of shape (6,), 2 epochs of 6 batches of 16" in lines[0]
    assert lines[1] == "5.3 vectors/s: about 36 s for 2 epochs"


@pytest.mark.parametrize("verbose, n_waits", [(0, 0), (1, 1)])
def test_the_estimate_waits_for_the_device_and_nothing_else_does(
    timed, digits, monkeypatch, verbose, n_waits
):
    waits = []
    monkeypatch.setattr(_training, "synchronize", waits.append)
    timed(3.0, max_epochs=4).set_params(verbose=verbose).fit(digits[0])
    assert len(waits) == n_waits


def test_verbose_counts_on_with_warm_start_and_partial_fit(timed, digits, capsys):
    model = timed(0.5, warm_start=True).fit(digits[0])
    capsys.readouterr()
    model.fit(digits[0])
    lines = capsys.readouterr().out.splitlines()
    assert "2 epochs of 4 batches" in lines[0]
    assert [line.split()[1] for line in lines[1:]] == ["3/4", "4/4"]
    assert lines[1].endswith("  2 s left") and lines[2].endswith("  4 s in all")
    model.partial_fit(digits[0])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("epoch 5/5") and line.endswith("  32 images/s  2 s in all")


def test_the_time_left_has_in_it_what_callbacks_take_and_the_rate_has_not(timed, digits, capsys):
    model = timed(0.25, max_epochs=3)

    class Slow:
        def setup(self, estimator, context): ...

        def teardown(self, estimator, context): ...

        def on_fit_task_begin(self, estimator, context): ...

        def on_fit_task_end(self, estimator, context):
            model.augmentation.__self__.now += 10

    model.set_callbacks(Slow()).fit(digits[0])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ", 2)[2] for line in lines[1:]] == [
        "64 images/s  2 s left",
        "64 images/s  6 s left",
        "64 images/s  23 s in all",
    ]


# ------------------------------------------------------------------------------------------------
# transform and score


def test_features_are_float32_and_finite(simclr, digits):
    images, _ = digits
    for precision in ("float32", "bfloat16"):
        features = simclr(precision=precision).fit(images).transform(images)
        assert features.shape == (64, 4) and features.dtype == np.float32
        assert np.isfinite(features).all() and features.std() > 0
        assert type(features) is np.ndarray


def test_features_do_not_depend_on_their_company(simclr):
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8), dtype=np.uint8)
    for parts in RANDOM_PARTS.values():
        model = simclr(**parts, max_epochs=1, batch_size=100).fit(images)
        features = model.transform(images)  # in more than one block
        assert features.shape[0] == 300
        order = np.random.default_rng(1).permutation(300)
        assert_allclose(model.transform(images[order]), features[order], atol=1e-5)
        alone = np.concatenate([model.transform(images[i : i + 1]) for i in range(250, 260)])
        assert_allclose(alone, features[250:260], atol=1e-5)


@random_parts
def test_evaluation_changes_nothing(simclr, digits, photos, parts):
    images, _ = digits
    model = simclr(**parts).fit(images)
    before, features = joblib.hash(model), model.transform(images)
    model.transform(images[:8] * 0.5)  # other statistics than in fit
    model.score(images[:8] * 0.5)
    assert joblib.hash(model) == before
    assert_array_equal(model.transform(images), features)


def test_score_is_the_share_of_pairs_that_are_found(simclr, digits):
    images, _ = digits
    # Without noise the two views of an image are one, and every pair is found.
    params = {"encoder": linear_encoder, "projection_layers": 1, "max_epochs": 1}
    assert simclr(**params, augmentation=lambda batch: batch).fit(images).score(images) == 1
    # With nothing but noise, chance is one in 127.
    assert simclr(**params, augmentation=torch.randn_like).fit(images).score(images) < 0.1


class Mirrored:
    """Views that are in turn the image and its mirror image."""

    def __init__(self):
        self.n_views = 0

    def __call__(self, batch):
        self.n_views += 1
        return batch if self.n_views % 2 else batch.flip(-1)


@pytest.mark.parametrize("projection_layers", [0, 1])
def test_score_agrees_with_the_projections_of_the_views(simclr, digits, projection_layers):
    images, _ = digits
    params = {"augmentation": Mirrored(), "projection_layers": projection_layers}
    params |= {"projection_dim": 3, "learning_rate": 0.02, "max_epochs": 5}
    model = simclr(encoder=ConvNetEncoder(width=16), **params).fit(images)
    h = np.concatenate([model.transform(images), model.transform(images[:, :, ::-1])])
    z = h.astype(float) @ model._weights["head.0.weight"].T if projection_layers else h
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    similarity = z @ z.T
    np.fill_diagonal(similarity, -np.inf)
    expected = (similarity.argmax(1) == np.roll(np.arange(128), 64)).mean()
    assert 0.1 < expected < 0.9
    assert model.score(images) == pytest.approx(expected, abs=2.5 / 128)  # near ties


def test_score_is_repeatable_and_keeps_every_row(simclr):
    images = np.random.default_rng(0).random((257, 8, 8))
    model = simclr(batch_size=64, max_epochs=1).fit(images)
    score = model.score(images)
    assert score == model.score(images) and 0 < score <= 1
    assert round(score * 2 * 257, 6) == int(round(score * 2 * 257, 6))


# ------------------------------------------------------------------------------------------------
# Every form of X


def as_frame(rows):
    return pd.DataFrame(rows, columns=[f"pixel{i}" for i in range(rows.shape[1])])


def as_memmap(array, folder):
    path = folder / "X.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def every_second(array):
    wide = np.zeros((2 * len(array), *array.shape[1:]), array.dtype)
    wide[::2] = array
    return wide[::2]


PHOTO_FORMS = {
    "float32": lambda X, _: (X.astype(np.float32), {}),
    "float64": lambda X, _: (X.astype(np.float64), {}),
    "float16": lambda X, _: (X.astype(np.float16), {}),
    "int64": lambda X, _: (X.astype(np.int64), {}),
    "object": lambda X, _: (X.astype(object), {}),
    "not an array": lambda X, _: (NotAnArray(X), {}),
    "rows, not an array": lambda X, _: (
        NotAnArray(X.reshape(len(X), -1)),
        {"image_shape": (16, 16, 3)},
    ),
    "nested lists": lambda X, _: (X.tolist(), {}),
    "list of images": lambda X, _: (list(X), {}),
    "every second row": lambda X, _: (every_second(X), {}),
    "mirrored twice": lambda X, _: (X[:, :, ::-1].copy()[:, :, ::-1], {}),
    "Fortran order": lambda X, _: (np.asfortranarray(X), {}),
    "memmap": lambda X, folder: (as_memmap(X, folder), {}),
    "float memmap": lambda X, folder: (as_memmap(X.astype(np.float32), folder), {}),
    "uint8 tensor": lambda X, _: (torch.tensor(X), {}),
    "bfloat16 tensor": lambda X, _: (torch.tensor(X).bfloat16(), {}),
    "tensor with gradient": lambda X, _: (torch.tensor(X).float().requires_grad_(), {}),
    "channels first": lambda X, _: (X.transpose(0, 3, 1, 2), {"channel_axis": 1}),
    "channels first, copied": lambda X, _: (X.transpose(0, 3, 1, 2).copy(), {"channel_axis": 1}),
    "rows": lambda X, _: (X.reshape(len(X), -1), {"image_shape": (16, 16, 3)}),
    "rows, channels first": lambda X, _: (
        X.transpose(0, 3, 1, 2).reshape(len(X), -1),
        {"image_shape": (16, 16, 3), "channel_axis": 1},
    ),
    "frame": lambda X, _: (as_frame(X.reshape(len(X), -1)), {"image_shape": [16, 16, 3]}),
    "memmap of rows": lambda X, folder: (
        as_memmap(X.reshape(len(X), -1), folder),
        {"image_shape": (16, 16, 3)},
    ),
}


@pytest.mark.parametrize("form", PHOTO_FORMS.values(), ids=PHOTO_FORMS)
def test_every_form_of_the_same_photographs_gives_the_same_features(simclr, photos, form, tmp_path):
    images, _ = photos
    expected = simclr(precision="float32").fit(images)
    X, params = form(images, tmp_path)
    model = simclr(**params, precision="float32").fit(X)
    assert model.image_shape_ == (16, 16, 3) and model.n_features_in_ == 768
    assert model.pixel_range_ == (0, 255)
    assert_allclose(model.mean_, expected.mean_, rtol=1e-5)
    if "channel_axis" in params:  # other strides, other kernels
        assert_allclose(model.transform(X), expected.transform(images), atol=1e-3)
    else:
        assert_array_equal(model.transform(X), expected.transform(images))
        assert model.loss_curve_ == expected.loss_curve_


DIGIT_FORMS = {
    "(n, h, w, 1)": lambda X: (X[..., None], {}),
    "(n, 1, h, w)": lambda X: (X[:, None], {"channel_axis": 1}),
    "(n, h, w), channels first": lambda X: (X, {"channel_axis": 1}),
    "rows": lambda X: (X.reshape(len(X), -1), {"image_shape": (8, 8)}),
    "rows with channel": lambda X: (X.reshape(len(X), -1), {"image_shape": (8, 8, 1)}),
    "frame": lambda X: (as_frame(X.reshape(len(X), -1)), {"image_shape": (8, 8)}),
}


@pytest.mark.parametrize("form", DIGIT_FORMS.values(), ids=DIGIT_FORMS)
def test_every_form_of_the_same_digits_gives_the_same_features(simclr, digits, form):
    images, _ = digits
    X, params = form(images)
    features = simclr(**params, precision="float32").fit_transform(X)
    expected = simclr(precision="float32").fit_transform(images)
    assert_allclose(features, expected, rtol=1e-3, atol=1e-3)


class NotAnArray:
    """Data that can only be turned into an array."""

    def __init__(self, array):
        self.array = array

    def __len__(self):
        return len(self.array)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype)


VECTOR_FORMS = {
    "frame": as_frame,
    "list": lambda X: X.tolist(),
    "tensor": torch.tensor,
    "float32": lambda X: X.astype(np.float32),
    "object": lambda X: X.astype(object),
    "not an array": NotAnArray,
    "every second row": every_second,
    "Fortran order": np.asfortranarray,
}


@pytest.mark.parametrize("form", VECTOR_FORMS.values(), ids=VECTOR_FORMS)
def test_every_form_of_the_same_vectors_gives_the_same_features(simclr, vectors, form):
    params = {"encoder": MLPEncoder(hidden_dim=8, n_layers=2)}
    X = form(vectors)
    expected = simclr(**params).fit_transform(vectors)
    assert_array_equal(simclr(**params).fit_transform(X), expected)


def test_pixels_in_a_unit_range_and_bytes_are_the_same_images(simclr, photos):
    images, _ = photos
    model = simclr().fit(images / 255)
    assert model.pixel_range_ == (0, 1)
    assert_allclose(model.transform(images), model.transform(images / 255), atol=1e-5)
    # Floats in the range of bytes are read as the model was fitted.
    model = simclr().fit(images)
    assert_array_equal(model.transform(images.astype(float)), model.transform(images))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
def test_values_outside_of_bytes_are_not_cut_to_bytes(simclr, vectors, dtype):
    wide = (1000 * vectors - 2500).astype(dtype)
    model = simclr(encoder="mlp").fit(wide)
    assert_allclose(model.mean_, wide.mean(0), rtol=1e-4)
    assert not np.array_equal(model.transform(wide), model.transform(wide % 256))
    halves = np.random.default_rng(0).random((16, 8, 8))
    assert simclr().fit(halves).mean_ == pytest.approx(halves.mean(), rel=1e-4)


class OnlyOfSize(nn.Module):
    """Encoder that accepts images of one size only."""

    def __init__(self, side):
        super().__init__()
        self.side = side
        self.body = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        if x.shape[-2:] != (self.side, self.side):
            raise RuntimeError(f"got {tuple(x.shape)}")
        return self.body(x).mean((2, 3))


@pytest.mark.parametrize(
    "augmentation",
    ["auto", AffineAugmentation(), global_noise, v2.RandomHorizontalFlip(), v2.Resize(12)],
    ids=["resizing", "not resizing", "callable", "torchvision's", "one with a size"],
)
def test_image_size_is_that_of_the_views_and_of_transform(simclr, photos, augmentation):
    images, _ = photos
    model = simclr(encoder=OnlyOfSize(12), augmentation=augmentation, image_size=12)
    features = model.fit(images).transform(images)
    assert features.shape == (32, 4)
    assert 0 <= model.score(images) <= 1
    model.partial_fit(images)
    model.set_params(image_size=None)  # only fit looks at it
    assert model.transform(images).shape == (32, 4)


def test_images_that_are_not_square(simclr):
    images = np.random.default_rng(0).random((16, 6, 10, 3))
    model = simclr().fit(images)
    assert model.image_shape_ == (6, 10, 3)
    assert model.transform(images).shape == (16, 4)
    assert simclr(image_size=8).fit_transform(images).shape == (16, 4)


def test_many_channels(simclr):
    images = np.random.default_rng(0).random((16, 8, 8, 6))
    assert simclr().fit(images).mean_.shape == (6,)


# ------------------------------------------------------------------------------------------------
# Every kind of encoder and augmentation

ENCODERS = {
    "auto": "auto",
    "mlp": "mlp",
    "resnet18": "resnet18",
    "torchvision name": "mobilenet_v3_small",
    "object": ResNetEncoder(width=0.05),
    "module": nn.Sequential(nn.Flatten(), nn.Linear(768, 4)),
    "factory": lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 4)),
}


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_every_kind_of_encoder(photos, encoder):
    images = photos[0][:8]
    model = SimCLRTransformer(encoder, max_epochs=1, batch_size=8, random_state=0).fit(images)
    features = model.transform(images)
    assert features.ndim == 2 and len(features) == 8
    assert len(model.get_feature_names_out()) == features.shape[1]
    assert np.isfinite(features).all()
    assert_allclose(model.transform(images[:3]), features[:3], atol=1e-4)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_the_users_module_is_never_changed(simclr, digits, method):
    images, _ = digits
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.1)
    ).double()
    module[0].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    model = simclr(encoder=module, learning_rate=0.1)
    getattr(model, method)(images)
    features = model.transform(images)
    model.score(images)
    assert model.encoder is module
    assert module.training and module[1].training
    assert [p.requires_grad for p in module.parameters()] == [True, False, True, True]
    assert all(p.grad is None for p in module.parameters())
    for name, value in module.state_dict().items():
        assert value.dtype == before[name].dtype
        assert_array_equal(value, before[name])

    # Nor does what becomes of the module afterwards reach the model.
    with torch.no_grad():
        for param in module.parameters():
            param.zero_()
    assert_array_equal(model.transform(images), features)
    module.append(nn.ReLU())
    module[1] = nn.Identity()
    assert_array_equal(model.transform(images), features)


def test_training_starts_from_the_weights_of_the_users_module(simclr, digits):
    images, _ = digits
    params = {"learning_rate": 1e-12, "projection_layers": 1, "precision": "float32"}
    for value in (0.5, -2.0):
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        nn.init.constant_(module[1].weight, value)
        nn.init.zeros_(module[1].bias)
        model = simclr(encoder=module, **params).fit(images)
        flat = (images / 16 - model.mean_) / model.scale_
        expected = value * flat.reshape(64, -1).sum(1)
        assert_allclose(model.transform(images)[:, 0], expected, rtol=1e-4, atol=1e-3)


def test_frozen_layers_stay_frozen(simclr, digits):
    images, _ = digits
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Linear(4, 4))
    module[1].requires_grad_(False)
    model = simclr(encoder=module, optimizer="sgd", learning_rate=0.5).fit(images)
    weights = {name: value for name, value in model._weights.items() if name.endswith("weight")}
    assert_array_equal(weights["encoder.1.weight"], module[1].weight)
    assert not np.array_equal(weights["encoder.2.weight"], module[2].weight.detach())


def test_module_with_a_tensor_without_elements(simclr, digits):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    module.register_buffer("empty", torch.zeros(0))
    assert np.isfinite(simclr(encoder=module).fit(digits[0]).loss_)


def test_encoder_and_augmentation_objects_are_copied(simclr, digits):
    images, _ = digits
    encoder, augmentation = ConvNetEncoder(width=4), AffineAugmentation()
    model = simclr(encoder=encoder, augmentation=augmentation).fit(images)
    features, score = model.transform(images), model.score(images)
    encoder.set_params(width=8)
    augmentation.set_params(noise=5.0, degrees=180)
    assert_array_equal(model.transform(images), features)
    assert model.score(images) == score


@pytest.mark.parametrize(
    "augmentation",
    ["auto", "simclr", SimCLRAugmentation(crop_scale=(0.5, 1)), AffineAugmentation(), global_noise],
    ids=["auto", "simclr", "SimCLRAugmentation", "AffineAugmentation", "callable"],
)
def test_every_kind_of_augmentation_of_images(simclr, photos, augmentation):
    images, _ = photos
    model = simclr(augmentation=augmentation).fit(images)
    assert np.isfinite(model.transform(images)).all()


@pytest.mark.parametrize("augmentation", ["auto", "scarf", FeatureCorruption(0.3), global_noise])
def test_every_kind_of_augmentation_of_vectors(simclr, vectors, augmentation):
    model = simclr(encoder="mlp", augmentation=augmentation).fit(vectors)
    assert np.isfinite(model.transform(vectors)).all()


@pytest.mark.parametrize("projection_layers", [0, 1, 2, 3])
@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd", "lars"])
def test_every_head_and_optimizer(simclr, digits, projection_layers, optimizer):
    images, _ = digits
    model = simclr(projection_layers=projection_layers, optimizer=optimizer).fit(images)
    assert np.isfinite(model.loss_curve_).all()
    assert model.transform(images).shape == (64, 4)  # h, whatever the head


def middle_layer(model, h):
    """Output of the first of three layers of the projection head, worked out with NumPy."""
    weights = model._weights
    x = h.astype(float) @ weights["head.0.weight"].T.astype(float)
    x = (x - weights["head.1.running_mean"]) / np.sqrt(weights["head.1.running_var"] + 1e-5)
    return np.maximum(x * weights["head.1.weight"] + weights["head.1.bias"], 0)


def test_output_layer_is_that_of_transform(simclr, digits):
    images, _ = digits
    model = simclr(projection_layers=3, projection_dim=7).fit(images)
    h = model.transform(images)
    middle = model.set_params(output_layer=1).transform(images)
    assert middle.shape == (64, 4) and len(model.get_feature_names_out()) == 4
    assert_allclose(middle, middle_layer(model, h), atol=1e-5)
    assert model.set_params(output_layer=2).transform(images).shape == (64, 4)
    z = model.set_params(output_layer=3).transform(images)
    assert z.shape == (64, 7)
    names = [f"simclrtransformer{i}" for i in range(7)]
    assert model.get_feature_names_out().tolist() == names
    assert list(model.set_output(transform="pandas").transform(images).columns) == names
    asked_before = simclr(projection_layers=3, projection_dim=7, output_layer=3).fit(images)
    assert_array_equal(asked_before.transform(images), z)


@pytest.mark.parametrize("output_layer", [0, 1, 2])
def test_features_of_views_are_of_the_layer_that_transform_returns(simclr, digits, output_layer):
    images, _ = digits
    model = simclr(augmentation=Mirrored(), output_layer=output_layer).fit(images)
    first, second = model._view_features(images)
    assert_allclose(first, model.transform(images), atol=1e-5)
    assert_allclose(second, model.transform(images[:, :, ::-1]), atol=1e-5)


@pytest.mark.parametrize("output_layer", [2, -1, "1", 1.0, None])
def test_what_is_no_layer_of_the_head_is_refused_after_fit_too(simclr, digits, output_layer):
    images, _ = digits
    model = simclr(projection_layers=1).fit(images).set_params(output_layer=output_layer)
    message = f"output_layer={output_layer!r} .*projection_layers=1"
    with pytest.raises(ValueError, match=message):
        model.transform(images)
    with pytest.raises(ValueError, match=message):
        model.get_feature_names_out()


LOSS_NAMES = ["nt_xent", "nt_logistic", "margin_triplet", "dcl", "supcon"]


@pytest.mark.parametrize("loss", LOSS_NAMES)
def test_every_loss_by_name(simclr, digits, loss):
    images, labels = digits
    model = simclr(loss=loss, max_epochs=20, learning_rate=0.01).fit(images, labels)
    assert np.isfinite(model.transform(images)).all()
    if loss in ("nt_xent", "dcl", "supcon"):  # semi-hard negatives follow the positive
        assert model.loss_curve_[-1] < model.loss_curve_[0]


def test_losses_train_differently(simclr, digits):
    images, labels = digits
    features = [simclr(loss=loss).fit(images, labels).transform(images) for loss in LOSS_NAMES]
    for i, j in itertools.combinations(range(len(features)), 2):
        assert not np.allclose(features[i], features[j])


@pytest.mark.parametrize("loss", [dcl, partial(dcl, temperature=0.5), lambda a, b: dcl(a, b)])
def test_a_callable_loss_equals_the_named_one(simclr, digits, loss):
    images, _ = digits
    expected = simclr(loss="dcl").fit(images).transform(images)
    assert_array_equal(simclr(loss=loss).fit(images).transform(images), expected)


@pytest.mark.parametrize(("loss", "temperature"), [("nt_xent", 0.2), ("dcl", 0.5), (nt_xent, 0.5)])
def test_the_temperature_for_photographs(simclr, photos, loss, temperature):
    images, _ = photos
    model = simclr(loss=loss).fit(images)
    assert model.temperature_ == temperature
    told = simclr(loss=loss, temperature=temperature).fit(images)
    assert_array_equal(model.transform(images), told.transform(images))
    other = simclr(loss=loss, temperature=0.3).fit(images)
    assert other.temperature_ == 0.3 and other.loss_ != told.loss_


def test_a_callable_loss_gets_the_temperature_if_it_takes_it(simclr, digits):
    images, _ = digits
    expected = simclr(loss="nt_xent", temperature=0.1).fit(images).transform(images)
    assert_array_equal(
        simclr(loss=nt_xent, temperature=0.1).fit(images).transform(images), expected
    )


def test_supcon_without_labels_is_nt_xent(simclr, digits):
    images, _ = digits
    model = simclr(loss="supcon").fit(images, np.full(64, -1))
    assert model.loss_curve_ == pytest.approx(simclr().fit(images).loss_curve_, rel=1e-4)


def test_supcon_reads_classes_by_whatever_name(simclr, digits):
    images, labels = digits
    labels = np.where(np.arange(64) % 3 == 0, -1, labels)
    expected = simclr(loss="supcon").fit(images, labels).transform(images)
    texts = np.where(labels == -1, "-1", np.char.add("class ", labels.astype(str)))
    for y in (labels.tolist(), pd.Series(labels), texts):
        assert_array_equal(simclr(loss="supcon").fit(images, y).transform(images), expected)
    shuffled = np.random.default_rng(0).permutation(labels)
    assert not np.allclose(simclr(loss="supcon").fit(images, shuffled).transform(images), expected)


def test_supcon_draws_images_of_a_class_together(simclr, photos):
    images, labels = photos
    params = {"augmentation": "simclr", "max_epochs": 30, "learning_rate": 0.01}
    h = simclr(loss="supcon", **params).fit(images, labels).transform(images).astype(float)
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    same = labels[:, None] == labels
    assert (h @ h.T)[same].mean() > (h @ h.T)[~same].mean() + 0.1


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_supcon_needs_labels(simclr, digits, method):
    images, _ = digits
    model = simclr(loss="supcon")
    with pytest.raises(ValueError, match=r"requires y to be passed.*loss='supcon'.*-1"):
        getattr(model, method)(images)
    with pytest.raises(ValueError, match="y holds 3 labels, but X has 64 rows"):
        getattr(model, method)(images, [0, 1, 2])
    assert not hasattr(model, "loss_curve_")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_is_that_of_training(simclr, digits, precision):
    images, _ = digits
    seen = []

    class Spy(nn.Linear):
        def forward(self, x):
            h = super().forward(x)
            seen.append((self.training, h.dtype))
            return h

    def encoder():
        return nn.Sequential(nn.Flatten(), Spy(64, 4))

    model = simclr(encoder=encoder, precision=precision).fit(images)
    assert {dtype for training, dtype in seen if training} == {getattr(torch, precision)}
    seen.clear()
    model.transform(images)
    assert seen == [(False, torch.float32)]


@pytest.mark.parametrize(
    "change",
    [
        {"projection_dim": 7},
        {"projection_layers": 1},
        {"image_size": 12},
        {"encoder": ConvNetEncoder(5, n_layers=2)},
        {"encoder": "mlp"},
        {"encoder": nn.Sequential(nn.Flatten(), nn.Linear(64, 4))},
    ],
)
def test_training_does_not_go_on_with_another_network(simclr, digits, change):
    images, _ = digits
    model = simclr(warm_start=True).fit(images)
    features = model.transform(images)
    model.set_params(**change)
    for method in (model.fit, model.partial_fit):
        with pytest.raises(ValueError, match=f"{next(iter(change))}=.*warm_start=False"):
            method(images)
    assert_array_equal(model.transform(images), features)


def flat_encoder(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width))


@pytest.mark.parametrize(
    ("now", "goes_on"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), True),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), True),  # of a shape that is not yet known
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), False),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh()), False),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), True),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), False),
        (partial(flat_encoder, 4), True),
        (partial(flat_encoder, 5), False),
        (ConvNetEncoder(4), False),
    ],
)
@pytest.mark.parametrize(
    "fitted",
    [flat_encoder(4), lambda: flat_encoder(4), partial(flat_encoder, 4)],
    ids=["module", "lambda", "partial"],
)
def test_training_goes_on_with_a_module_of_the_same_kind_only(simclr, digits, fitted, now, goes_on):
    images, _ = digits
    model = simclr(encoder=fitted).fit(images)
    state = torch.get_rng_state()
    model.set_params(encoder=now)
    refused = pytest.raises(ValueError, match=r"encoder=.* differs from the 'Sequential of 260")
    with contextlib.nullcontext() if goes_on else refused:
        model.partial_fit(images)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("encoder", ["mlp", ConvNetEncoder(width=4, n_layers=2)])
def test_how_estimators_are_printed_changes_nothing(simclr, digits, encoder):
    model = simclr(encoder=encoder).fit(digits[0])
    with config_context(print_changed_only=False):
        model.partial_fit(digits[0])
        again = simclr(encoder=encoder).fit(digits[0])
    assert model.n_iter_ == 3 and again.encoder_name_ == model.encoder_name_


def test_addresses_do_not_make_another_module(simclr, digits):
    kept = []

    class Named(nn.Sequential):
        def extra_repr(self):
            kept.append(object())  # at another address each time
            return f"made by {kept[-1]}"

    model = simclr(encoder=Named(nn.Flatten(), nn.Linear(64, 4))).fit(digits[0])
    assert "at 0x" in repr(model.encoder)
    assert model.partial_fit(digits[0]).n_iter_ == 3


def test_a_module_with_a_method_build_is_a_module(simclr, digits):
    class Module(nn.Sequential):
        def build(self):
            pass

    model = simclr(encoder=Module(nn.Flatten(), nn.Linear(64, 4))).fit(digits[0])
    assert model.partial_fit(digits[0]).n_iter_ == 3


@pytest.mark.parametrize("kind", [np.uint8, np.uint64, np.int8])
def test_integers_of_numpy_do_not_overflow(simclr, digits, kind):
    images, _ = digits  # 32 batches an epoch
    expected = simclr(batch_size=2, max_epochs=10, learning_rate=0.01).fit(images)
    model = simclr(batch_size=kind(2), max_epochs=kind(10), learning_rate=0.01).fit(images)
    assert model.loss_curve_ == expected.loss_curve_


# The network between two calls


@pytest.fixture
def networks(monkeypatch):
    """The networks that `transform` has made."""
    made, restored = [], _run.restored_network

    def restore(*args):
        made.append(weakref.ref(network := restored(*args)))
        return network

    monkeypatch.setattr(_run, "restored_network", restore)
    return made


def other_weights(model, images):
    model.partial_fit(images)


def another_encoder(model, images):
    model.set_params(encoder=ConvNetEncoder(width=4, n_layers=3)).fit(images)


def another_head(model, images):
    model.set_params(projection_layers=1).fit(images)


def another_mean(model, images):
    model.mean_ += 0.1


def nothing(model, images):
    pass


@pytest.mark.parametrize(
    "change, n_made",
    [(nothing, 1), (other_weights, 2), (another_encoder, 2), (another_head, 2), (another_mean, 2)],
)
def test_the_network_is_made_again_only_if_the_model_has_changed(
    simclr, digits, networks, change, n_made
):
    images, _ = digits
    model = simclr().fit(images)
    attributes = set(vars(model))
    model.transform(images)
    change(model, images)
    found = model.transform(images)
    assert len(networks) == n_made
    assert_array_equal(found, pickle.loads(pickle.dumps(model)).transform(images))
    assert set(vars(model)) == attributes


def test_models_that_are_equal_and_have_no_hash(simclr, digits):
    class Comparable(SimCLRTransformer):
        def __eq__(self, other):
            return isinstance(other, Comparable)

    images, _ = digits
    for seed in (0, 1):
        model = Comparable(max_epochs=1, batch_size=32, random_state=seed).fit(images)
        before = copy.deepcopy(model)
        assert_array_equal(model.transform(images), before.transform(images))
        model.partial_fit(images)
        assert (model.transform(images) != before.transform(images)).any()


def test_training_during_a_call_leaves_no_old_network(simclr, digits, monkeypatch):
    images, _ = digits
    model, load = simclr().fit(images), _run.load_weights
    trained = clone(model).set_params(random_state=1).fit(images)

    def load_slowly(network, weights):
        load(network, weights)
        model._weights = trained._weights  # as a partial_fit in another thread would

    with monkeypatch.context() as patch:
        patch.setattr(_run, "load_weights", load_slowly)
        model.transform(images)
    expected = pickle.loads(pickle.dumps(model)).transform(images)
    assert_array_equal(model.transform(images), expected)


def test_the_network_goes_with_the_model(simclr, digits, networks):
    images, _ = digits
    model = simclr().fit(images)
    model.transform(images)
    assert networks[0]() is not None
    del model
    gc.collect()
    assert networks[0]() is None


def test_calls_at_the_same_time_do_not_disturb_each_other(simclr, digits):
    images, _ = digits
    model = simclr().fit(images)
    expected = model.transform(images)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(model.transform, [images] * 40):
            assert_array_equal(found, expected)


def test_a_module_that_changes_when_it_is_used_is_made_anew(simclr, digits):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.n_calls = nn.Linear(64, 4), 0

        def forward(self, x):
            self.n_calls += 1
            return self.linear(x.flatten(1)) * self.n_calls

    model = simclr(encoder=Counting()).fit(digits[0])
    assert_array_equal(model.transform(digits[0]), model.transform(digits[0]))
