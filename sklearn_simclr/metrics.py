"""Measures of features: with labels, without labels, and as scorers for scikit-learn.

The measures take features as NumPy arrays or torch tensors and return a float. The scorers take a
fitted :class:`~sklearn_simclr.SimCLRTransformer`, or a pipeline with one in it, and samples. For
all scorers greater is better, so they can be used as `scoring` in `cross_val_score`, `GridSearchCV`
and the like. The user guide explains which of them to trust when.
"""

import math
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.utils import column_or_1d, gen_batches
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from sklearn_simclr._labels import read_targets

__all__ = [
    "alignment",
    "alignment_scorer",
    "contrastive_accuracy",
    "contrastive_accuracy_scorer",
    "knn_accuracy",
    "knn_scorer",
    "rankme",
    "rankme_scorer",
    "uniformity",
    "uniformity_scorer",
]

_BLOCK_VALUES = 2**24  # similarities that are held at a time
_PAIRED_VALUES = 2**18  # features of one view that are compared at a time
_RANKME_EPSILON = 1e-7  # the paper's, for float32
_POSITIVE = [Interval(Real, 0, None, closed="neither")]
_COUNT = [Interval(Integral, 1, None, closed="left")]


@validate_params(
    {
        "n_neighbors": _COUNT,
        "weights": [StrOptions({"uniform", "similarity"})],
        "temperature": _POSITIVE,
    },
    prefer_skip_nested_validation=True,
)
def knn_accuracy(
    h_train,
    y_train,
    h_test,
    y_test,
    *,
    n_neighbors=10,
    weights="uniform",
    temperature=0.07,
):
    """Accuracy of nearest-neighbour classification by cosine similarity.

    Nothing is trained and there is hardly anything to choose, which makes it the usual quick
    measure of features if there are labels.

    Parameters
    ----------
    h_train : array-like of shape (n_train, d)
        Features among which to search for neighbours, of any norm but zero.
    y_train : array-like of shape (n_train,)
        Their labels.
    h_test : array-like of shape (n_test, d)
        Features to classify, of any norm but zero.
    y_test : array-like of shape (n_test,)
        Their labels.
    n_neighbors : int, default=10
        Number of neighbours, from 1 to n_train.
    weights : {"uniform", "similarity"}, default="uniform"
        Weight of a neighbour's vote: 1, or ``exp(cosine / temperature)`` as in [1]_. The usual
        choice with "similarity" is ``n_neighbors=200``, with the temperature 0.07 of [1]_, or 0.1,
        as many use for CIFAR-10.
    temperature : float, default=0.07
        > 0; used only with ``weights="similarity"``.

    Returns
    -------
    float
        Share of test samples that are classified correctly, in [0, 1]. Among labels with equally
        many votes the smallest wins.

    Raises
    ------
    ValueError
        If shapes do not match, `n_neighbors` exceeds n_train, another option is out of range, or
        a row of features contains NaN, infinite values or only zeros.

    Notes
    -----
    scikit-learn searches by Euclidean distance among features of unit norm, which have the same
    neighbours; its search for "cosine" takes twice the time and a gigabyte of memory. 10,000
    samples with 512 features among 50,000 take some 13 seconds on one core of a server.

    References
    ----------
    .. [1] Wu, Xiong, Yu & Lin (2018). Unsupervised Feature Learning via Non-Parametric Instance
       Discrimination, section 3.4. CVPR. https://arxiv.org/abs/1805.01978

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr.metrics import knn_accuracy
    >>> pixels, labels = load_digits(return_X_y=True)
    >>> print(f"{knn_accuracy(pixels[:900], labels[:900], pixels[900:], labels[900:]):.2f}")
    0.96
    """
    h_train, h_test = _check_features(h_train, "h_train"), _check_features(h_test, "h_test")
    if h_train.shape[1] != h_test.shape[1]:
        raise ValueError(
            "h_train and h_test must have the same number of features, that is, come from one "
            f"transformer; got shapes {h_train.shape} and {h_test.shape}."
        )
    y_train = _check_labels(y_train, "y_train", h_train, "h_train")
    y_test = _check_labels(y_test, "y_test", h_test, "h_test")
    if n_neighbors > len(h_train):
        raise ValueError(
            f"n_neighbors={n_neighbors} is more than the {len(h_train)} rows of h_train. Lower it."
        )
    classifier = _nearest_neighbors(n_neighbors, weights, temperature)
    classifier.fit(_directions(h_train, "h_train"), y_train)
    return float(accuracy_score(y_test, classifier.predict(_directions(h_test, "h_test"))))


@validate_params({"alpha": _POSITIVE}, prefer_skip_nested_validation=True)
def alignment(h1, h2, *, alpha=2):
    """Mean distance between the features of two views of the same sample.

    Lower is better, other things being equal: features that are the same for all samples have 0.
    It is meaningful only together with :func:`uniformity`.

    Parameters
    ----------
    h1, h2 : array-like of shape (n, d)
        Features of two views, scaled to unit norm here; row i of both belongs to sample i.
    alpha : float, default=2
        Power to which distances are raised, > 0.

    Returns
    -------
    float
        Mean of ``distance ** alpha``, in [0, 2 ** alpha]. With the default it is two minus twice
        the mean cosine.

    Raises
    ------
    ValueError
        If the shapes differ, `alpha` is out of range, or a row of features contains NaN, infinite
        values or only zeros.

    References
    ----------
    .. [1] Wang & Isola (2020). Understanding Contrastive Representation Learning through Alignment
       and Uniformity on the Hypersphere, section 4.1. ICML. https://arxiv.org/abs/2005.10242

    Examples
    --------
    >>> from sklearn_simclr.metrics import alignment
    >>> alignment([[1, 0], [0, 2]], [[3, 0], [1, 0]])  # one pair is equal, one at right angles
    1.0
    """
    h1, h2 = _check_pair(h1, h2, ("h1", "h2"), min_rows=1)
    _refuse_zeros(h1, "h1")
    _refuse_zeros(h2, "h2")
    squares = np.empty(len(h1))
    for block in gen_batches(len(h1), max(1, _PAIRED_VALUES // h1.shape[1])):
        first, second = (_scaled_to_one(h[block].astype(np.float64)) for h in (h1, h2))
        squares[block] = np.sum((first - second) ** 2, axis=1)
    return float(np.mean(squares ** (alpha / 2)))


@validate_params({"t": _POSITIVE}, prefer_skip_nested_validation=True)
def uniformity(h, *, t=2):
    """How unevenly features are spread over the sphere.

    Lower is better, other things being equal: random directions are spread most evenly.

    Parameters
    ----------
    h : array-like of shape (n, d), n >= 2
        Features of n different samples, scaled to unit norm here.
    t : float, default=2
        Sharpness of the kernel, > 0.

    Returns
    -------
    float
        Logarithm of the mean of ``exp(-t * distance ** 2)`` over all pairs of samples. 0 if all
        features are the same; random directions in many dimensions give about ``-2 * t``.
        Features without negative values, as after a ReLU, fill only a corner of the sphere, so
        their value is higher.

    Raises
    ------
    ValueError
        If there are fewer than two rows, `t` is out of range, or a row of features contains NaN,
        infinite values or only zeros.

    Notes
    -----
    Time grows with the square of n, memory does not.

    References
    ----------
    .. [1] Wang & Isola (2020). Understanding Contrastive Representation Learning through Alignment
       and Uniformity on the Hypersphere, section 4.1. ICML. https://arxiv.org/abs/2005.10242

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.metrics import uniformity
    >>> print(f"{uniformity(np.random.default_rng(0).normal(size=(500, 128))):.1f}")
    -3.9
    >>> uniformity(np.ones((500, 128)))
    0.0
    """
    h = _directions(_check_features(h, "h", min_rows=2), "h")
    n = len(h)
    blocks = gen_batches(n - 1, max(1, _BLOCK_VALUES // n))  # all but the last row have later ones
    total = np.logaddexp.reduce([_log_sum_over_later_rows(h, block, t) for block in blocks])
    return float(total - math.log(n * (n - 1) / 2))


def rankme(h):
    """Effective rank of features: how many directions they use.

    Higher is better among training runs of one kind. A low value reveals collapsed features; a high
    one guarantees nothing, since noise has the highest of all.

    Parameters
    ----------
    h : array-like of shape (n, d), n >= 2
        Features; neither centred nor scaled to unit norm here. The paper uses the projections z of
        25,600 samples.

    Returns
    -------
    float
        Exponential of the entropy of the singular values divided by their sum; about 1 to
        min(n, d). More rows give a higher value, so compare on the same number of rows.

    Raises
    ------
    ValueError
        If there are fewer than two rows, or features contain NaN, infinite values or only zeros.

    Notes
    -----
    As in [1]_, 1e-7 is added to each share before its logarithm is taken.

    References
    ----------
    .. [1] Garrido, Balestriero, Najman & LeCun (2023). RankMe: Assessing the Downstream
       Performance of Pretrained Self-Supervised Representations by Their Rank, equation 1. ICML.
       https://arxiv.org/abs/2210.02885

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.metrics import rankme
    >>> print(f"{rankme(np.eye(8)):.2f}")
    8.00
    >>> print(f"{rankme(np.outer(np.arange(20), np.arange(8))):.2f}")
    1.00
    """
    h = _check_features(h, "h", min_rows=2)
    largest = np.abs(h).max()
    if not largest:
        raise ValueError("h is zero throughout, which has no rank to measure. Is the network dead?")
    values = np.linalg.svd(h.astype(np.float64) / largest, compute_uv=False)  # (min(n, d),)
    shares = values / values.sum() + _RANKME_EPSILON
    return float(np.exp(-np.sum(shares * np.log(shares))))


def contrastive_accuracy(z1, z2):
    """Share of views whose nearest other view, by cosine similarity, is their partner.

    This is the task that the NT-Xent loss sets. All 2n views compete, whereas
    :meth:`SimCLRTransformer.score <sklearn_simclr.SimCLRTransformer.score>` lets samples compete
    in blocks of at most 256.

    Parameters
    ----------
    z1, z2 : array-like of shape (n, d), n >= 2
        Projections, or features, of two views; row i of both belongs to sample i.

    Returns
    -------
    float
        In [0, 1]; higher is better, chance is ``1 / (2 * n - 1)``. It depends on n and on how
        strong the views are.

    Raises
    ------
    ValueError
        If the shapes differ, there are fewer than two rows, or a row of features contains NaN,
        infinite values or only zeros.

    Notes
    -----
    Time grows with the square of n, memory does not.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi & Hinton (2020). A Simple Framework for Contrastive Learning
       of Visual Representations. ICML. https://arxiv.org/abs/2002.05709

    Examples
    --------
    >>> from sklearn_simclr.metrics import contrastive_accuracy
    >>> contrastive_accuracy([[9, 0], [0, 9], [9, 4]], [[9, 1], [1, 9], [4, 9]])
    0.6666666666666666
    """
    z1, z2 = _check_pair(z1, z2, ("z1", "z2"), min_rows=2)
    # In float32, cosines within some hundred-millionths of 1 would all be 1.
    z1, z2 = _directions(z1.astype(np.float64), "z1"), _directions(z2.astype(np.float64), "z2")
    z = np.concatenate([z1, z2])  # (2n, d)
    n_views, n_hits = len(z), 0
    for block in gen_batches(n_views, max(1, _BLOCK_VALUES // n_views)):
        views = np.arange(block.start, block.stop)
        similarity = z[block] @ z.T  # (m, 2n)
        similarity[views - block.start, views] = -np.inf
        partners = (views + n_views // 2) % n_views
        n_hits += int(np.sum(similarity.argmax(1) == partners))
    return n_hits / n_views


def alignment_scorer(estimator, X, y=None):
    """Score by the negative :func:`alignment` of two views of each sample.

    Features that are the same for all samples score best, so never choose a model by it alone.

    Parameters
    ----------
    estimator : SimCLRTransformer, SimCLRClassifier or Pipeline
        Fitted. In a pipeline the last SimCLRTransformer is measured, on X as transformed by the
        steps before it; those after it are ignored. For a classifier, its `transformer_` is
        measured.
    X : array-like
        At least two samples, in any form that the estimator accepts.
    y : None
        Ignored.

    Returns
    -------
    float
        In [-4, 0]; higher is better, other things being equal. The same at every call.

    Raises
    ------
    TypeError
        If there is no SimCLRTransformer.

    References
    ----------
    .. [1] Wang & Isola (2020). https://arxiv.org/abs/2005.10242

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.metrics import alignment_scorer
    >>> images = load_digits().images[:100]
    >>> model = SimCLRTransformer(batch_size=64, max_epochs=1, random_state=0).fit(images)
    >>> -4 <= alignment_scorer(model, images) <= 0
    True
    """
    simclr, X = _measured(estimator, X, "alignment_scorer")
    return -alignment(*simclr._view_features(X))


def uniformity_scorer(estimator, X, y=None):
    """Score by the negative :func:`uniformity` of the features.

    Parameters
    ----------
    estimator : SimCLRTransformer, SimCLRClassifier or Pipeline
        Fitted. In a pipeline the last SimCLRTransformer is measured, on X as transformed by the
        steps before it; those after it are ignored. For a classifier, its `transformer_` is
        measured.
    X : array-like
        At least two samples, in any form that the estimator accepts.
    y : None
        Ignored.

    Returns
    -------
    float
        At least 0; higher is better, other things being equal.

    Raises
    ------
    TypeError
        If there is no SimCLRTransformer.

    References
    ----------
    .. [1] Wang & Isola (2020). https://arxiv.org/abs/2005.10242

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.metrics import uniformity_scorer
    >>> images = load_digits().images[:100]
    >>> model = SimCLRTransformer(batch_size=64, max_epochs=1, random_state=0).fit(images)
    >>> uniformity_scorer(model, images) > 0
    True
    """
    simclr, X = _measured(estimator, X, "uniformity_scorer")
    return -uniformity(simclr.transform(X))


def rankme_scorer(estimator, X, y=None):
    """Score by :func:`rankme`, the effective rank of the features.

    Parameters
    ----------
    estimator : SimCLRTransformer, SimCLRClassifier or Pipeline
        Fitted. In a pipeline the last SimCLRTransformer is measured, on X as transformed by the
        steps before it; those after it are ignored. For a classifier, its `transformer_` is
        measured.
    X : array-like
        Samples in any form that the estimator accepts; preferably more than there are features.
    y : None
        Ignored.

    Returns
    -------
    float
        About 1 to min(n, d); higher is better among models of the same width and kind of views, on
        the same number of samples.

    Raises
    ------
    TypeError
        If there is no SimCLRTransformer.

    References
    ----------
    .. [1] Garrido, Balestriero, Najman & LeCun (2023). https://arxiv.org/abs/2210.02885

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.metrics import rankme_scorer
    >>> images = load_digits().images[:100]
    >>> model = SimCLRTransformer(batch_size=64, max_epochs=1, random_state=0).fit(images)
    >>> 1 < rankme_scorer(model, images) < 100
    True
    """
    simclr, X = _measured(estimator, X, "rankme_scorer")
    return rankme(simclr.transform(X))


def contrastive_accuracy_scorer(estimator, X, y=None):
    """Score by :meth:`SimCLRTransformer.score <sklearn_simclr.SimCLRTransformer.score>`.

    A search over SimCLRTransformers uses it by default; this function is for pipelines, and for
    several scorers at once.

    Parameters
    ----------
    estimator : SimCLRTransformer, SimCLRClassifier or Pipeline
        Fitted. In a pipeline the last SimCLRTransformer is measured, on X as transformed by the
        steps before it; those after it are ignored. For a classifier, its `transformer_` is
        measured.
    X : array-like
        At least two samples, in any form that the estimator accepts.
    y : None
        Ignored.

    Returns
    -------
    float
        In [0, 1]; higher is better among models with the same kind of views. The same at every
        call.

    Raises
    ------
    TypeError
        If there is no SimCLRTransformer.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi & Hinton (2020). https://arxiv.org/abs/2002.05709

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.metrics import contrastive_accuracy_scorer
    >>> images = load_digits().images[:100]
    >>> model = SimCLRTransformer(batch_size=64, max_epochs=1, random_state=0).fit(images)
    >>> contrastive_accuracy_scorer(model, images) == model.score(images)
    True
    """
    simclr, X = _measured(estimator, X, "contrastive_accuracy_scorer")
    return simclr.score(X)


@validate_params({"n_neighbors": _COUNT}, prefer_skip_nested_validation=True)
def knn_scorer(estimator, X, y=None, *, n_neighbors=10):
    """Score by nearest-neighbour accuracy among the samples themselves.

    A scorer sees only the held-out samples, so each of them is classified by its nearest
    neighbours, by cosine similarity, among the others. The labels are not used for training.

    Parameters
    ----------
    estimator : SimCLRTransformer, SimCLRClassifier or Pipeline
        Fitted. In a pipeline the last SimCLRTransformer is measured, on X as transformed by the
        steps before it; those after it are ignored. For a classifier, its `transformer_` is
        measured.
    X : array-like
        Samples in any form that the estimator accepts.
    y : array-like of shape (n,)
        Labels; samples with -1, which have none, are left out, unless y holds only -1 and 1.
    n_neighbors : int, default=10
        Number of neighbours, from 1 to n - 1. To change it, pass
        ``functools.partial(knn_scorer, n_neighbors=5)`` as `scoring`.

    Returns
    -------
    float
        In [0, 1]; higher is better. It grows with n, so compare on folds of the same size.
        Uninformative features score slightly below chance, since each sample has fewer others of
        its own label.

    Raises
    ------
    TypeError
        If there is no SimCLRTransformer.
    ValueError
        If there are no labels, or no more labelled samples than `n_neighbors`.

    References
    ----------
    .. [1] Wu, Xiong, Yu & Lin (2018). https://arxiv.org/abs/1805.01978

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.metrics import knn_scorer
    >>> digits = load_digits()
    >>> model = SimCLRTransformer(batch_size=64, max_epochs=1, random_state=0)
    >>> X, y = digits.images[:200], digits.target[:200]
    >>> cross_val_score(model, X, y, cv=2, scoring=knn_scorer).shape
    (2,)
    """
    simclr, X = _measured(estimator, X, "knn_scorer")
    if y is None:
        raise ValueError(
            "knn_scorer needs labels, got y=None. Pass y, or score by a measure without labels, "
            "such as contrastive_accuracy_scorer."
        )
    h = _check_features(simclr.transform(X), "the features of X")
    _, y = read_targets(_check_labels(y, "y", h, "X"), len(h))
    h, y = h[y >= 0], y[y >= 0]
    if n_neighbors >= len(h):
        raise ValueError(
            f"n_neighbors={n_neighbors} needs more labelled samples than that, got {len(h)}. Use "
            "fewer folds, or functools.partial(knn_scorer, n_neighbors=...) with a smaller number."
        )
    classifier = _nearest_neighbors(n_neighbors).fit(_directions(h, "the features of X"), y)
    return float(accuracy_score(y, classifier.predict(None)))  # None: without itself among them


SCORERS = {
    "contrastive_accuracy": contrastive_accuracy_scorer,
    "knn": knn_scorer,
    "neg_alignment": alignment_scorer,
    "neg_uniformity": uniformity_scorer,
    "rankme": rankme_scorer,
}


def _nearest_neighbors(n_neighbors, weights="uniform", temperature=1.0):
    """Return the classifier by cosine similarity, for features of unit norm."""

    def votes(distance):  # (n, n_neighbors); distance ** 2 is 2 - 2 * cosine
        exponents = -(distance**2) / (2 * temperature)
        return np.exp(exponents - exponents.max(axis=1, keepdims=True))  # the nearest has vote 1

    return KNeighborsClassifier(
        n_neighbors,
        weights=votes if weights == "similarity" else weights,
        algorithm="brute",
        metric="euclidean",
    )


def _log_sum_over_later_rows(h, block, t):
    """Logarithm of the sum of exp(-t * distance ** 2) over pairs of a row and a later one.

    The first row is in the block. Does not underflow or overflow for any t.
    """
    exponents = h[block] @ h[block.start :].T  # (m, n - start), so far the cosines
    exponents -= 1
    exponents *= 2 * t
    np.minimum(exponents, 0, out=exponents)
    exponents[:, : len(exponents)][np.tri(len(exponents), dtype=bool)] = -np.inf  # not later
    largest = float(exponents.max())
    exponents -= largest
    return largest + math.log(np.exp(exponents, out=exponents).sum(dtype=np.float64))


def _measured(estimator, X, scorer):
    """Return the SimCLRTransformer that is measured, and X as it reaches it."""
    found = _last_transformer(estimator)
    if found is None:
        raise TypeError(
            f"{scorer} needs a SimCLRTransformer, a fitted SimCLRClassifier, or a Pipeline with "
            f"one of these as a step, got {estimator!r}. For other features use the functions that "
            "take features."
        )
    transformer, before = found
    for steps in before:
        X = steps.transform(X)
    return transformer, X


def is_simclr(estimator) -> bool:
    """Whether this is a SimCLRTransformer, whose module is above this one."""
    return hasattr(estimator, "_view_features")


def _last_transformer(estimator):
    """Return the last SimCLRTransformer in an estimator and the steps before it; None if none."""
    for found in (estimator, getattr(estimator, "transformer_", None)):  # of a SimCLRClassifier
        if is_simclr(found):
            return found, ()
    if isinstance(estimator, FrozenEstimator):
        return _last_transformer(estimator.estimator)
    if not isinstance(estimator, Pipeline):
        return None
    for number, (_, step) in reversed(list(enumerate(estimator.steps))):
        found = _last_transformer(step)
        if found is not None:
            transformer, before = found
            own = (estimator[:number],) if number else ()
            return transformer, own + before
    return None


def _to_numpy(values):
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    return np.asarray(values)


def _check_features(h, name, *, min_rows=1):
    """Return h as an array (n, d), float32 if that holds its values and float64 otherwise."""
    h = _to_numpy(h)
    if h.ndim != 2 or len(h) < min_rows or not h.shape[1]:
        raise ValueError(
            f"{name} must have shape (n, d) with n >= {min_rows} and d >= 1, got {h.shape}."
        )
    if h.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold real numbers, got dtype {h.dtype}. Convert it first.")
    h = h.astype(np.float32 if np.can_cast(h.dtype, np.float32) else np.float64, copy=False)
    _refuse_rows(~np.isfinite(h).all(axis=1), name, "NaN or infinite values")
    return h


def _check_pair(h1, h2, names, *, min_rows):
    h1 = _check_features(h1, names[0], min_rows=min_rows)
    h2 = _check_features(h2, names[1], min_rows=min_rows)
    if h1.shape != h2.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same shape, with row i of both for sample i; "
            f"got {h1.shape} and {h2.shape}."
        )
    return h1, h2


def _check_labels(y, y_name, h, h_name):
    y = column_or_1d(_to_numpy(y), warn=False)
    if len(y) != len(h):
        raise ValueError(
            f"{y_name} must hold a label for each row of {h_name}, got {len(y)} labels for "
            f"{len(h)} rows."
        )
    return y


def _directions(h, name):
    """Scale the rows to unit norm, without underflow or overflow."""
    _refuse_zeros(h, name)
    return _scaled_to_one(h)


def _scaled_to_one(h):
    h = h / np.abs(h).max(axis=1, keepdims=True)
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    return h


def _refuse_zeros(h, name):
    _refuse_rows(~h.any(axis=1), name, "zeros only, which have no direction,")


def _refuse_rows(bad, name, what):
    if bad.any():
        raise ValueError(
            f"{name} has {what} in {bad.sum()} of {len(bad)} rows, the first of them row "
            f"{bad.argmax()}. Drop these rows, or fix the network that they come from."
        )
