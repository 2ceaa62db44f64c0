"""Fitted state to and from NumPy arrays and plain values."""

import os
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_simclr._placement import map_leaves


def portable(state: dict) -> dict:
    """Copy attributes with paths as strings: those of pathlib unpickle on one kind of system."""
    return {
        name: os.fspath(value) if isinstance(value, os.PathLike) else value
        for name, value in state.items()
    }


def to_plain(value):
    """Copy a state dict, with every tensor turned into a NumPy array."""
    return map_leaves(lambda tensor: tensor.detach().cpu().numpy().copy(), value)


def to_tensors(value):
    """Undo `to_plain`, on the CPU."""
    return map_leaves(torch.tensor, value, kind=np.ndarray)


def load_weights(network: nn.Module, weights: dict[str, np.ndarray]) -> None:
    """Put weights that `to_plain` made of a network's state dict into a network like it."""
    state = OrderedDict(to_tensors(weights))
    # The versions of layers: some refuse to load without.
    state._metadata = network.state_dict()._metadata
    network.load_state_dict(state)


def load_moments(optimizer: torch.optim.Optimizer, moments: dict) -> None:
    """Put moments that `to_plain` made of ``state_dict()["state"]`` into an optimizer like it.

    Raises
    ------
    ValueError
        If a moment is not of the shape of its weights.
    """
    optimizer.load_state_dict(optimizer.state_dict() | {"state": to_tensors(moments)})
    for param, of_param in optimizer.state.items():
        for name, moment in of_param.items():
            if isinstance(moment, Tensor) and moment.ndim:
                of_param[name] = _laid_out_like(param, moment)


def _laid_out_like(param: Tensor, moment: Tensor) -> Tensor:
    """Give a moment the memory layout of its weights, as optimizers do."""
    if moment.shape != param.shape:
        raise ValueError(
            f"A moment of shape {tuple(moment.shape)} belongs to weights of shape "
            f"{tuple(param.shape)}."
        )
    return torch.empty_like(param, dtype=moment.dtype).copy_(moment)
