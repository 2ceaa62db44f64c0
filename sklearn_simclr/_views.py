"""From a batch to the views that are trained on."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sklearn_simclr._kernels import resize
from sklearn_simclr.augmentation import two_views


class Views(NamedTuple):
    """How a batch becomes two views, or one."""

    augmentation: Callable
    image_size: int | None
    draws_globally: bool  # whether views or encoder may draw from torch's global generator

    def __call__(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return two views of each sample."""
        return two_views(self.augmentation, self._resized(batch), generator)

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
