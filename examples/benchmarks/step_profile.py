"""Where the time of a training step goes.

    python step_profile.py

The steps are those of `fit`, taken apart: views (including their draws), forward pass, loss,
backward pass, optimizer. The script waits for the device after each part, so on a GPU the parts add
up to more than a step of `fit`, whose parts overlap with the work of the processor; the table has
both. The images are noise, and the figures medians over the steps. Written to
results/step_profile.md.
"""

import argparse
import statistics
import time
from typing import NamedTuple

import numpy as np
import torch
from common import Table, machine

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr._allocator import reused_memory
from sklearn_simclr._data import batch_shape, shuffled_batches
from sklearn_simclr._device import describe, mixed_precision, resolve_precision, synchronize
from sklearn_simclr._random import cpu_generator
from sklearn_simclr._run import Run
from sklearn_simclr.encoders import ConvNetEncoder, ResNetEncoder

PARTS = ("views", "forward", "loss", "backward", "optimizer")
CASES = [  # encoder, side and channels of the images
    (ConvNetEncoder(), 8, 1),
    (ResNetEncoder(width=0.25), 32, 3),
    (ResNetEncoder(), 32, 3),
]


class Training(NamedTuple):
    """A training run that is ready to start, step by step or epoch by epoch."""

    simclr: SimCLRTransformer
    run: Run

    @classmethod
    def of(cls, simclr: SimCLRTransformer, X) -> "Training":
        return cls(simclr, simclr._prepare(X, None, continuing=False))

    @reused_memory()
    def epoch_seconds(self, n_epochs: int) -> list[float]:
        """Return the seconds of epochs of `fit`, after one warm-up epoch."""
        epochs = self.simclr._epochs(self.run, 1 + n_epochs, lambda step: 1e-3)
        next(epochs)
        seconds = []
        for _ in range(n_epochs):
            start = time.perf_counter()
            next(epochs)  # reads the loss, which waits for the device
            seconds.append(time.perf_counter() - start)
        return seconds

    @reused_memory()
    def part_seconds(self, n_steps: int) -> list[dict[str, float]]:
        """Return the seconds of the parts of some steps, after two warm-up steps."""
        run = self.run
        network, optimizer, samples, views = run.network, run.optimizer, run.samples, run.views
        precision = resolve_precision(self.simclr.precision, samples.device)
        generator, laps = cpu_generator(0), []
        network.train()
        while len(laps) < n_steps + 2:
            for index in shuffled_batches(len(samples), self.simclr.batch_size, generator):
                clock = Laps(samples.device)
                x = torch.cat(views(samples.batch(index), generator))
                clock.lap("views")
                with mixed_precision(precision, samples.device):
                    z = network.head(network(x))
                clock.lap("forward")
                loss = run.objective(*z.chunk(2), index)
                clock.lap("loss")
                optimizer.zero_grad()
                loss.backward()
                clock.lap("backward")
                with mixed_precision(precision, samples.device):
                    optimizer.step()
                clock.lap("optimizer")
                laps.append(clock.seconds)
        return laps[2 : n_steps + 2]


class Laps:
    """Seconds of one part after the other, including the device's work."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, {}
        synchronize(device)
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        synchronize(self.device)
        now = time.perf_counter()
        self.seconds[name], self.last = now - self.last, now


def profile(simclr: SimCLRTransformer, X, *, n_steps: int, n_epochs: int) -> dict[str, float]:
    """Return the median seconds of the parts of a step, and of a step of `fit` as "step"."""
    laps = Training.of(simclr, X).part_seconds(n_steps)
    parts = {part: statistics.median(lap[part] for lap in laps) for part in PARTS}
    n_batches, _ = batch_shape(len(X), simclr.batch_size)
    epoch = statistics.median(Training.of(simclr, X).epoch_seconds(n_epochs))
    return parts | {"step": epoch / n_batches}


def noise(n: int, side: int, channels: int = 3) -> np.ndarray:
    """Return noise images (n, side, side, channels) of bytes."""
    shape = (n, side, side, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def cells(seconds: dict[str, float]) -> list[str]:
    """Return the shares of the parts in percent, their sum and the step of `fit` in ms."""
    total = sum(seconds[part] for part in PARTS)
    shares = [f"{100 * seconds[part] / total:.1f}" for part in PARTS]
    return [*shares, f"{1000 * total:.0f}", f"{1000 * seconds['step']:.0f}"]


COLUMNS = [*(f"{part} (%)" for part in PARTS), "sum (ms)", "step of `fit` (ms)"]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="of one step")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    table = None
    for encoder, side, channels in CASES:
        simclr = SimCLRTransformer(
            encoder, batch_size=args.batch_size, random_state=0, device=args.device
        )
        X = noise(args.batch_size, side, channels)
        seconds = profile(simclr, X, n_steps=args.steps, n_epochs=args.epochs)
        if table is None:
            device = Training.of(simclr, X).run.samples.device
            table = Table(
                "step_profile",
                f"Shares of a step, batches of {args.batch_size}",
                f"On {describe(device, resolve_precision('auto', device))}. {machine()}",
                ["network", "side", *COLUMNS],
            )
        table.add(repr(encoder), str(side), *cells(seconds))
    table.save(append=False)


if __name__ == "__main__":
    main()
