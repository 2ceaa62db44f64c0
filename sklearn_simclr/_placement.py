"""Tensors on their way to a device, without waiting for what it has yet to do."""

import torch
from torch import Tensor


def placed(values: Tensor, device: torch.device) -> Tensor:
    """Bring values to a device; a GPU gets them in their turn, and nobody waits for it."""
    return pinned(values, device).to(device, non_blocking=device.type == "cuda")


def pinned(values: Tensor, device: torch.device) -> Tensor:
    """Put values that are to go from the CPU to a GPU where it fetches them when it comes to it.

    CUDA may wait first for what lies in other memory.
    """
    is_sent = device.type == "cuda" and values.device.type == "cpu"
    return values.pin_memory() if is_sent else values
