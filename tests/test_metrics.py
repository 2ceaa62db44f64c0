"""Measures of features against brute forces in float64; scorers in scikit-learn's tools."""

import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_simclr import SimCLRClassifier, metrics
from sklearn_simclr.metrics import (
    alignment,
    alignment_scorer,
    contrastive_accuracy,
    contrastive_accuracy_scorer,
    knn_accuracy,
    knn_scorer,
    rankme,
    rankme_scorer,
    uniformity,
    uniformity_scorer,
)

SCORERS = (
    alignment_scorer,
    contrastive_accuracy_scorer,
    knn_scorer,
    rankme_scorer,
    uniformity_scorer,
)
LABEL_FREE = tuple(scorer for scorer in SCORERS if scorer is not knn_scorer)


def features(n=40, d=6, seed=0, spread=1.0):
    """Features (n, d) of float64, off the origin, of different lengths."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0.7, spread, (n, d))) * rng.uniform(0.1, 10, (n, 1))


def pairs(n=40, d=6, noise=0.4):
    """Features of two views of n samples."""
    rng = np.random.default_rng(1)
    h = rng.normal(size=(n, d))
    return h + noise * rng.normal(size=(n, d)), h + noise * rng.normal(size=(n, d))


def cosine(a, b):
    a, b = [float(x) for x in a], [float(x) for x in b]
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def unit(h):
    return h / np.linalg.norm(h, axis=1, keepdims=True)


def rotation(d):
    return np.linalg.qr(np.random.default_rng(2).normal(size=(d, d)))[0]


# Nearest neighbours


def brute_force_knn(h_train, y_train, h_test, n_neighbors, vote):
    """Label of each test sample, by loops; the smallest of labels with equally many votes."""
    predicted = []
    for row in h_test:
        cosines = [cosine(row, other) for other in h_train]
        nearest = sorted(range(len(h_train)), key=lambda i: -cosines[i])[:n_neighbors]
        votes = dict.fromkeys(sorted(set(y_train)), 0.0)
        for i in nearest:
            votes[y_train[i]] += vote(cosines[i])
        predicted.append(max(votes, key=votes.get))
    return predicted


def clusters(n=60, n_classes=3, seed=0):
    """Features of three overlapping classes, and their labels."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    return (np.eye(5)[y] + 0.8 * rng.normal(size=(n, 5))) * rng.uniform(0.1, 10, (n, 1)), y


@pytest.mark.parametrize("n_neighbors", [1, 2, 7, 60])
@pytest.mark.parametrize("temperature", [None, 0.07, 1.0])
def test_knn_accuracy_equals_brute_force(n_neighbors, temperature):
    (h_train, y_train), (h_test, y_test) = clusters(), clusters(41, seed=1)
    options, vote = {}, lambda cosine: 1
    if temperature is not None:
        options = {"weights": "similarity", "temperature": temperature}
        vote = lambda cosine: math.exp(cosine / temperature)  # noqa: E731
    predicted = brute_force_knn(h_train, y_train, h_test, n_neighbors, vote)
    accuracy = knn_accuracy(h_train, y_train, h_test, y_test, n_neighbors=n_neighbors, **options)
    assert type(accuracy) is float
    assert accuracy == pytest.approx(np.mean(predicted == y_test), abs=1e-12)
    assert 0.2 < accuracy < 0.95


@pytest.mark.parametrize("n_neighbors", [1, 4, 10])
def test_knn_accuracy_equals_scikit_learn_by_cosine(n_neighbors):
    (h_train, y_train), (h_test, y_test) = clusters(), clusters(41, seed=1)
    reference = KNeighborsClassifier(n_neighbors, metric="cosine").fit(h_train, y_train)
    accuracy = knn_accuracy(h_train, y_train, h_test, y_test, n_neighbors=n_neighbors)
    assert accuracy == reference.score(h_test, y_test)


def test_knn_accuracy_goes_by_direction_not_by_distance():
    h_train, y_train = [[100, 0], [1, 1]], ["same direction", "closer"]
    assert knn_accuracy(h_train, y_train, [[1, 0]], ["same direction"], n_neighbors=1) == 1


def test_knn_accuracy_gives_a_draw_to_the_smallest_label():
    h_train, y_train = [[1, 0.1], [1, 0.2], [1, 0.3], [1, 0.4]], [3, 1, 3, 1]
    assert knn_accuracy(h_train, y_train, [[1, 0]], [1], n_neighbors=4) == 1
    assert knn_accuracy(h_train, y_train, [[1, 0]], [1], n_neighbors=3) == 0


def test_weights_let_a_near_neighbour_outvote_two_far_ones():
    h_train, y_train = [[1, 0.1], [0, 1], [0.1, 1]], [1, 0, 0]
    test = ([[1, 0]], [1])
    assert knn_accuracy(h_train, y_train, *test, n_neighbors=3) == 0
    for temperature in (0.07, 1e-6):  # the latter would leave no vote above zero
        options = {"weights": "similarity", "temperature": temperature}
        assert knn_accuracy(h_train, y_train, *test, n_neighbors=3, **options) == 1
    options = {"weights": "similarity", "temperature": 100}
    assert knn_accuracy(h_train, y_train, *test, n_neighbors=3, **options) == 0


@pytest.mark.parametrize("share", [0.95, 1.05])
def test_votes_fall_by_half_over_ln_2_temperatures_of_cosine(share):
    temperature, nearest = 0.5, 0.9
    cosines = nearest, *[nearest - share * temperature * math.log(2)] * 2
    h_train = [(c, math.sqrt(1 - c**2)) for c in cosines]
    options = {"n_neighbors": 3, "weights": "similarity", "temperature": temperature}
    found = knn_accuracy(h_train, ["near", "far", "far"], [[1, 0]], ["near"], **options)
    assert found == (share > 1)


def test_knn_accuracy_counts_labels_never_seen_as_wrong():
    assert knn_accuracy([[1, 0]], ["a"], [[1, 0], [0, 1]], ["a", "b"], n_neighbors=1) == 0.5


# Alignment and uniformity


@pytest.mark.parametrize("alpha", [1, 2, 3.5])
def test_alignment_equals_brute_force(alpha):
    h1, h2 = pairs()
    distances = [
        math.dist(a / np.linalg.norm(a), b / np.linalg.norm(b)) for a, b in zip(h1, h2, strict=True)
    ]
    expected = math.fsum(distance**alpha for distance in distances) / len(h1)
    assert alignment(h1, h2, alpha=alpha) == pytest.approx(expected, rel=1e-12)
    assert type(alignment(h1, h2)) is float


def test_alignment_of_known_pairs():
    h = features()
    assert alignment(h, h) == 0
    assert alignment(h, 3 * h) == pytest.approx(0, abs=1e-25)
    assert alignment(h, -h) == pytest.approx(4)
    assert alignment(h, -h, alpha=1) == pytest.approx(2)
    h1, h2 = pairs()
    mean_cosine = np.mean([cosine(a, b) for a, b in zip(h1, h2, strict=True)])
    assert alignment(h1, h2) == pytest.approx(2 - 2 * mean_cosine)
    assert alignment(np.ones((5, 3)), np.ones((5, 3))) == 0  # collapsed


@pytest.mark.parametrize("n_values", [1, 6 * 7, 6 * 40, 6 * 1000])
def test_alignment_does_not_depend_on_its_blocks(monkeypatch, n_values):
    h1, h2 = pairs()
    expected = np.mean(np.sum((unit(h1) - unit(h2)) ** 2, axis=1) ** 0.75)
    monkeypatch.setattr(metrics, "_PAIRED_VALUES", n_values)
    assert alignment(h1, h2, alpha=1.5) == pytest.approx(expected, rel=1e-12)
    h2[[9, 39]] = 0  # in different blocks
    with pytest.raises(ValueError, match=r"^h2 has zeros only.* 2 of 40 rows, .* row 9\."):
        alignment(h1, h2)


def test_alignment_takes_less_memory_than_its_features(peak_of):
    h1, h2 = (h.astype(np.float32) for h in pairs(10_000, 200))
    _, peak = peak_of(lambda: alignment(h1, h2))
    assert peak < 2 * h1.nbytes


@pytest.mark.parametrize("n, d, t", [(2, 3, 2), (3, 1, 2), (40, 6, 2), (40, 6, 0.3), (25, 4, 50)])
def test_uniformity_equals_brute_force(n, d, t):
    h = features(n, d)
    h = h / np.linalg.norm(h, axis=1, keepdims=True)
    values = [
        math.exp(-t * math.dist(h[i], h[k]) ** 2) for i in range(n) for k in range(n) if i != k
    ]
    expected = math.log(math.fsum(values) / len(values))
    assert uniformity(h, t=t) == pytest.approx(expected, rel=1e-10, abs=1e-10)
    assert type(uniformity(h)) is float


@pytest.mark.parametrize("block_rows", [1, 2, 7, 39])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_make_no_difference(monkeypatch, block_rows, dtype):
    h1, h2 = (h.astype(dtype) for h in pairs())
    expected = uniformity(h1), contrastive_accuracy(h1, h2)
    monkeypatch.setattr(metrics, "_BLOCK_VALUES", block_rows * len(h1))
    tolerance = 1e-12 if dtype == np.float64 else 1e-6
    assert uniformity(h1) == pytest.approx(expected[0], rel=tolerance)
    monkeypatch.setattr(metrics, "_BLOCK_VALUES", block_rows * 2 * len(h1))
    assert contrastive_accuracy(h1, h2) == expected[1]


@pytest.mark.parametrize("measure", [uniformity, lambda h: contrastive_accuracy(h, h)])
def test_memory_is_bounded(monkeypatch, measure):
    sizes = []

    class Watched(np.ndarray):
        def __array_finalize__(self, source):
            sizes.append(self.size)

    directions = metrics._directions
    monkeypatch.setattr(metrics, "_directions", lambda *args: directions(*args).view(Watched))
    monkeypatch.setattr(metrics, "_BLOCK_VALUES", 4000)
    measure(features(500, 4))
    assert 1000 < max(sizes) <= 4000


def test_uniformity_of_known_features():
    assert uniformity(np.ones((50, 4))) == 0
    opposite = uniformity([[1, 0], [-1, 0]], t=3)
    assert opposite == pytest.approx(-3 * 4)
    random = uniformity(np.random.default_rng(0).normal(size=(1000, 256)))
    assert random == pytest.approx(-4, abs=0.05)
    assert uniformity(np.abs(np.random.default_rng(0).normal(size=(1000, 256)))) > -2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniformity_of_collapsed_features_is_zero(seed, dtype):
    value = uniformity(np.tile(features(1, 7, seed), (50, 1)).astype(dtype))
    assert -1e-6 < value <= 0


def test_uniformity_neither_underflows_nor_overflows():
    assert uniformity([[1, 0], [-1, 0], [0, 1]], t=1e5) == pytest.approx(-2e5 + math.log(2 / 3))
    near = np.array([[1, 0], [1, 1e-4]])
    assert uniformity(near, t=1e6) == pytest.approx(-1e6 * 1e-8, rel=1e-6)


def test_float32_is_accumulated_in_float64():
    h = features(3000, 8)
    assert uniformity(h.astype(np.float32)) == pytest.approx(uniformity(h), rel=1e-6)
    h1, h2 = pairs(3000)
    near = alignment(h1.astype(np.float32), h2.astype(np.float32))
    assert near == pytest.approx(alignment(h1, h2), rel=1e-6)


# Effective rank


@pytest.mark.parametrize("n, d", [(40, 6), (6, 40), (10, 10)])
def test_rankme_equals_the_entropy_of_the_spectrum(n, d):
    h = features(n, d)
    squares = np.linalg.eigvalsh(h @ h.T if n < d else h.T @ h)  # not by an SVD
    values = [math.sqrt(square) for square in squares]
    shares = [value / math.fsum(values) + 1e-7 for value in values]
    expected = math.exp(-math.fsum(share * math.log(share) for share in shares))
    assert rankme(h) == pytest.approx(expected, rel=1e-9)
    assert type(rankme(h)) is float


def test_rankme_of_known_features():
    rng = np.random.default_rng(0)
    assert rankme(rng.normal(size=(20_000, 16))) == pytest.approx(16, rel=1e-3)
    assert rankme(np.outer(rng.normal(size=30), rng.normal(size=8))) == pytest.approx(1, abs=1e-4)
    assert rankme(np.tile(rng.normal(size=8), (30, 1))) == pytest.approx(1, abs=1e-4)
    plane = rng.normal(size=(20_000, 2)) @ rotation(12)[:2]
    assert rankme(plane) == pytest.approx(2, rel=1e-3)


def test_rankme_does_not_overflow():
    h = features(6, 4)
    assert rankme(h * (1e308 / abs(h).max())) == pytest.approx(rankme(h))


# Contrastive accuracy


@pytest.mark.parametrize("n, noise", [(2, 0.5), (40, 0.4), (40, 0.8)])
def test_contrastive_accuracy_equals_brute_force(n, noise):
    z1, z2 = pairs(n, noise=noise)
    z = [*z1, *z2]
    n_hits = 0
    for i in range(2 * n):
        others = [k for k in range(2 * n) if k != i]
        n_hits += max(others, key=lambda k: cosine(z[i], z[k])) == (i + n) % (2 * n)
    assert contrastive_accuracy(z1, z2) == n_hits / (2 * n)
    assert n == 2 or 0.1 < n_hits / (2 * n) < 0.9
    assert type(contrastive_accuracy(z1, z2)) is float


def test_contrastive_accuracy_of_known_projections():
    h = features()
    assert contrastive_accuracy(h, h) == 1
    assert contrastive_accuracy(h, np.roll(h, 1, 0)) == 0
    assert contrastive_accuracy(np.ones((50, 3)), np.ones((50, 3))) <= 0.02


def test_contrastive_accuracy_tells_nearly_equal_float32_features_apart():
    rng = np.random.default_rng(0)
    centre = rng.normal(size=64) + 5e-4 * rng.normal(size=(50, 64))
    z1, z2 = ((centre + 5e-5 * rng.normal(size=centre.shape)).astype(np.float32) for _ in "12")
    assert contrastive_accuracy(z1, z2) == 1


# All measures

MEASURES = {
    "alignment": alignment,
    "contrastive_accuracy": contrastive_accuracy,
    "knn_accuracy": lambda h1, h2: knn_accuracy(h1, np.arange(40) % 3, h2, np.arange(40) % 3),
    "rankme": lambda h1, h2: rankme(h1),
    "uniformity": lambda h1, h2: uniformity(h1),
}
by_name = pytest.mark.parametrize("name", MEASURES)


@by_name
@pytest.mark.parametrize("factor", [1e-3, -7, 1e150, 1e-150])
def test_scale_does_not_matter(name, factor):
    h1, h2 = pairs()
    assert MEASURES[name](factor * h1, factor * h2) == pytest.approx(MEASURES[name](h1, h2))


@by_name
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_float32_rows_may_be_tiny_or_huge(name, factor):
    h1, h2 = pairs()
    scaled = [(factor * h).astype(np.float32) for h in (h1, h2)]
    assert MEASURES[name](*scaled) == pytest.approx(MEASURES[name](h1, h2), rel=1e-5)


@by_name
def test_rotation_does_not_matter(name):
    h1, h2 = pairs()
    turn = rotation(6)
    assert MEASURES[name](h1 @ turn, h2 @ turn) == pytest.approx(MEASURES[name](h1, h2))


@pytest.mark.parametrize("name", sorted(set(MEASURES) - {"rankme"}))
def test_length_of_rows_does_not_matter(name):
    h1, h2 = pairs()
    lengths = np.random.default_rng(3).uniform(0.1, 10, (40, 1))
    expected = MEASURES[name](h1, h2)
    assert MEASURES[name](lengths * h1, h2 * lengths[::-1]) == pytest.approx(expected)


@by_name
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tensors_are_read(name, dtype):
    tensors = [torch.tensor(h, dtype=dtype, requires_grad=True) for h in pairs()]
    value = MEASURES[name](*tensors)
    assert type(value) is float
    expected = MEASURES[name](*[h.tolist() for h in tensors])
    assert value == pytest.approx(expected, rel=1e-12 if dtype == torch.float64 else 1e-6)


@by_name
def test_arguments_are_left_alone(name):
    h1, h2 = pairs()
    before = h1.copy(), h2.copy()
    MEASURES[name](h1, h2)
    np.testing.assert_array_equal((h1, h2), before)


@by_name
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(name, value):
    h1, h2 = pairs()
    h1[[3, 5], 2] = value
    with pytest.raises(ValueError, match=r"has NaN or infinite values in 2 of 40 rows.* row 3"):
        MEASURES[name](h1, h2)


@pytest.mark.parametrize("name", sorted(set(MEASURES) - {"rankme"}))
def test_rows_without_direction_are_refused(name):
    h1, h2 = pairs()
    h1[7] = 0
    with pytest.raises(ValueError, match=r"^(h|h1|h_train|z1) has zeros only.* 1 of 40 .* row 7"):
        MEASURES[name](h1, h2)


def test_features_that_are_all_zero_have_no_rank():
    with pytest.raises(ValueError, match="h is zero throughout"):
        rankme(np.zeros((4, 3)))


@pytest.mark.parametrize(
    "measure, names",
    [(alignment, ("h1", "h2")), (contrastive_accuracy, ("z1", "z2"))],
)
@pytest.mark.parametrize("shape", [(41, 6), (40, 5)])
def test_pairs_of_two_shapes_are_refused(measure, names, shape):
    with pytest.raises(ValueError, match=f"{names[0]} and {names[1]} must have the") as error:
        measure(np.ones((40, 6)), np.ones(shape))
    assert "(40, 6)" in str(error.value) and str(shape) in str(error.value)


@by_name
@pytest.mark.parametrize("shape", [(40,), (0, 6), (40, 0), (40, 6, 1)])
def test_shapes_that_are_not_n_by_d_are_refused(name, shape):
    with pytest.raises(ValueError, match=r"must have shape \(n, d\)") as error:
        MEASURES[name](np.ones(shape), np.ones(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("name", ["contrastive_accuracy", "rankme", "uniformity"])
def test_one_row_is_too_few(name):
    with pytest.raises(ValueError, match=r"n >= 2 .* got \(1, 6\)"):
        MEASURES[name](np.ones((1, 6)), np.ones((1, 6)))


@by_name
@pytest.mark.parametrize("h", [[["1", "2"]] * 40, np.ones((40, 6), complex), [[None, 1]] * 40])
def test_features_that_are_not_numbers_are_refused(name, h):
    with pytest.raises(ValueError, match="must hold real numbers, got dtype"):
        MEASURES[name](h, h)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda h, y: knn_accuracy(h, y, h, y, n_neighbors=0), "n_neighbors.* Got 0"),
        (lambda h, y: knn_accuracy(h, y, h, y, n_neighbors=1.5), "n_neighbors.* Got 1.5"),
        (lambda h, y: knn_accuracy(h, y, h, y, n_neighbors=41), "n_neighbors=41 .* 40 rows"),
        (lambda h, y: knn_accuracy(h, y, h, y, weights="distance"), "weights.* Got 'distance'"),
        (lambda h, y: knn_accuracy(h, y, h, y, temperature=0), "temperature.* Got 0"),
        (lambda h, y: knn_accuracy(h, y[:9], h, y), "y_train .* 9 labels for 40 rows"),
        (lambda h, y: knn_accuracy(h, y, h, y[:9]), "y_test .* 9 labels for 40 rows"),
        (lambda h, y: knn_accuracy(h, y, h[:, :3], y), r"h_train and h_test .* \(40, 3\)"),
        (lambda h, y: knn_accuracy(h, np.eye(40), h, y), r"\(40, 40\)"),
        (lambda h, y: knn_accuracy(h, h[:, 0], h, y), "continuous"),
        (lambda h, y: alignment(h, h, alpha=0), "alpha.* Got 0"),
        (lambda h, y: uniformity(h, t=-1), "t.* Got -1"),
    ],
)
def test_options_out_of_range_are_refused(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(features(), np.arange(40) % 3)


# Features of views


def test_view_features_are_the_features_of_the_views_that_score_draws(simclr, digits):
    images, _ = digits
    model = simclr(projection_layers=0).fit(images)
    h1, h2 = model._view_features(images)
    for h in (h1, h2):
        assert h.shape == (64, 4) and h.dtype == np.float32
    assert contrastive_accuracy(h1, h2) == pytest.approx(model.score(images), abs=2.5 / 128)
    assert not np.array_equal(h1, h2)
    np.testing.assert_array_equal((h1, h2), model._view_features(images))


def test_view_features_of_views_that_change_nothing_are_those_of_transform(simclr, vectors):
    X = np.random.default_rng(0).normal(size=(300, 6))
    model = simclr(encoder="mlp", augmentation=lambda batch: batch).fit(vectors)
    for h in model._view_features(X):
        np.testing.assert_allclose(h, model.transform(X), atol=1e-6)


def test_view_features_keep_the_rows_in_order(simclr, vectors):
    X = np.random.default_rng(0).normal(size=(300, 6))
    model = simclr(encoder="mlp", augmentation=lambda batch: 2 * batch + 1).fit(vectors)
    for h in model._view_features(X):
        np.testing.assert_allclose(h, model.transform(2 * X + 1), atol=1e-5)


def test_view_features_need_two_samples_and_a_fitted_model(simclr, digits):
    images, _ = digits
    with pytest.raises(NotFittedError):
        simclr()._view_features(images)
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        simclr().fit(images)._view_features(images[:1])


# Scorers


def test_scorers_measure_the_features_with_greater_as_better(simclr, digits):
    images, labels = digits
    model = simclr().fit(images)
    h = model.transform(images)
    assert alignment_scorer(model, images) == -alignment(*model._view_features(images))
    assert uniformity_scorer(model, images) == -uniformity(h) > 0
    assert rankme_scorer(model, images) == rankme(h)
    assert contrastive_accuracy_scorer(model, images) == model.score(images)
    for scorer in SCORERS:
        score = scorer(model, images, labels)
        assert type(score) is float and score == scorer(model, images, labels)


@pytest.mark.parametrize("n_neighbors", [1, 10, 63])
def test_knn_scorer_leaves_each_sample_out(simclr, digits, n_neighbors):
    images, labels = digits
    model = simclr().fit(images)
    h = model.transform(images)
    n_hits = 0
    for i in range(64):
        others = np.delete(np.arange(64), i)
        predicted = brute_force_knn(h[others], labels[others], h[[i]], n_neighbors, lambda _: 1)
        n_hits += predicted[0] == labels[i]
    assert knn_scorer(model, images, labels, n_neighbors=n_neighbors) == n_hits / 64


def test_knn_scorer_never_finds_the_sample_itself(simclr, vectors):
    model = simclr(encoder="mlp").fit(vectors)
    copies = np.repeat(vectors[:24], 2, axis=0)
    assert knn_scorer(model, copies, np.arange(48) // 2 % 5, n_neighbors=1) == 1
    assert knn_scorer(model, copies, np.arange(48) % 2, n_neighbors=1) == 0


@pytest.mark.parametrize("no_label", [-1, -1.0, "-1"])
def test_knn_scorer_leaves_out_samples_without_a_label(simclr, digits, no_label):
    images, labels = digits
    model = simclr().fit(images)
    kind = type(no_label)
    known = labels.astype(str) if kind is str else labels.astype(kind)
    partly = np.concatenate([known[:40], np.full(24, no_label)])
    expected = knn_scorer(model, images[:40], labels[:40])
    assert knn_scorer(model, images, partly) == expected
    with pytest.raises(ValueError, match=r"more labelled samples than that, got 0"):
        knn_scorer(model, images, np.full(64, no_label))


def test_knn_scorer_takes_minus_one_and_one_for_two_classes(simclr, digits):
    images, labels = digits
    model = simclr().fit(images)
    expected = knn_scorer(model, images, labels % 2)
    assert knn_scorer(model, images, 2 * (labels % 2) - 1) == expected < 1


def test_knn_scorer_needs_labels_and_neighbours(simclr, vectors):
    model = simclr(encoder="mlp").fit(vectors)
    with pytest.raises(ValueError, match="knn_scorer needs labels, got y=None"):
        knn_scorer(model, vectors)
    message = "n_neighbors=10 needs more labelled samples than that, got 10"
    with pytest.raises(ValueError, match=message):
        knn_scorer(model, vectors[:10], np.arange(10) % 2)
    with pytest.raises(ValueError, match=r"n_neighbors.* Got 0"):
        knn_scorer(model, vectors, np.arange(48) % 2, n_neighbors=0)
    with pytest.raises(ValueError, match="y must hold a label for each row of X, got 3"):
        knn_scorer(model, vectors, [0, 1, 0])


@pytest.mark.parametrize("scorer", SCORERS)
def test_pipelines_are_measured_at_their_last_simclr_transformer(simclr, vectors, scorer):
    y = np.arange(48) % 2
    scaler, model = StandardScaler().fit(vectors), simclr(encoder="mlp")
    scaled = scaler.transform(vectors)
    expected = scorer(model.fit(scaled), scaled, y)
    assert scorer(make_pipeline(model), scaled, y) == expected
    for rest in ([], [LogisticRegression()], [PCA(2), LogisticRegression()], ["passthrough"]):
        pipeline = make_pipeline(StandardScaler(), simclr(encoder="mlp"), *rest).fit(vectors, y)
        assert scorer(pipeline, vectors, y) == expected
    pipeline = make_pipeline("passthrough", simclr(encoder="mlp")).fit(scaled)
    assert scorer(pipeline, scaled, y) == expected
    inner = make_pipeline(StandardScaler(), FrozenEstimator(model)).fit(vectors)
    assert scorer(make_pipeline("passthrough", inner, PCA(2)).fit(vectors), vectors, y) == expected


@pytest.mark.parametrize("scorer", SCORERS)
def test_classifiers_are_measured_at_the_features_that_they_classify(simclr, digits, scorer):
    images, labels = digits
    model = SimCLRClassifier(simclr(), method="fine_tuning", max_iter=2).fit(images, labels)
    expected = scorer(model.transformer_, images, labels)
    assert scorer(model, images, labels) == expected
    assert scorer(make_pipeline("passthrough", FrozenEstimator(model)), images, labels) == expected


def test_of_two_simclr_transformers_the_last_is_measured(simclr, vectors):
    pipeline = make_pipeline(simclr(encoder="mlp"), simclr(encoder="mlp")).fit(vectors)
    h = pipeline[0].transform(vectors)
    assert rankme_scorer(pipeline, vectors) == rankme_scorer(pipeline[1], h)


def test_scorers_read_images_and_frames(simclr, photos, vectors):
    images, labels = photos
    halved = FunctionTransformer(lambda images: images // 2)
    pipeline = make_pipeline(halved, simclr()).fit(images)
    frame = make_pipeline(StandardScaler(), simclr(encoder="mlp")).set_output(transform="pandas")
    for scorer in SCORERS:
        assert math.isfinite(scorer(pipeline, images, labels))
        assert math.isfinite(scorer(frame.fit(vectors), vectors, np.arange(48) % 2))


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("estimator", [PCA(), Pipeline([("pca", PCA()), ("scale", "passthrough")])])
def test_scorers_refuse_other_estimators(vectors, scorer, estimator):
    name = type(estimator).__name__
    with pytest.raises(
        TypeError, match=rf"{scorer.__name__} needs a SimCLRTransformer, .* got {name}\("
    ):
        scorer(estimator.fit(vectors), vectors)


@pytest.mark.parametrize("scorer", SCORERS)
def test_scorers_need_a_fitted_estimator(simclr, vectors, scorer):
    with pytest.raises(NotFittedError):
        scorer(simclr(), vectors, np.arange(48) % 2)


@pytest.mark.parametrize("scorer", [*SCORERS, partial(knn_scorer, n_neighbors=3)])
def test_scorers_pickle(scorer):
    copy = pickle.loads(pickle.dumps(scorer))
    assert getattr(copy, "func", copy) is getattr(scorer, "func", scorer)


@pytest.mark.parametrize("scorer", LABEL_FREE)
def test_cross_validation_needs_no_labels(simclr, digits, scorer):
    images, _ = digits
    scores = cross_val_score(simclr(), images, cv=2, scoring=scorer, error_score="raise")
    expected = [
        scorer(simclr().fit(images[train]), images[test])
        for train, test in ((slice(32, 64), slice(0, 32)), (slice(0, 32), slice(32, 64)))
    ]
    np.testing.assert_array_equal(scores, expected)


def test_grid_search_without_labels_chooses_by_the_scorer(simclr, digits):
    images, _ = digits
    grid = {"temperature": [0.1, 0.5], "max_epochs": [1, 4]}
    search = GridSearchCV(simclr(), grid, scoring=rankme_scorer, cv=2, error_score="raise")
    search.fit(images)
    assert search.best_score_ == search.cv_results_["mean_test_score"].max()
    assert len(set(search.cv_results_["mean_test_score"])) == 4
    assert search.score(images) == rankme_scorer(search.best_estimator_, images)


def test_grid_search_by_several_scorers_at_a_time(simclr, digits):
    images, labels = digits
    pipeline = make_pipeline(StandardScaler(), simclr(image_shape=(8, 8)))
    search = GridSearchCV(
        pipeline,
        {"simclrtransformer__max_epochs": [1, 3]},
        scoring={
            "knn": partial(knn_scorer, n_neighbors=3),
            **{scorer.__name__: scorer for scorer in LABEL_FREE},
        },
        refit="knn",
        cv=2,
        error_score="raise",
    ).fit(images.reshape(64, -1), labels)
    results = search.cv_results_
    assert results["mean_test_knn"][search.best_index_] == results["mean_test_knn"].max()
    for name in ["knn", *(scorer.__name__ for scorer in LABEL_FREE)]:
        assert np.isfinite(results[f"mean_test_{name}"]).all()


def test_scorers_reach_worker_processes(simclr, digits):
    images, labels = digits
    scoring = {scorer.__name__: scorer for scorer in SCORERS}
    results = [
        cross_validate(
            simclr(), images, labels, cv=2, scoring=scoring, n_jobs=n_jobs, error_score="raise"
        )
        for n_jobs in (1, 2)
    ]
    for name in scoring:
        # Other processes may use another number of threads, hence not to the last bit.
        one, two = (result[f"test_{name}"] for result in results)
        np.testing.assert_allclose(one, two, atol=0.05, rtol=0.05)
