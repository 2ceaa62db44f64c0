"""The supervised loop: encoder and linear head on labelled rows; knows torch, not scikit-learn."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sklearn_simclr._data import Samples
from sklearn_simclr._device import synchronize
from sklearn_simclr._micro_batches import MicroBatches
from sklearn_simclr._network import (
    SimCLRNetwork,
    dropping_idle_strides,
    largest_weight,
    names_to_stay_finite,
)
from sklearn_simclr._placement import placed
from sklearn_simclr._random import (
    STEPS_GLOBAL_STREAM,
    STEPS_STREAM,
    cpu_generator,
    derived_seed,
    global_draws,
)
from sklearn_simclr._views import Views
from sklearn_simclr.optim import set_learning_rate

_RECORDS = 10  # of one fine-tuning


class NetworkWithHead(nn.Module):
    """A network with a linear layer behind the features that `output_layer` asks for.

    Parameters
    ----------
    network : SimCLRNetwork
        Trained in place.
    output_layer : int
        How many layers of the projection head stay in front of the linear layer.
    coef, intercept : ndarray of shape (k, d) and (k,)
        The linear layer to start from.
    """

    def __init__(
        self, network: SimCLRNetwork, output_layer: int, coef: np.ndarray, intercept: np.ndarray
    ):
        super().__init__()
        self.network = network
        self.output_layer = output_layer
        like = {"dtype": torch.float32, "device": network.mean.device}
        self.coef = nn.Parameter(torch.tensor(coef, **like))
        self.intercept = nn.Parameter(torch.tensor(intercept, **like))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, k) of a batch."""
        features = self.network.represent(x, self.output_layer)  # (n, d)
        return F.linear(features, self.coef, self.intercept)


class Task(NamedTuple):
    """What the classes of which samples are learned from."""

    rows: Tensor  # (m,) numbers of the samples that are learned from
    targets: Tensor  # (m,) their classes, or (m, k) probabilities of the classes
    temperature: float = 1.0  # divides the logits

    def loss(self, logits: Tensor, index: Tensor) -> Tensor:
        """Return the mean cross entropy of the rows at `index`, in float32."""
        targets = placed(self.targets[index], logits.device)
        return F.cross_entropy(logits.float() / self.temperature, targets)


class StepsRecord(NamedTuple):
    """The result of a tenth of the steps."""

    step: int  # the last one, counted from 1
    losses: list[float]  # of each step


def n_records(n_steps: int) -> int:
    """How many records fine-tuning of so many steps yields: ten, or one a step."""
    return min(n_steps, _RECORDS)


def drawn_batches(n_rows: int, batch_size: int, n_steps: int, generator: Generator) -> Tensor:
    """Draw batches (n_steps, batch_size) out of shuffles of all rows put end to end.

    Every batch is full, however few rows there are, and how often rows come up differs by one at
    most.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr._finetuning import drawn_batches
    >>> drawn_batches(3, 4, 3, torch.Generator().manual_seed(0)).flatten().bincount()
    tensor([4, 4, 4])
    """
    batch_size = int(batch_size)  # NumPy's small integers overflow
    n_shuffles = -(-n_steps * batch_size // n_rows)
    order = torch.empty(n_shuffles * n_rows, dtype=torch.long)
    for shuffle in order.split(n_rows):
        torch.randperm(n_rows, generator=generator, out=shuffle)
    return order[: n_steps * batch_size].view(n_steps, batch_size)


def fine_tune(
    model: NetworkWithHead,
    optimizer: torch.optim.Optimizer,
    samples: Samples,
    task: Task,
    views: Views,
    *,
    n_steps: int,
    batch_size: int,
    learning_rate_at: Callable[[int], float],
    precision: torch.dtype,
    seed: int,
    on_step: Callable[[Callable[[], None]], None] | None = None,
) -> Iterator[StepsRecord]:
    """Train network and head in place on single views, and yield `n_records` records.

    The network is in evaluation mode: batch normalisation keeps the statistics of the
    pre-training, which a few rows could only spoil, and there is no dropout.

    Parameters
    ----------
    learning_rate_at : callable
        Maps the number of a step, from 0, to its learning rate.
    on_step : callable, default=None
        Called after each step, with a function that waits until the device has done it.

    Raises
    ------
    FloatingPointError
        If a loss, or a weight after it, is not finite.
    """
    with global_draws(views.draws_globally, seed, samples.device), torch.no_grad():
        view = views.single(samples.batch(task.rows[:1]), cpu_generator(seed))
        with dropping_idle_strides(model):
            model.eval()(view)
    finite = names_to_stay_finite(model)
    generator = cpu_generator(seed, STEPS_STREAM)
    batches = drawn_batches(len(task.rows), batch_size, n_steps, generator)
    micro_batches = MicroBatches(
        model,
        model,
        device=samples.device,
        precision=precision,
        draws_globally=views.draws_globally,
        batch_size=batch_size,
    )
    for steps in torch.arange(n_steps).tensor_split(n_records(n_steps)):
        first, end = int(steps[0]), int(steps[-1]) + 1
        rates = [learning_rate_at(step) for step in range(first, end)]
        global_seed = derived_seed(seed, STEPS_GLOBAL_STREAM, first)
        indices, losses = batches[first:end], []
        rows = samples.batches(task.rows[index] for index in indices)
        with global_draws(views.draws_globally, global_seed, samples.device):
            for index, rate, batch in zip(indices, rates, rows, strict=True):
                set_learning_rate(optimizer, rate)
                x = views.single(batch, generator)
                loss = micro_batches.backward(x, partial(task.loss, index=index), len(index))
                optimizer.step()
                losses.append(loss)
                if on_step is not None:
                    on_step(partial(synchronize, samples.device))
            losses = torch.stack(losses).tolist()  # the only wait, unless `on_step` waits
            largest = float(largest_weight(model, finite))
        if not math.isfinite(sum(losses) + largest):
            raise FloatingPointError(
                f"Steps {first + 1} to {end} of the fine-tuning ended with a loss of {losses[-1]} "
                f"and weights up to {largest}: a likely cause is a learning rate that is too high "
                f"(here up to {max(rates):.3g})."
            )
        yield StepsRecord(end, losses)
