"""SimCLRClassifier: targets, methods, what it keeps and leaves alone, scikit-learn's checks."""

import copy
import itertools
import pickle
import random
import warnings
from functools import partial

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from torch import nn

import sklearn_simclr._classifier as classifier_module
import sklearn_simclr._transformer as transformer_module
from sklearn_simclr import SimCLRClassifier, SimCLRTransformer, _progress
from sklearn_simclr._distributed import ALONE
from sklearn_simclr._finetuning import Task
from sklearn_simclr._probe import LinearModel, fit_probe
from sklearn_simclr.augmentation import AffineAugmentation
from sklearn_simclr.encoders import MLPEncoder

pytestmark = pytest.mark.filterwarnings("ignore:batch_size=256 is larger than the data")
LINEAR = {"method": "linear", "distill": False}
SETTINGS = {
    "linear": LINEAR,
    "fine_tuning": {"method": "fine_tuning", "distill": False},
    "distilled linear": {"method": "linear", "distill": True},
    "distilled fine_tuning": {"method": "fine_tuning", "distill": True},
}
every_setting = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
TRAINED = {name: setting for name, setting in SETTINGS.items() if setting != LINEAR}
trained_settings = pytest.mark.parametrize("setting", TRAINED.values(), ids=TRAINED)


@pytest.fixture
def classifier(simclr):
    """Return a function that makes a classifier that trains in milliseconds."""

    def make(transformer=None, **params):
        defaults = {"max_iter": 4, "batch_size": 8, "random_state": 0}
        return SimCLRClassifier(transformer or simclr(), **(defaults | params))

    return make


@pytest.fixture
def few(digits):
    """64 images and their labels, -1 from the 30th on."""
    images, labels = digits
    return images, np.where(np.arange(64) < 30, labels, -1)


@pytest.fixture
def fitted_transformer(simclr, digits):
    return simclr().fit(digits[0])


@pytest.fixture
def trainings(monkeypatch):
    """List that grows by one with each pre-training."""
    counted, train = [], transformer_module.train

    def counting_train(*args, **kwargs):
        counted.append(1)
        return train(*args, **kwargs)

    monkeypatch.setattr(transformer_module, "train", counting_train)
    return counted


@pytest.fixture
def tasks(monkeypatch):
    """List of the tasks that were trained on."""
    seen, fine_tune = [], classifier_module.fine_tune

    def watching_fine_tune(model, optimizer, samples, task, *args, **kwargs):
        seen.append(task)
        return fine_tune(model, optimizer, samples, task, *args, **kwargs)

    monkeypatch.setattr(classifier_module, "fine_tune", watching_fine_tune)
    return seen


# ------------------------------------------------------------------------------------------------
# scikit-learn's own checks

TINY = SimCLRTransformer(MLPEncoder(hidden_dim=8, n_layers=1), max_epochs=1, batch_size=512)


def test_check_estimator_passes_every_check():
    model = SimCLRClassifier(TINY, max_iter=2)
    results = check_estimator(model, on_skip=None)
    assert len(results) > 50
    not_passed = {result["check_name"] for result in results if result["status"] != "passed"}
    # Skipped for every estimator unless SCIPY_ARRAY_API is set.
    assert not_passed <= {"check_array_api_input"}


@parametrize_with_checks(
    [
        SimCLRClassifier(TINY, **LINEAR),
        SimCLRClassifier(TINY, method="fine_tuning", max_iter=2, batch_size=16),
    ]
)
def test_checks_with_other_methods(estimator, check):
    check(estimator)


def test_init_only_assigns():
    parts = {name: object() for name in SimCLRClassifier().get_params()}
    assert vars(SimCLRClassifier(**parts)) == parts


def test_it_is_a_classifier_of_arrays_of_three_axes(classifier):
    tags = classifier().__sklearn_tags__()
    assert is_classifier(classifier()) and tags.target_tags.required
    assert tags.input_tags.two_d_array and tags.input_tags.three_d_array


@every_setting
def test_html(classifier, few, setting):
    model = classifier(**setting)
    assert "SimCLRTransformer" in model._repr_html_()
    assert "linear_coef_" in model.fit(*few)._repr_html_()


# ------------------------------------------------------------------------------------------------
# y


@pytest.mark.parametrize(
    "y, classes",
    [
        ([0, 1, -1, 2] * 8, [0, 1, 2]),
        ([0.0, 1.0, -1.0, 2.0] * 8, [0, 1, 2]),
        (np.array(["cat", "dog", -1, "cat"] * 8), ["cat", "dog"]),
        (np.array(["cat", "dog", -1, "cat"] * 8, dtype=object), ["cat", "dog"]),
        (["cat", "dog", "-1", "cat"] * 8, ["cat", "dog"]),
        (pd.Series([3, 5, -1, 3] * 8), [3, 5]),
        ([True, False] * 16, [False, True]),
        ([-2, 1] * 16, [-2, 1]),
        ([-1, 1] * 16, [-1, 1]),
        ([-1.0, 1.0] * 16, [-1, 1]),
    ],
)
def test_classes(classifier, digits, tasks, y, classes):
    model = classifier(**SETTINGS["fine_tuning"]).fit(digits[0][:32], y)
    assert_array_equal(model.classes_, classes)
    assert set(model.predict(digits[0])) <= set(classes)
    assert model.linear_coef_.shape == (len(classes), 4)
    labelled = np.flatnonzero(np.isin(y, classes))
    assert_array_equal(tasks[0].rows, labelled)
    assert_array_equal(model.classes_[tasks[0].targets], np.asarray(y)[labelled])


BAD_Y = {
    "all unlabelled": ([-1] * 64, "at least 2 classes, but y contains none"),
    "one class": ([3] * 64, "at least 2 classes, but y contains only one class: "),
    "one labelled class": ([3, -1] * 32, "contains only one class: "),
    "texts of one class": (["a", "-1"] * 32, "contains only one class: .*'a'"),
    "too short": ([0, 1] * 31, "y holds 62 labels, but X has 64 rows"),
    "continuous": (np.linspace(0, 1, 64), "Unknown label type: continuous"),
    "two columns": (np.zeros((64, 2)), "1d array"),
    "None": (None, "requires y to be passed, but the target y is None"),
}


@pytest.mark.parametrize("y, match", BAD_Y.values(), ids=BAD_Y)
def test_bad_y_is_refused_before_any_training(classifier, digits, trainings, y, match):
    with pytest.raises(ValueError, match=match):
        classifier().fit(digits[0], y)
    assert not trainings


BAD_PARAMETERS = {
    "method": {"method": "probe"},
    "max_iter": {"max_iter": 0},
    "batch_size": {"batch_size": 0},
    "learning_rate": {"learning_rate": 0.0},
    "weight_decay": {"weight_decay": -1.0},
    "distill": {"distill": 1},
    "distill_temperature": {"distill_temperature": 0.0},
    "transformer": {"transformer": make_pipeline(StandardScaler(), SimCLRTransformer())},
}


@pytest.mark.parametrize("name", BAD_PARAMETERS)
def test_bad_parameters_are_refused_before_any_training(classifier, few, trainings, name):
    with pytest.raises(ValueError, match=f"'{name}' parameter of SimCLRClassifier"):
        classifier(**BAD_PARAMETERS[name]).fit(*few)
    assert not trainings


def test_bad_parameters_of_the_transformer_are_refused(classifier, simclr, few, trainings):
    for params, match in [
        ({"temperature": 0}, "'temperature' parameter of SimCLRTransformer"),
        ({"output_layer": 3}, "output_layer=3"),
    ]:
        with pytest.raises(ValueError, match=match):
            classifier(simclr(**params)).fit(*few)
    assert not trainings


def test_a_frozen_estimator_must_hold_a_fitted_transformer(classifier, simclr, few):
    with pytest.raises(ValueError, match="must hold a fitted SimCLRTransformer, got Standard"):
        classifier(FrozenEstimator(StandardScaler())).fit(*few)
    with pytest.raises(NotFittedError):
        classifier(FrozenEstimator(simclr())).fit(*few)


def test_bad_x_leaves_the_old_fit(classifier, few):
    images, labels = few
    model = classifier().fit(images, labels)
    expected = joblib.hash(model)
    for bad in (np.full_like(images, np.nan), images.astype(str)):
        with pytest.raises(ValueError):
            model.fit(bad, labels)
    assert joblib.hash(model) == expected


# ------------------------------------------------------------------------------------------------
# The methods


@pytest.mark.parametrize("n_classes", [2, 10])
def test_linear_equals_logistic_regression(classifier, fitted_transformer, digits, n_classes):
    images, labels = digits
    y = np.where(np.arange(64) < 40, labels % n_classes, -1)
    model = classifier(fitted_transformer, **LINEAR).fit(images, y)
    h = fitted_transformer.transform(images).astype(float)
    scaler = StandardScaler().fit(h)
    reference = LogisticRegression(max_iter=1000).fit(scaler.transform(h)[:40], y[:40])
    h = scaler.transform(h)
    assert_array_equal(model.predict(images), reference.predict(h))
    assert_allclose(model.predict_proba(images), reference.predict_proba(h), atol=1e-5)
    if n_classes == 2:
        assert_allclose(model.decision_function(images), reference.decision_function(h), atol=1e-4)
    assert model.n_iter_ == reference.n_iter_[0] and model.loss_curve_ == []


class NearlyConstant(torch.nn.Module):
    """Features, and the same again beside ones in front of which float32 hardly sees them."""

    def forward(self, x):
        features = torch.nn.functional.avg_pool2d(x, 2).flatten(1)
        return torch.cat([features, 1 + 1e-6 * features], dim=1)


def test_linear_leaves_out_what_is_little_more_than_rounding(classifier, simclr, few):
    images, labels = few
    model = classifier(simclr(encoder=NearlyConstant()), **LINEAR).fit(images, labels)
    d = model.linear_coef_.shape[1] // 2
    assert model.linear_coef_[:, :d].any(axis=0).all() and not model.linear_coef_[:, d:].any()


class Given:
    """A transformer whose features are given."""

    def __init__(self, features):
        self.features = features

    def _features(self, X):
        return self.features


def given_model(n, d, k):
    rng = np.random.default_rng(0)
    h, coef, intercept = (rng.normal(size=s).astype(np.float32) for s in ((n, d), (k, d), k))
    return LinearModel(Given(h), coef, intercept)


def test_the_regression_takes_no_more_memory_for_more_unlabelled_rows(peak_of):
    rng = np.random.default_rng(0)
    h = rng.normal(100, 1, size=(50_000, 12)).astype(np.float32)
    h[:, 1], h[:, 2] = 0.1, 100 + 1e-4 * h[:, 0]  # constant, and hardly more than rounding
    codes = np.where(np.arange(len(h)) < 40, np.arange(len(h)) % 3, -1)
    fit_probe(Given(h[:100]), None, codes[:100], ALONE)  # imports
    (model, n_iter), peak = peak_of(lambda: fit_probe(Given(h), None, codes, ALONE))
    assert peak < h.nbytes / 2

    scaled = StandardScaler().fit_transform(np.delete(h, [1, 2], axis=1).astype(float))
    reference = LogisticRegression(max_iter=1000).fit(scaled[:40], codes[:40])
    assert n_iter == reference.n_iter_[0]
    assert not model.coef[:, 2].any()
    logits = h[:1000].astype(float) @ model.coef.T + model.intercept
    assert_allclose(logits, reference.decision_function(scaled[:1000]), atol=1e-3)


def test_logits_are_held_once(peak_of):
    model = given_model(2000, 3, 100)
    for function in (lambda: model.logits(None), lambda: model.probabilities(None, 0.5)):
        result, peak = peak_of(function)
        assert result.nbytes == 2000 * 100 * 4
        assert peak < 1.5 * result.nbytes


@pytest.mark.parametrize("name", ["predict_proba", "predict_log_proba"])
def test_probabilities_replace_the_logits(classifier, few, monkeypatch, name):
    images, labels = few
    model = classifier(**LINEAR).fit(images, labels)
    expected, seen, logits = getattr(model, name)(images), [], LinearModel.logits
    monkeypatch.setattr(classifier_module, "_ROWS_IN_PLACE", 30)
    monkeypatch.setattr(
        LinearModel, "logits", lambda self, X: seen.append(logits(self, X)) or seen[-1]
    )
    result = getattr(model, name)(images)
    assert np.shares_memory(result, seen[0])
    assert_allclose(result, expected, rtol=1e-6)


@every_setting
def test_predictions_are_those_of_the_fitted_attributes(classifier, few, setting):
    images, labels = few
    model = classifier(**setting).fit(images, labels)
    logits = model.transformer_.transform(images) @ model.linear_coef_.T + model.linear_intercept_
    assert_array_equal(model.decision_function(images), logits)
    powers = np.exp(logits.astype(float))
    proba = powers / powers.sum(axis=1, keepdims=True)
    assert_allclose(model.predict_proba(images), proba, rtol=1e-4)
    assert_allclose(model.predict_log_proba(images), np.log(proba), rtol=1e-4, atol=1e-6)
    assert_array_equal(model.predict(images), model.classes_[proba.argmax(axis=1)])
    labelled = labels >= 0
    expected = np.mean(model.predict(images)[labelled] == labels[labelled])
    assert model.score(images, labels) == expected


@every_setting
def test_predictions_do_not_depend_on_the_company(classifier, few, setting):
    images, labels = few
    model = classifier(**setting).fit(images, labels)
    logits = model.decision_function(images)
    order = np.random.default_rng(0).permutation(64)
    assert_allclose(model.decision_function(images[order]), logits[order], rtol=1e-4, atol=1e-5)
    alone = np.concatenate([model.decision_function(image[None]) for image in images[:5]])
    assert_allclose(alone, logits[:5], rtol=1e-4, atol=1e-5)


def test_fine_tuning_starts_from_the_pre_trained_weights_and_the_probe(
    classifier, fitted_transformer, few
):
    images, labels = few
    linear = classifier(fitted_transformer, **LINEAR).fit(images, labels)
    tuned = classifier(
        fitted_transformer, **SETTINGS["fine_tuning"], learning_rate=1e-12, weight_decay=0
    ).fit(images, labels)
    assert_allclose(tuned.linear_coef_, linear.linear_coef_, atol=1e-6)
    assert_allclose(tuned.decision_function(images), linear.decision_function(images), atol=1e-4)


def test_unlabelled_rows_do_not_enter_the_fine_tuning(classifier, fitted_transformer, few, tasks):
    images, labels = few
    model = classifier(fitted_transformer, **SETTINGS["fine_tuning"]).fit(images, labels)
    assert_array_equal(tasks[0].rows, np.arange(30))
    assert_array_equal(model.classes_[tasks[0].targets], labels[:30])
    assert len(tasks) == 1


@pytest.mark.parametrize("temperature", [1.0, np.float64(0.5)])
@pytest.mark.parametrize("method", ["linear", "fine_tuning"])
def test_the_student_learns_the_probabilities_of_the_teacher(
    classifier, fitted_transformer, few, tasks, method, temperature
):
    images, labels = few
    make = partial(classifier, fitted_transformer, method=method)
    teacher = make(distill=False).fit(images, labels)
    student = make(distill_temperature=temperature).fit(images, labels)
    task = tasks[-1]
    assert len(tasks) == (1 if method == "linear" else 3)
    assert_array_equal(task.rows, np.arange(64))
    assert task.temperature == temperature
    powers = np.exp(teacher.decision_function(images).astype(float) / temperature)
    assert task.targets.dtype == torch.float32
    assert_allclose(task.targets, powers / powers.sum(axis=1, keepdims=True), atol=1e-5)
    assert student.loss_curve_[:-4] == teacher.loss_curve_
    assert student.n_iter_ == len(student.loss_curve_) == len(teacher.loss_curve_) + 4
    assert np.abs(student.linear_coef_ - teacher.linear_coef_).max() > 1e-5


def test_without_unlabelled_rows_nothing_is_distilled(classifier, digits, tasks):
    images, labels = digits
    models = [classifier(**setting).fit(images, labels) for setting in SETTINGS.values()]
    assert [len(task.rows) for task in tasks] == [64, 64]
    proba = [model.predict_proba(images) for model in models]
    assert_array_equal(proba[0], proba[2])
    assert_array_equal(proba[1], proba[3])


@pytest.mark.parametrize(
    "n_labels, n_classes, method", [(19, 2, "linear"), (20, 2, "fine_tuning"), (29, 3, "linear")]
)
def test_auto_method(classifier, digits, tasks, n_labels, n_classes, method):
    images, labels = digits
    y = np.where(np.arange(64) < n_labels, labels % n_classes, -1)
    model = classifier(distill=False).fit(images, y)
    assert model.method_ == method
    assert len(tasks) == (method == "fine_tuning")
    assert classifier(method="linear").fit(images, y).method_ == "linear"


def test_the_student_starts_from_the_pre_trained_weights(
    classifier, fitted_transformer, few, monkeypatch
):
    images, labels = few
    starts, fine_tune = [], classifier_module.fine_tune

    def watching_fine_tune(model, *args, **kwargs):
        starts.append({name: value.clone() for name, value in model.state_dict().items()})
        return fine_tune(model, *args, **kwargs)

    monkeypatch.setattr(classifier_module, "fine_tune", watching_fine_tune)
    classifier(fitted_transformer, method="fine_tuning").fit(images, labels)
    first, second = starts
    assert all(first[name].equal(second[name]) for name in first)
    for name, value in fitted_transformer._weights.items():
        assert_array_equal(first[f"network.{name}"], value)


@trained_settings
def test_the_fine_tuned_layer_is_the_output_layer(classifier, simclr, few, setting):
    transformer = simclr(projection_layers=3, output_layer=1).fit(few[0])
    model = classifier(transformer, **setting).fit(*few)
    old, new = transformer._weights, model.transformer_._weights
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    assert any(name.startswith("encoder.") for name in changed)
    assert {name for name in changed if name.startswith("head.")} == {
        "head.0.weight",
        "head.1.weight",
        "head.1.bias",
    }


def test_steps(classifier, few, monkeypatch):
    images, labels = few
    monkeypatch.setattr(classifier_module, "_MIN_STEPS", 6)
    monkeypatch.setattr(classifier_module, "_MIN_EPOCHS", 2)
    auto = classifier(max_iter="auto", **SETTINGS["fine_tuning"])
    for batch_size, n_steps in [(16, 6), (9, 7), (1, 60)]:
        model = auto.set_params(batch_size=batch_size).fit(images, labels)
        assert model.n_iter_ == len(model.loss_curve_) == n_steps
    assert auto.set_params(max_iter=3).fit(images, labels).n_iter_ == 3


def test_what_the_training_is_given(classifier, simclr, few, monkeypatch):
    calls, fine_tune = [], classifier_module.fine_tune

    def watching_fine_tune(model, optimizer, samples, task, views, **options):
        calls.append((optimizer, views, options))
        return fine_tune(model, optimizer, samples, task, views, **options)

    monkeypatch.setattr(classifier_module, "fine_tune", watching_fine_tune)
    augmentation = AffineAugmentation(degrees=3)
    transformer = simclr(augmentation=augmentation, image_size=9, precision="bfloat16")
    options = {"max_iter": 20, "batch_size": 5, "learning_rate": 0.01, "weight_decay": 0.3}
    classifier(transformer, method="fine_tuning", **options).fit(*few)
    assert len({options["seed"] for *_, options in calls}) == 2
    for optimizer, views, options in calls:
        assert isinstance(optimizer, torch.optim.AdamW)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
        assert views.augmentation.degrees == 3 and views.image_size == 9
        assert options["precision"] == torch.bfloat16 and options["batch_size"] == 5
        rates = [options["learning_rate_at"](step) for step in range(options["n_steps"])]
        cosine = 0.005 * (1 + np.cos(np.pi * np.arange(18) / 18))
        assert_allclose(rates, [0.005, 0.01, *cosine])


@every_setting
def test_one_row_a_class(classifier, digits, setting):
    images, labels = digits
    y = np.where(np.arange(64) < 10, labels, -1)
    model = classifier(**setting, max_iter=30).fit(images, y)
    assert_array_equal(model.classes_, np.arange(10))
    assert np.isfinite(model.predict_proba(images)).all()


def test_two_rows_are_enough(classifier, digits):
    model = classifier().fit(digits[0][:2], ["a", "b"])
    assert model.predict(digits[0]).shape == (64,)


@pytest.fixture(scope="module")
def briefly_trained():
    """Images, labels, and a transformer that learned a little from the images."""
    images, labels = load_digits(return_X_y=True)
    images, labels = images.reshape(-1, 8, 8)[:500], labels[:500]
    transformer = SimCLRTransformer(batch_size=100, max_epochs=2, random_state=0)
    return images, labels, transformer.fit(images)


@every_setting
def test_digits_are_learned(briefly_trained, setting):
    images, labels, transformer = briefly_trained
    y = np.where(np.arange(500) < 100, labels, -1)
    model = SimCLRClassifier(transformer, **setting, max_iter=50, batch_size=32, random_state=0)
    assert model.fit(images, y).score(images[100:], labels[100:]) > 0.7  # chance is 0.1


# ------------------------------------------------------------------------------------------------
# The transformer


@every_setting
@pytest.mark.parametrize("wrap", [FrozenEstimator, lambda transformer: transformer])
def test_a_fitted_transformer_is_not_trained_again_and_stays(
    classifier, fitted_transformer, few, trainings, setting, wrap
):
    before = joblib.hash(fitted_transformer)
    n_before = len(trainings)
    model = classifier(wrap(fitted_transformer), **setting).fit(*few)
    assert len(trainings) == n_before
    assert joblib.hash(fitted_transformer) == before
    assert model.transformer_ is not fitted_transformer
    same = np.array_equal(
        model.transformer_.transform(few[0]), fitted_transformer.transform(few[0])
    )
    assert same == (setting == LINEAR)


def test_a_frozen_transformer_survives_cross_validation(
    classifier, fitted_transformer, digits, trainings
):
    n_before = len(trainings)
    frozen = classifier(FrozenEstimator(fitted_transformer))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        scores = cross_val_score(frozen, *digits, cv=2, error_score="raise")
        assert len(scores) == 2 and len(trainings) == n_before
        cross_val_score(classifier(fitted_transformer), *digits, cv=2, error_score="raise")
    assert len(trainings) == n_before + 2  # the clones have lost the fit


@every_setting
def test_an_unfitted_transformer_stays_as_it_is(classifier, simclr, few, setting):
    transformer = simclr(random_state=None)
    before = dict(vars(transformer))
    model = classifier(transformer, **setting).fit(*few)
    assert vars(transformer) == before
    assert model.transformer is transformer
    assert isinstance(model.transformer_.random_state, int)


def test_the_transformer_is_trained_on_all_rows_without_y(classifier, simclr, few):
    images, labels = few
    model = classifier(**LINEAR).fit(images, labels)
    expected = simclr().fit(images)
    assert_array_equal(model.transformer_.transform(images), expected.transform(images))


@pytest.mark.parametrize("y", ["few", "signs"])
def test_a_supervised_loss_gets_the_labels(classifier, simclr, few, y):
    images, labels = few
    y = labels if y == "few" else np.where(np.arange(64) % 3, 1, -1)
    codes = labels if y is labels else (y + 1) // 2
    model = classifier(simclr(loss="supcon"), **LINEAR).fit(images, y)
    expected = simclr(loss="supcon").fit(images, codes)
    assert_array_equal(model.transformer_.transform(images), expected.transform(images))


def test_without_a_transformer_it_makes_one(few, monkeypatch):
    default = partial(SimCLRTransformer, max_epochs=1)
    monkeypatch.setattr(classifier_module.SimCLRTransformer, "__init__", SimCLRTransformer.__init__)
    monkeypatch.setattr(classifier_module, "SimCLRTransformer", lambda **params: default(**params))
    monkeypatch.setattr(SimCLRClassifier, "_parameter_constraints", {"transformer": [None]})
    model = SimCLRClassifier(max_iter=1, random_state=0).fit(*few)
    assert model.transformer is None
    assert model.transformer_.encoder_name_ == "ConvNetEncoder()"


def test_the_features_that_it_gives_go_on_training(classifier, simclr, few):
    pieces = simclr().partial_fit(few[0])
    model = classifier(pieces).fit(*few)
    transformer = copy.deepcopy(model.transformer_)
    assert pieces._moments and not transformer._moments  # those are of other weights
    before = transformer.transform(few[0])
    transformer.partial_fit(few[0])
    assert not np.array_equal(transformer.transform(few[0]), before)
    assert np.isfinite(transformer.score(few[0]))


# ------------------------------------------------------------------------------------------------
# What a failure leaves


@trained_settings
def test_a_failed_fine_tuning_keeps_the_pre_training(classifier, simclr, few, setting):
    images, labels = few
    model = classifier().fit(images, labels)
    model.set_params(learning_rate=1e30, **setting)
    with pytest.raises(FloatingPointError, match="fine-tuning") as caught:
        model.fit(images, labels)
    assert "kept as transformer_, after 2 epochs" in caught.value.__notes__[0]
    assert_array_equal(model.transformer_.transform(images), simclr().fit_transform(images))
    with pytest.raises(NotFittedError):
        model.predict(images)
    model.set_params(transformer=FrozenEstimator(model.transformer_), learning_rate=1e-3)
    assert model.fit(images, labels).predict(images).shape == (64,)


def test_an_interrupted_pre_training_is_kept(classifier, simclr, few):
    class Interrupting:
        n_calls = 0

        def __call__(self, batch):
            self.n_calls += 1
            if self.n_calls > 2 + 8 * 3:  # a trial; two views of four batches an epoch
                raise KeyboardInterrupt
            return batch + 0.1

    model = classifier(simclr(augmentation=Interrupting(), max_epochs=9))
    with (
        pytest.warns(UserWarning, match="interrupted by user after 3 of 9 epochs"),
        pytest.raises(KeyboardInterrupt),  # views are made in the fine-tuning too
    ):
        model.fit(*few)
    assert model.transformer_.n_iter_ == 3


def test_a_failure_without_a_pre_training_leaves_the_old_fit(classifier, fitted_transformer, few):
    model = classifier(fitted_transformer).fit(*few)
    expected = model.predict_proba(few[0])
    with pytest.raises(FloatingPointError):
        model.set_params(learning_rate=1e30).fit(*few)
    assert_array_equal(model.predict_proba(few[0]), expected)


# ------------------------------------------------------------------------------------------------
# Forms of X


@every_setting
def test_every_form_of_images_is_one(classifier, simclr, few, setting):
    images, labels = few
    images = images.astype(np.uint8)
    make = partial(classifier, **setting)
    expected = make().fit(images, labels)
    assert expected.n_features_in_ == 64
    proba = expected.predict_proba(images)
    rows = images.reshape(64, -1)
    frame = pd.DataFrame(rows, columns=[f"pixel{i}" for i in range(64)])
    for X, params in [
        (images[..., None], {}),
        (images[:, None], {"channel_axis": 1}),
        (torch.from_numpy(images), {}),
        (rows, {"image_shape": (8, 8)}),
        (frame, {"image_shape": (8, 8)}),
    ]:
        model = make(simclr(**params)).fit(X, labels)
        assert_allclose(model.predict_proba(X), proba, rtol=1e-4, atol=1e-6)
        assert model.n_features_in_ == 64
    assert list(model.feature_names_in_) == list(frame.columns)
    model.set_params(transformer__image_shape=None).fit(images, labels)
    assert not hasattr(model, "feature_names_in_")


def test_other_images_are_refused_in_predict(classifier, few):
    model = classifier().fit(*few)
    for method in (model.predict, model.predict_proba, model.decision_function):
        with pytest.raises(ValueError, match=r"expecting 64 features|was fitted on"):
            method(few[0][:, :4])


@every_setting
def test_vectors(simclr, vectors, setting):
    y = np.arange(48) % 3
    transformer = simclr(encoder="mlp", output_layer=2)
    model = SimCLRClassifier(transformer, **setting, max_iter=3).fit(vectors, y)
    assert model.linear_coef_.shape == (3, 8) and model.n_features_in_ == 6


# ------------------------------------------------------------------------------------------------
# Reproducibility, state, meta-estimators


@every_setting
@pytest.mark.parametrize("seed", [0, 1])
def test_random_state_decides_all(classifier, simclr, few, setting, seed):
    images, labels = few
    make = partial(classifier, simclr(random_state=None), **setting)
    first, again, other = (
        make(random_state=state).fit(images, labels) for state in (seed, seed, seed + 2)
    )
    assert_array_equal(first.predict_proba(images), again.predict_proba(images))
    assert joblib.hash(first) == joblib.hash(again)
    assert np.abs(first.predict_proba(images) - other.predict_proba(images)).max() > 1e-6


def test_random_state_of_the_transformer_is_its_own(classifier, simclr, few):
    images, labels = few
    models = [
        classifier(simclr(random_state=3), **LINEAR, random_state=state).fit(images, labels)
        for state in (0, None)
    ]
    assert joblib.hash(models[0].transformer_) == joblib.hash(models[1].transformer_)


class GlobalNoise:
    def __call__(self, batch):
        return batch + 0.1 * torch.randn_like(batch)


@every_setting
def test_the_process_is_left_as_it_was(classifier, simclr, few, setting):
    images, labels = few
    transformer = simclr(augmentation=GlobalNoise())
    probabilities = []
    for seed in (1, 2):
        torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
        state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        with torch.no_grad():
            model = classifier(transformer, **setting).fit(images, labels)
            assert not torch.is_grad_enabled()
        probabilities.append(model.predict_proba(images))
        assert torch.get_rng_state().equal(state[0])
        assert_array_equal(np.random.get_state()[1], state[1])
        assert random.getstate() == state[2]
    assert_array_equal(*probabilities)


@every_setting
def test_pickles_and_copies_predict_the_same(classifier, few, setting, tmp_path):
    images, labels = few
    model = classifier(**setting).fit(images, labels)
    expected, digest = model.predict_proba(images), joblib.hash(model)
    joblib.dump(model, tmp_path / "model")
    for loaded in (
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        joblib.load(tmp_path / "model", mmap_mode="r"),
    ):
        assert_array_equal(loaded.predict_proba(images), expected)
    assert joblib.hash(pickle.loads(pickle.dumps(model))) == digest
    assert len(pickle.dumps(model)) < 25_000


@every_setting
def test_skops_needs_to_trust_the_classes_of_this_package_only(classifier, few, setting):
    skops = pytest.importorskip("skops.io")
    model = classifier(**setting).fit(*few)
    data = skops.dumps(model)
    untrusted = skops.get_untrusted_types(data=data)
    assert all(name.startswith("sklearn_simclr.") for name in untrusted), untrusted
    loaded = skops.loads(data, trusted=untrusted)
    assert_array_equal(loaded.predict_proba(few[0]), model.predict_proba(few[0]))


@every_setting
def test_the_state_holds_no_live_parts(classifier, few, setting):
    model = classifier(**setting).fit(*few)
    model.predict(few[0])
    live = torch.Tensor | nn.Module | torch.device | torch.Generator | torch.optim.Optimizer | Task
    for state in (vars(model), vars(model.transformer_)):
        assert not [name for name, value in state.items() if isinstance(value, live)]
    weights = model.transformer_._weights.values()
    assert all(isinstance(value, np.ndarray) for value in [*weights, model.linear_coef_])
    assert model.linear_coef_.dtype == model.predict_proba(few[0]).dtype == np.float32


def test_grid_search_reaches_into_every_part(classifier, simclr, photos):
    model = classifier(simclr(augmentation=AffineAugmentation()))
    grid = {
        "transformer__temperature": [0.2, 0.5],
        "transformer__encoder__width": [3, 5],
        "transformer__augmentation__degrees": [5],
        "learning_rate": [1e-3],
    }
    search = GridSearchCV(model, grid, cv=2, scoring="neg_log_loss", error_score="raise")
    search.fit(*photos)
    assert len(search.cv_results_["params"]) == 4
    assert (
        search.best_estimator_.linear_coef_.shape[1]
        == search.best_params_["transformer__encoder__width"]
    )
    assert search.predict(photos[0]).shape == (32,)
    assert model.transformer.encoder.width == 4


def test_set_params_and_clone(classifier, few):
    model = classifier().set_params(transformer__temperature=0.1, **LINEAR)
    assert model.transformer.temperature == 0.1
    model.fit(*few)
    again = clone(model)
    assert not hasattr(again, "linear_coef_") and repr(again) == repr(model)
    assert joblib.hash(again.fit(*few)) == joblib.hash(model)


def test_verbose_prints_ten_lines_a_training(classifier, few, capsys, monkeypatch):
    now = itertools.count(1000)  # every look at the clock takes a second
    monkeypatch.setattr(_progress, "perf_counter", lambda: next(now))
    model = classifier(max_iter=20, verbose=1, method="fine_tuning")
    model.set_params(transformer__device="cpu", transformer__precision="float32").fit(*few)
    lines = capsys.readouterr().out.splitlines()
    starts = [line for line in lines if line.startswith("SimCLRClassifier")]
    assert starts == [
        "SimCLRClassifier on cpu in float32: fine-tuning on 30 images of 10 classes, 20 steps of 8",
        "SimCLRClassifier on cpu in float32: distillation on 64 images of 10 classes, 20 steps of "
        "8",
    ]
    assert len(lines) == 2 * 11 and lines[11] == starts[1]
    loss = np.mean(model.loss_curve_[:2])
    assert lines[1].startswith(f"step 2/20  loss {loss:.4f}  ") and " images/s  " in lines[1]
    assert lines[1].endswith(" s left") and lines[10].endswith(" in all")
    assert lines[10].startswith("step 20/20  loss ")


def test_verbose_of_the_default_transformer_is_that_of_the_classifier(few, capsys):
    views = {"max_iter": 2, "method": "linear", "distill": False, "random_state": 0}
    for verbose, n_lines in [(0, 0), (1, 101)]:
        SimCLRClassifier(**views, verbose=verbose).fit(*few)
        assert len(capsys.readouterr().out.splitlines()) == n_lines


def test_rows_without_a_label_are_not_scored(classifier, few):
    images, labels = few
    model = classifier(method="linear", distill=False).fit(images, labels)
    known, weights = labels >= 0, np.arange(1.0, len(labels) + 1)
    right = model.predict(images[known]) == labels[known]
    assert model.score(images, labels) == model.score(list(images), list(labels)) == right.mean()
    weighted = np.average(right, weights=weights[known])
    assert model.score(images, labels, weights) == pytest.approx(weighted)
    assert 0 < right.mean() < 1
    with pytest.raises(ValueError, match="y holds no labels to score on"):
        model.score(images, np.full(len(labels), -1))


def test_minus_1_is_scored_where_it_is_a_class(classifier, few):
    images, labels = few
    signs = np.where(labels % 3, 1, -1)
    model = classifier(method="linear", distill=False).fit(images, signs)
    assert model.score(images, signs) == np.mean(model.predict(images) == signs)
