"""Displays: what they compute, what they draw, and what they leave as it was."""

import builtins
import copy
import io
import pickle
import random
import warnings

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_simclr import SimCLRClassifier, SimCLRTransformer, _files
from sklearn_simclr._decoding import decode
from sklearn_simclr._inspected import Encoder
from sklearn_simclr._pictures import standing_apart
from sklearn_simclr._random import cpu_generator
from sklearn_simclr.augmentation import AffineAugmentation, FeatureCorruption, SimCLRAugmentation
from sklearn_simclr.inspection import (
    EmbeddingDisplay,
    LossCurveDisplay,
    NeighborsDisplay,
    ViewsDisplay,
)

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm, to_hex

WITH_X = (ViewsDisplay, NeighborsDisplay, EmbeddingDisplay)
OF_FITTED = (NeighborsDisplay, EmbeddingDisplay)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def digits_model(digits):
    return small().fit(digits[0])


@pytest.fixture(scope="module")
def bands():
    """24 images (5, 12, 10) of uint16, channels first, dark but for one pixel."""
    images = np.random.default_rng(0).integers(100, 600, (24, 5, 12, 10)).astype(np.uint16)
    images[0, :, 0, 0] = 10_000
    return images


def small(**params):
    from sklearn_simclr.encoders import ConvNetEncoder

    defaults = {"encoder": ConvNetEncoder(width=4, n_layers=2), "projection_dim": 8}
    defaults |= {"batch_size": 16, "max_epochs": 2, "random_state": 0}
    return SimCLRTransformer(**defaults | params)


def drawn(image):
    return np.asarray(image.get_array())


def read(text):
    """What is seen of a text without mathematics."""
    escaped = r"\$" if text.get_parse_math() else "$"
    return text.get_text().replace(escaped, "$").lstrip("\u200b")


def legend(ax):
    return [read(text) for text in ax.get_legend().get_texts()]


def cosine(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)


def nearest_by_hand(h_query, h, n_neighbors, own=None):
    """Rows of the nearest features one after the other, by float64 cosines."""
    rows = []
    for number, row in enumerate(cosine(h_query, h)):
        order = sorted(range(len(h)), key=lambda other, row=row: -row[other])
        rows.append([o for o in order if own is None or o != own[number]][:n_neighbors])
    return np.array(rows)


# Loss


def test_loss_curve_is_drawn_over_the_epochs(digits_model):
    display = LossCurveDisplay.from_estimator(digits_model)
    assert display.line_.get_xdata().tolist() == [1, 2]
    assert display.line_.get_ydata().tolist() == digits_model.loss_curve_
    assert display.ax_.get_xlabel() == "epoch"
    assert display.figure_ is display.ax_.figure
    assert display.ax_.get_legend() is None


def test_loss_curves_of_two_models_share_axes(digits_model):
    first = LossCurveDisplay.from_estimator(digits_model, name="one")
    second = LossCurveDisplay.from_estimator(
        digits_model, name="two", ax=first.ax_, line_kw={"c": "k", "ls": "--"}
    )
    assert second.ax_ is first.ax_
    assert [text.get_text() for text in second.ax_.get_legend().get_texts()] == ["one", "two"]
    assert (second.line_.get_color(), second.line_.get_linestyle()) == ("k", "--")
    assert second.plot(name="three").line_.get_label() == "three"


def test_loss_of_a_classifier_has_two_stages(digits, simclr):
    X, y = digits
    model = SimCLRClassifier(simclr(), max_iter=3, random_state=0)
    pipeline = make_pipeline(FunctionTransformer(), model).fit(X, np.where(y > 3, y, -1))
    before = LossCurveDisplay.from_estimator(pipeline)
    assert before.line_.get_ydata().tolist() == model.transformer_.loss_curve_
    after = LossCurveDisplay.from_estimator(pipeline, stage="fine_tuning")
    assert after.line_.get_ydata().tolist() == model.loss_curve_
    assert after.ax_.get_xlabel() == "step"


def test_stages_that_do_not_exist_are_refused(digits, digits_model):
    X, y = digits
    with pytest.raises(ValueError, match="stage='fine_tuning' needs a SimCLRClassifier"):
        LossCurveDisplay.from_estimator(digits_model, stage="fine_tuning")
    with pytest.raises(ValueError, match="stage='late' must be 'pre_training' or"):
        LossCurveDisplay.from_estimator(digits_model, stage="late")
    model = SimCLRClassifier(FrozenEstimator(digits_model), method="linear", distill=False)
    with pytest.raises(ValueError, match=r"no losses to draw.*method_='linear'"):
        LossCurveDisplay.from_estimator(model.fit(X, y), stage="fine_tuning")


# Views


def draw_by_hand(augmentation, batch, n_views, seed):
    """Rows and views as a display draws them: the rows by NumPy, the views by a generator."""
    rng = np.random.RandomState(seed)
    order = rng.permutation(len(batch))
    generator = cpu_generator(rng.randint(2**31 - 1))
    return order, lambda rows: [augmentation(batch[rows], generator) for _ in range(n_views)]


@pytest.mark.parametrize("augmentation", ["auto", AffineAugmentation(noise=0.3)])
def test_views_are_those_of_the_augmentation(digits, augmentation, simclr):
    X = digits[0]
    unfitted = simclr(augmentation=augmentation)
    display = ViewsDisplay.from_estimator(unfitted, X, n_samples=3, n_views=4, random_state=5)
    batch = torch.tensor(X[:, None] / 16, dtype=torch.float32)
    used = AffineAugmentation() if augmentation == "auto" else augmentation
    order, views = draw_by_hand(used, batch, 4, seed=5)
    assert display.rows.tolist() == order[:3].tolist()
    np.testing.assert_allclose(display.originals, X[order[:3]] / 16, rtol=1e-6)
    for number, view in enumerate(views(order[:3])):
        np.testing.assert_array_equal(display.views[:, number], view[:, 0].clip(0, 1).numpy())
    for row in range(3):
        assert drawn(display.images_[row, 0]).shape == (8, 8)
        np.testing.assert_array_equal(drawn(display.images_[row, 0]), display.originals[row])
        for column in range(4):
            np.testing.assert_array_equal(
                drawn(display.images_[row, 1 + column]), display.views[row, column]
            )
    assert display.images_[0, 0].get_clim() == (0, 1)


def test_views_of_a_fitted_estimator_are_those_it_was_trained_on(photos):
    X = photos[0]
    model = small(augmentation=SimCLRAugmentation(flip_p=0)).fit(X)
    before = ViewsDisplay.from_estimator(model, X, random_state=0).views
    model.set_params(augmentation=SimCLRAugmentation(color_strength=0))
    assert (ViewsDisplay.from_estimator(model, X, random_state=0).views == before).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh = small(augmentation=SimCLRAugmentation(flip_p=0))
        unfitted = ViewsDisplay.from_estimator(fresh, X, random_state=0).views
    assert (unfitted == before).all()


def test_views_read_new_pixels_as_in_fit(digits, digits_model):
    display = ViewsDisplay.from_estimator(digits_model, digits[0][:3] / 2, random_state=0)
    assert display.originals.max() <= 0.5
    assert display.originals.shape == (3, 8, 8)


def test_views_and_originals_have_the_size_that_the_network_sees(photos):
    X = photos[0]
    display = ViewsDisplay.from_estimator(small(image_size=12), X, n_samples=2)
    assert display.originals.shape == (2, 12, 12, 3)
    assert display.views.shape == (2, 6, 12, 12, 3)
    own = small(augmentation=SimCLRAugmentation(size=10))
    display = ViewsDisplay.from_estimator(own, X, n_samples=2)
    assert display.originals.shape == (2, 16, 16, 3)
    assert display.views.shape == (2, 6, 10, 10, 3)


def test_views_warn_of_what_is_skipped_and_name_the_caller(digits, simclr):
    with pytest.warns(UserWarning, match="SimCLRAugmentation skips") as caught:
        ViewsDisplay.from_estimator(simclr(augmentation="simclr"), digits[0])
    assert caught[0].filename == __file__


def test_more_vectors_than_give_values_are_all_drawn():
    X = np.random.default_rng(0).normal(size=(300, 5))
    display = ViewsDisplay.from_estimator(SimCLRTransformer(), X, n_samples=270, n_views=1)
    assert len(display.originals) == len(display.views) == len(display.rows) == 270


def test_views_of_vectors_take_values_from_other_samples(vectors):
    X = vectors
    plan = SimCLRTransformer(augmentation=FeatureCorruption(0.5))
    display = ViewsDisplay.from_estimator(plan, X, n_samples=2, n_views=5, random_state=0)
    order, views = draw_by_hand(
        FeatureCorruption(0.5), torch.tensor(X, dtype=torch.float32), 5, seed=0
    )
    mean, scale = X.mean(0), X.std(0)
    np.testing.assert_allclose(display.originals, (X[order[:2]] - mean) / scale, rtol=1e-4)
    for number, view in enumerate(views(order)):
        expected = (view[:2].numpy() - mean) / scale
        np.testing.assert_allclose(display.views[:, number], expected, rtol=1e-4)
    assert display.axes_.shape == (2, 1)
    np.testing.assert_array_equal(drawn(display.images_[0, 0])[0], display.originals[0])
    np.testing.assert_array_equal(drawn(display.images_[0, 0])[1:], display.views[0])
    dots = display.axes_[0, 0].lines[-1].get_xydata()
    changed = np.argwhere(display.views[0] != display.originals[0])
    assert {tuple(dot) for dot in dots} == {(column, 1 + view) for view, column in changed}
    assert len(dots) == 5 * 3


def test_vectors_are_standardised_as_in_fit(vectors):
    model = SimCLRTransformer(max_epochs=1, batch_size=48, random_state=0).fit(vectors)
    few_rows = vectors[:4] + 5
    display = ViewsDisplay.from_estimator(model, few_rows, random_state=0)
    expected = (few_rows[display.rows] - vectors.mean(0)) / vectors.std(0)
    np.testing.assert_allclose(display.originals, expected, rtol=1e-4, atol=1e-4)


def test_vectors_of_a_frame_are_named(vectors):
    pd = pytest.importorskip("pandas")
    names = ["a", "b", "c", "d", "e", "a name that is very much too long"]
    X = pd.DataFrame(vectors, columns=names)
    display = ViewsDisplay.from_estimator(SimCLRTransformer(), X, n_samples=2)
    ticks = [label.get_text() for label in display.axes_[-1, 0].get_xticklabels()]
    assert ticks == ["a", "b", "c", "d", "e", "a name that is very…"]


def test_augmentations_that_fail_are_named(digits, simclr):
    X = digits[0]
    cases = {
        "failed on a batch of shape .*ZeroDivisionError": lambda batch: 1 / 0,
        "must return one float view a sample.*returned None": lambda batch: None,
        r"returned torch.float32 of shape \(3, 1, 8, 8\)": lambda batch: batch[:3],
        "returned torch.uint8": lambda batch: batch.to(torch.uint8),
    }
    for message, augmentation in cases.items():
        with pytest.raises(ValueError, match=message):
            ViewsDisplay.from_estimator(simclr(augmentation=augmentation), X)


def test_unfitted_estimators_are_checked_as_in_fit(digits, vectors):
    with pytest.raises(ValueError, match="does not suit X, which holds images"):
        ViewsDisplay.from_estimator(small(augmentation="scarf"), digits[0])
    with pytest.raises(ValueError, match="image_size=8 needs images"):
        ViewsDisplay.from_estimator(SimCLRTransformer(image_size=8), vectors)
    with pytest.raises(ValueError, match="'augmentation' parameter"):
        ViewsDisplay.from_estimator(small(augmentation="cutout"), digits[0])
    with pytest.raises(ValueError, match="flip_p"):
        plan = small(augmentation=SimCLRAugmentation(flip_p=2))
        ViewsDisplay.from_estimator(plan, digits[0])


def test_callables_work_in_place_on_copies(digits, simclr):
    def blacken(batch):
        return batch.zero_()

    display = ViewsDisplay.from_estimator(simclr(augmentation=blacken), digits[0])
    assert display.originals.max() > 0.9
    assert (display.views == 0).all()


# Neighbours


@pytest.mark.parametrize("queries", [[5, 0, 63], 4])
def test_neighbours_are_those_of_a_brute_force(digits, digits_model, queries):
    X = digits[0]
    display = NeighborsDisplay.from_estimator(
        digits_model, X, queries=queries, n_neighbors=7, random_state=0
    )
    rows = display.query_rows
    assert len(rows) == 3 if isinstance(queries, list) else 4
    h = digits_model.transform(X)
    expected = nearest_by_hand(h[rows], h, 7, own=rows)
    np.testing.assert_array_equal(display.neighbor_rows, expected)
    similarities = np.take_along_axis(cosine(h[rows], h), expected, axis=1)
    np.testing.assert_allclose(display.similarities, similarities, atol=1e-6)
    np.testing.assert_allclose(display.queries, X[rows] / 16, rtol=1e-6)
    np.testing.assert_allclose(display.neighbors, X[expected] / 16, rtol=1e-6)
    for row, column in np.ndindex(len(rows), 7):
        image, ax = display.images_[row, 1 + column], display.axes_[row, 1 + column]
        np.testing.assert_array_equal(drawn(image), display.neighbors[row, column])
        assert ax.get_title() == f"{similarities[row, column]:.3f}"
    np.testing.assert_array_equal(drawn(display.images_[1, 0]), display.queries[1])


def test_queries_of_their_own_are_sought_among_all_of_x(digits, digits_model):
    X = digits[0]
    display = NeighborsDisplay.from_estimator(
        digits_model, X[:40], X_query=X[20:50], queries=[0, 25], n_neighbors=40
    )
    h = digits_model.transform(X)
    expected = nearest_by_hand(h[[20, 45]], h[:40], 40)
    np.testing.assert_array_equal(display.neighbor_rows, expected)
    assert display.neighbor_rows[0, 0] == 20  # the same image, in another X
    np.testing.assert_allclose(display.queries, X[[20, 45]] / 16, rtol=1e-6)


def test_copies_of_a_query_are_its_neighbours(digits, digits_model):
    X = np.concatenate([digits[0], digits[0][:1]])
    display = NeighborsDisplay.from_estimator(digits_model, X, queries=[0], n_neighbors=1)
    assert display.neighbor_rows.tolist() == [[64]]
    assert display.axes_[0, 1].get_title() == "1.000"


def test_labels_frame_and_name_the_neighbours(digits, digits_model):
    X, y = digits
    y = np.where(np.arange(64) % 5 == 0, "-1", (y % 2).astype(str))
    display = NeighborsDisplay.from_estimator(digits_model, X, y=y, queries=[1, 5], n_neighbors=9)
    for row, query in enumerate([1, 5]):
        for column, neighbor in enumerate(display.neighbor_rows[row]):
            ax = display.axes_[row, 1 + column]
            frames = [to_hex(patch.get_edgecolor()) for patch in ax.patches]
            if "-1" in (y[query], y[neighbor]):
                assert frames == [] and float(ax.get_title()) <= 1  # the similarity, and no mark
            elif y[query] == y[neighbor]:
                assert (frames, ax.get_title()[0]) == (["#0072b2"], "✓")
            else:
                assert (frames, ax.get_title()[0]) == (["#d55e00"], "✗")
            assert ax.get_xlabel() == y[neighbor].replace("-1", "")
    assert display.axes_[0, 0].get_xlabel() == y[1]
    assert {"✓", "✗"} <= {ax.get_title()[0] for ax in display.axes_[:, 1:].flat}


def test_labels_of_queries_of_their_own(digits, digits_model):
    X, y = digits
    names = np.array(["a name much too long", *"bcdefghij"])[y]
    display = NeighborsDisplay.from_estimator(
        digits_model, X[:50], y=names[:50], X_query=X[50:], y_query=names[50:], queries=[3]
    )
    assert display.query_labels.tolist() == [names[53]]
    np.testing.assert_array_equal(display.neighbor_labels, names[display.neighbor_rows])
    display = NeighborsDisplay.from_estimator(digits_model, X, y=names, queries=[int(np.argmin(y))])
    assert display.axes_[0, 0].get_xlabel() == "a name muc…"
    unknown = NeighborsDisplay.from_estimator(digits_model, X[:50], y=y[:50], X_query=X[50:])
    assert unknown.query_labels is None
    assert not any(ax.patches for ax in unknown.axes_.flat)
    for of_queries in (y.astype(float), y.astype(np.uint64), y.tolist(), y.astype(str)):
        mixed = NeighborsDisplay.from_estimator(
            digits_model, X, y=y, X_query=X, y_query=of_queries, queries=[3], n_neighbors=1
        )
        assert mixed.axes_[0, 1].get_title()[0] == "✓"  # it is the query itself
    with pytest.raises(ValueError, match="y_query holds the classes of X_query, which is None"):
        NeighborsDisplay.from_estimator(digits_model, X, y_query=y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"queries": [64]}, r"queries=\[64\] must be row numbers from 0 to 63"),
        ({"queries": [-1]}, r"queries=\[-1\] must be row numbers"),
        ({"queries": [0.5]}, r"queries=\[0.5\] must be the number of rows"),
        ({"queries": []}, r"queries=\[\] must be the number of rows"),
        ({"queries": 0}, "queries == 0, must be >= 1"),
        ({"n_neighbors": 64}, "n_neighbors=64 is more than the 63 images of X"),
        ({"n_neighbors": 0}, "n_neighbors == 0, must be >= 1"),
        ({"y": [0, 1]}, "y holds 2 labels, but X has 64 rows"),
        ({"channels": 1}, "channels=1 must be .* from 0 to 0"),
        ({"channels": (0, 0)}, r"channels=\(0, 0\) must be the number of one channel"),
        ({"channels": "red"}, "channels='red' must be the number of one channel"),
    ],
)
def test_bad_queries_are_refused(digits, digits_model, params, message):
    with pytest.raises(ValueError, match=message):
        NeighborsDisplay.from_estimator(digits_model, digits[0], **params)


def test_vectors_have_no_pictures(vectors):
    model = SimCLRTransformer(max_epochs=1, batch_size=48, random_state=0).fit(vectors)
    with pytest.raises(ValueError, match=r"X holds vectors.*NearestNeighbors"):
        NeighborsDisplay.from_estimator(model, vectors)


# Map


def test_map_is_the_reduction_of_the_features(digits, digits_model):
    X = digits[0]
    display = EmbeddingDisplay.from_estimator(digits_model, X, reduction=PCA(2), random_state=0)
    rows = display.rows
    assert sorted(rows) == list(range(64))
    expected = PCA(2).fit_transform(digits_model.transform(X)[rows])
    np.testing.assert_allclose(display.coordinates, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(display.pictures, X[rows] / 16, rtol=1e-6)
    np.testing.assert_array_equal(display.points_[0].get_offsets(), display.coordinates)


def test_given_coordinates_are_drawn_for_the_rows_that_are_drawn(digits, digits_model):
    X = digits[0]
    given = np.random.default_rng(0).random((64, 2))
    display = EmbeddingDisplay.from_estimator(digits_model, X, reduction=given, n_samples=10)
    assert len(display.rows) == 10
    np.testing.assert_array_equal(display.coordinates, given[display.rows])
    for point, image in zip(display.thumbnail_points_, display.thumbnails_, strict=True):
        np.testing.assert_allclose(drawn(image), X[display.rows[point]] / 16, rtol=1e-6)
        left, right, bottom, top = image.get_extent()
        centre = [(left + right) / 2, (bottom + top) / 2]
        np.testing.assert_allclose(centre, display.coordinates[point])


def test_default_map_is_reproducible_and_keeps_near_neighbours_near(digits, digits_model):
    X = digits[0]
    twins = np.repeat(X[:20], 2, axis=0)
    first, second = (
        EmbeddingDisplay.from_estimator(digits_model, twins, random_state=3) for _ in range(2)
    )
    np.testing.assert_array_equal(first.coordinates, second.coordinates)
    place = first.coordinates[np.argsort(first.rows)]
    apart = np.linalg.norm(place[:, None] - place[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    partner = np.arange(40) ^ 1
    assert (apart.argmin(axis=1) == partner).mean() > 0.8


def test_thumbnails_do_not_cover_each_other(digits, digits_model):
    display = EmbeddingDisplay.from_estimator(
        digits_model, digits[0], reduction=PCA(2), random_state=0, thumbnail_size=0.15
    )
    display.figure_.canvas.draw()
    boxes = [image.get_window_extent() for image in display.thumbnails_]
    assert 3 < len(boxes) < 64
    for number, box in enumerate(boxes):
        assert box.width == pytest.approx(box.height)
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert display.ax_.bbox.contains(box.x0, box.y0)
        assert display.ax_.bbox.contains(box.x1, box.y1)
    height, width = display.ax_.bbox.height, display.ax_.bbox.width
    assert boxes[0].width <= 0.15 * max(height, width) + 1e-6


def test_a_point_without_a_thumbnail_has_one_in_its_way():
    rng = np.random.default_rng(0)
    points = rng.random((200, 2))
    chosen = standing_apart(points, 0.1, 0.2)
    collide = (np.abs(points[:, None] - points[None]) < (0.1, 0.2)).all(axis=2)
    assert not collide[np.ix_(chosen, chosen)][~np.eye(len(chosen), dtype=bool)].any()
    left = np.setdiff1d(np.arange(200), chosen)
    assert all(collide[point, chosen[chosen < point]].any() for point in left)


def test_thumbnails_keep_the_shape_of_the_images_and_shrink(simclr):
    X = np.random.default_rng(0).integers(0, 256, (6, 40, 160, 3)).astype(np.uint8)
    model = simclr(image_size=16, max_epochs=1, batch_size=6).fit(X)
    display = EmbeddingDisplay.from_estimator(model, X, reduction=np.eye(6, 2))
    assert display.pictures.shape == (6, 16, 64, 3)
    assert display.pictures[0].mean() == pytest.approx(X[display.rows[0]].mean() / 255, abs=0.01)
    left, right, bottom, top = display.thumbnails_[0].get_extent()
    assert (right - left) / (top - bottom) == pytest.approx(4)


def test_a_map_without_thumbnails_makes_no_pictures(monkeypatch, digits, digits_model):
    given = np.random.default_rng(0).random((64, 2))
    first = EmbeddingDisplay.from_estimator(
        digits_model, digits[0], reduction=given, random_state=0
    )
    monkeypatch.setattr(Encoder, "pictures", None)
    display = EmbeddingDisplay.from_estimator(
        digits_model, digits[0], reduction=given, random_state=0, thumbnail_size=0
    )
    assert display.pictures is None and display.thumbnails_ == []
    np.testing.assert_array_equal(display.coordinates, first.coordinates)
    assert display.plot(thumbnail_size=0.1).thumbnails_ == []


def test_pictures_are_held_once(digits, digits_model, peak_of):
    encoder = Encoder(digits_model, np.tile(digits[0], (100, 1, 1)))
    rows = np.random.default_rng(0).permutation(6400)
    pictures, peak = peak_of(lambda: encoder.pictures(rows, None, None))
    np.testing.assert_allclose(pictures, digits[0][rows % 64] / 16, rtol=1e-6)
    assert peak < 1.5 * pictures.nbytes


def test_classes_of_a_map_have_colours_and_a_legend(digits, digits_model):
    X = digits[0]
    # 11 frequent classes, of which 10 have a colour, and one unlabelled sample
    y = np.array([f"class {i % 11:02}" for i in range(63)] + ["-1"])
    coordinates = np.random.default_rng(0).random((64, 2))
    display = EmbeddingDisplay.from_estimator(digits_model, X, y=y, reduction=coordinates)
    names = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert len(names) == 12
    assert names[-2:] == ["no label", "other"]
    colours = {}
    for artist, name in zip(display.points_, names, strict=True):
        colours[name] = to_hex(artist.get_facecolor()[0])
        if name.startswith("class"):
            expected = coordinates[y == name]
            assert {tuple(p) for p in artist.get_offsets()} == {tuple(p) for p in expected}
    assert len(set(colours.values())) == 11
    assert colours["other"] == colours["no label"]
    frames = [patch for patch in display.ax_.patches]
    assert len(frames) == len(display.thumbnails_)
    for point, frame in zip(display.thumbnail_points_, frames, strict=True):
        label = display.labels[point] or "no label"
        assert to_hex(frame.get_edgecolor()) == colours.get(label, colours["other"])


def test_vectors_are_points_of_a_map(vectors):
    model = SimCLRTransformer(max_epochs=1, batch_size=48, random_state=0).fit(vectors)
    display = EmbeddingDisplay.from_estimator(model, vectors, reduction=PCA(2))
    assert display.pictures is None
    assert display.thumbnails_ == []
    assert len(display.points_[0].get_offsets()) == 48


class Counting:
    """A reduction without parameters that must not be used itself."""

    n_calls = 0

    def fit_transform(self, X):
        self.n_calls += 1
        return X[:, :2]


def test_the_reduction_itself_is_not_fitted(digits, digits_model):
    for reduction in (Counting(), PCA(2)):
        before = copy.deepcopy(vars(reduction))
        EmbeddingDisplay.from_estimator(digits_model, digits[0], reduction=reduction)
        assert vars(reduction) == before


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"reduction": "pca"}, r"reduction must be a transformer.*got 'pca'"),
        ({"reduction": np.zeros((3, 2))}, r"of shape \(64, 2\), one row per row of X.*\(3, 2\)"),
        ({"reduction": np.full((64, 2), np.nan)}, "reduction contains NaN"),
        ({"reduction": PCA(3)}, r"reduction=PCA\(n_components=3\) turned features of shape"),
        ({"n_samples": 3}, "t-SNE, which needs at least 4 samples, but X gives 3"),
        ({"n_samples": 0}, "n_samples == 0, must be >= 1"),
        ({"thumbnail_size": 0.6, "n_samples": 3}, "thumbnail_size == 0.6, must be <= 0.5"),
        ({"thumbnail_size": np.float32("nan")}, "thumbnail_size == nan, must be from 0 to 0.5"),
        ({"reduction": PCA}, "reduction must be a transformer.*got <class"),
        ({"channels": 3}, "channels=3 must be"),
        ({"channels": np.array(1)}, r"channels=array\(1\) must be"),
        ({"y": np.linspace(0, 1, 64)}, "continuous"),
    ],
)
def test_bad_maps_are_refused(digits, digits_model, params, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingDisplay.from_estimator(digits_model, digits[0], **params)


# All displays


def few(display, estimator, X, **params):
    """Draw a display, and return its pictures of samples."""
    if display is ViewsDisplay:
        return display.from_estimator(estimator, X, random_state=0, **params).originals
    if display is NeighborsDisplay:
        shown = display.from_estimator(estimator, X, random_state=0, n_neighbors=2, **params)
        return shown.queries
    params |= {"reduction": np.eye(len(X), 2)}
    return display.from_estimator(estimator, X, random_state=0, n_samples=6, **params).pictures


@pytest.mark.parametrize("display", WITH_X)
def test_every_kind_of_x_is_shown(display, photos, bands, digits, tmp_path):
    X = photos[0]
    model = small(max_epochs=1).fit(X)
    pictures = few(display, model, X)
    assert pictures.shape[1:] == (16, 16, 3)
    assert pictures.max() == 1
    memmap = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", X.dtype, X.shape)
    memmap[:] = X
    paths = [tmp_path / f"{number}.png" for number in range(len(X))]
    for path, image in zip(paths, X, strict=True):
        Image.fromarray(image).save(path)
    for same in (memmap, torch.tensor(X), X.astype(float), paths):
        np.testing.assert_allclose(few(display, model, same), pictures, atol=1e-6)
    first = small(max_epochs=1, channel_axis=1).fit(X.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(few(display, first, X.transpose(0, 3, 1, 2)), pictures)
    flat = small(max_epochs=1, image_shape=(16, 16, 3)).fit(X.reshape(32, -1))
    np.testing.assert_array_equal(few(display, flat, X.reshape(32, -1)), pictures)


@pytest.mark.parametrize("display", WITH_X)
def test_channels_can_be_chosen_and_their_contrast_is_stretched(display, bands):
    X = bands
    model = small(max_epochs=1, channel_axis=1).fit(X)
    false_colours = few(display, model, X)
    assert false_colours.shape[1:] == (12, 10, 3)
    assert (false_colours.mean(axis=(0, 1, 2)) > 0.4).all()  # one pixel does not darken the rest
    turned = few(display, model, X, channels=(2, 1, 0))
    np.testing.assert_array_equal(turned, false_colours[..., ::-1])
    grey = few(display, model, X, channels=1)
    np.testing.assert_array_equal(grey, false_colours[..., 1])
    with pytest.raises(ValueError, match=r"channels=\(3, 4, 5\) must be .* from 0 to 4"):
        few(display, model, X, channels=(3, 4, 5))
    two = small(max_epochs=1, channel_axis=1).fit(X[:, :2])
    assert few(display, two, X[:, :2]).ndim == 3


def test_views_are_stretched_as_their_originals(bands):
    def brighter(batch):
        return batch + 0.02

    plan = small(channel_axis=1, augmentation=brighter)
    display = ViewsDisplay.from_estimator(plan, bands, random_state=0)
    inside = (display.originals > 0) & (display.views[:, 0] < 1)
    more = (display.views[:, 0] - display.originals)[inside]
    assert more.min() > 0.2
    grey = small(channel_axis=1, augmentation=lambda batch: batch.mean(1, keepdim=True))
    assert ViewsDisplay.from_estimator(grey, bands, channels=(4, 3, 2)).views.ndim == 4


def test_large_images_and_single_samples(digits_model, digits):
    X = digits[0]
    assert ViewsDisplay.from_estimator(digits_model, X[:1]).axes_.shape == (1, 7)
    NeighborsDisplay.from_estimator(digits_model, X[:2], n_neighbors=1)
    EmbeddingDisplay.from_estimator(digits_model, X[:1], reduction=[[0, 0]])
    EmbeddingDisplay.from_estimator(digits_model, X[:5])
    large = ViewsDisplay(originals=np.zeros((1, 200, 300)), views=np.zeros((1, 2, 200, 300)))
    assert large.plot().images_[0, 0].get_interpolation() == "antialiased"
    small_ones = ViewsDisplay(originals=np.zeros((1, 8, 8)), views=np.zeros((1, 2, 8, 8)))
    assert small_ones.plot().images_[0, 0].get_interpolation() == "nearest"


@pytest.mark.parametrize("display", WITH_X)
def test_steps_before_the_transformer_change_x(display, digits):
    X, y = digits
    upside_down = FunctionTransformer(lambda X: X[:, ::-1])
    steps = [("turn", upside_down), ("none", "passthrough")]
    pipeline = Pipeline(
        [("first", Pipeline(steps)), ("simclr", small()), ("clf", LogisticRegression())]
    ).fit(X, y)
    inner = pipeline["simclr"]
    np.testing.assert_array_equal(
        few(display, pipeline, X), few(display, inner, np.ascontiguousarray(X[:, ::-1]))
    )
    nested = make_pipeline(pipeline[:1], pipeline[1:])
    np.testing.assert_array_equal(few(display, nested, X), few(display, pipeline, X))


def test_steps_before_an_unfitted_transformer_are_fitted_on_copies(digits):
    X = digits[0].reshape(64, 64)
    pipeline = make_pipeline(StandardScaler(), small(image_shape=(8, 8)))
    display = ViewsDisplay.from_estimator(pipeline, X, random_state=0)
    scaled = StandardScaler().fit_transform(X).reshape(-1, 8, 8)
    expected = (scaled - scaled.min()) / (scaled.max() - scaled.min())
    np.testing.assert_allclose(display.originals, expected[display.rows], atol=1e-5)
    assert not hasattr(pipeline[0], "mean_")


@pytest.mark.parametrize("display", OF_FITTED)
def test_classifiers_show_the_features_that_they_classify(display, digits, simclr):
    X, y = digits
    model = SimCLRClassifier(simclr(), max_iter=3, random_state=0).fit(X, np.where(y > 3, y, -1))
    frozen = FrozenEstimator(model)
    for estimator in (model, frozen, model.transformer_):
        assert few(display, estimator, X).shape[1:] == (8, 8)
    if display is NeighborsDisplay:
        of_model, of_inner = (
            display.from_estimator(estimator, X, queries=[0]).neighbor_rows
            for estimator in (model, model.transformer_)
        )
        np.testing.assert_array_equal(of_model, of_inner)


def test_views_of_an_unfitted_classifier(digits):
    assert few(ViewsDisplay, SimCLRClassifier(), digits[0]).shape == (6, 8, 8)
    assert few(ViewsDisplay, SimCLRClassifier(small()), digits[0]).shape == (6, 8, 8)


@pytest.mark.parametrize("display", OF_FITTED)
@pytest.mark.parametrize("wrap", [lambda e: e, SimCLRClassifier, make_pipeline])
def test_what_needs_a_fit_says_so(display, wrap, digits):
    with pytest.raises(NotFittedError, match="SimCLRTransformer"):
        display.from_estimator(wrap(small()), digits[0])
    with pytest.raises(NotFittedError, match="SimCLRTransformer"):
        LossCurveDisplay.from_estimator(wrap(small()))


def test_estimators_without_simclr_are_refused(digits):
    search = GridSearchCV(small(), {"temperature": [0.5]})
    for estimator in (PCA(), search, make_pipeline(StandardScaler(), PCA())):
        with pytest.raises(ValueError, match=r"(?s)estimator must be.*got .*best_estimator_"):
            LossCurveDisplay.from_estimator(estimator)
        for display in WITH_X:
            with pytest.raises(ValueError, match="estimator must be a SimCLRTransformer"):
                display.from_estimator(estimator, digits[0])


@pytest.mark.parametrize("display", WITH_X)
def test_x_that_does_not_fit_is_refused(display, digits_model, digits):
    with pytest.raises(ValueError, match=r"fitted on images of \(h, w, c\) = \(8, 8, 1\)"):
        display.from_estimator(digits_model, np.zeros((5, 9, 8)))
    with pytest.raises(ValueError, match="NaN"):
        display.from_estimator(digits_model, np.full((5, 8, 8), np.nan))
    with pytest.raises(ValueError, match="0 sample"):
        display.from_estimator(digits_model, np.zeros((0, 8, 8)))
    with pytest.raises(TypeError, match="got a NoneType"):
        display.from_estimator(digits_model, None)


def test_bad_files_of_an_unfitted_estimator_are_skipped_if_asked(tmp_path, photos):
    paths = [str(tmp_path / f"{number}.png") for number in range(5)]
    for path, image in zip(paths, photos[0], strict=False):
        Image.fromarray(image).save(path)
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1 of 5 image files in X cannot be read"):
        ViewsDisplay.from_estimator(small(), paths)
    with pytest.warns(UserWarning, match="left out") as caught:
        display = ViewsDisplay.from_estimator(small(on_bad_files="skip"), paths)
    assert caught[0].filename == __file__
    assert sorted(display.rows) == [0, 2, 3, 4]
    np.testing.assert_allclose(display.originals, photos[0][display.rows] / 255, atol=1e-6)


def saved(images, folder):
    paths = [str(folder / f"{number}.png") for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("display", [ViewsDisplay, EmbeddingDisplay])
def test_only_the_files_that_are_drawn_are_opened(display, column, tmp_path, photos, monkeypatch):
    X, y = photos
    paths, opened = saved(X, tmp_path), []
    pipeline = make_pipeline(FunctionTransformer(lambda X: X[::-1]), small(max_epochs=1))
    pipeline.fit(paths)
    params = {"n_samples": 5, "random_state": 0}
    if display is EmbeddingDisplay:
        params |= {"reduction": np.random.default_rng(0).random((32, 2)), "y": y}
    expected = display.from_estimator(pipeline, X, **params)
    monkeypatch.setattr(_files, "decode", lambda path, *a: opened.append(path) or decode(path, *a))
    files = np.array(paths)[:, None] if column else paths
    shown = display.from_estimator(pipeline, files, **params)
    assert shown.rows.tolist() == expected.rows.tolist()
    assert sorted(opened) == sorted(paths[::-1][row] for row in shown.rows)
    for name, value in vars(expected).items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            np.testing.assert_allclose(getattr(shown, name), value, atol=1e-6)
    if display is EmbeddingDisplay:
        assert shown.labels.tolist() == y[shown.rows].astype(str).tolist()


@pytest.mark.parametrize("display", [ViewsDisplay, EmbeddingDisplay])
def test_files_with_a_cache_are_cached_as_a_whole(display, tmp_path, photos):
    paths = saved(photos[0], tmp_path)
    model = small(max_epochs=1, cache_dir=tmp_path / "cache").fit(paths)
    before = sorted((tmp_path / "cache").iterdir())
    display.from_estimator(model, paths, n_samples=4, random_state=0)
    assert before and sorted((tmp_path / "cache").iterdir()) == before


def state_of_generators():
    of_torch = torch.get_rng_state().tolist(), torch.get_num_threads()
    return pickle.dumps((random.getstate(), np.random.get_state(), of_torch))


@pytest.mark.parametrize("random_state", [None, 3])
def test_nothing_else_is_changed(digits, digits_model, random_state):
    X, y = digits

    def noisy(batch):
        return batch + 0.1 * torch.randn_like(batch)

    unfitted = small(augmentation=noisy)
    before = pickle.dumps(digits_model), copy.deepcopy(vars(unfitted)), state_of_generators()
    ViewsDisplay.from_estimator(unfitted, X, random_state=random_state)
    ViewsDisplay.from_estimator(digits_model, X, random_state=random_state)
    NeighborsDisplay.from_estimator(digits_model, X, y=y, random_state=random_state)
    EmbeddingDisplay.from_estimator(digits_model, X, y=y, random_state=random_state)
    LossCurveDisplay.from_estimator(digits_model).loss_curve[:] = 0
    assert pickle.dumps(digits_model) == before[0]
    assert vars(unfitted).keys() == before[1].keys()
    assert state_of_generators() == before[2]


def test_seeds_repeat_and_none_draws_anew(digits, simclr):
    def noisy(batch):
        return batch + 0.1 * torch.randn_like(batch)

    X = digits[0]
    for augmentation in (noisy, "auto"):
        model = simclr(augmentation=augmentation)
        first, again, other, another = (
            ViewsDisplay.from_estimator(model, X, random_state=seed) for seed in (1, 1, 2, None)
        )
        np.testing.assert_array_equal(first.views, again.views)
        assert first.rows.tolist() != other.rows.tolist()
        assert first.rows.tolist() != another.rows.tolist()
        assert (first.views[:, 0] != first.views[:, 1]).any()


def test_output_layer_and_set_output_are_no_obstacle(digits):
    X = digits[0]
    model = small(output_layer=1, projection_layers=3).set_output(transform="pandas").fit(X)
    display = NeighborsDisplay.from_estimator(model, X, queries=[2], n_neighbors=5)
    z = np.asarray(model.transform(X))
    np.testing.assert_array_equal(
        display.neighbor_rows, nearest_by_hand(z[[2]], z, 5, own=np.array([2]))
    )


# Texts and styles


def test_minus_one_beside_one_alone_is_a_class(digits, digits_model):
    y = np.where(digits[1] > 4, 1, -1)
    display = EmbeddingDisplay.from_estimator(digits_model, digits[0], y=y, reduction=PCA(2))
    assert set(display.labels) == {"-1", "1"}


def test_legends_show_names_that_start_with_an_underscore():
    first = LossCurveDisplay(loss_curve=[2.0, 1.0], name="_x").plot()
    second = LossCurveDisplay(loss_curve=[3.0, 1.0], name="_y").plot(first.ax_)
    assert legend(second.ax_) == ["_x", "_y"]
    labels = np.array(["_noise", "cat", "dog"])
    assert legend(EmbeddingDisplay(coordinates=np.eye(3, 2), labels=labels).plot().ax_) == [*labels]


@pytest.mark.parametrize("parse_math", [True, False])
def test_texts_are_no_mathematics(parse_math):
    name = "c_$5_$6"
    pictures, labels = np.zeros((1, 4, 4)), np.array([name])
    with plt.rc_context({"text.parse_math": parse_math}):
        loss = LossCurveDisplay(loss_curve=[1.0], name=name).plot()
        views = ViewsDisplay(
            originals=np.zeros((1, 1)), views=np.ones((1, 1, 1)), feature_names=labels
        ).plot()
        neighbors = NeighborsDisplay(
            queries=pictures,
            neighbors=pictures[None],
            similarities=np.ones((1, 1)),
            query_labels=labels,
            neighbor_labels=labels[None],
        ).plot()
        points = EmbeddingDisplay(coordinates=np.zeros((1, 2)), labels=labels).plot()
        for display in (loss, views, neighbors, points):
            display.figure_.savefig(io.BytesIO())
    assert legend(loss.ax_) == legend(points.ax_) == [name]
    assert read(views.axes_[0, 0].get_xticklabels()[0]) == name
    assert [read(ax.xaxis.label) for ax in neighbors.axes_[0]] == [name, name]


def test_styles_may_go_by_any_of_their_names():
    points = EmbeddingDisplay(coordinates=np.eye(3, 2))
    for alias in ("linewidth", "linewidths", "lw"):
        drawn_points = points.plot(scatter_kw={alias: 2}).points_[0]
        assert drawn_points.get_linewidth() == 2
    for alias in ("c", "color", "facecolor", "facecolors", "fc"):
        drawn_points = points.plot(scatter_kw={alias: "red"}).points_[0]
        assert to_hex(drawn_points.get_facecolor()[0]) == "#ff0000"
    assert drawn(points.plot(scatter_kw={"c": [1, 2, 3]}).points_[0]).tolist() == [1, 2, 3]
    for alias in ("linewidth", "lw"):
        line = LossCurveDisplay(loss_curve=[1.0]).plot(line_kw={alias: 2}).line_
        assert line.get_linewidth() == 2


def test_norms_bring_their_own_limits():
    pictures, vectors = np.full((1, 4, 4), 0.5), np.full((1, 4), 0.5)
    for originals in (pictures, vectors):
        display = ViewsDisplay(originals=originals, views=originals[None])
        norm = LogNorm(0.1, 10)
        assert display.plot(im_kw={"norm": norm}).images_[0, 0].norm is norm
        assert norm.vmax == 10
    points = EmbeddingDisplay(coordinates=np.zeros((1, 2)), pictures=pictures)
    assert points.plot(im_kw={"norm": norm}).thumbnails_[0].norm is norm


# Axes


def grids(digits_model, X):
    yield lambda ax: ViewsDisplay.from_estimator(digits_model, X, n_samples=2, n_views=3, ax=ax)
    yield lambda ax: NeighborsDisplay.from_estimator(
        digits_model, X, queries=2, n_neighbors=3, ax=ax
    )


def test_grids_fill_the_place_of_an_axes(digits, digits_model):
    for draw in grids(digits_model, digits[0]):
        figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5))
        place = left.get_position()
        display = draw(left)
        assert display.figure_ is figure
        assert not left.axison
        for ax in display.axes_.flat:
            box = ax.get_position()
            assert place.x0 - 1e-9 <= box.x0 < box.x1 <= place.x1 + 1e-9
            assert place.y0 - 1e-9 <= box.y0 < box.y1 <= place.y1 + 1e-9
        assert right.axison
        with pytest.raises(ValueError, match=r"filled by another plot already. Pass ax=display"):
            draw(left)


def test_grids_can_be_drawn_on_again(digits, digits_model):
    for draw in grids(digits_model, digits[0]):
        first = draw(None)
        second = draw(first.axes_)
        assert second.axes_ is first.axes_
        assert all(len(ax.images) == 1 for ax in second.axes_.flat)
        third = second.plot(im_kw={"cmap": "viridis", "alpha": 0.5})
        assert third is second
        assert third.figure_ is not first.figure_
        assert third.images_[0, 0].get_cmap().name == "viridis"
        with pytest.raises(ValueError, match=r"ax holds axes of shape \(1, 2\), but \(2, 4\)"):
            draw(first.axes_[:1, :2])


def test_axes_without_a_place_of_their_own_are_refused(digits, digits_model):
    for draw in grids(digits_model, digits[0]):
        with pytest.raises(ValueError, match="is no subplot"):
            draw(plt.figure().add_axes((0, 0, 1, 1)))


def test_maps_are_drawn_on_given_axes(digits, digits_model):
    _, (_, ax) = plt.subplots(1, 2)
    display = EmbeddingDisplay.from_estimator(
        digits_model,
        digits[0],
        reduction=PCA(2),
        ax=ax,
        scatter_kw={"c": "k"},
        im_kw={"alpha": 0.5},
    )
    assert display.ax_ is ax
    assert to_hex(display.points_[0].get_facecolor()[0]) == "#000000"
    assert display.thumbnails_[0].get_alpha() == 0.5
    assert display.plot(thumbnail_size=0).thumbnails_ == []


def test_displays_can_be_pickled_and_drawn_again(digits, digits_model):
    display = ViewsDisplay.from_estimator(digits_model, digits[0], n_samples=2)
    plain = {name: vars(display)[name] for name in ("originals", "views", "rows")}
    again = ViewsDisplay(**pickle.loads(pickle.dumps(plain))).plot()
    np.testing.assert_array_equal(drawn(again.images_[1, 1]), drawn(display.images_[1, 1]))


def test_missing_matplotlib_is_named_with_the_mend(monkeypatch, digits, digits_model):
    original = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError("no matplotlib")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    for display in WITH_X:
        with pytest.raises(ImportError, match="pip install matplotlib"):
            display.from_estimator(digits_model, digits[0])
    with pytest.raises(ImportError, match=r"LossCurveDisplay\.plot requires matplotlib"):
        LossCurveDisplay(loss_curve=[1.0]).plot()
