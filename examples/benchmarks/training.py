"""Images per second in training on this machine: ours, lightly, and the limit by convolutions.

    pip install ".[benchmarks]"
    python training.py

Both sides train the same ResNet-18 for 32 pixels, whole and of a quarter of the width, in batches
of 256 images of noise. Ours is a call of `fit` from the array to the trained transformer, in the
precision that it chooses; lightly is trained as in peers.py, with --workers for its DataLoader.
Both take turns. The machine's limit is the time that the convolutions of a step take alone, forward
and backward in bfloat16 (float32 if the machine has no bfloat16), one after another on tensors that
are already there. Added to results/training.md.
"""

import argparse
import statistics
import time
import warnings
from collections import deque

import lightly
import numpy as np
import torch
from common import Table, machine
from peers import train_lightly
from torch import nn

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr._allocator import reused_memory
from sklearn_simclr._device import multiplies_bfloat16
from sklearn_simclr.encoders import ResNetEncoder

SIDE = 32


def seconds_of(function, *args) -> float:
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def ours(encoder, images, batch_size, seed):
    SimCLRTransformer(
        encoder, batch_size=batch_size, max_epochs=1, random_state=seed, device="cpu"
    ).fit(images)


def of_lightly(encoder, images, batch_size, n_workers, seed):
    network = encoder.build((3, SIDE, SIDE))
    n_features = round(512 * encoder.width)
    epochs = train_lightly(
        network,
        n_features,
        images,
        n_epochs=1,
        batch_size=batch_size,
        n_workers=n_workers,
        seed=seed,
    )
    deque(epochs, maxlen=0)


def shapes_of_convolutions(network: nn.Module) -> list[tuple[nn.Conv2d, torch.Size]]:
    """Return each convolution and the shape of one of its input samples."""
    found = []
    hooks = [
        module.register_forward_pre_hook(lambda m, args: found.append((m, args[0].shape[1:])))
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    network(torch.zeros(2, 3, SIDE, SIDE))
    for hook in hooks:
        hook.remove()
    return found


@reused_memory()
def seconds_of_convolutions(encoder, n: int, rounds: int) -> float:
    """Return the seconds of all convolutions of a step on n views, each run alone."""
    dtype = torch.bfloat16 if multiplies_bfloat16(torch.device("cpu")) else torch.float32
    total = 0.0
    for i, (conv, shape) in enumerate(shapes_of_convolutions(encoder.build((3, SIDE, SIDE)))):
        layout = {"memory_format": torch.channels_last}
        x = torch.rand(n, *shape).to(dtype).contiguous(**layout).requires_grad_(i > 0)
        weight = conv.weight.detach().to(dtype).contiguous(**layout).requires_grad_()
        inputs = (x, weight) if i else (weight,)
        gradient = torch.rand_like(torch.conv2d(x, weight, None, conv.stride, conv.padding))

        def both_ways():
            y = torch.conv2d(x, weight, None, conv.stride, conv.padding)  # noqa: B023
            torch.autograd.grad(y, inputs, gradient)  # noqa: B023

        both_ways()
        total += statistics.median(seconds_of(both_ways) for _ in range(rounds))
    return total


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=float, nargs="+", default=[0.25, 1.0])
    parser.add_argument("--batches", type=int, nargs="+", default=[10, 3], help="for each width")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    table = Table(
        "training",
        f"Images a second of training, medians of {args.rounds} rounds in turn",
        f"Batches of {args.batch_size}; lightly {lightly.__version__} with {args.workers} workers. "
        f"{machine()}",
        ["network", "ours", "lightly", "ours to lightly", "convolutions alone", "ours to those"],
    )
    for width, n_batches in zip(args.widths, args.batches, strict=True):
        encoder = ResNetEncoder(width=width)
        images = np.random.default_rng(args.seed).integers(
            0, 256, (n_batches * args.batch_size, SIDE, SIDE, 3), dtype=np.uint8
        )
        warm = images[: args.batch_size]
        ours(encoder, warm, args.batch_size, args.seed)
        of_lightly(encoder, warm, args.batch_size, args.workers, args.seed)
        seconds = {"ours": [], "lightly": [], "roof": []}
        for _ in range(args.rounds):
            seconds["ours"].append(seconds_of(ours, encoder, images, args.batch_size, args.seed))
            peer = (of_lightly, encoder, images, args.batch_size, args.workers, args.seed)
            seconds["lightly"].append(seconds_of(*peer))
            alone = seconds_of_convolutions(encoder, 2 * args.batch_size, rounds=3)
            seconds["roof"].append(n_batches * alone)
        rate = {name: len(images) / statistics.median(each) for name, each in seconds.items()}
        table.add(
            f"ResNet-18, width {width:g}",
            f"{rate['ours']:.0f}",
            f"{rate['lightly']:.0f}",
            f"{rate['ours'] / rate['lightly']:.2f}",
            f"{rate['roof']:.0f}",
            f"{rate['ours'] / rate['roof']:.0%}",
        )
    table.save()


if __name__ == "__main__":
    main()
