"""From a batch to the views that are trained on."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklearn_simclr._composition import draws_params, is_our_own
from sklearn_simclr._graphs import Replayed, beside
from sklearn_simclr._kernels import resize
from sklearn_simclr._placement import map_leaves, packed, placed, unpacked
from sklearn_simclr.augmentation import makes_size, mixes_samples, takes_bytes


def is_view_of(view, batch: Tensor) -> bool:
    """Whether something is one float view for each sample of a batch."""
    is_float = isinstance(view, Tensor) and view.is_floating_point()
    return is_float and view.ndim > 0 and len(view) == len(batch)


def refusal_of(
    view, batch: Tensor, augmentation: Callable, wanted: str = "one float view a sample"
) -> ValueError:
    """Make the error for an augmentation that returned something else than is wanted."""
    met = f"{view.dtype} of shape {tuple(view.shape)}" if isinstance(view, Tensor) else repr(view)
    return ValueError(
        f"augmentation={augmentation!r} must return {wanted}; for a batch of shape "
        f"{tuple(batch.shape)} it returned {met}."
    )


def two_views(augmentation, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the pair of views that the loss compares.

    Augmentation objects, those with ``make_params``, get the generator; any other callable gets
    the batch alone and draws as it likes.
    """
    if not draws_params(augmentation):
        return augmentation(batch.clone()), augmentation(batch)  # it may work in place
    params = _draw_two(augmentation, batch.shape, generator)
    return _make_two(augmentation, batch, _sent(augmentation, params, batch.device))


def _draw_two(augmentation, shape: tuple[int, ...], generator: torch.Generator) -> list[dict]:
    """Draw the parameters of both views of a batch; of one if the other is the batch itself."""
    n_drawn = 1 if mixes_samples(augmentation) else 2
    return [augmentation.make_params(shape, generator) for _ in range(n_drawn)]


def _make_two(augmentation, batch: Tensor, params: list[dict]) -> tuple[Tensor, Tensor]:
    """Make the pair of views that `_draw_two` has drawn parameters of."""
    *first, second = (augmentation.apply(batch, each) for each in params)
    return (*first, second) if first else (batch, second)


def _sent(augmentation, params, device: torch.device):
    """Send the parameters of our own views to a GPU, in one transfer; leave those of others."""
    if device.type != "cuda" or not is_our_own(augmentation):
        return params
    return unpacked(placed(packed(params), device), like=params)


def _rows_of(values: Tensor | np.ndarray, share: slice, n: int) -> Tensor | np.ndarray:
    """Take the share of values that have a row for each of n samples, and all of others."""
    return values[share] if values.ndim and len(values) == n else values


class Views(NamedTuple):
    """How a batch becomes two views, or one; no gradient reaches into it."""

    augmentation: Callable
    image_size: int | None
    draws_globally: bool  # whether views or encoder may draw from torch's global generator

    @torch.no_grad()
    def __call__(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return two views of each sample."""
        return two_views(self.augmentation, self._resized(batch), generator)

    def pairs(self, batches: Iterable[Tensor], generator: torch.Generator) -> Iterator[Tensor]:
        """Yield two views of each of the n samples of each batch, together (2n, ...)."""
        return (torch.cat(self(batch, generator)) for batch in batches)

    def replayed_pairs(
        self, n_batches: int, device: torch.device
    ) -> Callable[[Iterable[Tensor], torch.Generator], Iterator[Tensor]]:
        """Return a `pairs` for a GPU: it replays a graph, on a stream beside that of training.

        Parameters
        ----------
        n_batches : int
            How many batches there will be, of all calls together and all of one shape.
        device : torch.device
            The GPU that they are on.
        """
        make, like = None, None

        def both(batch: Tensor, data: Tensor) -> Tensor:
            return torch.cat(_make_two(self.augmentation, batch, unpacked(data, like)))

        def pair_of(batch: Tensor, generator: torch.Generator) -> Tensor:
            nonlocal make, like
            batch = self._resized(batch)
            params = _draw_two(self.augmentation, batch.shape, generator)
            if make is None:
                make, like = Replayed(both, n_batches), params
            return make(batch, placed(packed(params), device))

        def pairs(batches: Iterable[Tensor], generator: torch.Generator) -> Iterator[Tensor]:
            return beside(lambda batch: pair_of(batch, generator), batches, device)

        return pairs

    @torch.no_grad()
    def of_share(
        self, rows: Tensor, generator: torch.Generator, share: slice, n: int
    ) -> tuple[Tensor, Tensor]:
        """Return the two views that a batch of n samples gives those in `share`.

        `rows` are the samples in the share, or the whole batch if `mixes_samples`.
        """
        rows, augmentation = self._resized(rows), self.augmentation
        if self.mixes_samples:
            first, second = two_views(augmentation, rows, generator)
            return first[share], second[share]
        if not draws_params(augmentation):
            return two_views(augmentation, rows, generator)
        params = _draw_two(augmentation, (n, *rows.shape[1:]), generator)
        kinds = (Tensor, np.ndarray)
        params = map_leaves(lambda values: _rows_of(values, share, n), params, kinds)
        return _make_two(augmentation, rows, _sent(augmentation, params, rows.device))

    @property
    def take_bytes(self) -> bool:
        """Whether the batch may be uint8."""
        return takes_bytes(self.augmentation)

    @property
    def mixes_samples(self) -> bool:
        """Whether a view needs other samples of the batch."""
        return mixes_samples(self.augmentation)

    @torch.no_grad()
    def single(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Return one view of each sample."""
        batch = self._resized(batch)
        if draws_params(self.augmentation):
            return self.augmentation(batch, generator)
        return self.augmentation(batch)

    def _resized(self, batch: Tensor) -> Tensor:
        return batch if makes_size(self.augmentation) else resize(batch, self.image_size)
