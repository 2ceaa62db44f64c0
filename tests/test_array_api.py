"""Torch tensors in and out under scikit-learn's array API dispatch.

SciPy decides when it is imported whether it takes part, so the tests run in a process of their own.
"""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_simclr import SimCLRClassifier
from sklearn_simclr.encoders import MLPEncoder
from sklearn_simclr.metrics import alignment_scorer, knn_scorer, rankme_scorer

if os.environ.get("SCIPY_ARRAY_API") == "1":
    within = pytest.mark.filterwarnings("default")
else:
    within = pytest.mark.skip("runs in the process that test_in_a_process_of_its_own starts")


@pytest.mark.skipif(os.environ.get("SCIPY_ARRAY_API") == "1", reason="is that process")
def test_in_a_process_of_its_own():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command,
        env={**os.environ, "SCIPY_ARRAY_API": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    n_passed = int(done.stdout.rsplit(" passed", 1)[0].split()[-1])
    assert n_passed > 30 and "skipped" in done.stdout  # all but this one


@pytest.fixture
def dispatch():
    with config_context(array_api_dispatch=True):
        yield


def is_ordinary(features):
    """Whether it is a tensor that can take part in anything."""
    return isinstance(features, torch.Tensor) and not (
        features.is_inference() or features.requires_grad
    )


# ------------------------------------------------------------------------------------------------
# The transformer


@within
@pytest.mark.parametrize(
    ("source", "params"),
    [
        ("digits", {}),
        ("digits", {"image_size": 11, "output_layer": 2}),
        ("photos", {}),
        ("vectors", {"encoder": MLPEncoder(hidden_dim=8)}),
    ],
)
def test_tensors_come_out_as_they_go_in(simclr, request, source, params):
    X = request.getfixturevalue(source)
    X = X[0] if isinstance(X, tuple) else X
    tensor = torch.tensor(X)
    model = simclr(**params).fit(X)
    features = model.transform(X)
    plain = model.transform(tensor)
    assert isinstance(plain, np.ndarray)
    with config_context(array_api_dispatch=True):
        found = model.transform(tensor)
        assert isinstance(model.transform(X), np.ndarray)
        assert isinstance(model.transform(X.tolist()), np.ndarray)
        own = simclr(**params)
        fitted_on_tensors = own.fit_transform(tensor)
    assert is_ordinary(found) and found.dtype == torch.float32
    assert_array_equal(found.numpy(), features)
    assert_array_equal(plain, features)
    assert is_ordinary(fitted_on_tensors)
    assert_allclose(fitted_on_tensors.numpy(), features, rtol=1e-4, atol=1e-5)
    assert isinstance(own.mean_, np.ndarray) and own.mean_.dtype == np.float32
    assert_allclose(own.mean_, model.mean_, rtol=1e-6)
    assert_allclose(own.scale_, model.scale_, rtol=1e-6)
    assert own.pixel_range_ == model.pixel_range_
    assert own.n_features_in_ == model.n_features_in_
    assert_array_equal(tensor.numpy(), X)  # left as it was


@within
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.double(),
        lambda x: x.half(),
        lambda x: x.bfloat16(),
        lambda x: x.to(torch.uint8),
        lambda x: x.to(torch.uint16),
        lambda x: x.long(),
        lambda x: x.clone().requires_grad_(),
        lambda x: x[..., None],
        lambda x: x.mT.contiguous().mT,
        lambda x: x.repeat_interleave(2, 0)[::2],
    ],
)
def test_every_kind_of_tensor(simclr, digits, change, dispatch):
    model = simclr().fit(digits[0])
    x = change(torch.tensor(digits[0], dtype=torch.float32))
    found = model.transform(x)
    assert is_ordinary(found)
    assert_array_equal(found.numpy(), model.transform(digits[0]))
    assert model.score(x) == model.score(digits[0])


@within
def test_gradients_do_not_flow_back_from_a_fit(simclr, digits, dispatch):
    x = torch.tensor(digits[0]).requires_grad_()
    model = simclr().fit(x)
    assert x.grad is None
    assert_allclose(model.transform(x), simclr().fit_transform(x.detach()), atol=1e-6)


@within
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * torch.nan, "contains NaN"),
        (lambda x: x / 0, "contains (NaN|infinity)"),
        (lambda x: x * (1 + 1j), "Complex data not supported"),
        (lambda x: x[:0], "Found array with 0 sample"),
        (lambda x: x[:, :4], "X holds images of"),
        (lambda x: x[0, 0], "Expected 2D array, got 1D array"),
        (lambda x: x[0], "looks as if it were a single image"),
        (lambda x: x.to("meta"), "which holds no values"),
    ],
)
def test_bad_tensors_are_refused_as_arrays_are(simclr, digits, change, message, dispatch):
    model = simclr().fit(digits[0])
    with pytest.raises(ValueError, match=message):
        model.transform(change(torch.tensor(digits[0])))


@within
def test_one_tensor_is_too_few_to_learn_from(simclr, digits, dispatch):
    with pytest.raises(ValueError, match="a minimum of 2 is required"):
        simclr().fit(torch.tensor(digits[0][:1]))


@within
def test_pixels_in_another_range_are_refused(simclr, photos, dispatch):
    model = simclr().fit(torch.tensor(photos[0]))
    with pytest.raises(ValueError, match=r"X holds float32 values in \[0, 1\]"):
        model.transform(torch.tensor(photos[0]) / 255)


@within
def test_features_make_no_trip_over_numpy(simclr, digits, dispatch, monkeypatch):
    model = simclr().fit(digits[0])
    x = torch.tensor(digits[0])

    def refuse(tensor):
        raise AssertionError(f"a tensor of shape {tuple(tensor.shape)} goes to NumPy")

    numpy = torch.Tensor.numpy
    monkeypatch.setattr(
        torch.Tensor, "numpy", lambda t: refuse(t) if t.is_floating_point() else numpy(t)
    )
    monkeypatch.setattr(torch.Tensor, "__array__", refuse)
    assert model.transform(x).shape[0] == 64


@within
@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_set_output(simclr, digits, container, dispatch):
    x = torch.tensor(digits[0])
    model = simclr().fit(x)
    features = model.transform(x)
    frame = model.set_output(transform=container).transform(x)
    theirs = StandardScaler().set_output(transform=container).fit_transform(x.flatten(1))
    assert type(frame) is type(theirs)
    assert list(frame.columns) == list(model.get_feature_names_out())
    assert_array_equal(np.asarray(frame), features.numpy())


@within
def test_frames_and_lists_are_read_as_ever(simclr, vectors, dispatch):
    frame = pd.DataFrame(vectors).add_prefix("f")
    model = simclr(encoder="mlp").fit(frame)
    expected = model.transform(frame)
    assert isinstance(expected, np.ndarray)
    found = simclr(encoder="mlp").fit([*torch.tensor(vectors)]).transform([*torch.tensor(vectors)])
    assert isinstance(found, np.ndarray)
    assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@within
def test_checkpoint_of_a_tensor_is_that_of_the_array(simclr, digits, tmp_path, capsys, dispatch):
    params = {"checkpoint_dir": tmp_path, "verbose": 1}
    simclr(**params).fit(digits[0])
    capsys.readouterr()
    simclr(**params).fit(torch.tensor(digits[0]))
    assert "from " in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.ckpt"))) == 1


# ------------------------------------------------------------------------------------------------
# With others


@within
def test_pipeline_stays_in_torch(simclr, digits, dispatch):
    x, y = torch.tensor(digits[0]), torch.tensor(digits[1])
    model = make_pipeline(simclr(), StandardScaler(), LogisticRegression(max_iter=200)).fit(x, y)
    assert isinstance(model[-1].coef_, torch.Tensor)
    found = model.predict(x)
    assert isinstance(found, torch.Tensor) and isinstance(model.predict_proba(x), torch.Tensor)
    assert model.score(x, y) == (found == y).double().mean()
    with config_context(array_api_dispatch=False):
        plain = make_pipeline(simclr(), StandardScaler(), LogisticRegression(max_iter=200))
        expected = plain.fit(*digits).predict_proba(digits[0])
    assert_allclose(model.predict_proba(x).numpy(), expected, rtol=1e-2, atol=1e-2)


@within
def test_cross_validation(simclr, digits, dispatch):
    model = make_pipeline(simclr(max_epochs=1), LogisticRegression(max_iter=200))
    scores = cross_val_score(model, torch.tensor(digits[0]), torch.tensor(digits[1]), cv=2)
    assert np.isfinite(scores).all()


@within
@pytest.mark.parametrize("scorer", [knn_scorer, rankme_scorer, alignment_scorer])
def test_scorers(simclr, digits, scorer, dispatch):
    model = simclr().fit(digits[0])
    found = scorer(model, torch.tensor(digits[0]), torch.tensor(digits[1]))
    assert found == pytest.approx(scorer(model, *digits), rel=1e-6)


@within
def test_supervised_loss_reads_labels_in_a_tensor(simclr, digits, dispatch):
    found = simclr(loss="supcon").fit(*map(torch.tensor, digits))
    assert_allclose(found.loss_, simclr(loss="supcon").fit(*digits).loss_, rtol=1e-4)


@within
@pytest.mark.parametrize("method", ["linear", "fine_tuning"])
def test_classifier(simclr, digits, method, dispatch):
    images, labels = digits
    few = np.where(np.arange(64) < 40, labels + 3, -1)
    params = {"method": method, "max_iter": 3, "random_state": 0}
    model = SimCLRClassifier(simclr(), **params).fit(torch.tensor(images), torch.tensor(few))
    plain = SimCLRClassifier(simclr(), **params).fit(images, few)
    assert isinstance(model.linear_coef_, np.ndarray) and isinstance(model.classes_, np.ndarray)
    assert_allclose(model.predict_proba(images), plain.predict_proba(images), rtol=1e-3, atol=1e-3)
    x = torch.tensor(images)
    for name in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        found = getattr(model, name)(x)
        assert is_ordinary(found)
        assert_allclose(found.numpy(), getattr(model, name)(images), rtol=1e-5, atol=1e-5)
    assert model.score(x, torch.tensor(labels + 3)) == pytest.approx(
        model.score(images, labels + 3)
    )


@within
def test_classes_that_are_texts_come_out_in_numpy(simclr, photos, dispatch):
    images, labels = torch.tensor(photos[0]), np.array(["cat", "dog"])[photos[1]]
    model = SimCLRClassifier(simclr(), method="linear", random_state=0).fit(images, labels)
    assert_array_equal(model.predict(images), model.predict(photos[0]))
    assert model.predict(images).dtype.kind == "U"
    assert is_ordinary(model.decision_function(images))
