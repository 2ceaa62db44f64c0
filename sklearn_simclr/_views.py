"""From a batch to the views that are trained on."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_simclr._graphs import Replayed
from sklearn_simclr._kernels import resize
from sklearn_simclr._placement import packed, placed, unpacked
from sklearn_simclr.augmentation import (
    draw_two,
    make_two,
    mixes_samples,
    takes_bytes,
    two_views,
    two_views_of_share,
)


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


class Views(NamedTuple):
    """How a batch becomes two views, or one."""

    augmentation: Callable
    image_size: int | None
    draws_globally: bool  # whether views or encoder may draw from torch's global generator

    def __call__(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return two views of each sample."""
        return two_views(self.augmentation, self._resized(batch), generator)

    def together(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Return two views of each of n samples, all in one batch (2n, ...)."""
        return torch.cat(self(batch, generator))

    def replayed(self, n_calls: int) -> Callable[[Tensor, torch.Generator], Tensor]:
        """Return a function that does as `together`, with the kernels of a GPU as `Replayed`.

        Parameters
        ----------
        n_calls : int
            How many batches there will be, all of one shape.
        """
        make, drawn = None, None

        def both(batch: Tensor, data: Tensor) -> Tensor:
            params = unpacked(data, like=drawn)
            return torch.cat(make_two(self.augmentation, batch, params))

        def views(batch: Tensor, generator: torch.Generator) -> Tensor:
            nonlocal make, drawn
            batch = self._resized(batch)
            params = draw_two(self.augmentation, batch.shape, generator)
            if make is None:
                make, drawn = Replayed(both, n_calls), params
            return make(batch, placed(packed(params), batch.device))

        return views

    def of_share(
        self, rows: Tensor, generator: torch.Generator, share: slice, n: int
    ) -> tuple[Tensor, Tensor]:
        """Return the two views that a batch of n samples gives those in `share`.

        `rows` are the samples in the share, or the whole batch if `mixes_samples`.
        """
        return two_views_of_share(self.augmentation, self._resized(rows), generator, share, n)

    @property
    def take_bytes(self) -> bool:
        """Whether the batch may be uint8."""
        return takes_bytes(self.augmentation)

    @property
    def mixes_samples(self) -> bool:
        """Whether a view needs other samples of the batch."""
        return mixes_samples(self.augmentation)

    def single(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Return one view of each sample."""
        batch = self._resized(batch)
        if hasattr(self.augmentation, "make_params"):
            return self.augmentation(batch, generator)
        return self.augmentation(batch)

    def _resized(self, batch: Tensor) -> Tensor:
        if self.image_size and not hasattr(self.augmentation, "size"):
            return resize(batch, self.image_size)
        return batch
