"""Callbacks, scikit-learn's and ours: what they see, record and stop, wherever they are set."""

import pickle
import subprocess
import sys
from functools import partial

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal, assert_equal
from sklearn.base import clone
from sklearn.callback import FitCallback, ProgressBar, ScoringMonitor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from torch import nn

from sklearn_simclr import SimCLRClassifier, _checkpoints
from sklearn_simclr.callbacks import EarlyStopping, MeasureHistory
from sklearn_simclr.metrics import (
    SCORERS,
    alignment,
    knn_accuracy,
    rankme,
    uniformity,
)

GRID = {"temperature": [0.2, 0.5]}


class Keeper(FitCallback):
    """Keeps the estimators, X and y that it is given."""

    def __init__(self, *, stop_at=()):
        self.stop_at, self.begun, self.ended, self.data = stop_at, [], [], []
        self.untrained = None

    def on_fit_task_begin(self, estimator, context, *, fitted_estimator=None):
        self.begun.append(context.task_name)
        self.untrained = fitted_estimator or self.untrained

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.ended.append((context.task_name, fitted_estimator))
        self.data.append((X, y))
        return (context.task_name, context.task_id) in self.stop_at

    def of(self, name):
        return [estimator for task, estimator in self.ended if task == name]


class StopsAt(FitCallback):
    """Stops after an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        return fitted_estimator.n_iter_ == self.epoch


class Scripted:
    """A scorer whose scores are those of a list, from the first epoch on."""

    def __init__(self, scores):
        self.scores = scores

    def __call__(self, estimator, X, y=None):
        return self.scores[estimator.n_iter_ - 1] if estimator.n_iter_ else 1e9


def temperature_score(estimator, X, y=None):
    """Fall with the epochs at a low temperature and rise at a high one."""
    return estimator.n_iter_ * (estimator.temperature_ - 0.3)


@pytest.fixture
def classifier(simclr):
    return partial(
        SimCLRClassifier, simclr(), method="fine_tuning", max_iter=20, batch_size=8, random_state=0
    )


@pytest.fixture
def halves(digits):
    """32 images to train on, and 32 images with labels that are held out."""
    images, labels = digits
    return images[:32], images[32:], labels[32:] % 2


def in_a_pipeline(model, callback=None):
    if callback is not None:
        model.set_callbacks(callback)
    if hasattr(model, "predict"):
        return Pipeline([("simclr", model)])
    return Pipeline([("simclr", model), ("clf", LogisticRegression(max_iter=50))])


# ------------------------------------------------------------------------------------------------
# scikit-learn's own callbacks


@pytest.mark.filterwarnings("ignore:The estimator LogisticRegression does not support callbacks")
@pytest.mark.parametrize("place", ["alone", "pipeline", "grid"])
@pytest.mark.parametrize("kind", ["transformer", "classifier"])
def test_progress_bar(simclr, classifier, digits, capsys, monkeypatch, kind, place):
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "150")
    model = simclr() if kind == "transformer" else classifier(distill=False)
    name, values = "transformer__temperature", [0.2, 0.5]
    name = "temperature" if kind == "transformer" else name
    if place == "pipeline":
        model = in_a_pipeline(model)
    if place == "grid":
        model = GridSearchCV(model, {name: values}, cv=2, n_jobs=2)
    model.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(*digits)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert all("100%" in line for line in lines)
    text = "\n".join(lines)
    n_fits = {"alone": 1, "pipeline": 1, "grid": 5}[place]
    assert text.count("SimCLRTransformer - fit") == n_fits
    if kind == "classifier":
        assert text.count("pre-training | SimCLRTransformer - fit") == n_fits
        assert text.count("SimCLRClassifier - fine-tuning") == n_fits


def own_score(estimator, X, y):
    """Score as the estimator does; scoring=None, which means just that, fails in the monitor."""
    return {"own": estimator.score(X, y)}


@pytest.mark.parametrize("in_pipeline", [False, True])
@pytest.mark.parametrize("kind", ["transformer", "classifier"])
def test_scoring_monitor(simclr, classifier, digits, kind, in_pipeline):
    monitor = ScoringMonitor(scoring=own_score)
    model = simclr(max_epochs=3) if kind == "transformer" else classifier(distill=False)
    model.set_callbacks(monitor)
    if in_pipeline:
        in_a_pipeline(model).fit(*digits)
    else:
        model.fit(*digits)
    rows = monitor.get_logs().data
    names = [row["task_name"] for row in rows if "own" in row]
    if kind == "transformer":
        assert sorted(names) == ["epoch"] * 3 + ["fit"]
    else:
        assert sorted(names) == ["fine-tuning", "fit", "linear"] + ["steps"] * 10
    keeper = Keeper()
    (last,) = (row["own"] for row in rows if row["task_name"] == "fit")
    assert last == model.set_callbacks(keeper).fit(*digits).score(*digits)
    part = "epoch" if kind == "transformer" else "steps"
    expected = [snapshot.score(*digits) for snapshot in keeper.of(part)]
    assert [row["own"] for row in rows if row["task_name"] == part] == expected


@pytest.mark.parametrize("kind", ["transformer", "classifier"])
def test_scoring_monitor_in_a_grid_search(simclr, classifier, digits, kind):
    def logged(n_jobs):
        monitor = ScoringMonitor(scoring=own_score)
        model = simclr() if kind == "transformer" else classifier(distill=False)
        name = "temperature" if kind == "transformer" else "transformer__temperature"
        model.set_callbacks(monitor)
        GridSearchCV(model, {name: [0.2, 0.5]}, cv=2, n_jobs=n_jobs).fit(*digits)
        keys = ("task_id_path", "task_name", "own")
        return [tuple(row.get(key) for key in keys) for row in monitor.get_logs().data]

    rows = logged(2)
    assert len(rows) == 5 * {"transformer": 3, "classifier": 13}[kind]
    assert rows == logged(1)


# ------------------------------------------------------------------------------------------------
# Callbacks on a classifier


def few_labels(digits):
    images, labels = digits
    return images, np.where(np.arange(64) < 30, labels, -1)


def test_a_classifier_tells_of_all_its_stages(classifier, digits):
    keeper = Keeper()
    few = few_labels(digits)
    model = classifier().set_callbacks(keeper).fit(*few)
    stages = ["pre-training", "linear", "fine-tuning", *["steps"] * 10]
    stages += ["distillation", *["steps"] * 10]
    assert keeper.begun == ["fit", *stages]
    assert [name for name, _ in keeper.ended].count("steps") == 20
    assert keeper.ended[-1][0] == "fit" and keeper.ended[0] == ("pre-training", None)
    for X, y in keeper.data:
        assert_array_equal(X, few[0][:30])
        assert_array_equal(y, few[1][:30])
    assert_array_equal(keeper.of("fit")[0].predict_proba(few[0]), model.predict_proba(few[0]))
    steps = keeper.of("steps")
    assert [snapshot.n_iter_ for snapshot in steps] == list(range(2, 42, 2))
    features = [snapshot.predict_proba(few[0]) for snapshot in steps]
    assert len({array.tobytes() for array in features}) == 20
    encoded = [snapshot.transformer_.transform(few[0]) for snapshot in steps]
    assert len({array.tobytes() for array in encoded}) == 20
    assert_array_equal(features[-1], model.predict_proba(few[0]))
    assert_array_equal(
        keeper.of("linear")[0].predict_proba(few[0]),
        classifier().set_params(method="linear", distill=False).fit(*few).predict_proba(few[0]),
    )


def test_stages_that_are_left_out_are_not_told_of(classifier, digits, simclr):
    def stages(transformer, **params):
        keeper = Keeper()
        model = classifier(**params).set_params(transformer=transformer)
        model.set_callbacks(keeper).fit(*few_labels(digits))
        return [name for name, _ in keeper.ended if name != "steps"]

    fitted = simclr().fit(digits[0])
    assert stages(fitted, method="linear", distill=False) == ["linear", "fit"]
    assert stages(fitted, method="linear") == ["linear", "distillation", "fit"]
    pre_trained = ["pre-training", "linear", "fine-tuning", "fit"]
    assert stages(simclr(), distill=False) == pre_trained


@pytest.mark.parametrize("as_paths", [False, True])
def test_labelled_rows_of_any_kind_of_X(classifier, digits, simclr, as_paths, tmp_path):
    images, labels = few_labels(digits)
    X = torch.from_numpy(images.copy())
    if as_paths:
        Image = pytest.importorskip("PIL.Image")
        X = [str(tmp_path / f"{number}.png") for number in range(64)]
        for path, pixels in zip(X, images.astype(np.uint8), strict=True):
            Image.fromarray(pixels * 16).save(path)
    keeper, monitor = Keeper(), ScoringMonitor(scoring=own_score)
    classifier(max_iter=2).set_callbacks(keeper, monitor).fit(X, labels)
    assert all(len(X) == len(y) == 30 for X, y in keeper.data)
    assert all(0 <= row["own"] <= 1 for row in monitor.get_logs().data if "own" in row)


def test_callbacks_do_not_change_what_a_classifier_learns(classifier, digits):
    few = few_labels(digits)
    watched = classifier().set_callbacks(Keeper()).fit(*few).set_callbacks()
    plain = classifier().fit(*few)
    assert joblib.hash(watched) == joblib.hash(plain)


def test_a_callback_stops_fine_tuning_and_distillation(classifier, digits):
    few = few_labels(digits)
    model = classifier().set_callbacks(Keeper(stop_at=[("steps", 2)])).fit(*few)
    assert len(model.loss_curve_) == model.n_iter_ == 6 + 6  # of 20 each, reported in tenths
    expected = classifier().fit(*few)
    assert model.loss_curve_[:6] == expected.loss_curve_[:6]


def test_callbacks_of_the_transformer_see_the_pre_training(classifier, digits, simclr):
    images, _ = digits
    history = MeasureHistory(images[:20])
    model = classifier(max_iter=2)
    model.transformer.set_callbacks(history)
    model.fit(*digits)
    assert [row["epoch"] for row in history.history_] == [0, 1, 2]
    model.transformer.set_callbacks(ProgressBar())
    with pytest.raises(TypeError, match="Register them directly on the meta-estimator"):
        model.fit(*digits)


def test_a_classifier_without_callbacks_keeps_no_traces(classifier, digits):
    model = classifier().set_callbacks(Keeper()).fit(*digits).set_callbacks()
    for estimator in (model, model.transformer_):
        assert [name for name in vars(estimator) if "callback" in name or "ctx" in name] == []


# ------------------------------------------------------------------------------------------------
# MeasureHistory


def test_measures_are_those_of_the_weights_after_each_epoch(simclr, halves):
    X, X_val, y_val = halves
    history, keeper = MeasureHistory(X_val, y_val, scoring=list(SCORERS)), Keeper()
    model = simclr(max_epochs=3, learning_rate=0.05).set_callbacks(history, keeper).fit(X)
    snapshots = [keeper.untrained, *keeper.of("epoch")]
    assert len(history.history_) == len(snapshots) == 4
    for epoch, (row, snapshot) in enumerate(zip(history.history_, snapshots, strict=True)):
        assert list(row) == ["fit", "epoch", "loss", *SCORERS]
        assert (row["fit"], row["epoch"]) == (0, epoch)
        h = snapshot.transform(X_val)
        h1, h2 = snapshot._view_features(X_val)
        assert row["rankme"] == rankme(h)
        assert row["neg_uniformity"] == -uniformity(h)
        assert row["neg_alignment"] == -alignment(h1, h2)
        assert row["contrastive_accuracy"] == snapshot.score(X_val)
        others = [np.arange(32) != number for number in range(32)]
        hits = [knn_accuracy(h[rest], y_val[rest], h[~rest], y_val[~rest]) for rest in others]
        assert row["knn"] == np.mean(hits)
    losses = [row["loss"] for row in history.history_]
    assert np.isnan(losses[0]) and losses[1:] == model.loss_curve_
    assert len({row["rankme"] for row in history.history_}) == 4


def test_a_history_makes_a_frame(simclr, halves):
    X, X_val, _ = halves
    history = MeasureHistory(X_val)
    assert history.history_ == []
    simclr().set_callbacks(history).fit(X)
    frame = pd.DataFrame(history.history_)
    assert list(frame) == ["fit", "epoch", "loss", "contrastive_accuracy"]
    assert frame.dtypes.map(str).tolist() == ["int64", "int64", "float64", "float64"]


@pytest.mark.parametrize(
    "every, max_epochs, epochs",
    [(1, 2, [0, 1, 2]), (3, 7, [0, 3, 6, 7]), (3, 6, [0, 3, 6]), (9, 2, [0, 2])],
)
def test_epochs_that_are_measured(simclr, halves, every, max_epochs, epochs):
    X, X_val, _ = halves
    history = MeasureHistory(X_val, every=every)
    simclr(max_epochs=max_epochs).set_callbacks(history).fit(X)
    assert [row["epoch"] for row in history.history_] == epochs


def test_the_last_epoch_of_a_stopped_training_is_measured(simclr, halves):
    X, X_val, _ = halves
    history = MeasureHistory(X_val, every=3)
    model = simclr(max_epochs=9).set_callbacks(history, StopsAt(5)).fit(X)
    assert [row["epoch"] for row in history.history_] == [0, 3, 5]
    assert history.history_[-1]["contrastive_accuracy"] == model.score(X_val)


@pytest.mark.parametrize(
    "scoring, names",
    [
        ("rankme", ["rankme"]),
        (temperature_score, ["score"]),
        ({"mine": temperature_score, "rank": "rankme"}, ["mine", "rank"]),
        (["rankme", "neg_alignment"], ["rankme", "neg_alignment"]),
    ],
)
def test_forms_of_scoring(simclr, halves, scoring, names):
    X, X_val, _ = halves
    history = MeasureHistory(X_val, scoring=scoring)
    simclr().set_callbacks(history).fit(X)
    assert all(list(row)[3:] == names for row in history.history_)
    if "mine" in names or "score" in names:
        assert [row[names[0]] for row in history.history_] == [0.0, 0.2, 0.4]


def dropout_factory():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5))


def noise(batch):
    return batch + 0.1 * torch.randn_like(batch)


@pytest.mark.parametrize("params", [{}, {"encoder": dropout_factory, "augmentation": noise}])
def test_measuring_changes_nothing_about_the_training(simclr, halves, params):
    X, X_val, y_val = halves
    callbacks = [
        MeasureHistory(X_val, y_val, scoring=list(SCORERS)),
        EarlyStopping(X_val, y_val, scoring="knn", patience=50),
    ]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    watched = simclr(max_epochs=4, **params).set_callbacks(*callbacks).fit(X).set_callbacks()
    assert torch.equal(torch.get_rng_state(), before)
    plain = simclr(max_epochs=4, **params).fit(X)
    assert_equal(watched._weights, plain._weights)
    assert watched.loss_curve_ == plain.loss_curve_
    assert_array_equal(watched.transform(X), plain.transform(X))


def search(model, digits, name, **params):
    return GridSearchCV(model, {name: [0.2, 0.5]}, cv=2, **params).fit(digits[0], digits[1] % 2)


@pytest.mark.parametrize("in_pipeline", [False, True])
def test_history_of_a_grid_search(simclr, digits, in_pipeline):
    def run(n_jobs):
        history = MeasureHistory(digits[0][:20], scoring={"t": temperature_score, "r": "rankme"})
        model, name = simclr().set_callbacks(history), "temperature"
        if in_pipeline:
            model, name = in_a_pipeline(model), "simclr__temperature"
        return history, search(model, digits, name, n_jobs=n_jobs)

    history, found = run(2)
    frame = pd.DataFrame(history.history_)
    assert_array_equal(frame["epoch"], [0, 1, 2] * 5)
    assert_array_equal(frame["fit"], np.repeat(range(5), 3))
    # The splits of the first candidate, those of the second, and the refit.
    refit = next(iter(found.best_params_.values()))
    rise = frame.groupby("fit")["t"].last() / 2 + 0.3
    np.testing.assert_allclose(rise, [0.2, 0.2, 0.5, 0.5, refit])
    alone, _ = run(1)
    assert_equal(history.history_, alone.history_)


def test_history_of_several_runs(simclr, digits):
    history = MeasureHistory(digits[0][:20])
    cross_val_score(simclr().set_callbacks(history), digits[0], cv=3)
    assert [row["fit"] for row in history.history_] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    model = simclr(warm_start=True).set_callbacks(history).fit(digits[0]).fit(digits[0])
    rows = history.history_[9:]
    assert [(row["fit"], row["epoch"]) for row in rows] == [
        (3, 0), (3, 1), (3, 2), (4, 2), (4, 3), (4, 4),
    ]  # fmt: skip
    assert [row["loss"] for row in rows[3:]] == model.loss_curve_[1:]
    assert rows[3]["contrastive_accuracy"] == rows[2]["contrastive_accuracy"]


def test_history_in_threads(simclr, digits):
    history = MeasureHistory(digits[0][:20], scoring=temperature_score)
    stopping = EarlyStopping(digits[0][:20], scoring=temperature_score, patience=2)
    model = simclr(max_epochs=5).set_callbacks(history, stopping)
    with joblib.parallel_config("threading"):
        search(model, digits, "temperature", n_jobs=2)
    frame = pd.DataFrame(history.history_)
    last = frame.groupby("fit")["epoch"].last().tolist()
    # Falling scores stop at the third epoch: the first is the best, two are worse.
    assert last[:4] == [3, 3, 5, 5] and last[4] in (3, 5)
    assert stopping.history_ == history.history_


@pytest.mark.parametrize("make", [MeasureHistory, EarlyStopping])
def test_callbacks_pickle_and_clone(simclr, halves, make):
    X, X_val, _ = halves
    callback = make(X_val, every=2)
    model = simclr().set_callbacks(callback).fit(X)
    again = pickle.loads(pickle.dumps(callback))
    assert_equal(again.history_, callback.history_)
    assert len(again.history_) == 2
    loaded = pickle.loads(pickle.dumps(model))
    assert_array_equal(loaded.transform(X), model.transform(X))
    loaded.fit(X)
    assert len(callback.history_) == 2  # what was unpickled writes into a log of its own
    fresh = clone(callback)
    assert fresh.history_ == [] and fresh.every == 2
    assert_array_equal(fresh.X_val, X_val)
    assert clone(model)._skl_callbacks == [callback]  # as scikit-learn has it


@pytest.mark.slow
def test_a_pickle_opens_when_its_process_has_ended(simclr, halves, tmp_path):
    def run(code):
        command = [sys.executable, "-c", f"import joblib\npath = {str(path)!r}\n{code}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    path = tmp_path / "model.joblib"
    model, (X, X_val, _) = simclr(), halves
    joblib.dump((model, X, X_val), path)
    run(
        "from sklearn_simclr.callbacks import MeasureHistory\n"
        "model, X, X_val = joblib.load(path)\n"
        "joblib.dump(model.set_callbacks(MeasureHistory(X_val)).fit(X), path)"
    )
    code = (
        "(history,) = model._skl_callbacks; model.fit(history.X_val); print(len(history.history_))"
    )
    assert run(f"model = joblib.load(path); {code}") == "6\n"


def test_held_out_image_files(simclr, photos, tmp_path):
    Image = pytest.importorskip("PIL.Image")
    images, _ = photos
    paths = [tmp_path / f"{number}.png" for number in range(32)]
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels).save(path)
    history = MeasureHistory(paths[20:], scoring=["contrastive_accuracy", "rankme"])
    model = simclr().set_callbacks(history).fit(paths[:20])
    assert history.history_[-1]["contrastive_accuracy"] == model.score(images[20:])


# ------------------------------------------------------------------------------------------------
# EarlyStopping


def last_epoch(scores, patience, min_delta, every=1):
    """Epoch after which the scores end a training, by the definition."""
    best_at, best = None, None
    evaluated = range(every, len(scores) + 1, every)
    for count, epoch in enumerate(evaluated):
        score = scores[epoch - 1]
        if best is None or score - best > min_delta:
            best_at, best = count, score
        if count - best_at == patience:
            return epoch
    return len(scores)


@pytest.mark.parametrize("seed", range(8))
def test_stops_after_patience_without_improvement(simclr, halves, seed):
    X, X_val, _ = halves
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, 6, 12) / 4).tolist()  # exact in binary, and with ties
    patience, every = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    min_delta = float(rng.integers(0, 3) / 4)
    stopping = EarlyStopping(
        X_val, scoring=Scripted(scores), patience=patience, min_delta=min_delta, every=every
    )
    model = simclr(max_epochs=12).set_callbacks(stopping).fit(X)
    assert model.n_iter_ == last_epoch(scores, patience, min_delta, every)
    seen = [row["score"] for row in stopping.history_[1:]]
    assert seen[: model.n_iter_ // every] == scores[: model.n_iter_][every - 1 :: every]


def test_equal_and_missing_scores_are_no_improvement(simclr, halves):
    X, X_val, _ = halves
    for scores, n_epochs in [([0.5] * 9, 4), ([0.1, 0.2, np.nan, np.nan, np.nan, 9], 5)]:
        stopping = EarlyStopping(X_val, scoring=Scripted(scores), patience=3)
        assert simclr(max_epochs=9).set_callbacks(stopping).fit(X).n_iter_ == n_epochs


def test_small_gains_add_up(simclr, halves):
    X, X_val, _ = halves
    scores = [0.25 * epoch for epoch in range(6)]
    stopping = EarlyStopping(X_val, scoring=Scripted(scores), patience=2, min_delta=0.25)
    assert simclr(max_epochs=6).set_callbacks(stopping).fit(X).n_iter_ == 6


def test_stopped_models_are_those_of_the_last_epoch(simclr, halves):
    X, X_val, _ = halves
    keeper = Keeper()
    stopping = EarlyStopping(X_val, scoring=Scripted([3, 2, 1, 0]), patience=2)
    model = simclr(max_epochs=9).set_callbacks(keeper, stopping).fit(X)
    assert_array_equal(model.transform(X), keeper.of("epoch")[2].transform(X))
    assert len(keeper.of("epoch")) == 3


def test_each_fit_counts_anew(simclr, halves):
    X, X_val, _ = halves
    stopping = EarlyStopping(X_val, scoring=Scripted([3, 2, 1, 0]), patience=2)
    model = simclr(max_epochs=9).set_callbacks(stopping)
    assert [model.fit(X).n_iter_ for _ in range(2)] == [3, 3]
    # A scorer that fails must not leave its count behind either.
    stopping.set_params(scoring=Scripted([3, 2]))
    with pytest.raises(ValueError, match="IndexError"):
        model.set_params(max_epochs=9).fit(X)
    stopping.set_params(scoring=Scripted([3, 2, 1, 0]))
    assert model.fit(X).n_iter_ == 3
    assert stopping._progress == {}


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_stops_in_a_grid_search(simclr, digits, n_jobs):
    stopping = EarlyStopping(digits[0][:20], scoring=temperature_score, patience=2)
    model = simclr(max_epochs=5).set_callbacks(stopping)
    search(model, digits, "temperature", n_jobs=n_jobs)
    last = pd.DataFrame(stopping.history_).groupby("fit")["epoch"].last().tolist()
    assert last[:4] == [3, 3, 5, 5]


@pytest.fixture
def every_epoch(monkeypatch):
    """Save a checkpoint after every epoch, however long that takes."""
    monkeypatch.setattr(_checkpoints, "_SHARE", 0)


@pytest.mark.usefixtures("every_epoch")
def test_a_stopped_training_stays_stopped_when_it_is_resumed(simclr, halves, tmp_path):
    X, X_val, _ = halves
    make = partial(simclr, checkpoint_dir=tmp_path, max_epochs=9)
    scorer = Scripted([3, 2, 1, 0, 4, 3, 2, 1, 0])
    stop = partial(EarlyStopping, X_val, scoring=scorer, patience=2)
    stopped = make().set_callbacks(stop()).fit(X)
    assert stopped.n_iter_ == 3
    stopping = stop()
    again = make().set_callbacks(stopping).fit(X)
    assert again.n_iter_ == 3
    assert_equal(again._weights, stopped._weights)
    assert [row["epoch"] for row in stopping.history_] == [3]
    # With other callbacks, or none, it is gone on with.
    history = MeasureHistory(X_val)
    full = make().set_callbacks(history).fit(X)
    assert [row["epoch"] for row in history.history_] == [3, 4, 5, 6, 7, 8, 9]
    assert_equal(full._weights, simclr(max_epochs=9).fit(X)._weights)


@pytest.mark.usefixtures("every_epoch")
def test_it_stays_stopped_whatever_the_order_of_callbacks_and_with_a_progress_bar(
    simclr, halves, tmp_path
):
    X, X_val, _ = halves
    scorer = Scripted([3, 2, 1, 0, 4, 3, 2, 1, 0])
    callbacks = [
        EarlyStopping(X_val, scoring=scorer, patience=2),
        MeasureHistory(X_val),
        ProgressBar(),
    ]
    for chosen in (callbacks[:2], callbacks[1::-1], callbacks):
        model = simclr(checkpoint_dir=tmp_path, max_epochs=9).set_callbacks(*chosen)
        assert model.fit(X).n_iter_ == 3


@pytest.mark.usefixtures("every_epoch")
def test_a_killed_training_counts_anew(simclr, halves, tmp_path):
    X, X_val, _ = halves
    make = partial(simclr, checkpoint_dir=tmp_path, max_epochs=9)

    class Kill(StopsAt):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator):
            if fitted_estimator.n_iter_ == self.epoch:
                raise RuntimeError("killed")

    stop = partial(EarlyStopping, X_val, scoring=Scripted([9, *range(8, 0, -1)]), patience=3)
    with pytest.raises(RuntimeError, match="killed"):
        make().set_callbacks(stop(), Kill(3)).fit(X)
    stopping = stop()
    model = make().set_callbacks(stopping).fit(X)
    assert model.n_iter_ == 2 + 4  # after epoch 2, one that is best and three that are worse
    assert [row["epoch"] for row in stopping.history_] == [2, 3, 4, 5, 6]


# ------------------------------------------------------------------------------------------------
# Mistakes


@pytest.mark.parametrize(
    "make, params, words",
    [
        (MeasureHistory, {"scoring": "rank"}, ["scoring='rank'", "contrastive_accuracy"]),
        (MeasureHistory, {"scoring": []}, [r"scoring=\[\]", "empty"]),
        (MeasureHistory, {"scoring": [temperature_score]}, ["not a name for one"]),
        (MeasureHistory, {"scoring": {"epoch": "rankme"}}, ["'epoch' is not a measure, or"]),
        (MeasureHistory, {"scoring": None}, ["'scoring' parameter of MeasureHistory", "None"]),
        (MeasureHistory, {"every": 0}, ["'every' parameter of MeasureHistory", "Got 0"]),
        (MeasureHistory, {"scoring": "knn"}, ["'knn'", "needs labels", "y_val"]),
        (EarlyStopping, {"scoring": "accuracy"}, ["scoring='accuracy'", "rankme"]),
        (EarlyStopping, {"scoring": ["knn"]}, ["'scoring' parameter of EarlyStopping"]),
        (EarlyStopping, {"every": -1}, ["'every' parameter of EarlyStopping", "Got -1"]),
        (EarlyStopping, {"patience": 0}, ["'patience' parameter of EarlyStopping", "Got 0"]),
        (EarlyStopping, {"min_delta": -0.1}, ["'min_delta' parameter", "-0.1"]),
        (EarlyStopping, {"X_val": np.zeros((9, 5, 5))}, ["'contrastive_accuracy'", "5, 5"]),
        (EarlyStopping, {"X_val": np.zeros((1, 8, 8))}, ["minimum of 2", "Pass an X_val"]),
        (EarlyStopping, {"scoring": lambda *args: "high"}, ["'score'", "'high'", "one number"]),
    ],
)  # fmt: skip
def test_mistakes_show_before_the_training(simclr, halves, make, params, words):
    X, X_val, _ = halves
    callback = make(**{"X_val": X_val} | params)
    model = simclr().set_callbacks(callback)
    with pytest.raises(ValueError, match=".*".join(words)):
        model.fit(X)
    with pytest.raises(NotFittedError):
        model.transform(X)
    assert callback.history_ == []
    model.set_callbacks().fit(X)


@pytest.mark.parametrize("make", [MeasureHistory, EarlyStopping])
def test_callbacks_on_what_they_cannot_follow(simclr, classifier, digits, make):
    callback = make(digits[0][:20])
    for model in (in_a_pipeline(simclr()), classifier()):
        with pytest.raises(TypeError, match=r"follows a SimCLRTransformer, but was set on .*Set"):
            model.set_callbacks(callback).fit(*digits)
