"""Displays of a training run and of the learned features, in the style of scikit-learn's displays.

Each is created by its ``from_estimator``, from a fitted or, to look at views, an unfitted
:class:`~sklearn_simclr.SimCLRTransformer` or :class:`~sklearn_simclr.SimCLRClassifier`, or from a
pipeline with one of these as a step; steps before it transform X first. A display stores the arrays
that it draws, and its ``plot`` draws them again. They need matplotlib.
"""

from collections import Counter
from numbers import Integral, Real

import numpy as np
from sklearn.base import clone
from sklearn.manifold import TSNE
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.utils import check_array, check_scalar
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklearn_simclr._inspected import (
    Drawn,
    Encoder,
    draw_rows,
    draw_to_encode,
    find_simclr,
    look_at_views,
    random_source,
)
from sklearn_simclr._labels import read_targets
from sklearn_simclr._pictures import (
    COLORS,
    NEUTRAL,
    check_channels,
    contrast_limits,
    legend_label,
    picture_grid,
    put_frame,
    require_matplotlib,
    show_picture,
    standing_apart,
    to_pictures,
    verbatim,
)

__all__ = ["EmbeddingDisplay", "LossCurveDisplay", "NeighborsDisplay", "ViewsDisplay"]

_SAME, _OTHER = "#0072b2", "#d55e00"  # blue and vermilion of Okabe & Ito
_LONGEST_LABEL = 11  # characters that fit below a picture
_MOST_NAMES, _LONGEST_NAME = 30, 20  # features that are named, and characters of a name
_THUMBNAIL_SIDE = 64  # pixels
_SHORTEST_SIDE = 2.5  # inches of a figure
_BLOCK_ROWS = 2**16  # features that are compared at a time
_PERPLEXITY, _FEWEST_FOR_TSNE = 30, 4


class LossCurveDisplay:
    """Loss curve of a training run.

    It is recommended to create one by :meth:`from_estimator`.

    Parameters
    ----------
    loss_curve : array-like of shape (n,)
        The loss of each epoch, or of each step.
    xlabel : str, default="epoch"
        Label of the x-axis: what each loss was recorded after.
    name : str, default=None
        Name of the curve, for a legend; None: no legend.

    Attributes
    ----------
    line_ : matplotlib Line2D
        The curve.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.

    Notes
    -----
    A network that has learned nothing has an NT-Xent loss of about ``ln(2 B - 1)`` with B samples
    per batch. That level is not drawn, since a fitted transformer does not store B;
    ``display.ax_.axhline`` adds it.

    Examples
    --------
    >>> from sklearn_simclr.inspection import LossCurveDisplay
    >>> display = LossCurveDisplay(loss_curve=[5.5, 4.8, 4.6]).plot()
    >>> display.line_.get_ydata().tolist()
    [5.5, 4.8, 4.6]
    """

    def __init__(self, *, loss_curve, xlabel="epoch", name=None):
        self.loss_curve = loss_curve
        self.xlabel = xlabel
        self.name = name

    def plot(self, ax=None, *, name=None, line_kw=None):
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None: on a new figure.
        name : str, default=None
            Name of the curve; None: that of the display.
        line_kw : dict, default=None
            Keyword arguments of matplotlib's ``plot``.

        Returns
        -------
        LossCurveDisplay
            The display itself.

        Examples
        --------
        >>> from sklearn_simclr.inspection import LossCurveDisplay
        >>> display = LossCurveDisplay(loss_curve=[5.5, 4.8, 4.6])
        >>> display.plot(line_kw={"color": "black"}).ax_.get_xlabel()
        'epoch'
        """
        require_matplotlib(f"{type(self).__name__}.plot")
        from matplotlib import pyplot as plt
        from matplotlib.cbook import normalize_kwargs
        from matplotlib.lines import Line2D
        from matplotlib.ticker import MaxNLocator

        if ax is None:
            _, ax = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
        name = self.name if name is None else name
        losses = np.asarray(self.loss_curve, dtype=float)
        # Markers show how many points there are, and make a single one visible.
        defaults = {
            "label": legend_label(name),
            "marker": "o" if len(losses) <= 30 else None,
            "markersize": 4,
            "linewidth": 1.5 if len(losses) <= 500 else 0.8,
        }
        style = defaults | normalize_kwargs(line_kw, Line2D)
        (self.line_,) = ax.plot(np.arange(1, len(losses) + 1), losses, **style)
        ax.set(xlabel=self.xlabel, ylabel="loss")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
        if ax.get_legend_handles_labels()[0]:
            ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self

    @classmethod
    def from_estimator(cls, estimator, *, stage="pre_training", name=None, ax=None, line_kw=None):
        """Draw the loss of a fitted estimator.

        Parameters
        ----------
        estimator : SimCLRTransformer, SimCLRClassifier or Pipeline
            A fitted estimator.
        stage : {"pre_training", "fine_tuning"}, default="pre_training"
            For a classifier: the contrastive loss of its transformer, per epoch, or the loss of its
            fine-tuning followed by that of its distillation, per step. A transformer has only the
            first.
        name : str, default=None
            Name of the curve, for a legend; None: no legend.
        ax : matplotlib Axes, default=None
            Where to draw, such as the `ax_` of another display to compare; None: on a new figure.
        line_kw : dict, default=None
            Keyword arguments of matplotlib's ``plot``.

        Returns
        -------
        LossCurveDisplay
            The display.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        ValueError
            If the estimator is of another kind, or has no losses of that stage.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from sklearn_simclr import SimCLRTransformer
        >>> from sklearn_simclr.inspection import LossCurveDisplay
        >>> images = load_digits().images[:100]
        >>> simclr = SimCLRTransformer(batch_size=50, max_epochs=3, random_state=0).fit(images)
        >>> display = LossCurveDisplay.from_estimator(simclr, name="digits")
        >>> display.line_.get_xdata().tolist()
        [1, 2, 3]
        """
        require_matplotlib(f"{cls.__name__}.from_estimator")
        found = find_simclr(estimator)
        if stage == "pre_training":
            check_is_fitted(found.transformer)
            losses, xlabel = found.transformer.loss_curve_, "epoch"
        elif stage == "fine_tuning":
            losses, xlabel = _losses_of_steps(found), "step"
        else:
            raise ValueError(f"stage={stage!r} must be 'pre_training' or 'fine_tuning'.")
        display = cls(loss_curve=np.array(losses), xlabel=xlabel, name=name)
        return display.plot(ax, line_kw=line_kw)


def _losses_of_steps(found) -> list[float]:
    if found.classifier is None:
        raise ValueError(
            "stage='fine_tuning' needs a SimCLRClassifier: a SimCLRTransformer is pre-trained "
            "only. Pass stage='pre_training'."
        )
    check_is_fitted(found.classifier)
    if not found.classifier.loss_curve_:
        raise ValueError(
            "stage='fine_tuning' has no losses to draw: the classifier is a logistic regression on "
            f"the features, method_={found.classifier.method_!r}, and nothing was distilled. Pass "
            "stage='pre_training'."
        )
    return found.classifier.loss_curve_


class ViewsDisplay:
    """Samples and random views of them, to see whether the views keep their meaning.

    It is recommended to create one by :meth:`from_estimator`.

    Parameters
    ----------
    originals : ndarray of shape (n, h, w), (n, h, w, 3) or (n, d)
        The samples as the network sees them: pictures in [0, 1], grey or in colour, or standardised
        vectors.
    views : ndarray of shape (n, m, h, w), (n, m, h, w, 3) or (n, m, d)
        Views of each sample. Their size may differ from that of the samples.
    rows : array-like of int of shape (n,), default=None
        Rows of X that hold the samples.
    feature_names : array-like of str of shape (d,), default=None
        Names of the features of vectors.

    Attributes
    ----------
    axes_ : ndarray of Axes of shape (n, 1 + m), or (n, 1) for vectors
        The axes of the pictures; those of the originals come first.
    images_ : ndarray of AxesImage, of the shape of `axes_`
        The images drawn on them.
    figure_ : matplotlib Figure
        The figure.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.inspection import ViewsDisplay
    >>> originals = np.random.default_rng(0).random((2, 8, 8))
    >>> views = originals[:, None].repeat(3, axis=1)[:, :, ::-1]  # upside down
    >>> ViewsDisplay(originals=originals, views=views).plot().axes_.shape
    (2, 4)
    """

    def __init__(self, *, originals, views, rows=None, feature_names=None):
        self.originals = originals
        self.views = views
        self.rows = rows
        self.feature_names = feature_names

    def plot(self, ax=None, *, im_kw=None):
        """Draw a row per sample: the sample and its views.

        Vectors are drawn as one heat map per sample, the sample above its views, blue below the
        mean of a feature and red above it; a dot marks what a view has changed.

        Parameters
        ----------
        ax : matplotlib Axes or ndarray of Axes, default=None
            A subplot whose space is filled, or the `axes_` of an earlier plot with the same number
            of pictures; None: a new figure.
        im_kw : dict, default=None
            Keyword arguments of matplotlib's ``imshow``.

        Returns
        -------
        ViewsDisplay
            The display itself.

        Raises
        ------
        ValueError
            If `ax` cannot be filled.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_simclr.inspection import ViewsDisplay
        >>> originals = np.random.default_rng(0).random((2, 8, 8))
        >>> display = ViewsDisplay(originals=originals, views=originals[:, None, ::-1])
        >>> display.plot(im_kw={"cmap": "viridis"}).images_[0, 1].get_cmap().name
        'viridis'
        """
        require_matplotlib(f"{type(self).__name__}.plot")
        if self.originals.ndim == 2:
            self._plot_vectors(ax, im_kw)
        else:
            self._plot_pictures(ax, im_kw)
        self.figure_ = self.axes_[0, 0].figure
        return self

    def _plot_pictures(self, ax, im_kw) -> None:
        n, m = self.views.shape[:2]
        self.axes_ = picture_grid(ax, n, 1 + m, shape=self.originals.shape[1:3], n_lines=0)
        self.images_ = np.empty(self.axes_.shape, dtype=object)
        for row, original in enumerate(self.originals):
            for column, picture in enumerate([original, *self.views[row]]):
                self.images_[row, column] = show_picture(self.axes_[row, column], picture, im_kw)
        self.axes_[0, 0].set_title("original", fontsize=10, pad=4)
        self.axes_[0, 1].set_title("views", fontsize=10, pad=4)

    def _plot_vectors(self, ax, im_kw) -> None:
        n, m, d = self.views.shape
        names = None
        if self.feature_names is not None and d <= _MOST_NAMES:
            names = [_shortened(name, _LONGEST_NAME) for name in self.feature_names]
        below = 0.4 if names is None else 0.2 + 0.08 * max(map(len, names))
        self.axes_ = picture_grid(
            ax, n, 1, shape=(1 + m, 30), n_lines=0, width=5.8, gap=0.15, margins=(0.7, below)
        )
        self.images_ = np.empty(self.axes_.shape, dtype=object)
        defaults = {"cmap": "RdBu_r", "vmin": -3, "vmax": 3, "aspect": "auto"}
        for row, original in enumerate(self.originals):
            axes, table = self.axes_[row, 0], np.vstack([original, self.views[row]])  # (1 + m, d)
            self.images_[row, 0] = show_picture(axes, table, im_kw, **defaults)
            axes.axhline(0.5, color="white", linewidth=4)
            changed = np.argwhere(self.views[row] != original)  # (k, 2)
            axes.plot(changed[:, 1], changed[:, 0] + 1, "k.", markersize=3)
            axes.set_yticks([0, (1 + m) / 2], ["original", "views"], fontsize=9)
            axes.tick_params(left=False)
        self.axes_[0, 0].set_title("blue: low, red: high, dot: changed", fontsize=9, pad=4)
        if names is None:
            self.axes_[-1, 0].set_xlabel("features", fontsize=9)
        else:
            self.axes_[-1, 0].set_xticks(range(d), map(verbatim, names), rotation=90, fontsize=9)

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        *,
        n_samples=6,
        n_views=6,
        channels=None,
        random_state=None,
        ax=None,
        im_kw=None,
    ):
        """Draw random samples of X, and views of them.

        The views are those that an unfitted estimator would be trained on, with every "auto"
        resolved as in `fit`, or those that a fitted one was trained on. So an augmentation can be
        chosen before any training.

        Parameters
        ----------
        estimator : SimCLRTransformer, SimCLRClassifier or Pipeline
            Fitted or not. To look at an augmentation, pass
            ``SimCLRTransformer(augmentation=augmentation)``.
        X : array-like
            Samples in any form that `fit` accepts, at least one. An unfitted estimator learns the
            range of the pixels from it.
        n_samples : int, default=6
            Number of samples to draw, >= 1; all if X has fewer. Of image files, a fitted estimator
            without `cache_dir` opens no others.
        n_views : int, default=6
            Number of views of each, >= 1.
        channels : int or tuple of three int, default=None
            The number of the channel to draw in grey, or those of the channels to draw as red,
            green and blue. None: the first three, or the first if there are fewer. The contrast of
            images with neither 1 nor 3 channels is stretched, separately for each channel.
        random_state : int, RandomState instance or None, default=None
            Seed of samples and views. None draws different ones each time.
        ax : matplotlib Axes or ndarray of Axes, default=None
            As in `plot`.
        im_kw : dict, default=None
            As in `plot`.

        Returns
        -------
        ViewsDisplay
            The display.

        Raises
        ------
        ValueError
            If the estimator is of another kind, a parameter is out of range, X and the augmentation
            do not match, or image files cannot be read.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from sklearn_simclr import SimCLRTransformer
        >>> from sklearn_simclr.augmentation import AffineAugmentation
        >>> from sklearn_simclr.inspection import ViewsDisplay
        >>> images = load_digits().images
        >>> simclr = SimCLRTransformer(augmentation=AffineAugmentation(degrees=30))  # unfitted
        >>> display = ViewsDisplay.from_estimator(simclr, images, n_samples=3, random_state=0)
        >>> display.views.shape
        (3, 6, 8, 8)
        """
        require_matplotlib(f"{cls.__name__}.from_estimator")
        check_scalar(n_samples, "n_samples", Integral, min_val=1)
        check_scalar(n_views, "n_views", Integral, min_val=1)
        looked = look_at_views(
            find_simclr(estimator),
            X,
            n_samples=n_samples,
            n_views=n_views,
            channels=channels,
            random_state=random_state,
        )
        originals, views = looked.originals, looked.views
        if originals.ndim > 2:
            limits = contrast_limits(originals, channels)
            as_many = views.shape[-1] == originals.shape[-1]
            views = to_pictures(views, channels, limits) if as_many else to_pictures(views)
            originals = to_pictures(originals, channels, limits)
        display = cls(
            originals=originals, views=views, rows=looked.rows, feature_names=looked.feature_names
        )
        return display.plot(ax, im_kw=im_kw)


class NeighborsDisplay:
    """Images and those with the most similar features, to see what the network ignores.

    It is recommended to create one by :meth:`from_estimator`.

    Parameters
    ----------
    queries : ndarray of shape (q, h, w) or (q, h, w, 3)
        Pictures in [0, 1], grey or in colour.
    neighbors : ndarray of shape (q, k, h, w) or (q, k, h, w, 3)
        The pictures most similar to each query, the most similar first.
    similarities : ndarray of shape (q, k)
        Cosine similarities of the features, in [-1, 1].
    query_rows, neighbor_rows : ndarray of int of shape (q,) and (q, k), default=None
        Rows of X that hold the pictures; rows of X_query if the queries come from there.
    query_labels, neighbor_labels : ndarray of str of shape (q,) and (q, k), default=None
        Their classes, "" for no label; None: no labels.

    Attributes
    ----------
    axes_ : ndarray of Axes of shape (q, 1 + k)
        The axes of the pictures; those of the queries come first.
    images_ : ndarray of AxesImage of shape (q, 1 + k)
        The images drawn on them.
    figure_ : matplotlib Figure
        The figure.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.inspection import NeighborsDisplay
    >>> images = np.random.default_rng(0).random((4, 8, 8))
    >>> display = NeighborsDisplay(
    ...     queries=images[:1], neighbors=images[None, 1:], similarities=np.array([[0.9, 0.7, 0.2]])
    ... )
    >>> [ax.get_title() for ax in display.plot().axes_[0]]
    ['query', '0.900', '0.700', '0.200']
    """

    def __init__(
        self,
        *,
        queries,
        neighbors,
        similarities,
        query_rows=None,
        neighbor_rows=None,
        query_labels=None,
        neighbor_labels=None,
    ):
        self.queries = queries
        self.neighbors = neighbors
        self.similarities = similarities
        self.query_rows = query_rows
        self.neighbor_rows = neighbor_rows
        self.query_labels = query_labels
        self.neighbor_labels = neighbor_labels

    def plot(self, ax=None, *, im_kw=None):
        """Draw a row per query: the query, and its neighbours with their similarities.

        With labels, a neighbour of the query's class has a tick and a blue frame, one of another
        class a cross and an orange frame.

        Parameters
        ----------
        ax : matplotlib Axes or ndarray of Axes, default=None
            A subplot whose space is filled, or the `axes_` of an earlier plot with the same number
            of pictures; None: a new figure.
        im_kw : dict, default=None
            Keyword arguments of matplotlib's ``imshow``.

        Returns
        -------
        NeighborsDisplay
            The display itself.

        Raises
        ------
        ValueError
            If `ax` cannot be filled.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_simclr.inspection import NeighborsDisplay
        >>> images = np.random.default_rng(0).random((3, 8, 8))
        >>> display = NeighborsDisplay(
        ...     queries=images[:1],
        ...     neighbors=images[None, 1:],
        ...     similarities=np.array([[0.9, 0.7]]),
        ...     query_labels=np.array(["cat"]),
        ...     neighbor_labels=np.array([["cat", "dog"]]),
        ... )
        >>> [ax.get_title() for ax in display.plot().axes_[0]]
        ['query', '✓ 0.900', '✗ 0.700']
        """
        require_matplotlib(f"{type(self).__name__}.plot")
        has_labels = self.query_labels is not None or self.neighbor_labels is not None
        self.axes_ = picture_grid(
            ax,
            len(self.queries),
            1 + self.neighbors.shape[1],
            shape=self.queries.shape[1:3],
            n_lines=1 + has_labels,
            gap=0.11,  # room for the frames
        )
        self.images_ = np.empty(self.axes_.shape, dtype=object)
        for row, axes in enumerate(self.axes_):
            for column, picture in enumerate([self.queries[row], *self.neighbors[row]]):
                self.images_[row, column] = show_picture(axes[column], picture, im_kw)
            for number, similarity in enumerate(self.similarities[row]):
                mark = self._mark(row, number)
                axes[1 + number].set_title(f"{mark}{similarity:.3f}", fontsize=9, pad=4)
                if mark:
                    put_frame(axes[1 + number], _SAME if mark == "✓ " else _OTHER)
            self._name(row, axes)
        self.axes_[0, 0].set_title("query", fontsize=9, pad=4)
        self.figure_ = self.axes_[0, 0].figure
        return self

    def _mark(self, row: int, number: int) -> str:
        """Whether a neighbour has the label of its query, as a symbol; "" where that is unknown."""
        if self.query_labels is None or self.neighbor_labels is None:
            return ""
        of_query, of_neighbor = self.query_labels[row], self.neighbor_labels[row, number]
        if "" in (of_query, of_neighbor):
            return ""
        return "✓ " if of_query == of_neighbor else "✗ "

    def _name(self, row: int, axes) -> None:
        """Write the labels below the pictures of a row."""
        if self.query_labels is not None:
            axes[0].set_xlabel(verbatim(_shortened(self.query_labels[row])), fontsize=9, labelpad=3)
        if self.neighbor_labels is not None:
            for label, its_axes in zip(self.neighbor_labels[row], axes[1:], strict=True):
                its_axes.set_xlabel(verbatim(_shortened(label)), fontsize=9, labelpad=3)

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        *,
        y=None,
        queries=5,
        X_query=None,
        y_query=None,
        n_neighbors=6,
        channels=None,
        random_state=None,
        ax=None,
        im_kw=None,
    ):
        """Draw images, and their nearest neighbours in X by cosine similarity of the features.

        The features are what `transform` returns, by default h. A query from X is not its own
        neighbour, but a copy of it in another row may be.

        Parameters
        ----------
        estimator : SimCLRTransformer, SimCLRClassifier or Pipeline
            A fitted estimator. Steps of a pipeline after the transformer are ignored; for a
            classifier the features are those that it classifies.
        X : array-like
            Images in any form that `fit` accepts, among which to search for neighbours.
        y : array-like of shape (n,), default=None
            Classes of the images of X, -1 ("-1" if they are strings) for no label; if y holds only
            -1 and 1, both are classes.
        queries : int or array-like of int, default=5
            Number of images of X to use as queries, drawn at random; or their rows in X.
        X_query : array-like, default=None
            Images to take the queries from instead of X; `queries` then refers to these.
        y_query : array-like, default=None
            Their classes, as in `y`.
        n_neighbors : int, default=6
            Number of neighbours of each query, >= 1.
        channels : int or tuple of three int, default=None
            The number of the channel to draw in grey, or those of the channels to draw as red,
            green and blue. None: the first three, or the first if there are fewer. The contrast of
            images with neither 1 nor 3 channels is stretched, separately for each channel.
        random_state : int, RandomState instance or None, default=None
            Seed of the choice of queries. None chooses different ones each time.
        ax : matplotlib Axes or ndarray of Axes, default=None
            As in `plot`.
        im_kw : dict, default=None
            As in `plot`.

        Returns
        -------
        NeighborsDisplay
            The display.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        ValueError
            If the estimator is of another kind, X holds vectors or too few images, or a parameter
            does not match X.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from sklearn_simclr import SimCLRTransformer
        >>> from sklearn_simclr.inspection import NeighborsDisplay
        >>> digits = load_digits()
        >>> images, labels = digits.images[:200], digits.target[:200]
        >>> simclr = SimCLRTransformer(batch_size=50, max_epochs=3, random_state=0).fit(images)
        >>> display = NeighborsDisplay.from_estimator(
        ...     simclr, images, y=labels, queries=[3, 14], n_neighbors=4
        ... )
        >>> display.neighbor_rows.shape
        (2, 4)
        """
        require_matplotlib(f"{cls.__name__}.from_estimator")
        check_scalar(n_neighbors, "n_neighbors", Integral, min_val=1)
        found = find_simclr(estimator)
        of_x = Encoder(found.transformer, found.reaching(X))
        asked = of_x if X_query is None else Encoder(found.transformer, found.reaching(X_query))
        _check_images(of_x, channels)
        n_others = len(of_x) - (X_query is None)
        if n_neighbors > n_others:
            raise ValueError(
                f"n_neighbors={n_neighbors} is more than the {n_others} images of X that a query "
                "can have as neighbours. Lower it, or pass more images."
            )
        if y_query is not None and X_query is None:
            raise ValueError("y_query holds the classes of X_query, which is None. Pass only y.")
        labels = _labels(y, len(of_x))
        query_labels = labels if X_query is None else _labels(y_query, len(asked))
        rows = _read_queries(queries, len(asked), random_state)

        features = of_x.features()
        of_queries = features[rows] if asked is of_x else asked.features(rows)
        similarities = _similarities(of_queries, features)
        if asked is of_x:
            similarities[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :n_neighbors]
        limits = of_x.limits(channels)
        pictures = of_x.pictures(nearest.ravel(), channels, limits)
        display = cls(
            queries=asked.pictures(rows, channels, limits),
            neighbors=pictures.reshape(*nearest.shape, *pictures.shape[1:]),
            similarities=np.take_along_axis(similarities, nearest, axis=1),
            query_rows=rows,
            neighbor_rows=nearest,
            query_labels=None if query_labels is None else query_labels[rows],
            neighbor_labels=None if labels is None else labels[nearest],
        )
        return display.plot(ax, im_kw=im_kw)


class EmbeddingDisplay:
    """A map of the features in two dimensions, with images as thumbnails.

    It is recommended to create one by :meth:`from_estimator`.

    Parameters
    ----------
    coordinates : ndarray of shape (n, 2)
        The points of the map.
    pictures : ndarray of shape (n, h, w) or (n, h, w, 3), default=None
        Their thumbnails, in [0, 1], grey or in colour; None: points only.
    labels : ndarray of str of shape (n,), default=None
        Their classes, "" for no label.
    rows : array-like of int of shape (n,), default=None
        Their rows in X.

    Attributes
    ----------
    thumbnails_ : list of AxesImage
        The thumbnails that are drawn.
    thumbnail_points_ : ndarray of shape (k,)
        Indices of their points.
    points_ : list of PathCollection
        The points, one artist for each entry of the legend.
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_simclr.inspection import EmbeddingDisplay
    >>> rng = np.random.default_rng(0)
    >>> display = EmbeddingDisplay(
    ...     coordinates=np.array([[0, 0], [0.01, 0], [1, 1]]), pictures=rng.random((3, 8, 8))
    ... )
    >>> display.plot().thumbnail_points_  # the second would cover the first
    array([0, 2])
    """

    def __init__(self, *, coordinates, pictures=None, labels=None, rows=None):
        self.coordinates = coordinates
        self.pictures = pictures
        self.labels = labels
        self.rows = rows

    def plot(self, ax=None, *, thumbnail_size=0.05, im_kw=None, scatter_kw=None):
        """Draw the map.

        Every point is drawn, and as many thumbnails as fit without overlapping. With labels, each
        of the ten most frequent classes has its own colour, for points and frames.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None: on a new figure.
        thumbnail_size : float, default=0.05
            Longer side of the thumbnails as a share of the side of the map, in (0, 0.5]; 0:
            points only.
        im_kw : dict, default=None
            Keyword arguments of matplotlib's ``imshow``.
        scatter_kw : dict, default=None
            Keyword arguments of matplotlib's ``scatter``.

        Returns
        -------
        EmbeddingDisplay
            The display itself.

        Raises
        ------
        ValueError
            If `thumbnail_size` is out of range.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn_simclr.inspection import EmbeddingDisplay
        >>> rng = np.random.default_rng(0)
        >>> display = EmbeddingDisplay(
        ...     coordinates=rng.random((9, 2)), pictures=rng.random((9, 8, 8))
        ... )
        >>> len(display.plot(thumbnail_size=0).thumbnails_)
        0
        """
        require_matplotlib(f"{type(self).__name__}.plot")
        from matplotlib import pyplot as plt

        _check_thumbnail_size(thumbnail_size)
        coordinates = np.asarray(self.coordinates, dtype=float)
        low, high, side = _window(coordinates, margin=0.6 * thumbnail_size + 0.02)
        if ax is None:
            width, height = 5.4 * (high - low) / side
            width += 0 if self.labels is None else 1.2  # the legend is next to the map
            size = max(width, _SHORTEST_SIDE), max(height, _SHORTEST_SIDE)
            _, ax = plt.subplots(figsize=size, layout="compressed")
        groups = _groups(self.labels, len(coordinates))
        self._draw_points(ax, coordinates, groups, scatter_kw)
        ax.set(xticks=[], yticks=[], aspect="equal")
        ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        ax.spines[:].set(linewidth=0.5, edgecolor="0.6")
        self.thumbnails_, self.thumbnail_points_ = [], np.array([], dtype=np.int64)
        if self.pictures is not None and thumbnail_size:
            self._draw_thumbnails(ax, coordinates, groups, side * thumbnail_size, im_kw)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _draw_points(self, ax, coordinates, groups, scatter_kw) -> None:
        from matplotlib.cbook import normalize_kwargs
        from matplotlib.collections import PathCollection

        self.points_ = []
        scatter_kw = normalize_kwargs(scatter_kw, PathCollection)
        for name, color, members in groups:
            defaults = {"s": 9, "label": legend_label(name), "linewidth": 0}
            if "c" not in scatter_kw:  # scatter takes either
                defaults["color"] = color
            x, y = coordinates[members].T
            self.points_.append(ax.scatter(x, y, **defaults | scatter_kw))
        if self.labels is not None:
            ax.legend(
                loc="upper left",
                bbox_to_anchor=(1, 1),
                frameon=False,
                markerscale=2.5,
                handletextpad=0.2,
                borderaxespad=0.2,
            )

    def _draw_thumbnails(self, ax, coordinates, groups, size, im_kw) -> None:
        height, width = (
            size * side / max(self.pictures.shape[1:3]) for side in self.pictures.shape[1:3]
        )
        color_of = {point: color for _, color, members in groups for point in members}
        limits = ax.get_xlim(), ax.get_ylim()  # which pictures would change
        self.thumbnail_points_ = standing_apart(coordinates, 1.18 * width, 1.18 * height)
        for point in self.thumbnail_points_:
            x, y = coordinates[point]
            extent = (x - width / 2, x + width / 2, y - height / 2, y + height / 2)
            image = show_picture(ax, self.pictures[point], im_kw, extent=extent, zorder=3)
            self.thumbnails_.append(image)
            if self.labels is not None:
                put_frame(ax, color_of[point], extent)
        ax.set(xlim=limits[0], ylim=limits[1])

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        *,
        reduction=None,
        y=None,
        n_samples=1000,
        channels=None,
        random_state=None,
        ax=None,
        thumbnail_size=0.05,
        im_kw=None,
        scatter_kw=None,
    ):
        """Draw a map of the features of X.

        Parameters
        ----------
        estimator : SimCLRTransformer, SimCLRClassifier or Pipeline
            A fitted estimator. Steps of a pipeline after the transformer are ignored; for a
            classifier the features are those that it classifies.
        X : array-like
            Samples in any form that `fit` accepts. Vectors are drawn as points.
        reduction : transformer or array-like of shape (n, 2), default=None
            Transformer whose ``fit_transform`` reduces the features, as `transform` returns them,
            to two dimensions, such as ``PCA(2)``; it is cloned. Or the coordinates themselves, one
            row per row of X. None is t-SNE by cosine distance, which keeps near neighbours close,
            but whose distances between groups mean little.
        y : array-like of shape (n,), default=None
            Classes, -1 ("-1" if they are strings) for no label; if y holds only -1 and 1, both are
            classes.
        n_samples : int or None, default=1000
            Number of samples to draw at random, >= 1; all if X has fewer, or if None. Of image
            files, an estimator without `cache_dir` opens no others.
        channels : int or tuple of three int, default=None
            The number of the channel to draw in grey, or those of the channels to draw as red,
            green and blue. None: the first three, or the first if there are fewer. The contrast of
            images with neither 1 nor 3 channels is stretched, separately for each channel.
        random_state : int, RandomState instance or None, default=None
            Seed of the choice of samples, of the order in which thumbnails are placed, and of
            t-SNE. None draws different ones each time.
        ax : matplotlib Axes, default=None
            As in `plot`.
        thumbnail_size : float, default=0.05
            As in `plot`; with 0 the display holds no pictures.
        im_kw : dict, default=None
            As in `plot`.
        scatter_kw : dict, default=None
            As in `plot`.

        Returns
        -------
        EmbeddingDisplay
            The display.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the estimator is not fitted.
        ValueError
            If the estimator is of another kind, or a parameter does not match X.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.decomposition import PCA
        >>> from sklearn_simclr import SimCLRTransformer
        >>> from sklearn_simclr.inspection import EmbeddingDisplay
        >>> digits = load_digits()
        >>> images, labels = digits.images[:200], digits.target[:200]
        >>> simclr = SimCLRTransformer(batch_size=50, max_epochs=3, random_state=0).fit(images)
        >>> display = EmbeddingDisplay.from_estimator(simclr, images, reduction=PCA(2), y=labels)
        >>> display.coordinates.shape
        (200, 2)
        """
        require_matplotlib(f"{cls.__name__}.from_estimator")
        if n_samples is not None:
            check_scalar(n_samples, "n_samples", Integral, min_val=1)
        _check_thumbnail_size(thumbnail_size)
        found = find_simclr(estimator)
        rng = random_source(random_state)
        drawn = draw_to_encode(found.transformer, found.reaching(X), n_samples, rng)
        encoder, has_pictures = drawn.encoder, drawn.encoder.image_shape is not None
        if has_pictures:
            check_channels(channels, encoder.image_shape[2])
        labels = _labels(y, drawn.n_rows)
        pictures = None
        if has_pictures and thumbnail_size:
            limits = encoder.limits(channels)
            pictures = encoder.pictures(drawn.places, channels, limits, _THUMBNAIL_SIDE)
        display = cls(
            coordinates=_coordinates(reduction, drawn, seed=rng.randint(2**31 - 1)),
            pictures=pictures,
            labels=None if labels is None else labels[drawn.rows],
            rows=drawn.rows,
        )
        return display.plot(ax, thumbnail_size=thumbnail_size, im_kw=im_kw, scatter_kw=scatter_kw)


def _check_images(encoder: Encoder, channels) -> None:
    if encoder.image_shape is None:
        raise ValueError(
            "X holds vectors, which cannot be shown as pictures. For their neighbours, use "
            "sklearn.neighbors.NearestNeighbors(metric='cosine') on transform(X); pass image_shape "
            "to the estimator if the rows of X are images."
        )
    check_channels(channels, encoder.image_shape[2])


def _labels(y, n_samples: int) -> np.ndarray | None:
    """Return the class of each row as a string, "" for no label; None without y."""
    if y is None:
        return None
    classes, codes = read_targets(y, n_samples)
    if classes.dtype.kind == "f":  # 3.0 is the class 3; others than whole numbers are refused
        classes = map(int, classes.tolist())
    return np.array([*map(str, classes), ""])[codes]  # -1 is the last


def _check_thumbnail_size(size) -> None:
    check_scalar(size, "thumbnail_size", Real, min_val=0, max_val=0.5)
    if np.isnan(size):
        raise ValueError(f"thumbnail_size == {size}, must be from 0 to 0.5.")


def _read_queries(queries, n_rows: int, random_state) -> np.ndarray:
    """Return the rows requested by number, or as many as requested at random."""
    if isinstance(queries, Integral):
        check_scalar(queries, "queries", Integral, min_val=1)
        return draw_rows(n_rows, queries, random_source(random_state))
    rows = np.asarray(queries)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not len(rows):
        raise ValueError(
            f"queries={queries!r} must be the number of rows to draw, or a list of row numbers."
        )
    if rows.min() < 0 or rows.max() >= n_rows:
        raise ValueError(
            f"queries={queries!r} must be row numbers from 0 to {n_rows - 1}: there are {n_rows} "
            "rows to choose from."
        )
    return rows.astype(np.int64)


def _similarities(of_queries: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return cosines (q, n), in float64, which distinguishes features that nearly agree."""
    of_queries = of_queries.astype(np.float64)
    blocks = np.array_split(features, -(-len(features) // _BLOCK_ROWS))
    return np.hstack([cosine_similarity(of_queries, block.astype(np.float64)) for block in blocks])


def _coordinates(reduction, drawn: Drawn, *, seed: int) -> np.ndarray:
    """Return the coordinates (k, 2) of the samples that are drawn."""
    rows = drawn.rows
    if reduction is not None and (
        isinstance(reduction, type) or not hasattr(reduction, "fit_transform")
    ):
        return _given_coordinates(reduction, drawn.n_rows)[rows]
    if reduction is None:
        if len(rows) < _FEWEST_FOR_TSNE:
            raise ValueError(
                f"reduction=None is t-SNE, which needs at least {_FEWEST_FOR_TSNE} samples, but X "
                f"gives {len(rows)}. Pass more of them, or reduction=PCA(2)."
            )
        perplexity = min(_PERPLEXITY, (len(rows) - 1) / 3)
        reduction = TSNE(metric="cosine", perplexity=perplexity, random_state=seed)
    features = drawn.encoder.features(drawn.places)
    coordinates = np.asarray(clone(reduction, safe=False).fit_transform(features))
    if coordinates.shape != (len(rows), 2):
        raise ValueError(
            f"reduction={reduction!r} turned features of shape {features.shape} into an array of "
            f"shape {coordinates.shape}, but a map needs {(len(rows), 2)}. Set its number of "
            "components to 2."
        )
    return coordinates


def _given_coordinates(reduction, n_samples: int) -> np.ndarray:
    reduction = reduction.detach().cpu().numpy() if isinstance(reduction, Tensor) else reduction
    if isinstance(reduction, str) or np.shape(reduction) != (n_samples, 2):
        met = repr(reduction) if np.ndim(reduction) == 0 else f"shape {np.shape(reduction)}"
        raise ValueError(
            "reduction must be a transformer with fit_transform, such as PCA(2), or coordinates of "
            f"shape {(n_samples, 2)}, one row per row of X; got {met}."
        )
    return check_array(reduction, dtype=np.float64, input_name="reduction")


def _groups(labels, n_points: int) -> list[tuple[str | None, str, np.ndarray]]:
    """Return the groups with their own colour: name, colour, and indices of the points."""
    if labels is None:
        return [(None, COLORS[0], np.arange(n_points))]
    labels = np.asarray(labels)
    counts = Counter(label for label in labels.tolist() if label)
    frequent = {label for label, _ in counts.most_common(len(COLORS))}
    named = [label for label in np.unique(labels).tolist() if label in frequent]
    groups = [
        (label, color, np.flatnonzero(labels == label))
        for label, color in zip(named, COLORS, strict=False)
    ]
    rest = {
        "no label": labels == "",
        "other": (labels != "") & ~np.isin(labels, list(frequent)),
    }
    return groups + [
        (name, NEUTRAL, np.flatnonzero(members)) for name, members in rest.items() if members.any()
    ]


def _window(coordinates: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the lower and upper corner of a map, and its longer side.

    `margin` is the share of that side that is left free around the points.
    """
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    side = (high - low).max() / (1 - 2 * margin) or 1.0
    return low - margin * side, high + margin * side, side


def _shortened(label: str, longest: int = _LONGEST_LABEL) -> str:
    return label if len(label) <= longest else f"{label[: longest - 1]}…"
