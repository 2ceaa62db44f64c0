"""One training run: its parts, its checkpoints, and the network made again from what it leaves."""

import contextlib
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple
from weakref import ReferenceType, ref

import numpy as np
import torch

from sklearn_simclr._checkpoints import CheckpointStore
from sklearn_simclr._composition import is_our_own
from sklearn_simclr._data import Samples, batch_shape
from sklearn_simclr._device import describe
from sklearn_simclr._distributed import World
from sklearn_simclr._fingerprint import fingerprint
from sklearn_simclr._network import SimCLRNetwork, build_network
from sklearn_simclr._persistence import load_moments, load_weights, to_plain
from sklearn_simclr._random import WEIGHTS_STREAM, derived_seed
from sklearn_simclr._training import Objective
from sklearn_simclr._version import __version__
from sklearn_simclr._views import Views
from sklearn_simclr.encoders import TorchvisionEncoder

# Fitted attributes that a training run depends on, besides its encoder, views and weights.
_OF_A_TRAINING = (
    "_head",
    "_seed",
    "_view_size",
    "image_shape_",
    "learning_rate_",
    "loss_curve_",
    "mean_",
    "optimizer_name_",
    "pixel_range_",
    "scale_",
    "temperature_",
    "weight_decay_",
)


@dataclass(frozen=True)
class Run:
    """One training run: its live parts, and the attributes that it gives the estimator."""

    network: SimCLRNetwork
    optimizer: torch.optim.Optimizer
    samples: Samples
    views: Views
    objective: Objective
    fitted: dict
    first_epoch: int
    world: World

    @property
    def n_done(self) -> int:
        """Epochs that the run has finished."""
        return len(self.fitted["loss_curve_"]) - self.first_epoch

    def describe(self, precision: torch.dtype, n_epochs: int, batch_size: int) -> str:
        """Say in a line what is trained on what, how, and for how long."""
        processes = f", {self.world.size} processes" if self.world.size > 1 else ""
        shape = self.samples.image_shape or self.samples.input_shape
        side = self.fitted["_view_size"]
        seen = f" seen at {side} x {side}" if side and shape[:2] != (side, side) else ""
        n_batches, size = batch_shape(len(self.samples), batch_size)
        epochs = "1 epoch" if n_epochs == 1 else f"{n_epochs:,} epochs"
        batches = "1 batch" if n_batches == 1 else f"{n_batches:,} batches"
        return (
            f"{describe(self.samples.device, precision)}{processes}: "
            f"{self.fitted['encoder_name_']} on {len(self.samples):,} {self.samples.noun} of shape "
            f"{shape}{seen}, {epochs} of {batches} of {size:,}"
        )

    def resume(self, directory, settings: dict) -> tuple[CheckpointStore, list[str] | None]:
        """Go on from the checkpoint of this run if there is one in a directory.

        Parameters
        ----------
        directory : path
            Where checkpoints lie.
        settings : dict
            What `key` takes.

        Returns
        -------
        checkpoint : CheckpointStore
            Where the next ones belong.
        stopped_by : list of str or None
            The callbacks that had stopped the run.
        """

        def load() -> tuple[CheckpointStore, dict | None]:
            checkpoint = CheckpointStore(directory, self.key(settings))
            return checkpoint, checkpoint.load()

        checkpoint, state = self.world.broadcast_result(load)
        if state is None:
            return checkpoint, None
        try:
            load_weights(self.network, state["weights"])
            load_moments(self.optimizer, state["moments"])
            self.fitted["loss_curve_"] = [float(loss) for loss in state["loss_curve"]]
            return checkpoint, state["stopped_by"]
        except Exception as error:
            raise checkpoint.refusal(
                f"does not fit the training: {type(error).__name__}: {error}"
            ) from error

    def leave_checkpoint(
        self, checkpoint: CheckpointStore, stopped_by: list[str] | None, *, complete: bool
    ) -> None:
        """Save the state of the run if enough time has passed, and always at its end."""
        if self.world.is_first:
            checkpoint.offer(
                lambda: {
                    "weights": to_plain(self.network.state_dict()),
                    "moments": {} if complete else to_plain(self.optimizer.state_dict()["state"]),
                    "loss_curve": list(self.fitted["loss_curve_"]),
                    "stopped_by": stopped_by,
                },
                last=complete or stopped_by is not None,
            )

    def key(self, settings: dict) -> str:
        """Name the run by all that its result depends on, in whatever process and on any device.

        The version of this package is part of it. That of torch is not: with another one a run goes
        on, if not to the last bit as it would have.

        Parameters
        ----------
        settings : dict
            What the run depends on besides the data, the network and the fitted attributes.
        """
        return fingerprint(
            {
                "version": __version__,
                "X": self.samples.digest(),
                "y": self.objective.labels,
                "encoder": self.fitted["_encoder"],
                "augmentation": self.fitted["_augmentation"],
                "weights": dict(self.network.state_dict()),
            }
            | settings
            | {name: self.fitted[name] for name in _OF_A_TRAINING}
        )

    def snapshot(self) -> dict:
        """Return the attributes as they are now, sharing nothing with the live network."""
        loss_curve = list(self.fitted["loss_curve_"])
        return self.fitted | {
            "_weights": to_plain(self.network.state_dict()),
            "loss_curve_": loss_curve,
            "loss_": loss_curve[-1] if loss_curve else math.nan,  # before the first epoch
            "n_iter_": len(loss_curve),
        }


def restored_network(
    fitted: dict, input_shape: tuple[int, ...], device: torch.device
) -> SimCLRNetwork:
    """Make the network that the fitted attributes describe, for samples (c, h, w) or (d,)."""
    trained = "_weights" in fitted
    network = build_network(
        fitted["_encoder"],
        fitted["_head"],
        network_input(input_shape, fitted["_view_size"]),
        fitted["mean_"],
        fitted["scale_"],
        n_features=fitted.get("_h_dim"),
        seed=derived_seed(fitted["_seed"], WEIGHTS_STREAM),
        device=device,
        draws=not trained,
    )
    if trained:
        load_weights(network, fitted["_weights"])
    return network


class _Idle(NamedTuple):
    """A network between two calls, and what it was made of."""

    network: SimCLRNetwork
    weights: list[ReferenceType]  # weak, so that they are not kept when there are new ones
    mean: np.ndarray
    scale: np.ndarray
    settings: tuple
    owner: ReferenceType  # removes it when the estimator is gone

    def is_made_of(self, fitted: dict, settings: tuple) -> bool:
        """Whether it would be made of the same now."""
        weights = [then() for then in self.weights], [*fitted["_weights"].values()]
        return (
            self.settings == settings
            and len(weights[0]) == len(weights[1])
            and all(map(operator.is_, *weights))
            and np.array_equal(self.mean, fitted["mean_"])
            and np.array_equal(self.scale, fitted["scale_"])
        )


# By the id of an estimator, the network of its last call. It is no attribute: those are plain
# values. Nor is the estimator the key: a subclass may have given up its hash.
_idle: dict[int, _Idle] = {}


@contextlib.contextmanager
def lent_network(
    estimator, input_shape: tuple[int, ...], device: torch.device
) -> Iterator[SimCLRNetwork]:
    """Lend the network of a fitted estimator for samples (c, h, w) or (d,); not to be trained.

    On a CPU the next call is lent the same one, unless the estimator has changed, since making it
    takes longer than using it for a few samples. A call meanwhile gets one of its own, and so does
    every call with a module of the user's, which may change when it is used.
    """
    key, fitted = id(estimator), dict(vars(estimator))  # another thread may be in partial_fit
    if device.type != "cpu" or not is_our_own(fitted["_encoder"]):
        yield restored_network(fitted, input_shape, device)
        return
    settings = input_shape, fitted["_head"], fitted["_view_size"]
    idle = _idle.pop(key, None)
    if idle is None or not idle.is_made_of(fitted, settings):
        idle = _Idle(
            restored_network(fitted, input_shape, device),
            [ref(value) for value in fitted["_weights"].values()],
            fitted["mean_"].copy(),
            fitted["scale_"].copy(),
            settings,
            ref(estimator, lambda _: _idle.pop(key, None)),
        )
    yield idle.network
    _idle[key] = idle


def network_input(input_shape: tuple[int, ...], view_size: int | None) -> tuple[int, ...]:
    """Shape of a sample (c, h, w) or (d,) as the encoder sees it."""
    return input_shape if view_size is None else (input_shape[0], view_size, view_size)


def views_of(fitted: dict, loss: str | Callable = "nt_xent") -> Views:
    """Make the views that the fitted attributes describe, to train for a loss or to look at."""
    encoder, augmentation = fitted["_encoder"], fitted["_augmentation"]
    own = is_our_own(encoder) and is_our_own(augmentation)
    # Encoders, augmentations and losses of ours never draw from torch's global generator, but
    # torchvision's networks do where they drop something.
    draws_globally = callable(loss) or not own or isinstance(encoder, TorchvisionEncoder)
    return Views(augmentation, fitted["_view_size"], draws_globally)
