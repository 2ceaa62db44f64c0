"""SimCLRClassifier: pre-trains on all rows, learns the classes from the labelled ones."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context, clone
from sklearn.callback import CallbackContext, CallbackSupportMixin
from sklearn.frozen import FrozenEstimator
from sklearn.utils import _safe_indexing, check_consistent_length, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.extmath import softmax
from sklearn.utils.validation import _num_samples, check_is_fitted
from torch import Tensor

from sklearn_simclr._device import describe, plain_torch, resolve_precision
from sklearn_simclr._distributed import World, joined
from sklearn_simclr._export import ExportedNetwork, write_onnx
from sklearn_simclr._files import as_paths
from sklearn_simclr._finetuning import NetworkWithHead, StepsRecord, Task, fine_tune, n_records
from sklearn_simclr._labels import read_labels, read_targets
from sklearn_simclr._persistence import load_weights, to_plain
from sklearn_simclr._probe import LinearModel, fit_probe
from sklearn_simclr._progress import Progress, say
from sklearn_simclr._random import STUDENT_STREAM, TEACHER_STREAM, derived_seed
from sklearn_simclr._reading import as_array, open_to_learn
from sklearn_simclr._run import views_of
from sklearn_simclr._transformer import SimCLRTransformer
from sklearn_simclr.optim import make_optimizer, warmup_cosine

_ROWS_TO_FINE_TUNE = 10  # labelled, per class
_MIN_STEPS, _MIN_EPOCHS = 200, 30  # of max_iter="auto"
_WARMUP_SHARE = 0.1
_ROWS_IN_PLACE = 4096  # whose probabilities replace their logits at a time


class SimCLRClassifier(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    """Classify images or vectors of which few are labelled.

    `fit` trains a :class:`SimCLRTransformer` on all rows of X, then a classifier on the labelled
    rows, and then a second classifier on the predictions of the first for all rows.

    Parameters
    ----------
    transformer : SimCLRTransformer or FrozenEstimator, default=None
        The transformer to pre-train; None: ``SimCLRTransformer()``. An unfitted one is cloned and
        fitted on all rows, with y only if its loss uses it. A fitted one is copied and not trained
        again, but cloning the classifier, as every cross-validation does, discards its fit; in a
        ``sklearn.frozen.FrozenEstimator`` it is kept. The object passed is never changed.
    method : {"auto", "linear", "fine_tuning"}, default="auto"
        How to learn from the labelled rows. "linear": logistic regression on the standardised
        features, with the encoder fixed. "fine_tuning": starting from that, encoder and linear
        layer are trained together on views of the labelled rows. "auto" is "fine_tuning" with an
        average of at least 10 labelled rows per class, else "linear".
    distill : bool, default=True
        Whether to then train a second network, from the same pre-trained weights, to predict for
        views of all rows the probabilities that the first predicts for the rows, and to use it
        instead of the first. Skipped if there are no unlabelled rows.
    distill_temperature : float, default=1.0
        Divisor of the logits of both networks in the distillation, > 0.
    max_iter : int, default="auto"
        Number of steps of the fine-tuning, and of the distillation. "auto" is 30 passes over the
        rows to learn from, but at least 200 steps.
    batch_size : int, default=64
        Rows per step, >= 1. Every batch is full: if rows are few, each occurs in several views.
    learning_rate : float, default=0.001
        Peak learning rate of AdamW, > 0: linear warm-up over a tenth of the steps, then cosine
        decay to zero.
    weight_decay : float, default=0.0001
        Weight decay, >= 0; biases and batch normalisation are exempt.
    random_state : int, RandomState instance or None, default=None
        Seed of everything random, also of a transformer whose own `random_state` is None.
    verbose : int, default=0
        Whether to print, for both fine-tuning and distillation, what is trained, how long it may
        take, and ten lines of progress; also for the pre-training, unless `transformer` is passed,
        which has its own `verbose`.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        The classes, sorted.
    transformer_ : SimCLRTransformer
        The transformer whose features are classified. Its encoder has been trained on the classes
        unless `method_` is "linear" and nothing was distilled. After a `fit` that failed or was
        interrupted, the pre-trained transformer in its last state.
    linear_coef_, linear_intercept_ : ndarray of shape (k, d) and (k,)
        The linear layer on the features h: ``h @ linear_coef_.T + linear_intercept_`` are the
        logits, with ``h = transformer_.transform(X)``.
    method_ : str
        `method`, with "auto" resolved.
    loss_curve_ : list of float
        Loss of each step of the fine-tuning, followed by those of the distillation.
    n_iter_ : int
        Number of steps; if there were none, of iterations of the logistic regression.
    n_features_in_, feature_names_in_
        As in :class:`SimCLRTransformer`.

    See Also
    --------
    SimCLRTransformer : The features alone, for another classifier.

    Notes
    -----
    The linear layer is initialised by the logistic regression, so that fine-tuning does not distort
    the features in its first steps [2]_. Batch normalisation keeps the statistics of the
    pre-training, which a few rows could only make worse. The views are those of the pre-training,
    one per row. Fine-tuning starts from the layer set by the transformer's `output_layer`; SimCLRv2
    [1]_ uses the first of three layers of the projection head.

    scikit-learn's callbacks follow the pre-training, the linear layer, ten parts of the fine-tuning
    and ten of the distillation, and may stop the latter two. They get the labelled rows. Callbacks
    that are to follow the epochs of the pre-training must be set on `transformer`, except
    ``sklearn.callback.ProgressBar``, which is propagated to it.

    References
    ----------
    .. [1] Chen, Kornblith, Swersky, Norouzi & Hinton (2020). Big Self-Supervised Models are
       Strong Semi-Supervised Learners, sections 2 and 3. https://arxiv.org/abs/2006.10029
    .. [2] Kumar, Raghunathan, Jones, Ma & Liang (2022). Fine-Tuning can Distort Pretrained
       Features and Underperform Out-of-Distribution. ICLR. https://arxiv.org/abs/2202.10054

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn_simclr import SimCLRClassifier, SimCLRTransformer
    >>> digits = load_digits()
    >>> images = digits.images[:300]  # (300, 8, 8)
    >>> few = np.where(np.arange(300) < 50, digits.target[:300], -1)  # -1: no label
    >>> simclr = SimCLRTransformer(max_epochs=3)
    >>> model = SimCLRClassifier(simclr, max_iter=20, random_state=0).fit(images, few)
    >>> model.predict_proba(digits.images[300:310]).shape
    (10, 10)
    """

    _parameter_constraints: dict = {
        "transformer": [None, SimCLRTransformer, FrozenEstimator],
        "method": [StrOptions({"auto", "fine_tuning", "linear"})],
        "distill": ["boolean"],
        "distill_temperature": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        transformer=None,
        *,
        method="auto",
        distill=True,
        distill_temperature=1.0,
        max_iter="auto",
        batch_size=64,
        learning_rate=1e-3,
        weight_decay=1e-4,
        random_state=None,
        verbose=0,
    ):
        self.transformer = transformer
        self.method = method
        self.distill = distill
        self.distill_temperature = distill_temperature
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=False)
    @plain_torch(reuses_memory=True)
    def fit(self, X, y):
        """Pre-train on all rows, then learn the classes from the labelled ones.

        Ctrl-C during pre-training ends only that, after its last complete epoch, with a warning.

        Parameters
        ----------
        X : array-like
            Images or vectors, in any form that :class:`SimCLRTransformer` accepts.
        y : array-like of shape (n,)
            Classes, numbers or strings; -1 ("-1" if they are strings) for no label. If y holds only
            the numbers -1 and 1, both are classes, since one labelled class could not be learned.

        Returns
        -------
        SimCLRClassifier
            The fitted classifier itself.

        Raises
        ------
        ValueError
            If a parameter is out of range, y has fewer than two classes, X, the encoder and the
            augmentation do not match, or image files cannot be read.
        FloatingPointError
            If a loss is no longer finite.
        """
        paths = as_paths(X)
        n_samples = _num_samples(as_array(X)) if paths is None else len(paths)
        targets = self._read_targets(y, n_samples)
        with joined(f"{type(self).__name__}.fit") as world:
            classes, codes, random_state = world.broadcast_result(
                lambda: (*targets, check_random_state(self.random_state))
            )
            transformer = self._make_transformer(random_state)
            seed = int(random_state.randint(2**31 - 1))
            pre_trained = transformer.__sklearn_is_fitted__()
            opened, X, left_y = open_to_learn(transformer, X, y, reset=not pre_trained)
            if left_y is not y:  # files were left out
                classes, codes = self._of_two_classes(classes, codes[opened.kept])
            lesson = self._plan(opened, X, classes, codes, seed, world, pre_trained=pre_trained)
            lesson.context.call_on_fit_task_begin(**lesson.told)
            if pre_trained:
                fitted = self._learn(transformer, lesson)
            else:
                with self._keeping(transformer):
                    self._pre_train(transformer, lesson)
                    fitted = self._learn(transformer, lesson)
        vars(self).pop("feature_names_in_", None)
        vars(self).update(fitted)
        lesson.context.call_on_fit_task_end(**lesson.told, reconstruction_attributes=fitted)
        return self

    def predict(self, X):
        """Return the most probable class of each sample.

        Parameters
        ----------
        X : array-like
            As in `fit`, with samples of the same shape; at least one.

        Returns
        -------
        ndarray of shape (n,)
            Classes. A tensor on the device of X if X is a tensor, scikit-learn's
            `array_api_dispatch` is enabled, and the classes are numbers.
        """
        number = self._logits(X).argmax(axis=1)
        if isinstance(number, Tensor):
            if self.classes_.dtype.kind in "biuf":
                classes = self.classes_.astype(self.classes_.dtype.newbyteorder("="))
                return torch.tensor(classes, device=number.device)[number]
            number = number.cpu().numpy()
        return self.classes_[number]

    def predict_proba(self, X):
        """Return the probabilities of the classes.

        Parameters
        ----------
        X : array-like
            As in `predict`.

        Returns
        -------
        ndarray of shape (n, k)
            In the order of `classes_`; each row sums to 1. A tensor as in `predict`, whatever the
            classes.
        """
        return softmax(self._logits(X), copy=False)

    def predict_log_proba(self, X):
        """Return the logarithms of the probabilities of the classes.

        Parameters
        ----------
        X : array-like
            As in `predict`.

        Returns
        -------
        ndarray of shape (n, k)
            In the order of `classes_`; finite even where a probability rounds to zero. A tensor as
            in `predict_proba`.
        """
        logits = self._logits(X)
        for rows in torch.as_tensor(logits).split(_ROWS_IN_PLACE):
            rows.copy_(rows.log_softmax(1))
        return logits

    def decision_function(self, X):
        """Return the logits of the classes.

        Parameters
        ----------
        X : array-like
            As in `predict`.

        Returns
        -------
        ndarray of shape (n, k), or (n,) for two classes
            For two classes, the logit of ``classes_[1]`` minus that of ``classes_[0]``. A tensor as
            in `predict_proba`.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def score(self, X, y, sample_weight=None):
        """Return the accuracy on the labelled samples.

        Parameters
        ----------
        X : array-like
            As in `predict`.
        y : array-like of shape (n,)
            True classes. Rows without a label, -1 ("-1" if they are strings), are left out, unless
            -1 is one of `classes_`.
        sample_weight : array-like of shape (n,), default=None
            Weights of the samples.

        Returns
        -------
        float
            In [0, 1].

        Raises
        ------
        ValueError
            If no row has a label, or as from `predict`.
        """
        check_is_fitted(self)
        if -1 not in self.classes_.tolist():
            codes = read_labels(y, _num_samples(y))[1]
            labelled = np.flatnonzero(codes >= 0)
            if not len(labelled):
                raise ValueError("y holds no labels to score on: all rows are -1.")
            if len(labelled) < len(codes):
                check_consistent_length(X, y, sample_weight)
                X, y = _safe_indexing(X, labelled), _safe_indexing(y, labelled)
                if sample_weight is not None:
                    sample_weight = _safe_indexing(sample_weight, labelled)
        return super().score(X, y, sample_weight)

    def to_torch(self):
        """Return the classifier as a plain torch module.

        The module takes tensors in the layout of `predict`, includes the preprocessing, and returns
        the logits, whose softmax is `predict_proba`. Otherwise see `SimCLRTransformer.to_torch`.

        Returns
        -------
        nn.Module
            On the CPU, in float32 and in evaluation mode; maps X to logits (n, k) in the order of
            `classes_`, for two classes too. Its state dict has ``classifier.weight`` and
            ``classifier.bias`` in addition to the entries for the transformer.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `fit` has not been called.

        Examples
        --------
        >>> import torch
        >>> from sklearn.datasets import load_digits
        >>> from sklearn_simclr import SimCLRClassifier, SimCLRTransformer
        >>> images, labels = load_digits(return_X_y=True)
        >>> images, labels = images[:200].reshape(-1, 8, 8), labels[:200]
        >>> simclr = SimCLRTransformer(max_epochs=1)
        >>> model = SimCLRClassifier(simclr, method="linear", random_state=0).fit(images, labels)
        >>> logits = model.to_torch()(torch.from_numpy(images))
        >>> bool((model.classes_[logits.argmax(1)] == model.predict(images)).all())
        True
        """
        return self._exported()

    @plain_torch()
    def to_onnx(self, path, *, input_dtype="auto"):
        """Write the classifier to an ONNX file.

        The file holds the network that `to_torch` returns. Its input "X" has any number of rows in
        the layout of `predict`, images with one channel as (n, h, w); its "output" is the logits.
        Needs the packages of the extra `onnx`.

        Parameters
        ----------
        path : str or path
            The file, which is overwritten.
        input_dtype : {"auto", "uint8", "float32"}, default="auto"
            As in `SimCLRTransformer.to_onnx`, which also lists the errors.
        """
        write_onnx(self._exported(), path, input_dtype)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "linear_coef_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _logits(self, X) -> np.ndarray | Tensor:
        """Return the logits (n, k), for two classes too."""
        check_is_fitted(self)
        return LinearModel.of(vars(self)).logits(X)

    @plain_torch()
    def _exported(self) -> ExportedNetwork:
        check_is_fitted(self)
        n_classes, n_features = self.linear_coef_.shape
        linear = torch.nn.Linear(n_features, n_classes, dtype=torch.float32)
        load_weights(linear, {"weight": self.linear_coef_, "bias": self.linear_intercept_})
        return self.transformer_._exported(linear)

    def _read_targets(self, y, n_samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes, and the number of each row's class, -1 for no label."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None. Pass a "
                "label for each row of X, -1 for no label."
            )
        return self._of_two_classes(*read_targets(y, n_samples))

    def _of_two_classes(
        self, classes: np.ndarray, codes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the classes that occur, and their numbers; raise an error for a single class."""
        numbers = np.unique(codes[codes >= 0])
        classes = classes[numbers]
        if len(classes) < 2:
            found = f"only one class: {classes[0]!r}" if len(classes) else "none: all rows are -1"
            raise ValueError(
                f"{type(self).__name__} needs labelled samples of at least 2 classes, but y "
                f"contains {found}."
            )
        return classes, np.where(codes < 0, -1, np.searchsorted(numbers, codes))

    def _make_transformer(self, random_state: np.random.RandomState) -> SimCLRTransformer:
        """Copy the transformer, including its fit if it has one to keep."""
        given = self.transformer
        if isinstance(given, FrozenEstimator):
            given = given.estimator
            if not isinstance(given, SimCLRTransformer):
                raise ValueError(
                    "transformer=FrozenEstimator(...) must hold a fitted SimCLRTransformer, got "
                    f"{given!r}."
                )
            check_is_fitted(given)
        if given is None:
            given = SimCLRTransformer(verbose=self.verbose)
        if given.__sklearn_is_fitted__():
            return copy.deepcopy(given)
        own = clone(given)
        seeded = self.random_state is not None or own.checkpoint_dir is None  # or fit raises
        if own.random_state is None and seeded:
            own.set_params(random_state=int(random_state.randint(2**31 - 1)))
        return own

    @contextlib.contextmanager
    def _keeping(self, transformer: SimCLRTransformer) -> Iterator[None]:
        """Keep the pre-trained transformer if pre-training, or a later stage, fails."""
        try:
            yield
        except BaseException as error:
            if transformer.__sklearn_is_fitted__():
                vars(self).pop("linear_coef_", None)  # belongs to another encoder
                self.transformer_ = transformer
                error.add_note(
                    f"The pre-trained transformer is kept as transformer_, after "
                    f"{transformer.n_iter_} epochs. Pass transformer=FrozenEstimator(transformer_) "
                    "to continue from it."
                )
            raise

    def _plan(
        self, opened, X, classes, codes, seed: int, world: World, *, pre_trained: bool
    ) -> "_Lesson":
        """Decide how the classes are learned, and open the callback context."""
        labelled = np.flatnonzero(codes >= 0)
        method, distills = self.method, self.distill and len(labelled) < len(codes)
        if method == "auto":
            enough = len(labelled) >= _ROWS_TO_FINE_TUNE * len(classes)
            method = "fine_tuning" if enough else "linear"
        n_stages = (not pre_trained) + 1 + (method == "fine_tuning") + distills
        told = {
            "estimator": self,
            "X": lambda: X if len(labelled) == len(codes) else _safe_indexing(X, labelled),
            "y": lambda: classes[codes[labelled]],
        }
        context = self._init_callback_context(max_subtasks=n_stages)
        return _Lesson(opened, classes, codes, method, distills, seed, world, context, told)

    def _pre_train(self, transformer: SimCLRTransformer, lesson: "_Lesson") -> None:
        """Fit the transformer on all rows."""
        reads_y = transformer.__sklearn_tags__().target_tags.required
        stage = lesson.context.subcontext(task_name="pre-training")
        with stage.propagate_callback_context(transformer):
            stage.call_on_fit_task_begin(**lesson.told)
            transformer.fit(lesson.X, lesson.codes if reads_y else None)
            stage.call_on_fit_task_end(**lesson.told)

    def _learn(self, transformer: SimCLRTransformer, lesson: "_Lesson") -> dict:
        """Learn the classes; return the fitted attributes."""
        stage = lesson.context.subcontext(task_name="linear")
        stage.call_on_fit_task_begin(**lesson.told)
        probe, n_iter = fit_probe(transformer, lesson.X, lesson.codes, lesson.world)
        fitted = lesson.fitted(probe, [], n_iter)
        stage.call_on_fit_task_end(**lesson.told, reconstruction_attributes=fitted)
        if lesson.method == "fine_tuning":
            labelled = torch.from_numpy(np.flatnonzero(lesson.codes >= 0))
            task = Task(labelled, torch.from_numpy(lesson.codes)[labelled])
            fitted = self._fine_tune("fine-tuning", TEACHER_STREAM, probe, task, lesson, [])
        if lesson.distills:
            temperature = self.distill_temperature
            targets = LinearModel.of(fitted).probabilities(lesson.X, temperature)  # (n, k)
            task = Task(torch.arange(len(targets)), torch.from_numpy(targets), temperature)
            before = fitted["loss_curve_"]
            fitted = self._fine_tune("distillation", STUDENT_STREAM, probe, task, lesson, before)
        return fitted

    def _fine_tune(
        self,
        name: str,
        stream: int,
        start: LinearModel,
        task: Task,
        lesson: "_Lesson",
        losses_before: list[float],
    ) -> dict:
        """Train a copy of a model; return the resulting fitted attributes.

        Every process of a run does all of it, and takes over the result of the first process.
        """
        transformer = start.transformer
        network, samples = transformer._restore(lesson.X, min_samples=1)
        trained = NetworkWithHead(network, transformer.output_layer, start.coef, start.intercept)
        n_steps, losses = self._n_steps(task), list(losses_before)

        def fitted() -> dict:
            learned = copy.copy(transformer)
            learned._take_weights(network)
            coef, intercept = (to_plain(part) for part in (trained.coef, trained.intercept))
            return lesson.fitted(LinearModel(learned, coef, intercept), list(losses), len(losses))

        stage = lesson.context.subcontext(task_name=name, max_subtasks=n_records(n_steps))
        stage.call_on_fit_task_begin(**lesson.told)
        records = self._steps(name, stream, trained, samples, task, transformer, lesson)
        for _ in range(n_records(n_steps)):
            part = stage.subcontext(task_name="steps")
            part.call_on_fit_task_begin(**lesson.told)
            losses += next(records).losses
            wanted = part.call_on_fit_task_end(**lesson.told, reconstruction_attributes=fitted)
            if any(lesson.world.all_gather_object(bool(wanted))):
                break
        lesson.world.broadcast(trained.state_dict().values())
        losses[:] = lesson.world.broadcast_result(lambda: losses)
        stage.call_on_fit_task_end(**lesson.told, reconstruction_attributes=fitted)
        return fitted()

    def _steps(
        self, name, stream, trained, samples, task, transformer, lesson
    ) -> Iterator[StepsRecord]:
        """Train, and print the progress."""
        n_steps = self._n_steps(task)
        n_warmup_steps = round(_WARMUP_SHARE * n_steps)
        precision = resolve_precision(transformer.precision, samples.device)
        progress = Progress(
            "step", last=n_steps, done=0, n_steps=1, n_rows=self.batch_size, rows=samples.noun
        )
        prints = self.verbose and lesson.world.is_first
        records = fine_tune(
            trained,
            make_optimizer("adamw", trained, lr=self.learning_rate, weight_decay=self.weight_decay),
            samples,
            task,
            views_of(vars(transformer)),
            n_steps=n_steps,
            batch_size=self.batch_size,
            learning_rate_at=lambda step: (
                self.learning_rate * warmup_cosine(step, n_steps, n_warmup_steps)
            ),
            precision=precision,
            seed=derived_seed(lesson.seed, stream),
            on_step=progress.step if prints else None,
        )
        if not prints:
            return records
        say(
            f"{type(self).__name__} on {describe(samples.device, precision)}: {name} on "
            f"{len(task.rows):,} {samples.noun} of {len(lesson.classes)} classes, {n_steps:,} "
            f"steps of {self.batch_size:,}"
        )
        return progress.follow(records, lambda record: (record.step, np.mean(record.losses)))

    def _n_steps(self, task: Task) -> int:
        """Return the number of steps of a fine-tuning or a distillation."""
        if self.max_iter != "auto":
            return int(self.max_iter)
        return max(_MIN_STEPS, -(-_MIN_EPOCHS * len(task.rows) // int(self.batch_size)))


@dataclass(frozen=True)
class _Lesson:
    """What the classes are learned from and how, and what callbacks are passed."""

    X: object  # all rows
    classes: np.ndarray  # (k,)
    codes: np.ndarray  # (n,) numbers of the classes, -1 for no label
    method: str
    distills: bool
    seed: int
    world: World
    context: CallbackContext
    told: dict[str, object | Callable]

    def fitted(self, model: LinearModel, losses: list[float], n_iter: int) -> dict:
        """Return the fitted attributes of a classifier with a given model."""
        names = {"n_features_in_", "feature_names_in_"} & vars(model.transformer).keys()
        return {name: vars(model.transformer)[name] for name in names} | {
            "classes_": self.classes,
            "transformer_": model.transformer,
            "linear_coef_": model.coef,
            "linear_intercept_": model.intercept,
            "method_": self.method,
            "loss_curve_": losses,
            "n_iter_": n_iter,
        }
