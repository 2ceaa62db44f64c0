"""Tensors on their way to a device or another process, few at a time and without waiting."""

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

_ALIGNMENT = 16  # in bytes; no type of number needs more


def placed(values: Tensor, device: torch.device) -> Tensor:
    """Bring values to a device; the CPU does not wait for the transfer to a GPU."""
    return pinned(values, device).to(device, non_blocking=device.type == "cuda")


def pinned(values: Tensor, device: torch.device) -> Tensor:
    """Pin values on the CPU that are to go to a GPU, so that the CPU need not wait for it.

    The transfer of other memory may block.
    """
    is_sent = device.type == "cuda" and values.device.type == "cpu"
    return values.pin_memory() if is_sent else values


def by_kind(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Group tensors of one dtype and one device, which can travel together."""
    groups = defaultdict(list)
    for tensor in tensors:
        groups[tensor.dtype, tensor.device].append(tensor)
    return list(groups.values())


def map_leaves(function: Callable, params, kind: type | tuple[type, ...] = Tensor):
    """Apply a function to what is of a kind in dictionaries, lists and tuples, at whatever depth.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr._placement import map_leaves
    >>> map_leaves(lambda values: values + 1, {"one": torch.ones(2), "name": "text"})
    {'one': tensor([2., 2.]), 'name': 'text'}
    """
    if isinstance(params, dict):
        return {name: map_leaves(function, value, kind) for name, value in params.items()}
    if isinstance(params, list | tuple):
        values = [map_leaves(function, value, kind) for value in params]
        return type(params)(*values) if hasattr(params, "_fields") else type(params)(values)
    return function(params) if isinstance(params, kind) else params


def packed(params) -> Tensor:
    """Put the bytes of all tensors in `params` behind each other, for a single transfer."""
    parts = []

    def add(values: Tensor) -> Tensor:
        data = values.contiguous().view(-1).view(torch.uint8)
        parts.append(F.pad(data, (0, -len(data) % _ALIGNMENT)))
        return values

    map_leaves(add, params)
    return torch.cat(parts)


def unpacked(data: Tensor, like):
    """Find the tensors in what `packed` made of others such as those in `like`.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr._placement import packed, unpacked
    >>> params = {"chosen": torch.tensor([True, False]), "angle": torch.tensor([0.5])}
    >>> unpacked(packed(params), like=params)
    {'chosen': tensor([ True, False]), 'angle': tensor([0.5000])}
    """
    start = 0

    def take(values: Tensor) -> Tensor:
        nonlocal start
        n_bytes = values.numel() * values.element_size()
        found = data[start : start + n_bytes].view(values.dtype).view(values.shape)
        start += n_bytes + -n_bytes % _ALIGNMENT
        return found

    return map_leaves(take, like)
