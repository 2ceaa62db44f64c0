"""`transform` compared with a bare forward pass of the same network.

    python transform.py

The bare pass gets what `transform` has to make first: normalised float32 images on the device, in
channels-last layout. It runs in evaluation and inference mode, with the fastest of --batch-sizes;
`transform` gets and returns NumPy arrays, the input as bytes. Both take turns in each round. Rates
are those of the median times. "share" is the median of the ratios of the rounds in wall-clock time,
and "by the processor" that in processor time, which is more reliable on a busy machine. The last
three columns are the time of one image, in a bare pass and in one of a series of calls of
`transform`, and that of making the network, which only the first call on a CPU has to do. Encoders
are not trained. Written to results/transform.md.
"""

import argparse
import statistics
import time
from typing import NamedTuple

import numpy as np
import torch
from common import Table, machine

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr._device import resolve_device, synchronize
from sklearn_simclr._run import restored_network
from sklearn_simclr.encoders import ConvNetEncoder, ResNetEncoder

BATCH_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)
COLUMNS = ["network", "images", "best batch", "bare (images/s)", "transform (images/s)"]
COLUMNS += ["share (%)", "by the processor (%)", "bare, one (ms)", "transform, one (ms)"]
COLUMNS += ["making the network (ms)"]


class Comparison(NamedTuple):
    """How long both ways took in each round, as (wall-clock seconds, processor seconds)."""

    n: int
    batch_size: int
    bare: list[tuple[float, float]]
    transform: list[tuple[float, float]]
    one_image: tuple[float, float, float]  # seconds: both ways, and making the network

    def share(self, clock: int) -> float:
        rounds = zip(self.bare, self.transform, strict=True)
        return statistics.median(bare[clock] / ours[clock] for bare, ours in rounds)

    def cells(self) -> list[str]:
        rates = (self.n / statistics.median(t for t, _ in way) for way in self[2:4])
        shares = (f"{100 * self.share(clock):.0f}" for clock in (0, 1))
        rates = (f"{rate:,.0f}" for rate in rates)
        one_image = (f"{1000 * seconds:.1f}" for seconds in self.one_image)
        return [str(self.batch_size), *rates, *shares, *one_image]


def timed(function, device: torch.device) -> tuple[float, float]:
    """Return the wall-clock and processor seconds of a call, including the device's work."""
    synchronize(device)
    start = time.perf_counter(), time.process_time()
    function()
    synchronize(device)
    return time.perf_counter() - start[0], time.process_time() - start[1]


def compare(encoder, shape: tuple[int, ...], *, batch_sizes, rounds: int, device="auto"):
    """Time both ways on noise images of a shape (n, h, w, c)."""
    X = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    simclr = SimCLRTransformer(
        encoder, augmentation="simclr", batch_size=4, max_epochs=1, random_state=0, device=device
    ).fit(X[:4])
    device, (n, height, width, channels) = resolve_device(device), shape
    network = restored_network(vars(simclr), (channels, height, width), device).eval().encoder
    images = torch.randn(n, channels, height, width, device=device)
    images = images.contiguous(memory_format=torch.channels_last)

    def bare(size: int, images=images) -> None:
        with torch.inference_mode():
            for batch in images.split(size):
                network(batch)

    sizes = [size for size in batch_sizes if size <= n] or [n]
    for size in sizes:
        bare(size)  # lets the libraries choose their algorithms
    clock = 1 if device.type == "cpu" else 0
    best = min(sizes, key=lambda size: timed(lambda: bare(size), device)[clock])
    simclr.transform(X)
    turns = [
        (timed(lambda: bare(best), device), timed(lambda: simclr.transform(X), device))
        for _ in range(rounds)
    ]
    ways = (
        lambda: bare(1, images[:1]),
        lambda: simclr.transform(X[:1]),
        lambda: restored_network(vars(simclr), (channels, height, width), device),
    )
    one_image = zip(*([timed(way, device)[0] for way in ways] for _ in range(15)), strict=True)
    one_image = tuple(map(statistics.median, one_image))
    return Comparison(n, best, *map(list, zip(*turns, strict=True)), one_image)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=BATCH_SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the images of a case")
    args = parser.parse_args()
    cases = [
        (ConvNetEncoder(), 8, 1, 8192),
        (ResNetEncoder(width=0.25), 32, 3, 2048),
        (ResNetEncoder(), 32, 3, 512),
        (ResNetEncoder(), 224, 3, 64),
    ]
    table = Table(
        "transform",
        f"`transform` beside a bare forward pass, {args.rounds} rounds",
        f"float32, goal: a share of at least 90%. {machine()}",
        COLUMNS,
    )
    for encoder, side, channels, n in cases:
        shape = (max(1, round(n * args.scale)), side, side, channels)
        result = compare(
            encoder,
            shape,
            batch_sizes=args.batch_sizes,
            rounds=args.rounds,
            device=args.device,
        )
        table.add(repr(encoder), f"{shape[0]:,} of {side} px", *result.cells())
    table.save(append=False)


if __name__ == "__main__":
    main()
