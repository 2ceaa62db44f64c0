"""Callbacks that measure held-out samples while a transformer is trained.

They are set by :meth:`SimCLRTransformer.set_callbacks
<sklearn_simclr.SimCLRTransformer.set_callbacks>`, as are those of scikit-learn:
``sklearn.callback.ProgressBar``, and ``sklearn.callback.ScoringMonitor``, which scores the samples
that are trained on, and only if there is a y. The callbacks of this module measure samples that are
not trained on, with or without labels. Measuring does not affect training: the result is the same,
to the last bit.

scikit-learn's callbacks are experimental and may change.
"""

import math
from numbers import Integral, Real

from sklearn.base import BaseEstimator
from sklearn.callback import ScoringMonitor
from sklearn.utils._param_validation import Interval

from sklearn_simclr.metrics import SCORERS, is_simclr

__all__ = ["EarlyStopping", "MeasureHistory"]

_EPOCH = "epoch"  # name that fit gives to the task of an epoch
_COLUMNS = ("fit", "epoch", "loss")  # of a history, in addition to the measures


class MeasureHistory(BaseEstimator):
    """Record measures of held-out samples while a transformer is trained.

    Parameters
    ----------
    X_val : array-like
        Samples that are not trained on, in any form that the transformer accepts; in a pipeline,
        as transformed by the steps before it.
    y_val : array-like of shape (n,), default=None
        Their labels, for measures that need them. They are not used for training.
    scoring : str, callable, list or dict, default="contrastive_accuracy"
        What to measure: "contrastive_accuracy", "rankme", "knn", "neg_alignment" or
        "neg_uniformity", which are the scorers of :mod:`sklearn_simclr.metrics`, the last two
        being the negative measures; a list of such names; any other scorer
        ``scorer(transformer, X_val, y_val)``; or a dict of these by names of your own. For "knn",
        each sample is classified by its nearest neighbours among the other held-out samples.
    every : int, default=1
        Number of epochs from one evaluation to the next, >= 1.

    Attributes
    ----------
    history_ : list of dict
        One row per evaluation, in order, of all training runs since this object was created:
        ``"fit"``, the number of the run, ``"epoch"``, the number of epochs the encoder has been
        trained for, ``"loss"``, the mean loss of the last of them, and the measures by their names,
        "score" for a single callable. The first row of a run, before its first epoch, is for its
        initial weights; the loss is NaN if they are untrained. The last row is for its final
        weights, whatever `every` is.

    See Also
    --------
    EarlyStopping : Stop when a measure no longer improves.

    Notes
    -----
    The rows are also collected from the processes of a grid search with ``n_jobs``, and numbered as
    in its ``cv_results_``: the splits of the first candidate, those of the second, and so on, and
    the refit at the end. Clones of a transformer share its callbacks.

    An evaluation rebuilds the network from a copy of the weights, which is taken after every epoch,
    and takes as long as `transform` or `score` on `X_val`. A thousand samples are enough.

    A pickled transformer contains its callbacks, including `X_val`; ``set_callbacks()`` removes
    them. The cache of a pipeline does not recognise a transformer with callbacks.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.callbacks import MeasureHistory
    >>> digits = load_digits()
    >>> history = MeasureHistory(
    ...     digits.images[1000:], digits.target[1000:], scoring=["contrastive_accuracy", "knn"]
    ... )
    >>> simclr = SimCLRTransformer(max_epochs=2, random_state=0).set_callbacks(history)
    >>> _ = simclr.fit(digits.images[:1000])
    >>> [row["epoch"] for row in history.history_]
    [0, 1, 2]
    >>> list(history.history_[2])
    ['fit', 'epoch', 'loss', 'contrastive_accuracy', 'knn']
    """

    _parameter_constraints: dict = {
        "X_val": "no_validation",
        "y_val": "no_validation",
        "scoring": [str, callable, list, dict],
        "every": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, X_val, y_val=None, *, scoring="contrastive_accuracy", every=1):
        self.X_val = X_val
        self.y_val = y_val
        self.scoring = scoring
        self.every = every
        # Created here, so that copies in other processes write to the log of this object.
        self._log = ScoringMonitor(scoring=_as_given)

    @property
    def history_(self):
        """The rows so far."""
        try:
            runs = self._log.get_logs(select="all")
        except ValueError:  # there are none
            return []
        rows = {}
        for number, run in enumerate(runs):
            for task in run.data:
                path = task["task_id_path"]
                path = path[:-1] if task["task_name"] == _EPOCH else path
                rows[number, path, task["row"]["epoch"]] = task["row"]
        fits = sorted({key[:2] for key in rows})
        return [{"fit": fits.index(key[:2]), **rows[key]} for key in sorted(rows)]

    def setup(self, estimator, context):
        """Check the parameters; see ``sklearn.callback.FitCallback``."""
        self._validate_params()
        _check_followed(self, estimator)
        _resolve_scorers(self)

    def on_fit_task_begin(self, estimator, context, *, fitted_estimator=None):
        """Measure the initial weights of a training run, which reveals mistakes early."""
        if fitted_estimator is not None:
            self._measure(estimator, context, fitted_estimator)

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        """Measure the weights after every `every` epochs, and at the end."""
        if self._is_due(context, fitted_estimator):
            self._measure(estimator, context, fitted_estimator)

    def teardown(self, estimator, context):
        """Do nothing."""

    def _is_due(self, context, fitted) -> bool:
        """Whether to measure at the end of a task."""
        rest = fitted.n_iter_ % self.every
        return (rest == 0) == (context.task_name == _EPOCH)

    def _measure(self, estimator, context, fitted) -> dict:
        """Record the measures, and return them by their names."""
        measures = {}
        for name, scorer in _resolve_scorers(self).items():
            try:
                measures[name] = float(scorer(fitted, self.X_val, self.y_val))
            except Exception as error:
                message = str(error).rstrip(".")
                raise ValueError(
                    f"The measure {name!r} of X_val failed after {fitted.n_iter_} epochs, "
                    f"scoring={self.scoring!r}: {type(error).__name__}: {message}. Pass an X_val "
                    "like the X of fit, labels in y_val for scorers that need them, and scorers "
                    "that return one number."
                ) from error
        row = {"epoch": fitted.n_iter_, "loss": fitted.loss_, **measures}
        # scikit-learn's monitor passes the row to the process that reads it, for which it needs an
        # X and a y, and scorers for each estimator.
        self._log.setup(estimator, context)
        try:
            self._log.on_fit_task_end(estimator, context, X=row, y=(), fitted_estimator=fitted)
        finally:
            self._log.teardown(estimator, context)
        return measures


class EarlyStopping(BaseEstimator):
    """Stop training when a measure of held-out samples no longer improves.

    Parameters
    ----------
    X_val, y_val : array-like
        As in :class:`MeasureHistory`.
    scoring : str or callable, default="contrastive_accuracy"
        What to measure, as in :class:`MeasureHistory`. Higher is better, as for all scorers.
    every : int, default=1
        Number of epochs from one evaluation to the next, >= 1.
    patience : int, default=10
        Number of evaluations without improvement after which training stops, >= 1.
    min_delta : float, default=0.0
        A score counts as an improvement if it exceeds that of the last improvement by more than
        this, >= 0.

    Attributes
    ----------
    history_ : list of dict
        As that of :class:`MeasureHistory`.

    See Also
    --------
    MeasureHistory : Record several measures.

    Notes
    -----
    The transformer keeps the weights of the last epoch, not those of the best: a callback can stop
    training but not change its result. The learning rate decays with a cosine over `max_epochs`, so
    a run that is stopped ends while it is still high, and differs from a run with `max_epochs` set
    to that number of epochs. Stopping is meant to end a run that has gone wrong, or is no longer
    worth its time.

    "neg_alignment" is best if all features are the same, and "rankme" and "neg_uniformity" measure
    how spread out features are, not what they represent: use them only if you know that they are
    informative on your data.

    The weights before the first epoch do not count. Each call of `fit` starts counting again, even
    if it resumes from a checkpoint. A run that was stopped stays stopped when `fit` finds its
    checkpoint, as long as callbacks of the same classes are set.

    References
    ----------
    .. [1] Prechelt (1998). Early Stopping, but When? In Neural Networks: Tricks of the Trade.
       https://doi.org/10.1007/3-540-49430-8_3

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRTransformer
    >>> from sklearn_simclr.callbacks import EarlyStopping
    >>> images = load_digits().images
    >>> stopping = EarlyStopping(images[200:300], patience=2, min_delta=0.5)
    >>> simclr = SimCLRTransformer(batch_size=100, random_state=0).set_callbacks(stopping)
    >>> simclr.fit(images[:200]).n_iter_
    3
    """

    _parameter_constraints: dict = MeasureHistory._parameter_constraints | {
        "scoring": [str, callable],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "min_delta": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        X_val,
        y_val=None,
        *,
        scoring="contrastive_accuracy",
        every=1,
        patience=10,
        min_delta=0.0,
    ):
        self.X_val = X_val
        self.y_val = y_val
        self.scoring = scoring
        self.every = every
        self.patience = patience
        self.min_delta = min_delta
        self._history = MeasureHistory(X_val, y_val, scoring=scoring, every=every)
        self._progress = {}  # the best score, and evaluations since, of each estimator in fit

    @property
    def history_(self):
        """The rows so far."""
        return self._history.history_

    def setup(self, estimator, context):
        """Check the parameters; see ``sklearn.callback.FitCallback``."""
        self._validate_params()
        self._history.set_params(
            X_val=self.X_val, y_val=self.y_val, scoring=self.scoring, every=self.every
        )
        _check_followed(self, estimator)
        _resolve_scorers(self)
        self._progress[estimator] = -math.inf, 0

    def on_fit_task_begin(self, estimator, context, *, fitted_estimator=None):
        """Measure the initial weights of a training run, which reveals mistakes early."""
        self._history.on_fit_task_begin(estimator, context, fitted_estimator=fitted_estimator)

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        """Measure the weights after every `every` epochs; return whether to stop."""
        if not self._history._is_due(context, fitted_estimator):
            return False
        (score,) = self._history._measure(estimator, context, fitted_estimator).values()
        best, n_worse = self._progress[estimator]
        better = score > best + self.min_delta
        best, n_worse = (score, 0) if better else (best, n_worse + 1)
        self._progress[estimator] = best, n_worse
        return n_worse >= self.patience

    def teardown(self, estimator, context):
        """Discard the state of the training run."""
        self._progress.pop(estimator, None)


def _as_given(estimator, row, y):
    """Stand in for a scorer: the row has already been measured."""
    return {"row": row}


def _check_followed(callback, estimator) -> None:
    """Raise an error for estimators that do not pass on their state after each epoch."""
    if not is_simclr(estimator):
        raise TypeError(
            f"{type(callback).__name__} follows a SimCLRTransformer, but was set on "
            f"{type(estimator).__name__}. Set it on the transformer inside, such as "
            "pipeline['simclr'].set_callbacks(...) or classifier.transformer.set_callbacks(...)."
        )


def _resolve_scorers(callback) -> dict:
    """Return the scorers by the names that a history gives them."""
    scoring = callback.scoring
    if isinstance(scoring, str | list):
        pairs = [(name, name) for name in ([scoring] if isinstance(scoring, str) else scoring)]
    else:
        pairs = [("score", scoring)] if callable(scoring) else list(scoring.items())
    scorers = {}
    for name, scorer in pairs:
        scorers[name] = SCORERS.get(scorer) if isinstance(scorer, str) else scorer
        if not isinstance(name, str) or name in _COLUMNS or not callable(scorers[name]):
            raise ValueError(
                f"scoring={scoring!r} of {type(callback).__name__}: {name!r} is not a measure, or "
                f"not a name for one. Known are {sorted(SCORERS)}; pass other scorers in a dict, "
                f"under names that are none of {_COLUMNS}."
            )
    if not scorers:
        raise ValueError(
            f"scoring={scoring!r} of {type(callback).__name__} is empty. Name a measure, such as "
            "'contrastive_accuracy'."
        )
    return scorers
