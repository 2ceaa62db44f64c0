"""Tensors on their way to a device, without waiting for what it has yet to do."""

import torch
from torch import Tensor


def placed(values: Tensor, device: torch.device) -> Tensor:
    """Bring values to a device; a GPU gets them in their turn, and nobody waits for it.

    CUDA reads memory that it has pinned when it comes to it. For any other it may wait first.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
