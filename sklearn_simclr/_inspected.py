"""What displays look at: from an estimator and X to pictures, views and features."""

import copy
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.validation import _num_samples, check_is_fitted
from torch import Tensor
from torch.nn import functional as F

from sklearn_simclr._classifier import SimCLRClassifier
from sklearn_simclr._data import Samples, channel_statistics
from sklearn_simclr._device import plain_torch
from sklearn_simclr._files import ImageFiles, as_paths
from sklearn_simclr._inference import encode
from sklearn_simclr._kernels import resize
from sklearn_simclr._pictures import check_channels, contrast_limits, to_pictures
from sklearn_simclr._random import cpu_generator, global_draws
from sklearn_simclr._reading import open_to_learn, read_samples
from sklearn_simclr._transformer import SimCLRTransformer
from sklearn_simclr._views import Views, is_view_of, refusal_of
from sklearn_simclr.augmentation import resolve_augmentation

_BLOCK_ROWS = 64  # images that are turned into pictures at a time
_DONORS = 256  # samples from which a view takes values, where it takes any


class Found(NamedTuple):
    """The SimCLR estimators within an estimator, and the steps that X passes before."""

    transformer: SimCLRTransformer
    classifier: SimCLRClassifier | None
    steps: tuple[Pipeline, ...]

    def reaching(self, X):
        """Return X as it reaches the transformer; steps before an unfitted one are fitted on X.

        These are copies: the estimator itself is never changed.
        """
        fitted = self.transformer.__sklearn_is_fitted__()
        for steps in self.steps:
            X = steps.transform(X) if fitted else clone(steps).fit_transform(X)
        return X


def find_simclr(estimator) -> Found:
    """Find the SimCLRTransformer within a classifier, a pipeline, or a frozen one of these.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = _find(estimator)
    if found is None:
        raise ValueError(
            "estimator must be a SimCLRTransformer, a SimCLRClassifier, or a Pipeline with one of "
            f"these as a step, got {estimator!r}. Of a search, pass its best_estimator_."
        )
    return found


def _find(estimator) -> Found | None:
    if isinstance(estimator, SimCLRTransformer):
        return Found(estimator, None, ())
    if isinstance(estimator, SimCLRClassifier):
        inner = getattr(estimator, "transformer_", estimator.transformer)
        inner = SimCLRTransformer() if inner is None else inner
        return _find(inner)._replace(classifier=estimator)
    if isinstance(estimator, FrozenEstimator):
        return _find(estimator.estimator)
    if isinstance(estimator, Pipeline):
        for number, (_, step) in enumerate(estimator.steps):
            found = _find(step)
            if found is not None:
                before = (estimator[:number],) if number else ()
                return found._replace(steps=before + found.steps)
    return None


def draw_rows(n_rows: int, n_drawn: int | None, rng: np.random.RandomState) -> np.ndarray:
    """Draw so many rows, at most all, in random order; None: all."""
    return rng.permutation(n_rows)[:n_drawn]


def _draw_files(
    transformer: SimCLRTransformer, X, n_drawn: int | None, rng: np.random.RandomState
) -> tuple[list[str], np.ndarray] | None:
    """Draw image files for a fitted transformer to read: paths, and their rows in X.

    None if X holds no paths, or if `cache_dir` may hold the pixels of all.
    """
    paths = as_paths(X) if transformer.cache_dir is None else None
    if paths is None:
        return None
    rows = draw_rows(len(paths), n_drawn, rng)
    return [paths[row] for row in rows], rows


def random_source(random_state) -> np.random.RandomState:
    """Turn `random_state` into a generator; None is a fresh one, not NumPy's global one."""
    return np.random.RandomState() if random_state is None else check_random_state(random_state)


class Looked(NamedTuple):
    """Samples and random views of them, (n, h, w, c) and (n, m, h, w, c), or (n, d), (n, m, d)."""

    originals: np.ndarray
    views: np.ndarray
    rows: np.ndarray  # (n,) where the samples are in X
    feature_names: np.ndarray | None  # (d,) of vectors, if X has any


@plain_torch()
def look_at_views(
    found: Found, X, *, n_samples: int, n_views: int, channels, random_state
) -> Looked:
    """Draw samples and views of them, as `fit` would make them or has made them.

    Images are as large as the network sees them. Vectors are standardised, feature by feature.
    """
    X, kept, rng = found.reaching(X), None, random_source(random_state)
    transformer = copy.copy(found.transformer)  # reading X to learn from it sets attributes
    fitted = transformer.__sklearn_is_fitted__()
    files = _draw_files(transformer, X, n_samples, rng) if fitted else None
    if files is not None:
        X, kept = files
    elif not fitted:
        transformer._validate_params()
        X, _, _ = open_to_learn(transformer, X, None, reset=True)
        kept = X.kept if isinstance(X, ImageFiles) else None
    samples, views = _open(transformer, X, fitted=fitted)
    if samples.image_shape is not None:
        check_channels(channels, samples.image_shape[2])
    n = len(samples)
    order = draw_rows(n, None, rng) if files is None else np.arange(n)
    rows = order[:n_samples]
    donors = order[: max(_DONORS, n_samples)] if views.mixes_samples else rows
    batch = samples.batch(torch.from_numpy(donors))
    originals, made = _make_views(batch, views, n_views, seed=rng.randint(2**31 - 1))
    originals, made = originals[: len(rows)], made[: len(rows)]
    names = None
    if samples.image_shape is None:
        mean, scale = (
            (transformer.mean_, transformer.scale_) if fitted else channel_statistics(samples)
        )
        originals, made = (originals - mean) / scale, (made - mean) / scale
        names = getattr(transformer, "feature_names_in_", None)
    return Looked(originals, made, rows if kept is None else kept[rows], names)


def _open(transformer: SimCLRTransformer, X, *, fitted: bool) -> tuple[Samples, Views]:
    """Return the samples, on the CPU, and how their views are made."""
    samples = read_samples(transformer, X, reset=not fitted, min_samples=1)
    if fitted:
        augmentation, view_size = transformer._augmentation, transformer._view_size
    else:
        view_size = transformer.image_size
        augmentation = resolve_augmentation(
            transformer.augmentation, samples.image_shape, view_size
        )
    return _on_cpu(samples), Views(augmentation, view_size, draws_globally=True)


def _make_views(
    batch: Tensor, views: Views, n_views: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples and `n_views` views of each, channels last."""
    generator, made = cpu_generator(seed), []
    with global_draws(views.draws_globally, seed, batch.device):
        for _ in range(n_views):
            try:
                view = views.single(batch.clone(), generator)
            except Exception as error:
                raise ValueError(
                    f"augmentation={views.augmentation!r} failed on a batch of shape "
                    f"{tuple(batch.shape)}: {type(error).__name__}: {error}"
                ) from error
            made.append(view)
            alike = is_view_of(view, batch) and view.ndim == batch.ndim
            if not (alike and view.shape == made[0].shape):
                wanted = "one float view a sample, all of one shape"
                raise refusal_of(view, batch, views.augmentation, wanted)
    batch = resize(batch, views.image_size)
    return _channels_last(batch), _channels_last(torch.stack(made, dim=1))


def _channels_last(images: Tensor) -> np.ndarray:
    """Turn images (..., c, h, w) into an array (..., h, w, c); leave vectors as they are."""
    return (images.movedim(-3, -1) if images.ndim >= 4 else images).float().cpu().numpy()


def _on_cpu(samples: Samples) -> Samples:
    """Return samples whose batches stay on the CPU, so that not all of X goes to a GPU."""
    return replace(samples, device=torch.device("cpu"))


class Encoder:
    """A fitted network, and the samples of an X that it encodes."""

    @plain_torch()
    def __init__(self, transformer: SimCLRTransformer, X):
        self._transformer = transformer
        self._network, self._samples = transformer._restore(X, min_samples=1)

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(h, w, c) of the images, None for vectors."""
        return self._samples.image_shape

    @plain_torch()
    def features(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Return what `transform` returns of these rows, or of all: (k, d), float32."""
        samples = self._samples
        if rows is not None:
            samples = replace(samples, rows=samples.rows[rows])
        transformer, cpu = self._transformer, torch.device("cpu")
        return encode(
            self._network, samples, transformer._view_size, transformer.output_layer, cpu
        ).numpy()

    def limits(self, channels) -> np.ndarray | None:
        """Return the values that are black and white in pictures of these samples."""
        if self.image_shape[2] in (1, 3):
            return None
        few = np.linspace(0, len(self) - 1, min(len(self), _BLOCK_ROWS)).astype(np.int64)
        batch = _on_cpu(self._samples).batch(torch.from_numpy(few))
        return contrast_limits(_channels_last(batch), channels)

    def pictures(
        self, rows: np.ndarray, channels, limits, largest_side: int | None = None
    ) -> np.ndarray:
        """Return the images at `rows` as pictures (k, h, w) or (k, h, w, 3), shrunk if need be."""
        samples, pictures = _on_cpu(self._samples), None
        for block in gen_batches(len(rows), _BLOCK_ROWS):
            batch = samples.batch(torch.from_numpy(rows[block]))
            made = to_pictures(_channels_last(_shrunk(batch, largest_side)), channels, limits)
            if pictures is None:
                pictures = np.empty((len(rows), *made.shape[1:]), made.dtype)
            pictures[block] = made
        return pictures


class Drawn(NamedTuple):
    """Rows that are drawn of an X, and what encodes them."""

    encoder: Encoder
    n_rows: int  # of X
    rows: np.ndarray  # (k,) where the samples are in X
    places: np.ndarray  # (k,) where they are in the encoder


def draw_to_encode(
    transformer: SimCLRTransformer, X, n_drawn: int | None, rng: np.random.RandomState
) -> Drawn:
    """Draw so many rows of X, at most all, in random order; None: all."""
    check_is_fitted(transformer)
    files = _draw_files(transformer, X, n_drawn, rng)
    if files is None:
        encoder = Encoder(transformer, X)
        rows = draw_rows(len(encoder), n_drawn, rng)
        return Drawn(encoder, len(encoder), rows, rows)
    paths, rows = files
    return Drawn(Encoder(transformer, paths), _num_samples(X), rows, np.arange(len(rows)))


def _shrunk(images: Tensor, largest_side: int | None) -> Tensor:
    """Make images (n, c, h, w) smaller, keeping their shape, if a side is longer than that."""
    height, width = images.shape[-2:]
    if largest_side is None or max(height, width) <= largest_side:
        return images
    ratio = largest_side / max(height, width)
    size = max(1, round(height * ratio)), max(1, round(width * ratio))
    return F.interpolate(images, size, mode="bilinear", antialias=True)
