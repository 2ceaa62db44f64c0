"""Whether torch.compile pays: a training step as in `fit`, and with the network compiled.

    python compiled.py

A step here is forward pass, loss, backward pass and optimizer, on views that are already there, in
the precision that `fit` chooses. The two ways take turns, step by step. The cost of compiling is
what the first two steps take beyond the median of the others; it is lower if torch finds kernels
that it has compiled before. Written to results/compiled.md. For GPUs, where steps are also
recorded, see gpu_suite.py.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable

import torch
from common import Table, machine
from step_profile import CASES, Training, noise
from torch import Tensor

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr._allocator import reused_memory
from sklearn_simclr._batch_norm import quick_batch_norm
from sklearn_simclr._device import describe, mixed_precision, resolve_precision, synchronize
from sklearn_simclr._random import cpu_generator


class Way:
    """One way to compute the projections, with the seconds of the steps taken by it."""

    def __init__(self, name: str, project: Callable[[Tensor], Tensor], context: Callable):
        self.name, self.project, self.context = name, project, context
        self.seconds: list[float] = []

    def step(self, training: Training, x: Tensor, index: Tensor) -> None:
        """Take a step, and note how long it took, including the device's work."""
        run, device = training.run, x.device
        precision = resolve_precision(training.simclr.precision, device)
        synchronize(device)
        start = time.perf_counter()
        run.optimizer.zero_grad()
        with self.context(), mixed_precision(precision, device):
            z = self.project(x)
        run.objective(*z.chunk(2), index).backward()
        with mixed_precision(precision, device):
            run.optimizer.step()
        synchronize(device)
        self.seconds.append(time.perf_counter() - start)

    @property
    def median(self) -> float:
        """Median seconds of the steps after the first two."""
        return statistics.median(self.seconds[2:])


def ways_of(network) -> list[Way]:
    def project(x):
        return network.head(network(x))

    return [
        Way("as `fit` does", project, lambda: quick_batch_norm(network)),
        Way("compiled", torch.compile(project, dynamic=False), contextlib.nullcontext),
    ]


@reused_memory()
def steps_in_turn(training: Training, n_steps: int) -> list[Way]:
    """Take steps by all ways, one after another, and return the ways."""
    run = training.run
    index = torch.arange(len(run.samples))
    x = torch.cat(run.views(run.samples.batch(index), cpu_generator(0)))
    ways = ways_of(run.network.train())
    for _ in range(2 + n_steps):
        for way in ways:
            way.step(training, x, index)
    return ways


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--networks", type=int, default=len(CASES), help="how many, small first")
    args = parser.parse_args()
    table = None
    for encoder, side, channels in CASES[: args.networks]:
        simclr = SimCLRTransformer(
            encoder, batch_size=args.batch_size, random_state=0, device=args.device
        )
        training = Training.of(simclr, noise(args.batch_size, side, channels))
        if table is None:
            device = training.run.samples.device
            table = Table(
                "compiled",
                f"Steps of training with and without torch.compile, batches of {args.batch_size}",
                f"On {describe(device, resolve_precision('auto', device))}. {machine()}",
                ["network", "side", "way", "ms a step", "times `fit`", "extra s at first"],
            )
        ways = steps_in_turn(training, args.steps)
        as_in_fit = ways[0].median
        for way in ways:
            ratio, extra = way.median / as_in_fit, sum(way.seconds[:2]) - 2 * way.median
            figures = f"{1000 * way.median:.1f}", f"{ratio:.2f}", f"{max(0.0, extra):.1f}"
            table.add(repr(encoder), str(side), way.name, *figures)
    table.save(append=False)


if __name__ == "__main__":
    main()
