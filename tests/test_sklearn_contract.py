"""SimCLRTransformer inside scikit-learn: its checks, its meta-estimators, its callbacks."""

import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.callback import FitCallback, ProgressBar, ScoringMonitor
from sklearn.compose import ColumnTransformer
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, KFold, cross_val_score
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from torch import nn

from sklearn_simclr import SimCLRTransformer, _reading, _transformer
from sklearn_simclr.augmentation import AffineAugmentation, SimCLRAugmentation
from sklearn_simclr.encoders import ConvNetEncoder, MLPEncoder

pytestmark = [
    pytest.mark.filterwarnings("ignore:batch_size=256 is larger than the data"),
    pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names"),
]


def lazy_factory():
    """Encoder of vectors of any length."""
    return nn.LazyLinear(8)


TINY = MLPEncoder(hidden_dim=8, n_layers=2)
CHECKED = [
    SimCLRTransformer(
        TINY, max_epochs=1, batch_size=8, optimizer="sgd", projection_layers=0, temperature=0.1
    ),
    SimCLRTransformer(
        lazy_factory,
        augmentation="scarf",
        max_epochs=2,
        optimizer="lars",
        learning_rate=0.1,
        weight_decay=0.0,
        projection_layers=3,
        projection_dim=4,
    ),
    SimCLRTransformer(nn.LazyLinear(8), max_epochs=1, device="cpu", precision="float32"),
    SimCLRTransformer(TINY, max_epochs=1, loss="supcon", output_layer=2, projection_dim=3),
]


# ------------------------------------------------------------------------------------------------
# scikit-learn's own checks


def test_check_estimator_passes_every_check():
    results = check_estimator(SimCLRTransformer(max_epochs=2), on_skip=None)
    assert len(results) > 40
    not_passed = {result["check_name"] for result in results if result["status"] != "passed"}
    # Skipped for every estimator unless SCIPY_ARRAY_API is set.
    assert not_passed <= {"check_array_api_input"}


@parametrize_with_checks(CHECKED)
def test_checks_with_other_parameters(estimator, check):
    check(estimator)


@pytest.fixture
def rows_are_images(monkeypatch):
    """Read each row as an image one pixel high: the checks feed matrices of many widths."""
    read = _reading.read_image_shape

    def read_strip(shape, image_shape, channel_axis):
        if len(shape) <= 2:
            return 1, shape[-1], 1
        return read(shape, image_shape, channel_axis)

    monkeypatch.setattr(_reading, "read_image_shape", read_strip)


@pytest.mark.usefixtures("rows_are_images")
@parametrize_with_checks([SimCLRTransformer(ConvNetEncoder(width=4, n_layers=1), max_epochs=1)])
def test_checks_on_images(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "name",
    [
        "check_dataframe_column_names_consistency",
        "check_estimator_repr",
        "check_get_feature_names_out_error",
        "check_global_output_transform_pandas",
        "check_global_set_output_transform_polars",
        "check_param_validation",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_set_output_transform_polars",
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_estimators_partial_fit_n_features",
    ],
)
@pytest.mark.parametrize("mode", ["vectors", "images"])
def test_checks_that_scikit_learn_keeps_to_itself(name, mode, request):
    encoder = TINY
    if mode == "images":
        request.getfixturevalue("rows_are_images")
        encoder = ConvNetEncoder(width=4, n_layers=1)
    check = getattr(estimator_checks, name)
    check("SimCLRTransformer", SimCLRTransformer(encoder, max_epochs=1))


def test_init_only_assigns():
    parts = {name: object() for name in SimCLRTransformer().get_params()}
    assert vars(SimCLRTransformer(**parts)) == parts


def test_clone_of_a_fitted_model_is_unfitted_and_equal_in_its_parameters(simclr, digits):
    model = simclr(augmentation=AffineAugmentation(noise=0.2)).fit(digits[0])
    copy = clone(model)
    assert not copy.__sklearn_is_fitted__()
    assert vars(copy).keys() == copy.get_params(deep=False).keys()
    assert copy.encoder is not model.encoder
    assert repr(copy) == repr(model)
    assert joblib.hash(copy.fit(digits[0])) == joblib.hash(model)


def test_nested_parameters():
    model = SimCLRTransformer(ConvNetEncoder(), augmentation=SimCLRAugmentation())
    model.set_params(encoder__width=3, augmentation__color_strength=0.25, temperature=0.1)
    assert model.encoder.width == 3
    assert model.augmentation.color_strength == 0.25
    assert model.get_params()["encoder__width"] == 3
    with pytest.raises(ValueError, match="Invalid parameter"):
        model.set_params(encoder__depth=18)


# ------------------------------------------------------------------------------------------------
# Meta-estimators, on images


@pytest.fixture
def pipeline(simclr):
    return Pipeline([("simclr", simclr()), ("clf", LogisticRegression(max_iter=1000))])


def test_pipeline(pipeline, photos):
    images, labels = photos
    pipeline.fit(images[:24], labels[:24])
    assert pipeline.score(images[24:], labels[24:]) > 0.8  # the colours tell
    assert pipeline.predict(images[:3]).shape == (3,)
    by_hand = pipeline[1].predict_proba(pipeline[0].transform(images))
    assert_array_equal(pipeline.predict_proba(images), by_hand)


def test_feature_union(simclr, photos):
    images, _ = photos
    union = FeatureUnion(
        [
            ("simclr", simclr()),
            ("colour", FunctionTransformer(lambda X: X.mean((1, 2)))),
        ]
    )
    features = union.fit_transform(images)
    assert features.shape == (32, 4 + 3)
    assert_array_equal(features[:, :4], simclr().fit_transform(images))


def test_column_transformer(simclr, digits):
    images, labels = digits
    pixels = [f"pixel{i}" for i in range(64)]
    frame = pd.DataFrame(images.reshape(64, -1), columns=pixels).assign(age=labels)
    columns = ColumnTransformer(
        [("simclr", simclr(image_shape=(8, 8)), pixels), ("age", "passthrough", ["age"])]
    ).set_output(transform="pandas")
    features = columns.fit_transform(frame)
    assert list(features.columns)[3:] == ["simclr__simclrtransformer3", "age__age"]
    assert_array_equal(features.iloc[:, :4], simclr().fit_transform(images))


def test_cross_val_score(pipeline, photos):
    images, labels = photos
    scores = cross_val_score(pipeline, images, labels, cv=4)
    assert scores.shape == (4,) and scores.mean() > 0.8


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_grid_search_reaches_into_every_part(pipeline, photos, n_jobs):
    images, labels = photos
    pipeline.set_params(simclr__augmentation=SimCLRAugmentation())
    grid = {
        "simclr__augmentation__color_strength": [0.25, 1.0],
        "simclr__encoder__width": [3, 5],
        "simclr__temperature": [0.1],
    }
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=n_jobs, error_score="raise")
    search.fit(images, labels)
    assert len(search.cv_results_["params"]) == 4
    best = search.best_estimator_
    assert best[0].transform(images).shape == (32, search.best_params_["simclr__encoder__width"])
    assert pipeline.get_params()["simclr__encoder__width"] == 4  # the original is left alone


def test_grid_search_in_two_processes_equals_one(pipeline, photos):
    images, labels = photos
    grid = {"simclr__encoder__width": [3, 5], "simclr__temperature": [0.1, 0.5]}
    one, two = (
        GridSearchCV(pipeline, grid, cv=2, n_jobs=n_jobs, scoring="neg_log_loss")
        for n_jobs in (1, 2)
    )
    one.fit(images, labels)
    two.fit(images, labels)
    # Other processes may use another number of threads, hence not to the last bit.
    assert_allclose(
        one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"], rtol=0.05
    )


def test_halving_search_over_the_epochs(pipeline, photos):
    images, labels = photos
    search = HalvingGridSearchCV(
        pipeline,
        {"simclr__temperature": [0.1, 0.5]},
        resource="simclr__max_epochs",
        min_resources=1,
        max_resources=4,
        factor=2,
        cv=2,
        random_state=0,
        error_score="raise",
    ).fit(images, labels)
    assert search.n_resources_[-1] >= 2
    assert search.best_estimator_[0].n_iter_ == search.n_resources_[-1]


def test_grid_search_without_labels_by_the_score_of_the_estimator(simclr, digits):
    images, _ = digits
    search = GridSearchCV(simclr(), {"temperature": [0.1, 1.0]}, cv=KFold(2), error_score="raise")
    search.fit(images)
    by_hand = [
        np.mean(
            [
                simclr(temperature=temperature).fit(images[train]).score(images[test])
                for train, test in KFold(2).split(images)
            ]
        )
        for temperature in (0.1, 1.0)
    ]
    assert_allclose(search.cv_results_["mean_test_score"], by_hand)
    assert search.score(images) == search.best_estimator_.score(images)


@pytest.fixture
def trainings(monkeypatch):
    """List that grows by one with each real training."""
    counted, train = [], _transformer.train

    def counting_train(*args, **kwargs):
        counted.append(1)
        return train(*args, **kwargs)

    monkeypatch.setattr(_transformer, "train", counting_train)
    return counted


def test_cached_pipeline_trains_each_encoder_once_per_fold(pipeline, photos, trainings, tmp_path):
    images, labels = photos
    pipeline.set_params(memory=str(tmp_path))
    grid = {"simclr__temperature": [0.1, 0.5], "clf__C": [0.01, 1.0, 100.0]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(images, labels)
    assert len(trainings) == 2 * 2 + 1  # temperatures x folds, and the refit
    expected = search.best_estimator_.predict_proba(images)

    again = clone(search).fit(images, labels)
    assert len(trainings) == 5
    assert_array_equal(again.best_estimator_.predict_proba(images), expected)


def test_cached_pipeline_after_its_transformer_was_fitted(pipeline, photos, trainings, tmp_path):
    images, labels = photos
    pipeline.set_params(memory=str(tmp_path)).fit(images, labels)
    pipeline.predict(images)
    pipeline.fit(images, labels)
    assert len(trainings) == 1


# ------------------------------------------------------------------------------------------------
# Names and looks of the output


def test_set_output_and_feature_names(simclr, digits):
    images, _ = digits
    model = simclr().set_output(transform="pandas")
    frame = model.fit_transform(images)
    names = [f"simclrtransformer{i}" for i in range(4)]
    assert list(frame.columns) == list(model.get_feature_names_out()) == names
    assert (frame.dtypes == np.float32).all()
    assert_array_equal(frame, simclr().fit_transform(images))
    assert isinstance(model.set_output(transform="default").transform(images), np.ndarray)


def test_index_of_a_frame_is_kept(simclr, digits):
    frame = pd.DataFrame(digits[0].reshape(64, -1), index=[f"row{i}" for i in range(64)])
    frame.columns = frame.columns.astype(str)
    model = simclr(image_shape=(8, 8)).set_output(transform="pandas").fit(frame)
    assert list(model.transform(frame).index) == list(frame.index)
    assert list(model.feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="feature names"):
        model.transform(frame.iloc[:, ::-1])


def test_names_are_forgotten_by_a_fit_without_names(simclr, digits):
    images, _ = digits
    frame = pd.DataFrame(images.reshape(64, -1)).add_prefix("pixel")
    model = simclr(image_shape=(8, 8)).fit(frame).fit(frame.to_numpy())
    assert not hasattr(model, "feature_names_in_")


@pytest.mark.parametrize("encoder", ["auto", ConvNetEncoder(width=3), nn.Flatten()])
def test_html_repr(encoder, digits):
    model = SimCLRTransformer(encoder, max_epochs=1, learning_rate=0.0123)
    unfitted = model._repr_html_()
    assert "SimCLRTransformer" in unfitted and "0.0123" in unfitted and "Not fitted" in unfitted
    fitted = model.fit(digits[0])._repr_html_()
    assert "SimCLRTransformer" in fitted and "Not fitted" not in fitted
    assert "SimCLRTransformer" in Pipeline([("simclr", model)])._repr_html_()


# ------------------------------------------------------------------------------------------------
# Callbacks


class Recorder:
    """Callback that writes down every call, and the features at the end of each task."""

    def __init__(self, probe, *, stop_after=None):
        self.probe, self.stop_after = probe, stop_after
        self.calls, self.snapshots, self.features, self.data = [], [], [], []
        self.untrained = None

    def setup(self, estimator, context):
        self.calls.append("setup")

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.calls.append(f"begin {context.task_name} {context.task_id}")
        assert (fitted_estimator is not None) == (context.task_name == "fit")
        self.untrained = fitted_estimator or self.untrained

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.calls.append(f"end {context.task_name} {context.task_id}")
        self.snapshots.append(fitted_estimator)
        self.features.append(fitted_estimator.transform(self.probe))
        self.data.append((X, y))
        return context.task_name == "epoch" and context.task_id + 1 == self.stop_after


@pytest.fixture
def recorder(digits):
    return Recorder(digits[0][:8])


def test_hooks_are_called_around_every_epoch(simclr, digits, recorder):
    images, labels = digits
    assert isinstance(recorder, FitCallback)
    model = simclr(max_epochs=3).set_callbacks(recorder).fit(images, labels)
    epochs = [f"{edge} epoch {i}" for i in range(3) for edge in ("begin", "end")]
    assert recorder.calls == ["setup", "begin fit 0", *epochs, "end fit 0", "teardown"]
    assert all(X is images and y is labels for X, y in recorder.data)
    assert [snapshot.n_iter_ for snapshot in recorder.snapshots] == [1, 2, 3, 3]
    assert_array_equal(recorder.features[-1], model.transform(recorder.probe))
    assert recorder.untrained.n_iter_ == 0 and np.isnan(recorder.untrained.loss_)
    assert np.isfinite(recorder.untrained.transform(recorder.probe)).all()


def test_snapshots_stay_as_they_were(simclr, digits, recorder):
    model = simclr(max_epochs=3, learning_rate=0.05).set_callbacks(recorder).fit(digits[0])
    for snapshot, features in zip(recorder.snapshots, recorder.features, strict=True):
        assert snapshot is not model
        assert_array_equal(snapshot.transform(recorder.probe), features)
        assert snapshot.loss_curve_ == model.loss_curve_[: snapshot.n_iter_]
        assert snapshot.loss_ == snapshot.loss_curve_[-1]
    first, second, *_ = recorder.features
    assert not np.allclose(first, second, atol=1e-3)
    assert recorder.snapshots[0].score(digits[0]) >= 0


def test_callbacks_do_not_change_the_training(simclr, digits, recorder):
    images, _ = digits
    watched = simclr().set_callbacks(recorder).fit(images)
    assert_array_equal(watched.transform(images), simclr().fit(images).transform(images))


def test_truthy_return_stops_the_training(simclr, digits):
    images, _ = digits
    recorder = Recorder(images[:8], stop_after=2)
    model = simclr(max_epochs=50).set_callbacks(recorder).fit(images)
    assert model.n_iter_ == len(model.loss_curve_) == 2
    assert recorder.calls[-3:] == ["end epoch 1", "end fit 0", "teardown"]
    assert_array_equal(model.transform(images[:8]), recorder.features[1])


@pytest.mark.parametrize("fails", [False, True])
def test_fit_leaves_no_traces_of_callbacks(simclr, digits, recorder, fails):
    images, _ = digits
    model = simclr(learning_rate=1e30 if fails else "auto", optimizer="sgd", precision="float32")
    model.set_callbacks(recorder)
    if fails:
        with pytest.raises(FloatingPointError):
            model.fit(images)
        assert recorder.calls[-1] == "teardown"
    else:
        model.fit(images)
    model.set_callbacks()
    assert [name for name in vars(model) if "callback" in name or "ctx" in name] == []


def test_callback_that_raises_leaves_the_epochs_so_far(simclr, digits):
    class Fails(Recorder):
        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if fitted_estimator.n_iter_ == 2:
                raise RuntimeError("enough")

    model = simclr(max_epochs=5).set_callbacks(Fails(digits[0]))
    with pytest.raises(RuntimeError, match="enough"):
        model.fit(digits[0])
    assert model.n_iter_ == 2
    assert np.isfinite(model.transform(digits[0])).all()


def test_progress_bar(simclr, digits, pipeline, capsys):
    pytest.importorskip("rich")
    images, labels = digits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that LogisticRegression has no bar of its own
        simclr().set_callbacks(ProgressBar()).fit(images)
        alone = capsys.readouterr().out
        pipeline.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(images, labels)
        inside = capsys.readouterr().out
    assert "SimCLRTransformer" in alone and "100%" in alone
    assert "Pipeline" in inside and "SimCLRTransformer" in inside


def own_score(estimator, X, y=None):
    """Score as the estimator does; scoring=None, which means just that, fails in the monitor."""
    return estimator.score(X)


def test_scoring_monitor_alone_by_the_score_of_the_estimator(simclr, digits):
    images, labels = digits
    monitor = ScoringMonitor(scoring={"own": own_score})
    model = simclr(max_epochs=3).set_callbacks(monitor).fit(images, labels)
    scores = [row["own"] for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(scores) == 3
    assert scores[-1] == model.score(images)


def test_scoring_monitor_in_a_pipeline(pipeline, digits):
    images, labels = digits
    monitor = ScoringMonitor(scoring={"own": own_score})
    pipeline[0].set_callbacks(monitor)
    pipeline.fit(images, labels)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(rows) == 2
    assert rows[-1]["own"] == pipeline[0].score(images)


def test_scoring_monitor_without_labels_logs_nothing_and_does_no_harm(simclr, digits):
    # scikit-learn's monitor scores only where there is a y.
    monitor = ScoringMonitor(scoring={"own": own_score})
    assert simclr().set_callbacks(monitor).fit(digits[0]).n_iter_ == 2
    assert all("own" not in row for row in monitor.get_logs().data)
