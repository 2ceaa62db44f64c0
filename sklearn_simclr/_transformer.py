"""SimCLRTransformer: validates, calls the training loop, stores the result."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from numbers import Integral, Real
from zlib import crc32

import numpy as np
import torch
from sklearn import config_context
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.callback import AutoPropagatedCallback, CallbackSupportMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sklearn_simclr._checkpoints import CheckpointStore, prepare_directory
from sklearn_simclr._composition import is_our_own
from sklearn_simclr._data import Samples, batch_shape, channel_statistics
from sklearn_simclr._device import plain_torch, resolve_precision
from sklearn_simclr._distributed import ALONE, World, joined
from sklearn_simclr._export import ExportedNetwork, write_onnx
from sklearn_simclr._inference import discrimination_accuracy, encode, encode_views
from sklearn_simclr._labels import read_labels
from sklearn_simclr._network import SimCLRNetwork
from sklearn_simclr._persistence import load_moments, load_weights, portable, to_plain
from sklearn_simclr._progress import Progress, say
from sklearn_simclr._random import seeded_global_generator
from sklearn_simclr._reading import open_files, open_to_learn, read_samples, stays_tensor
from sklearn_simclr._run import Run, lent_network, network_input, restored_network, views_of
from sklearn_simclr._training import (
    EpochRecord,
    Objective,
    check_agreement,
    check_training,
    train,
)
from sklearn_simclr._warnings import warn_caller
from sklearn_simclr.augmentation import resolve_augmentation
from sklearn_simclr.encoders import (
    build_encoder,
    resolve_encoder,
    torchvision_names,
    without_weights,
)
from sklearn_simclr.losses import LOSSES, resolve_loss
from sklearn_simclr.optim import (
    DEFAULT_LEARNING_RATE,
    DEFAULT_WEIGHT_DECAY,
    default_learning_rate,
    make_optimizer,
    warmup_cosine,
)

_WARMUP_SHARE, _WARMUP_EPOCHS = 0.1, 10  # the shorter of the two
_in_fit_transform: ContextVar[bool] = ContextVar("in_fit_transform", default=False)
_CALLBACKS = "_skl_callbacks"  # where scikit-learn keeps them
# Parameters in which the processes of a run may differ.
_MAY_DIFFER = {"cache_dir", "checkpoint_dir", "device", "n_jobs", "random_state", "verbose"}
# What the first training run decides and later ones keep.
_KEPT = (
    "_encoder",
    "_h_dim",
    "_head",
    "_seed",
    "_view_size",
    "_weights",
    "encoder_name_",
    "image_shape_",
    "loss_curve_",
    "mean_",
    "pixel_range_",
    "scale_",
)


class SimCLRTransformer(
    ClassNamePrefixFeaturesOutMixin, CallbackSupportMixin, TransformerMixin, BaseEstimator
):
    """Learn features of unlabelled images or vectors by contrastive learning (SimCLR).

    `fit` trains an encoder so that two random views of one sample are closer to each other than
    to the views of all other samples of a batch; `transform` returns the encoder's features h.

    Parameters
    ----------
    encoder : str, encoder object, nn.Module or callable, default="auto"
        The network f(.): the name of a torchvision classification network, whose classifier is
        removed; "mlp"; an object of :mod:`sklearn_simclr.encoders`, whose options a grid search
        can tune; an ``nn.Module``, which is copied, or a function without arguments that returns
        one, mapping a batch to (n, d). "auto" is ``MLPEncoder()`` for vectors,
        ``ConvNetEncoder()`` for images below 24 pixels per side, and for larger ones
        ``ResNetEncoder(18)`` with a quarter of the width up to 20,000 images, half up to 100,000,
        and the full width beyond.
    augmentation : str, augmentation object or callable, default="auto"
        The random views: "simclr" for photographs, "scarf" for vectors, an object of
        :mod:`sklearn_simclr.augmentation`, or a callable that maps a batch (n, c, h, w) in [0, 1],
        or (n, d), to a batch of views. "auto" is ``FeatureCorruption(0.4)`` for vectors,
        ``AffineAugmentation()`` for images with one channel, and ``SimCLRAugmentation()`` for
        other images.
    projection_dim : int, default=128
        Width of the projections z that the loss compares.
    projection_layers : {0, 1, 2, 3}, default=2
        Number of layers of the projection head g(.): none, a linear map, the paper's MLP, or the
        head of SimCLRv2.
    output_layer : int, default=0
        Number of layers of the projection head that `transform` applies, at most
        `projection_layers`: 0 gives h, all of them z, 1 of 3 the middle layer of SimCLRv2. It may
        be changed after `fit`.
    loss : str or callable, default="nt_xent"
        "nt_xent", "nt_logistic", "margin_triplet", "dcl" or "supcon", the functions of
        :mod:`sklearn_simclr.losses`; or a callable that maps the projections z1, z2 of two views,
        each (n, projection_dim), to a scalar. It is also passed `temperature` if it has a
        parameter of that name. Only "supcon" uses y.
    temperature : float, default="auto"
        Divisor of the cosine similarities in the loss, > 0; "margin_triplet" has none. "auto" is
        0.2 for "nt_xent" on images with several channels, and 0.5 otherwise.
    optimizer : {"auto", "muon", "adamw", "sgd", "lars"}, default="auto"
        "auto" is "muon" for images and "adamw" for vectors.
    learning_rate : float, default="auto"
        Peak learning rate. "auto" is 0.03 for Muon and 0.004 for AdamW; for batches of B samples
        it is ``0.06 * B / 256`` for SGD and ``0.3 * B / 256`` for LARS.
    weight_decay : float, default="auto"
        Weight decay; biases and batch normalisation are exempt. "auto" is 0.1 for Muon, 1e-4 for
        AdamW, 5e-4 for SGD and 1e-6 for LARS.
    batch_size : int, default=256
        Largest number of samples in a batch, >= 2, over all processes if torchrun has started
        several. An epoch is divided into batches of equal size. If a step does not fit into the
        memory of the device, the network gets half as many samples at a time, with a warning; the
        loss remains that of the whole batch.
    max_epochs : int, default=100
        Length of the training run and of its learning-rate schedule: linear warm-up over a tenth
        of it, at most 10 epochs, then cosine decay to zero. A callback may stop training earlier.
    image_shape : tuple of int, default=None
        (h, w) or (h, w, c) if the rows of a 2-D X are images; None: they are vectors.
    channel_axis : {-1, 1}, default=-1
        Position of the channels of images: last or first.
    image_size : int, default=None
        Side in pixels at which views are made and images are encoded; None: that of the images, or
        128 for image files that differ in size or have more than 256 pixels per side.
    device : str or torch.device, default="auto"
        "auto" is CUDA, else MPS, else the CPU, determined again whenever it is needed. Each process
        started by torchrun uses its own GPU.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Precision of training. "auto" is bfloat16 if the hardware multiplies it natively.
        `transform` always computes in float32.
    compile : bool or "auto", default="auto"
        How training steps are sped up; the results differ by rounding only. On a GPU, unless this
        is False, a step is recorded as a CUDA graph and replayed if a single process trains and
        encoder, augmentation and loss are from this package, other than `TorchvisionEncoder` and
        "supcon". True fuses the operations of the network with torch.compile, on any device, which
        takes up to a minute at first and needs a C compiler; "auto" does so if steps are recorded
        and minutes of training are left.
    n_jobs : int, default=None
        Number of threads that decode image files: None is 1, -1 the number of cores.
    warm_start : bool, default=False
        Whether another call to `fit` continues from the present weights.
    checkpoint_dir : str or path, default=None
        Directory, created if missing, where `fit` saves checkpoints, from which an identical call
        to `fit` resumes if the process was killed: same data, parameters and `random_state`, which
        has to be set. Any number of training runs can share it. `partial_fit` saves none.
    cache_dir : str or Path, default=None
        Folder for the decoded pixels of image files, so that later calls with the same files, in
        the same order, decode none again. None: up to 1 GiB of pixels is kept in memory; beyond
        that, files are decoded again whenever they are needed.
    on_bad_files : {"raise", "skip"}, default="raise"
        What `fit` and `partial_fit` do about image files that cannot be read: raise an error, or
        leave them out and warn. `transform` and `score` always raise an error.
    random_state : int, RandomState instance or None, default=None
        Seed of everything random. On a CPU, an int gives the same result to the last bit.
    verbose : int, default=0
        Whether to print what is trained, how long it may take, and a line per epoch.

    Attributes
    ----------
    n_iter_ : int
        Number of epochs the encoder has been trained for.
    loss_ : float
        Mean loss of the last epoch.
    loss_curve_ : list of float
        Mean loss of each epoch.
    n_features_in_ : int
        Number of values in a sample, ``h * w * c`` for images.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if X has any.
    image_shape_ : tuple of (int, int, int) or None
        (h, w, c) of the images; None for vectors.
    pixel_range_ : tuple of (float, float) or None
        Pixel values that stand for 0 and 1: those of uint8, or of [0, 1] if the pixels lie there,
        else the extremes in `fit`. None for vectors.
    mean_, scale_ : ndarray of shape (c,) or (d,)
        Mean and standard deviation per channel, with pixels in [0, 1], or per feature.
    encoder_name_, augmentation_name_, optimizer_name_ : str
        What was used, with "auto" resolved.
    temperature_, learning_rate_, weight_decay_ : float
        What was used, with "auto" resolved.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi & Hinton (2020). A Simple Framework for Contrastive Learning
       of Visual Representations. ICML. https://arxiv.org/abs/2002.05709

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_simclr import SimCLRTransformer
    >>> digits = load_digits()
    >>> images, labels = digits.images[:300], digits.target[:300]  # (300, 8, 8)
    >>> simclr = SimCLRTransformer(max_epochs=3, random_state=0)
    >>> model = make_pipeline(simclr, LogisticRegression()).fit(images, labels)
    >>> model[0].transform(images).shape
    (300, 128)
    """

    _parameter_constraints: dict = {
        "encoder": [
            StrOptions({"auto", "mlp", *torchvision_names()}),
            HasMethods("build"),
            callable,
        ],
        "augmentation": [StrOptions({"auto", "simclr", "scarf"}), callable],
        "projection_dim": [Interval(Integral, 1, None, closed="left")],
        "projection_layers": [Options(Integral, {0, 1, 2, 3})],
        "output_layer": [Options(Integral, {0, 1, 2, 3})],
        "loss": [StrOptions(set(LOSSES)), callable],
        "temperature": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "optimizer": [StrOptions({"auto", *DEFAULT_LEARNING_RATE})],
        "learning_rate": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "weight_decay": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "image_shape": [None, tuple, list],
        "channel_axis": [Options(Integral, {-1, 1})],
        "image_size": [None, Interval(Integral, 1, None, closed="left")],
        "device": [str, torch.device],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "compile": ["boolean", StrOptions({"auto"})],
        "n_jobs": [
            None,
            Interval(Integral, 1, None, closed="left"),
            Interval(Integral, None, -1, closed="right"),
        ],
        "warm_start": ["boolean"],
        "checkpoint_dir": [None, str, os.PathLike],
        "cache_dir": [None, str, os.PathLike],
        "on_bad_files": [StrOptions({"raise", "skip"})],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        encoder="auto",
        *,
        augmentation="auto",
        projection_dim=128,
        projection_layers=2,
        output_layer=0,
        loss="nt_xent",
        temperature="auto",
        optimizer="auto",
        learning_rate="auto",
        weight_decay="auto",
        batch_size=256,
        max_epochs=100,
        image_shape=None,
        channel_axis=-1,
        image_size=None,
        device="auto",
        precision="auto",
        compile="auto",
        n_jobs=None,
        warm_start=False,
        checkpoint_dir=None,
        cache_dir=None,
        on_bad_files="raise",
        random_state=None,
        verbose=0,
    ):
        self.encoder = encoder
        self.augmentation = augmentation
        self.projection_dim = projection_dim
        self.projection_layers = projection_layers
        self.output_layer = output_layer
        self.loss = loss
        self.temperature = temperature
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.image_shape = image_shape
        self.channel_axis = channel_axis
        self.image_size = image_size
        self.device = device
        self.precision = precision
        self.compile = compile
        self.n_jobs = n_jobs
        self.warm_start = warm_start
        self.checkpoint_dir = checkpoint_dir
        self.cache_dir = cache_dir
        self.on_bad_files = on_bad_files
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    @plain_torch(reuses_memory=True)
    def fit(self, X, y=None):
        """Train the encoder for `max_epochs` epochs.

        Ctrl-C ends training after the last complete epoch, if there was one, with a warning.

        Parameters
        ----------
        X : array-like
            Images of shape (n, h, w), (n, h, w, c) or, with ``channel_axis=1``, (n, c, h, w);
            rows (n, h * w * c) with `image_shape`; or vectors (n, d). At least two samples.
            Arrays, memmaps, torch tensors, lists; 2-D data may be a data frame. Or the paths of
            image files, str or Path: a list, an array, a series or a data frame with one column.
        y : array-like of shape (n,), default=None
            Classes for ``loss="supcon"``, -1 ("-1" if they are strings) for no label. Ignored by
            the other losses.

        Returns
        -------
        SimCLRTransformer
            The fitted transformer itself.

        Raises
        ------
        ValueError
            If a parameter is out of range, X, the encoder and the augmentation do not match, or
            image files cannot be read; with `checkpoint_dir` also if `random_state` is None, the
            directory cannot be written to, its checkpoint of this run is damaged, or an object
            among the parameters cannot be fingerprinted.
        FloatingPointError
            If the loss is no longer finite. The transformer then has the weights from before that
            epoch, unless it was the first.
        RuntimeError
            In a run of several processes, if another one has ended or raised an error.
        KeyboardInterrupt
            On Ctrl-C before the first epoch has ended; the transformer is unchanged. In a run of
            several processes it is always raised; finished epochs are kept.
        """
        with joined(f"{type(self).__name__}.fit") as world, self._keeping_the_old():
            world.broadcast_result(self._check_checkpoint_dir)
            continuing = self.warm_start and self.__sklearn_is_fitted__()
            opened, X, y = open_to_learn(self, X, y, reset=not continuing)
            run = self._prepare(opened, y, continuing=continuing, world=world)
            self._announce(run)
            checkpoint, stopped_by = self._resume(run)
            callbacks = self._own_callbacks()
            stopped = world.broadcast_result(lambda: stopped_by == callbacks)
            context = self._init_callback_context(max_subtasks=self.max_epochs - run.n_done)
            told = {"estimator": self, "X": X, "y": y}
            context.call_on_fit_task_begin(**told, reconstruction_attributes=run.snapshot)
            epochs = self._epochs(run, int(self.max_epochs), self._schedule(run))
            try:
                while run.n_done < self.max_epochs and not stopped:
                    task = context.subcontext(task_name="epoch")
                    task.call_on_fit_task_begin(**told)
                    next(epochs)
                    wanted = task.call_on_fit_task_end(
                        **told, reconstruction_attributes=run.snapshot
                    )
                    stopped = any(world.all_gather_object(bool(wanted)))
                    if checkpoint is not None:
                        run.leave_checkpoint(
                            checkpoint,
                            callbacks if stopped else None,
                            complete=run.n_done == self.max_epochs,
                        )
            except KeyboardInterrupt:
                if not run.n_done or world.size > 1 or _in_fit_transform.get():
                    raise
                warn_caller(
                    f"Training interrupted by user after {run.n_done} of {self.max_epochs} epochs: "
                    f"the {type(self).__name__} is fitted with the weights after the last of them."
                )
            finally:
                self._store(run)
        context.call_on_fit_task_end(**told, reconstruction_attributes=run.snapshot)
        return self

    def fit_transform(self, X, y=None, **fit_params):
        """Fit to X, and return the features of the same samples.

        Image files that cannot be read raise an error before training, even with
        ``on_bad_files="skip"``: every row of X needs features. Ctrl-C is always raised, so that no
        pipeline goes on with, or keeps in its cache, a step that is half trained; finished epochs
        are kept.

        Parameters
        ----------
        X, y : array-like
            As in `fit`.
        **fit_params : dict
            None are supported.

        Returns
        -------
        array of shape (n, d), float32
            As from `transform`.

        Raises
        ------
        ValueError, FloatingPointError
            As in `fit`.
        KeyboardInterrupt
            On Ctrl-C.
        """
        if self.on_bad_files == "skip":
            open_files(self, X, reset=not (self.warm_start and self.__sklearn_is_fitted__()))
        outside = _in_fit_transform.set(True)
        try:
            return super().fit_transform(X, y, **fit_params)
        finally:
            _in_fit_transform.reset(outside)

    @_fit_context(prefer_skip_nested_validation=True)
    @plain_torch(reuses_memory=True)
    def partial_fit(self, X, y=None):
        """Train the encoder for one epoch over X, at a constant learning rate.

        The first call learns the input normalisation and builds the network; later calls continue
        from the present weights and the moments of the optimizer.

        Parameters
        ----------
        X, y : array-like
            As in `fit`.

        Returns
        -------
        SimCLRTransformer
            The fitted transformer itself.

        Raises
        ------
        ValueError, FloatingPointError
            As in `fit`.
        """
        self._validate_params()  # scikit-learn does it at the first call only
        with joined(f"{type(self).__name__}.partial_fit") as world, self._keeping_the_old():
            continuing = self.__sklearn_is_fitted__()
            opened, _, y = open_to_learn(self, X, y, reset=not continuing)
            run = self._prepare(opened, y, continuing=continuing, world=world)
            same_optimizer = continuing and run.fitted["optimizer_name_"] == self.optimizer_name_
            if same_optimizer and self._moments:
                load_moments(run.optimizer, self._moments)
            peak = run.fitted["learning_rate_"]
            next(self._epochs(run, 1, lambda step: peak))
            self._store(run)
            self._moments = to_plain(run.optimizer.state_dict()["state"])
        return self

    def transform(self, X):
        """Return the features h of the samples, or the output of the layer set by `output_layer`.

        Parameters
        ----------
        X : array-like
            As in `fit`, with samples of the same shape; at least one.

        Returns
        -------
        ndarray of shape (n, d), float32
            Features; those of a sample do not depend on the rest of X. A tensor on the device of X
            if X is a tensor and scikit-learn's `array_api_dispatch` is enabled.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `fit` has not been called.
        ValueError
            If X does not match what was fitted, or image files cannot be read.
        """
        return self._features(X)

    @plain_torch()
    def score(self, X, y=None):
        """Share of random views whose nearest neighbour is the other view of the same sample.

        Two new views of every sample are projected, and each is compared with all other views by
        cosine similarity, in equal blocks of at most 256 samples. The score needs no labels and is
        the same at every call. Weaker augmentations, lower temperatures and smaller blocks make the
        task easier, so only compare models with the same augmentation and temperature, on the same
        number of samples: 257 samples make two blocks, and score higher than 256.

        Parameters
        ----------
        X : array-like
            As in `fit`, with samples of the same shape; at least two.
        y : None
            Ignored.

        Returns
        -------
        float
            In [0, 1]; higher is better, chance is ``1 / (2 * m - 1)`` for blocks of
            ``m = n / ceil(n / 256)`` samples.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `fit` has not been called.
        ValueError
            If X does not match what was fitted.
        """
        network, samples = self._restore(X, min_samples=2)
        return discrimination_accuracy(network, samples, views_of(vars(self)), self._seed)

    def to_torch(self):
        """Return what `transform` computes as a plain torch module.

        The module takes tensors in the layout of `transform`, includes the preprocessing, and
        returns the features of the present `output_layer`. It shares nothing with the transformer.
        Unlike `transform` it can be trained further, and it does not check the values of X: pixels
        must be in the range of those in `fit`, or uint8 if that was [0, 1].

        Returns
        -------
        nn.Module
            On the CPU, in float32 and in evaluation mode. Its state dict has the encoder's weights
            as ``encoder.*``, those of the projection layers as ``head.*``, and `mean` and `scale`.
            After `fit` on image files it takes the pixels of images of shape `image_shape_`.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `fit` has not been called.
        ValueError
            If `output_layer` is beyond the projection head.

        See Also
        --------
        to_onnx : The same as a file that needs neither torch nor Python.

        Examples
        --------
        >>> import torch
        >>> from sklearn.datasets import load_digits
        >>> from sklearn_simclr import SimCLRTransformer
        >>> images = load_digits().images[:300]  # (300, 8, 8)
        >>> simclr = SimCLRTransformer(max_epochs=1, random_state=0).fit(images)
        >>> module = simclr.to_torch()
        >>> features = module(torch.from_numpy(images))
        >>> torch.allclose(features, torch.from_numpy(simclr.transform(images)), atol=1e-5)
        True
        """
        return self._exported()

    @plain_torch()
    def to_onnx(self, path, *, input_dtype="auto"):
        """Write what `transform` computes to an ONNX file.

        The file holds the network that `to_torch` returns. Its input "X" has any number of rows in
        the layout of `transform`, images with one channel as (n, h, w); its output is "output".
        Needs the packages of the extra `onnx`.

        Parameters
        ----------
        path : str or path
            The file, which is overwritten.
        input_dtype : {"auto", "uint8", "float32"}, default="auto"
            Type of X in the file. "auto" is "uint8" if `pixel_range_` is that of uint8.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `fit` has not been called.
        ValueError
            If `input_dtype` has another value, or is "uint8" though `fit` got negative pixels; if
            `output_layer` is beyond the projection head; or if torch cannot export an encoder of
            your own.
        ImportError
            If the packages are not installed.

        Examples
        --------
        >>> import os, tempfile
        >>> import onnxruntime
        >>> from sklearn.datasets import load_digits
        >>> from sklearn_simclr import SimCLRTransformer
        >>> images = load_digits().images[:300].astype("float32")  # (300, 8, 8)
        >>> simclr = SimCLRTransformer(max_epochs=1, random_state=0).fit(images)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "digits.onnx")
        ...     simclr.to_onnx(path)
        ...     session = onnxruntime.InferenceSession(path)
        >>> session.run(None, {"X": images})[0].shape
        (300, 128)
        """
        write_onnx(self._exported(), path, input_dtype)

    def get_feature_names_out(self, input_features=None):
        """Return the names of the features that `transform` returns.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Only checked, against the columns of X in `fit`; a column of paths counts as one.

        Returns
        -------
        ndarray of str objects
            The name of the class, in lower case, and a number.
        """
        if self.__sklearn_is_fitted__() and self.image_shape_ and np.shape(input_features) == (1,):
            input_features = None  # a column of paths, whose images have many values
        return super().get_feature_names_out(input_features)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_weights")

    def __getstate__(self):
        """Return the attributes for pickling and copying."""
        return portable(super().__getstate__())

    def __setstate__(self, state):
        """Restore a pickled state, also from versions with fewer parameters."""
        added = {"loss": "nt_xent", "output_layer": 0, "checkpoint_dir": None}
        added |= {"n_jobs": None, "cache_dir": None, "on_bad_files": "raise", "compile": "auto"}
        state = added | state
        if "_n_features_out" in state:
            state["_h_dim"] = state.pop("_n_features_out")
        if isinstance(state.get("_encoder"), str):
            state["_encoder"] = resolve_encoder(state["_encoder"], (), 0)
            state["encoder_name_"] = _name(state["_encoder"])
        super().__setstate__(state)

    @property
    def _n_features_out(self) -> int:
        """Width of the output, for the names of the features."""
        projection_dim, n_layers = self._head
        _check_output_layer(self.output_layer, n_layers)
        return projection_dim if 0 < self.output_layer == n_layers else self._h_dim

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = isinstance(self.loss, str) and self.loss == "supcon"
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    @plain_torch()
    def _features(self, X) -> np.ndarray | Tensor:
        """Do the work of `transform`, which scikit-learn wraps."""
        is_tensor = stays_tensor(X)
        device = X.device if is_tensor else torch.device("cpu")
        with joined(f"{type(self).__name__}.transform") as world:
            samples = self._read(X, min_samples=1)
            check_agreement(world, samples, lambda: {"output_layer": self.output_layer})
            with lent_network(self, samples.input_shape, samples.device) as network:
                size, layer = self._view_size, self.output_layer
                features = encode(network, samples, size, layer, device, world)
        return features if is_tensor else features.numpy()

    @plain_torch()
    def _view_features(self, X) -> tuple[np.ndarray, np.ndarray]:
        """Return the features of two random views of each sample, the same as in `score`."""
        network, samples = self._restore(X, min_samples=2)
        return encode_views(network, samples, views_of(vars(self)), self.output_layer, self._seed)

    def _restore(self, X, *, min_samples: int) -> tuple[SimCLRNetwork, Samples]:
        """Rebuild the trained network on the current device, and read X for it."""
        samples = self._read(X, min_samples=min_samples)
        return restored_network(vars(self), samples.input_shape, samples.device), samples

    def _read(self, X, *, min_samples: int) -> Samples:
        """Read X for the trained network."""
        check_is_fitted(self)
        _check_output_layer(self.output_layer, self._head[1])
        return read_samples(self, X, reset=False, min_samples=min_samples)

    @plain_torch()
    def _exported(self, linear: nn.Linear | None = None) -> ExportedNetwork:
        """Rebuild the trained network as a separate module, with a layer after its features."""
        check_is_fitted(self)
        _check_output_layer(self.output_layer, self._head[1])
        input_shape = (self.n_features_in_,)
        if self.image_shape_ is not None:
            height, width, channels = self.image_shape_
            input_shape = (channels, height, width)
        return ExportedNetwork(
            restored_network(vars(self), input_shape, torch.device("cpu")),
            self.output_layer,
            image_shape=self.image_shape_,
            channels_first=self.channel_axis == 1,
            pixel_range=self.pixel_range_,
            image_size=self._view_size,
            linear=linear,
        )

    def _prepare(self, X, y, *, continuing: bool, world: World = ALONE) -> Run:
        """Do everything that can go wrong before training starts."""
        _check_output_layer(self.output_layer, self.projection_layers)
        samples = read_samples(self, X, reset=not continuing, min_samples=2)
        objective = self._objective(y, samples)
        check_agreement(world, samples, lambda: self._facts(objective, samples, continuing))
        if continuing:
            self._check_unchanged()
            fitted = {name: vars(self)[name] for name in _KEPT}
            fitted["loss_curve_"] = list(self.loss_curve_)
        else:
            fitted = self._decide(samples, world)
        fitted |= self._settings(samples, fitted["_view_size"])
        network = restored_network(fitted, samples.input_shape, samples.device)
        fitted["_encoder"] = without_weights(fitted["_encoder"], network.encoder)
        fitted["_h_dim"] = network.n_features
        if not any(param.requires_grad for param in network.parameters()):
            raise ValueError(
                f"encoder={fitted['_encoder']!r} has no weights to train, and with "
                f"projection_layers={self.projection_layers} there is no projection head either."
            )
        for name, value in network.state_dict().items():
            if not isinstance(value, Tensor):
                raise ValueError(
                    f"encoder={fitted['_encoder']!r} keeps {name!r} in its state dict, which is "
                    f"not a tensor but {type(value).__name__}. Return a tensor from "
                    "get_extra_state."
                )
        views = views_of(fitted, loss=self.loss)
        check_training(network, samples, views, objective)
        if not continuing:
            if not is_our_own(fitted["_encoder"]):
                _check_made_again(network, fitted, samples)
            # A pass over all of X, once everything else is found good.
            mean, scale = world.broadcast_result(lambda: channel_statistics(samples))
            network.set_statistics(mean, scale)
            fitted |= {"mean_": mean, "scale_": scale}
        optimizer = make_optimizer(
            fitted["optimizer_name_"],
            network,
            lr=fitted["learning_rate_"],
            weight_decay=fitted["weight_decay_"],
        )
        first_epoch = len(fitted["loss_curve_"])
        return Run(network, optimizer, samples, views, objective, fitted, first_epoch, world)

    def _facts(self, objective: Objective, samples: Samples, continuing: bool) -> dict:
        """Collect what several processes have to agree on."""
        kinds = str | Real | tuple | list | BaseEstimator | None
        params = {
            name: repr(value) if isinstance(value, BaseEstimator) else value
            for name, value in self.get_params(deep=False).items()
            if name not in _MAY_DIFFER and isinstance(value, kinds)
        }
        labels = objective.labels
        return params | {
            "the epochs trained before": len(self.loss_curve_) if continuing else 0,
            "the checksum of y": None if labels is None else crc32(labels.numpy().tobytes()),
            "the precision": str(resolve_precision(self.precision, samples.device)),
        }

    def _objective(self, y, samples: Samples) -> Objective:
        """Make the loss, with the labels of the samples if it reads them."""
        temperature = self._temperature(samples)
        loss, labels = resolve_loss(self.loss, temperature), None
        if self.__sklearn_tags__().target_tags.required:
            if y is None:
                raise ValueError(
                    f"{type(self).__name__} requires y to be passed, but the target y is None: "
                    f"loss={self.loss!r} learns from labels. Pass y, with -1 where there is no "
                    "label, or choose another loss."
                )
            labels = torch.from_numpy(read_labels(y, len(samples))[1])
        return Objective(loss, labels, f"loss={self.loss!r}, temperature={temperature}")

    def _temperature(self, samples: Samples) -> float:
        """Resolve the temperature."""
        if self.temperature != "auto":
            return float(self.temperature)
        has_colours = samples.image_shape is not None and samples.image_shape[-1] > 1
        return 0.2 if has_colours and self.loss == "nt_xent" else 0.5

    def _check_unchanged(self) -> None:
        """Raise an error if the parameters no longer describe the network of the model."""
        asked = {
            "projection_dim": (self.projection_dim, self._head[0]),
            "projection_layers": (self.projection_layers, self._head[1]),
            "image_size": (self.image_size, self._view_size),
        }
        if self.encoder != "auto" and self.encoder is not self._encoder:
            # A module, or a function that makes one.
            is_own = isinstance(self._encoder, nn.Module) or not hasattr(self._encoder, "build")
            kinds = _kind(self.encoder), _kind(self._encoder) if is_own else self.encoder_name_
            if None not in kinds:
                asked["encoder"] = kinds
        for name, (now, fitted) in asked.items():
            if now != fitted:
                raise ValueError(
                    f"{name}={now!r} differs from the {fitted!r} of the model that training would "
                    "continue from. Change it back, or train from scratch: fit with "
                    "warm_start=False."
                )

    def _decide(self, samples: Samples, world: World) -> dict:
        """Choose what all runs of a model share: seed, encoder and head.

        The input normalisation is that of two samples as yet, with which everything is tried.
        """
        input_shape = network_input(samples.input_shape, self.image_size)
        encoder = resolve_encoder(self.encoder, input_shape, len(samples))
        mean, scale = channel_statistics(samples, [torch.arange(2)])
        seed = world.broadcast_result(
            lambda: check_random_state(self.random_state).randint(2**31 - 1)
        )
        return {
            "_seed": int(seed),
            "_encoder": encoder,
            "_head": (self.projection_dim, self.projection_layers),
            "_view_size": self.image_size,
            "encoder_name_": _name(without_weights(encoder)),
            "image_shape_": samples.image_shape,
            "pixel_range_": samples.pixel_range,
            "mean_": mean,
            "scale_": scale,
            "loss_curve_": [],
        }

    def _settings(self, samples: Samples, view_size: int | None) -> dict:
        """Resolve what may change from one training run of a model to the next."""
        n_samples = len(samples)
        if n_samples < self.batch_size:
            warn_caller(
                f"batch_size={self.batch_size} is larger than the data: every epoch is one batch "
                f"of {n_samples} samples, which has fewer negatives. Lower it to silence this."
            )
        augmentation = resolve_augmentation(self.augmentation, samples.image_shape, view_size)
        optimizer = self.optimizer
        if optimizer == "auto":
            optimizer = "adamw" if samples.image_shape is None else "muon"
        _, size = batch_shape(n_samples, self.batch_size)
        learning_rate, weight_decay = self.learning_rate, self.weight_decay
        if learning_rate == "auto":
            learning_rate = default_learning_rate(optimizer, size)
        if weight_decay == "auto":
            weight_decay = DEFAULT_WEIGHT_DECAY[optimizer]
        return {
            "_augmentation": augmentation,
            "_moments": None,
            "augmentation_name_": _name(augmentation),
            "optimizer_name_": optimizer,
            "temperature_": self._temperature(samples),
            "learning_rate_": float(learning_rate),
            "weight_decay_": float(weight_decay),
        }

    def _schedule(self, run: Run) -> Callable[[int], float]:
        """Return the learning rate as a function of the step of a training run."""
        n_batches, _ = batch_shape(len(run.samples), self.batch_size)
        n_steps = int(self.max_epochs) * n_batches  # NumPy's small integers overflow
        n_warmup_steps = round(n_steps * min(_WARMUP_SHARE, _WARMUP_EPOCHS / self.max_epochs))
        peak = run.fitted["learning_rate_"]
        return lambda step: peak * warmup_cosine(step, n_steps, n_warmup_steps)

    def _epochs(
        self, run: Run, n_epochs: int, learning_rate_at: Callable[[int], float]
    ) -> Iterator[EpochRecord]:
        """Train, and keep and print the record of each epoch."""
        n_batches, size = batch_shape(len(run.samples), self.batch_size)
        progress = Progress(
            "epoch",
            last=run.first_epoch + n_epochs,
            done=run.first_epoch + run.n_done,
            n_steps=n_batches,
            n_rows=size,
            rows=run.samples.noun,
        )
        prints = self.verbose and run.world.is_first
        records = train(
            run.network,
            run.optimizer,
            run.samples,
            run.views,
            run.objective,
            n_epochs=n_epochs,
            n_done=run.n_done,
            first_epoch=run.first_epoch,
            batch_size=self.batch_size,
            learning_rate_at=learning_rate_at,
            precision=resolve_precision(self.precision, run.samples.device),
            seed=run.fitted["_seed"],
            compiles=self.compile if self.compile == "auto" else bool(self.compile),
            world=run.world,
            on_step=progress.step if prints else None,
        )
        records = _kept(records, run.fitted["loss_curve_"])  # before an output can fail
        if prints:
            records = progress.follow(records, lambda record: (record.epoch + 1, record.loss))
        yield from records

    def _announce(self, run: Run) -> None:
        """Print what is about to be trained."""
        if self.verbose and run.world.is_first:
            precision = resolve_precision(self.precision, run.samples.device)
            what = run.describe(precision, self.max_epochs, self.batch_size)
            say(f"{type(self).__name__} on {what}")

    def _own_callbacks(self) -> list[str]:
        """Names of the callbacks' classes, except those propagated by a search or pipeline."""
        callbacks = vars(self).get(_CALLBACKS, ())
        own = (each for each in callbacks if not isinstance(each, AutoPropagatedCallback))
        return sorted(type(callback).__name__ for callback in own)

    def _check_checkpoint_dir(self) -> None:
        """Raise an error if `checkpoint_dir` cannot be used."""
        if self.checkpoint_dir is None:
            return
        if self.random_state is None:
            raise ValueError(
                f"checkpoint_dir={self.checkpoint_dir!r} needs a seed, but random_state=None draws "
                "another one each time, so that no run would find its checkpoint. Pass an int."
            )
        prepare_directory(self.checkpoint_dir)

    def _resume(self, run: Run) -> tuple[CheckpointStore | None, list[str] | None]:
        """Resume from a checkpoint of this training run if there is one; see `Run.resume`."""
        if self.checkpoint_dir is None:
            return None, None
        checkpoint, stopped_by = run.resume(self.checkpoint_dir, self._training_settings())
        if run.n_done and self.verbose and run.world.is_first:
            n_epochs = run.first_epoch + run.n_done
            last = run.first_epoch + self.max_epochs
            say(f"epoch {n_epochs}/{last}  from {checkpoint.path}")
        return checkpoint, stopped_by

    def _training_settings(self) -> dict:
        """Return the parameters that training depends on and no fitted attribute holds."""
        return {
            "loss": self.loss,
            "batch_size": int(self.batch_size),
            "max_epochs": int(self.max_epochs),
            "precision": self.precision,
        }

    @contextlib.contextmanager
    def _keeping_the_old(self) -> Iterator[None]:
        """Undo what reading X has changed if training fails before its first epoch has ended."""
        names = ("n_features_in_", "feature_names_in_")
        before = {name: vars(self)[name] for name in names if name in vars(self)}
        weights = vars(self).get("_weights")
        try:
            yield
        except BaseException:
            if vars(self).get("_weights") is weights:
                for name in names:
                    vars(self).pop(name, None)
                vars(self).update(before)
            raise

    def _take_weights(self, network: SimCLRNetwork) -> None:
        """Take over the weights of a network that was trained elsewhere."""
        self._weights = to_plain(network.state_dict())
        self._moments = None  # belong to the previous weights

    def _store(self, run: Run) -> None:
        """Take over the state of a training run that has finished at least one epoch."""
        if run.n_done:
            vars(self).update(run.snapshot())


def _check_made_again(network: SimCLRNetwork, fitted: dict, samples: Samples) -> None:
    """Raise an error unless an encoder of the user's can be made again, and given its weights."""
    encoder = fitted["_encoder"]
    name = getattr(encoder, "__name__", type(encoder).__name__)
    again = restored_network(fitted, samples.input_shape, samples.device)
    if not _places_of_weights(network).isdisjoint(_places_of_weights(again)):
        raise ValueError(
            f"encoder={name} makes networks that share their weights. Let it make new ones at "
            "each call, such as by copy.deepcopy, or pass the module itself, which is copied."
        )
    try:
        load_weights(again, network.state_dict())
    except Exception as error:
        reason = str(error).strip().split("\n")[-1].strip()
        raise ValueError(
            f"encoder={name} has another state dict after its first batch than when it is made, so "
            f"that it could not be used after training: {reason} Make the same layers at each "
            "call, and give every buffer its shape in __init__ or persistent=False."
        ) from error


def _places_of_weights(network: nn.Module) -> set[int]:
    """Where in memory the weights are that training changes."""
    trained = (param for param in network.parameters() if param.requires_grad)
    return {param.untyped_storage().data_ptr() for param in trained if not is_lazy(param)} - {0}


def _kept(records: Iterator[EpochRecord], loss_curve: list[float]) -> Iterator[EpochRecord]:
    """Pass on the records of epochs, once their loss is in the curve."""
    for record in records:
        loss_curve.append(record.loss)
        yield record


def _check_output_layer(output_layer: int, projection_layers: int) -> None:
    if not isinstance(output_layer, Integral) or not 0 <= output_layer <= projection_layers:
        raise ValueError(
            f"output_layer={output_layer!r} is not a layer of a projection head with "
            f"projection_layers={projection_layers}. Pass an int of at most that, or 0 for the "
            "features h."
        )


def _name(part) -> str:
    """Return a name for an encoder or an augmentation, which may be any object."""
    if isinstance(part, str):
        return part
    if isinstance(part, BaseEstimator):
        with config_context(print_changed_only=True):  # whatever the user has set
            return repr(part)
    return getattr(part, "__name__", type(part).__name__)


def _kind(encoder) -> str | None:
    """Describe the network of an encoder parameter; None if its shapes are not yet known."""
    if not isinstance(encoder, nn.Module):
        encoder = resolve_encoder(without_weights(encoder), (), 0)
        if hasattr(encoder, "build"):
            return _name(encoder)
        with seeded_global_generator(0, torch.device("cpu")):
            encoder = build_encoder(encoder, ())
    if any(is_lazy(param) for param in encoder.parameters()):
        return None
    n_weights = sum(param.numel() for param in encoder.parameters())
    layers = re.sub(" at 0x[0-9a-f]+", "", repr(encoder))  # addresses differ from run to run
    return f"{_name(encoder)} of {n_weights:,} weights, its layers #{crc32(layers.encode()):08x}"
