"""The training loop; knows torch, not scikit-learn."""

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_simclr._batch_norm import quick_batch_norm
from sklearn_simclr._data import Samples, batch_shape, shuffled_batches
from sklearn_simclr._device import mixed_precision, synchronize
from sklearn_simclr._distributed import ALONE, World, disagreement, global_batch_norm
from sklearn_simclr._graphs import Replayed, fastest_convolutions
from sklearn_simclr._micro_batches import MicroBatches
from sklearn_simclr._network import (
    SimCLRNetwork,
    dropping_idle_strides,
    largest_weight,
    names_to_stay_finite,
)
from sklearn_simclr._placement import placed
from sklearn_simclr._random import (
    EPOCH_STREAM,
    GLOBAL_STREAM,
    cpu_generator,
    derived_seed,
    global_draws,
)
from sklearn_simclr._views import Views, is_view_of, refusal_of
from sklearn_simclr.losses import full_precision
from sklearn_simclr.optim import set_learning_rate

_COMPARED_ROWS = 64  # between processes
_WORTH_COMPILING = 180  # seconds of training that are left
_MANY_STEPS = 20_000  # for which it is worth some seconds to try all algorithms of convolutions


class EpochRecord(NamedTuple):
    """The result of one epoch."""

    epoch: int  # counted from 0 over the life of the model
    loss: float  # mean over the batches


class Objective(NamedTuple):
    """What training minimises."""

    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor]  # of z1, z2 and the labels of a batch
    labels: Tensor | None  # (n,) of all samples, -1 where there is none; None: not read
    description: str  # for error messages

    def __call__(self, z1: Tensor, z2: Tensor, index: Tensor) -> Tensor:
        """Return the loss of the projections of the samples at `index`."""
        labels = self.labels
        if labels is not None:
            labels = placed(labels[index], z1.device)
        return self.loss(z1, z2, labels)


def check_training(
    network: SimCLRNetwork, samples: Samples, views: Views, objective: Objective
) -> None:
    """Try the views, the network and the loss on two samples, before any long work.

    Raises
    ------
    ValueError
        If the augmentation fails, or returns something that the network cannot take, or if the
        loss fails or cannot be trained on.
    """
    index = torch.arange(2)
    with global_draws(views.draws_globally, 0, samples.device):
        z = _try_views(network, samples.batch(index), views)
        try:
            objective(*z.chunk(2), index)
        except Exception as error:
            raise ValueError(
                f"{objective.description} failed on projections of shape {(2, z.shape[1])}: "
                f"{type(error).__name__}: {error}"
            ) from error


def _try_views(network: SimCLRNetwork, batch: Tensor, views: Views) -> Tensor:
    """Return projections (2n, projection_dim) of the views of a batch, once they are found good."""
    try:
        with torch.no_grad():
            pair = views(batch, cpu_generator(0))
            with dropping_idle_strides(network):
                z = network.eval().head(network(torch.cat(pair)))
    except Exception as error:
        raise ValueError(
            f"augmentation={views.augmentation!r} failed on a batch of shape "
            f"{tuple(batch.shape)}, or made views that the encoder cannot take: "
            f"{type(error).__name__}: {error}"
        ) from error
    for view in pair:
        if not is_view_of(view, batch):
            raise refusal_of(view, batch, views.augmentation)
    return z.float().requires_grad_()


def check_agreement(world: World, samples: Samples, collect_facts: Callable[[], dict]) -> None:
    """Compare between processes what they are about to work on.

    Parameters
    ----------
    collect_facts : callable
        Returns values by the names that an error message gives them; one process does without.

    Raises
    ------
    ValueError
        On all processes, if a fact differs, or the samples do. Of many samples some are compared.
    """
    if world.size == 1:
        return
    facts = collect_facts() | {
        "the number of rows of X": len(samples),
        "the shape of a sample": samples.input_shape,
        "the pixels that stand for 0 and 1": samples.pixel_range,
        "the kind of device": samples.device.type,
    }
    everywhere = world.all_gather_object((facts, _glimpse(samples)))
    first_facts, first_glimpse = everywhere[0]
    for rank, (their_facts, glimpse) in enumerate(everywhere):
        differing = [name for name in facts if their_facts.get(name) != first_facts.get(name)]
        if differing or not np.allclose(glimpse, first_glimpse, rtol=1e-3, atol=1e-5):
            what = differing[0] if differing else "the values of X, or the order of its rows"
            values = (theirs.get(what) for theirs in (first_facts, their_facts))
            met = ": {!r} and {!r}".format(*values) if differing else ""
            raise disagreement(rank, what + met)


def _glimpse(samples: Samples) -> np.ndarray:
    """Return a number for each of some samples that tells it from most others."""
    n = len(samples)
    index = np.linspace(0, n - 1, min(n, _COMPARED_ROWS)).round().astype(np.int64)
    values = samples.batch(torch.from_numpy(index)).flatten(1).cpu().double().numpy()
    return values @ np.random.default_rng(0).random(values.shape[1]) / values.shape[1]


def train(
    network: SimCLRNetwork,
    optimizer: torch.optim.Optimizer,
    samples: Samples,
    views: Views,
    objective: Objective,
    *,
    n_epochs: int,
    first_epoch: int,
    batch_size: int,
    learning_rate_at: Callable[[int], float],
    precision: torch.dtype,
    seed: int,
    n_done: int = 0,
    micro_batch: int | None = None,
    compiles: bool | str = "auto",
    world: World = ALONE,
    on_step: Callable[[Callable[[], None]], None] | None = None,
) -> Iterator[EpochRecord]:
    """Train the network in place, and yield a record after each epoch.

    All randomness of an epoch is a function of `seed` and of the epoch's number. The processes of
    `world` take a share of each batch each; the result is that of one process alone.

    Parameters
    ----------
    learning_rate_at : callable
        Maps the number of a step of this run, from 0, to its learning rate.
    n_done : int, default=0
        Epochs of this run done before; network and optimizer are in the state after them.
    micro_batch : int, default=None
        Samples that the network gets at a time, of all processes together; None: the whole batch.
        One process halves it when memory runs out.
    compiles : bool or "auto", default="auto"
        Whether torch.compile fuses the kernels of the network. "auto": where steps are recorded, as
        soon as an epoch has shown that the others take minutes. Steps are recorded as CUDA graphs
        unless it is False, on a GPU, where only parts of this package take part.
    on_step : callable, default=None
        Called after each step, with a function that waits until the device has done it.

    Raises
    ------
    FloatingPointError
        If the loss of an epoch, or a weight after it, is not finite. Whatever ends an
        epoch early, the network is left as it was before that epoch.
    torch.OutOfMemoryError
        If memory does not suffice.
    """
    n_batches, size = batch_shape(len(samples), batch_size)
    if size < world.size:
        raise ValueError(
            f"Batches of {size} samples cannot be shared by {world.size} processes, each of which "
            f"needs one: raise batch_size={batch_size}, or start fewer processes."
        )
    world.broadcast(network.state_dict().values())

    def project(x: Tensor) -> Tensor:
        return network.head(network(x))  # (2k, projection_dim)

    micro_batches = MicroBatches(
        network,
        project,
        device=samples.device,
        precision=precision,
        draws_globally=views.draws_globally,
        batch_size=batch_size,
        n_views=2,
        size=micro_batch,
        world=world,
    )
    if compiles is True:
        micro_batches.compile(warns=True)
    finite = names_to_stay_finite(network)
    take_step = step = _Step(network, optimizer, objective, micro_batches, precision, world)
    pairs_of, n_steps = views.pairs, (n_epochs - n_done) * n_batches
    is_recorded = compiles is not False and _is_recordable(samples, views, objective, world)
    if is_recorded:
        take_step = step.recorded(n_steps, size)
        pairs_of = views.replayed_pairs(n_steps, samples.device)
    may_compile = is_recorded and compiles == "auto"
    for number in range(n_done, n_epochs):
        epoch, start = first_epoch + number, perf_counter()
        rates = [learning_rate_at(number * n_batches + batch) for batch in range(n_batches)]
        # Code that draws globally sees other samples in each process, and must draw differently.
        global_seed = derived_seed(seed, GLOBAL_STREAM, epoch, world.rank)
        with (
            _put_back_on_error(network),
            global_draws(views.draws_globally, global_seed, samples.device),
            global_batch_norm(network, world),
            contextlib.nullcontext() if compiles is True else quick_batch_norm(network),
            fastest_convolutions(compiles is True or (is_recorded and n_steps >= _MANY_STEPS)),
        ):
            generator = cpu_generator(seed, EPOCH_STREAM, epoch)
            indices = shuffled_batches(len(samples), batch_size, generator)
            pairs = _pairs(samples, views, pairs_of, indices, generator, world)
            loss, largest = _train_epoch(step, take_step, indices, rates, pairs, finite, on_step)
            if not math.isfinite(loss + largest):
                raise FloatingPointError(
                    f"Epoch {epoch + 1} ended with a loss of {loss} and weights up to "
                    f"{largest}: likely causes are a learning rate that is too high (here "
                    f"up to {max(rates):.3g}), a very low temperature ({objective.description}), "
                    "or an encoder or augmentation that overflows in "
                    f"{str(precision).removeprefix('torch.')}."
                )
        n_left = n_epochs - number - 1
        if may_compile and n_left * (perf_counter() - start) > _WORTH_COMPILING:
            micro_batches.compile(warns=False)
            may_compile = False
            take_step = step.recorded(n_left * n_batches, size)
        yield EpochRecord(epoch, loss)


@contextlib.contextmanager
def _put_back_on_error(network: nn.Module) -> Iterator[None]:
    """Give the network its present state again if what is done within does not end well."""
    before = copy.deepcopy(network.state_dict())
    try:
        yield
    except BaseException:
        network.load_state_dict(before)
        raise


def _is_recordable(samples: Samples, views: Views, objective: Objective, world: World) -> bool:
    """Whether every step runs the same kernels and none of them waits for the CPU."""
    # Looking for anomalies, torch waits for each kernel.
    ours = not (views.draws_globally or objective.labels is not None or torch.is_anomaly_enabled())
    return ours and samples.device.type == "cuda" and world.size == 1


class _Step(NamedTuple):
    """What a step of training works with."""

    network: SimCLRNetwork
    optimizer: torch.optim.Optimizer
    objective: Objective
    micro_batches: MicroBatches
    precision: torch.dtype
    world: World

    def __call__(self, x: Tensor, index: Tensor) -> Tensor:
        """Step on this process's views (2k, ...) of the samples at `index`; return the loss."""
        loss_of = partial(_loss, self.objective, index, self.world)
        loss = self.micro_batches.backward(x, loss_of, len(index))
        self.world.all_reduce_gradients(self.network.parameters())
        with mixed_precision(self.precision, x.device):
            self.optimizer.step()
        return loss

    def recorded(self, n_steps: int, size: int) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the same step as a `Replayed`, for `n_steps` batches of one size."""
        index = torch.arange(size)  # only its length is read
        replayed = Replayed(lambda x: self(x, index), n_steps)
        return lambda x, index: replayed(x)


def _train_epoch(
    step: _Step,
    take_step: Callable[[Tensor, Tensor], Tensor],
    indices: Tensor,
    rates: list[float],
    pairs: Iterator[Tensor],
    finite: list[str],
    on_step: Callable[[Callable[[], None]], None] | None,
) -> list[float]:
    """Take one step for each batch; return the mean loss and the largest weight of those named.

    `take_step` does what `step` does, perhaps by a recording. Reading the two numbers is the only
    wait for the device, unless `on_step` waits.
    """
    network, world, device = step.network, step.world, step.micro_batches.device
    network.train()
    total = torch.zeros((), dtype=torch.float32, device=device)
    for index, rate, x in zip(indices, rates, pairs, strict=True):
        set_learning_rate(step.optimizer, rate)
        total += take_step(x, index)
        if on_step is not None:
            on_step(partial(synchronize, device))
    world.broadcast(_state_of(network, step.optimizer))
    results = torch.stack([total / len(indices), largest_weight(network, finite)])
    return world.all_reduce_mean(results).tolist()


def _pairs(
    samples: Samples,
    views: Views,
    pairs_of: Callable[[Iterable[Tensor], torch.Generator], Iterator[Tensor]],
    indices: Tensor,
    generator: torch.Generator,
    world: World,
) -> Iterator[Tensor]:
    """Yield both views (2k, c, h, w) of the k samples of each batch that are this process's."""
    samples = samples.in_bytes() if views.take_bytes else samples
    n = indices.shape[1]
    share = world.share(n)
    if world.size == 1:
        pairs = pairs_of(samples.batches(indices), generator)
    else:
        needed = indices if views.mixes_samples else indices[:, share]
        batches = samples.batches(needed)
        pairs = (torch.cat(views.of_share(rows, generator, share, n)) for rows in batches)
    k = share.stop - share.start
    for pair in pairs:
        if len(pair) != 2 * k:
            raise ValueError(
                f"augmentation={views.augmentation!r} must return one view a sample; of {k} "
                f"samples it made {len(pair)} views in two calls."
            )
        yield pair


def _loss(objective: Objective, index: Tensor, world: World, z: Tensor) -> Tensor:
    """Return the loss of a batch, of which z (2k, d) are this process's projections."""
    return objective(*_of_all(z, len(index), world), index)


def _of_all(z: Tensor, n: int, world: World) -> tuple[Tensor, Tensor]:
    """Put the projections (2k, d) of all processes together: z1 and z2, (n, d) each."""
    if world.size == 1:
        z1, z2 = z.chunk(2)
        return z1, z2
    pairs = torch.stack(full_precision(z).chunk(2), dim=1)  # (k, 2, d)
    z1, z2 = world.all_gather_with_gradient(pairs, n).unbind(1)
    return z1, z2


def _state_of(network: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Yield all tensors that training continues from."""
    yield from network.state_dict().values()
    for moments in optimizer.state.values():
        yield from (value for value in moments.values() if isinstance(value, Tensor))
