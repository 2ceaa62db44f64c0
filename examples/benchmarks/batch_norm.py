"""Batch normalisation of few channels on a CPU: torch's own and this package's.

    python batch_norm.py

Times the forward and backward pass of one layer, on noise (512, channels, 32, 32) in channels-last
layout. Both sides take turns; the table has medians over five rounds. The package uses its own
method below 32 channels, except for 16; here it is made to use it for all. Written to
results/batch_norm.md.
"""

import argparse
import statistics
import time

import torch
from common import Table, machine
from torch import nn

from sklearn_simclr import _batch_norm
from sklearn_simclr._allocator import reused_memory

CHANNELS = (4, 8, 12, 16, 20, 24, 32, 40, 64)


def seconds(norm: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> float:
    """Time a forward and backward pass."""
    start = time.perf_counter()
    torch.autograd.grad(norm(x), (x, norm.weight, norm.bias), dy)
    return time.perf_counter() - start


@reused_memory()
def compare(shape: tuple[int, ...], dtype: torch.dtype, rounds: int) -> tuple[float, float]:
    """Return the median seconds of torch's layer and of the same layer by this package."""
    x, dy = (
        torch.randn(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    x.requires_grad_()
    norms = nn.BatchNorm2d(shape[1]), nn.BatchNorm2d(shape[1])
    with _batch_norm.quick_batch_norm(norms[1]):
        turns = [[seconds(norm, x, dy) for norm in norms] for _ in range(rounds + 1)]
    torchs, ours = zip(*turns[1:], strict=True)  # the first round is a warm-up
    return statistics.median(torchs), statistics.median(ours)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    _batch_norm._is_slow = lambda module: True
    table = Table(
        "batch_norm",
        f"Batch normalisation of {args.samples} maps of {args.side} px, forward and backward",
        f"Medians of {args.rounds} rounds. {machine()}",
        ["channels", "arithmetic", "torch (ms)", "this package (ms)", "ratio"],
    )
    for dtype in (torch.bfloat16, torch.float32):
        for channels in CHANNELS:
            shape = args.samples, channels, args.side, args.side
            torchs, ours = compare(shape, dtype, args.rounds)
            milliseconds = f"{1000 * torchs:.1f}", f"{1000 * ours:.1f}"
            name = str(dtype).removeprefix("torch.")
            table.add(f"{channels}", name, *milliseconds, f"{torchs / ours:.1f}")
    table.save(append=False)


if __name__ == "__main__":
    main()
