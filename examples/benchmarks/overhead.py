"""Costs that do not grow with training: importing the package, and the fixed cost of a fit.

    python overhead.py

Imports are timed in fresh processes with cached byte code: first that of the packages on which this
one depends, and then that of this one. "and submodules" means that sklearn.pipeline and
sklearn.linear_model, which almost everyone who uses features needs, are imported with the former.

The fixed cost is that of a fit with the defaults on 1,000 digits of 8 x 8 pixels. A line is fitted
to the times of fits of 1, 2, 4 and 8 epochs in one process; its intercept is the fixed cost, and
its slope the time of an epoch. The first fit of a process is timed in fresh processes, with no
epoch before it. A loop in plain torch over the same network, views, loss and optimizer is timed in
the same way: its fixed cost is torch's own start-up.

All measurements take turns in each round. The table has medians of wall-clock time and of processor
time, which is more reliable on a busy machine. Written to results/overhead.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

EPOCHS = (1, 2, 4, 8)
IMPORTS = {
    "top level": "import joblib, numpy, sklearn, torch, torchvision",
    "and submodules": "import joblib, numpy, sklearn, torch, torchvision, "
    "sklearn.pipeline, sklearn.linear_model",
}


class Clocks:
    """Wall-clock and processor time, in seconds, since the last lap."""

    def __init__(self):
        self.last = time.perf_counter(), time.process_time()

    def lap(self) -> tuple[float, float]:
        now = time.perf_counter(), time.process_time()
        elapsed = now[0] - self.last[0], now[1] - self.last[1]
        self.last = now
        return elapsed


def time_imports(name: str) -> dict:
    clocks = Clocks()
    exec(IMPORTS[name])
    theirs = clocks.lap()
    import sklearn_simclr  # noqa: F401

    return {"theirs": theirs, "ours": clocks.lap()}


def tiny_images():
    from sklearn.datasets import load_digits

    return load_digits().images[:1000]


def fit(X, n_epochs: int) -> None:
    from sklearn_simclr import SimCLRTransformer

    SimCLRTransformer(max_epochs=n_epochs, random_state=0, device="cpu").fit(X)


def loop(X, n_epochs: int) -> None:
    """Train the same network in plain torch."""
    import torch

    from sklearn_simclr._data import batch_shape
    from sklearn_simclr._device import resolve_precision
    from sklearn_simclr.augmentation import AffineAugmentation
    from sklearn_simclr.encoders import ConvNetEncoder
    from sklearn_simclr.losses import nt_xent
    from sklearn_simclr.optim import make_optimizer
    from sklearn_simclr.projection import projection_head

    views, precision = AffineAugmentation(), resolve_precision("auto", torch.device("cpu"))
    network = torch.nn.Sequential(ConvNetEncoder().build((1, 8, 8)), projection_head(128, 128, 2))
    network.to(memory_format=torch.channels_last)
    optimizer = make_optimizer("adamw", network, lr=1e-3, weight_decay=1e-4)
    images = torch.from_numpy(X).float()[:, None] / 16  # (n, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    n_batches, size = batch_shape(len(X), 256)
    for _ in range(n_epochs):
        order = torch.randperm(len(X), generator=generator)[: n_batches * size]
        for index in order.view(n_batches, size):
            pair = torch.cat([views(images[index], generator) for _ in range(2)])
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
                z = network(pair.contiguous(memory_format=torch.channels_last))
            optimizer.zero_grad()
            nt_xent(*z.chunk(2)).backward()
            optimizer.step()


def time_trainings(train, rounds: int) -> dict:
    """Return the seconds of an epoch, and the fixed seconds of the first and of later fits."""
    import numpy as np

    import sklearn_simclr  # noqa: F401

    X = tiny_images()
    clocks = Clocks()
    train(X, 1)
    first, later = clocks.lap(), {n_epochs: [] for n_epochs in EPOCHS}
    for _ in range(rounds):
        for n_epochs in EPOCHS:
            clocks.lap()
            train(X, n_epochs)
            later[n_epochs].append(clocks.lap())
    medians = [np.median(later[n_epochs], axis=0) for n_epochs in EPOCHS]
    slope, intercept = np.polyfit(EPOCHS, medians, 1)  # (2,) each
    return {
        "epoch": slope.tolist(),
        "later": intercept.tolist(),
        "first": (np.array(first) - slope).tolist(),
    }


MEASURES = {
    "fit": lambda rounds: time_trainings(fit, rounds),
    "loop": lambda rounds: time_trainings(loop, rounds),
} | {name: lambda rounds, name=name: time_imports(name) for name in IMPORTS}


def measure(name: str, rounds: int, cache: str) -> dict:
    """Measure in a fresh process."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = cache
    command = [sys.executable, __file__, "--measure", name, "--fits", str(rounds)]
    output = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return json.loads(output.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes for each measure")
    parser.add_argument("--fits", type=int, default=5, help="trainings of each length in a process")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(MEASURES[args.measure](args.fits)))
        return
    from common import Table, machine  # imports what the processes above import themselves

    with tempfile.TemporaryDirectory() as cache:
        for name in MEASURES:  # writes the byte code
            measure(name, 1, cache)
        rounds = [
            {name: measure(name, args.fits, cache) for name in MEASURES} for _ in range(args.rounds)
        ]
    table = Table(
        "overhead",
        f"Seconds that do not grow with the training, median of {args.rounds} processes",
        f"1,000 images of 8 x 8 pixels, ConvNetEncoder, 4 batches of 250 an epoch. {machine()}",
        ["what", "seconds", "of the processor", "goal"],
    )

    def row(label, name, part, goal=""):
        wall, cpu = zip(*(result[name][part] for result in rounds), strict=True)
        cells = (f"{1000 * statistics.median(values):.0f} ms" for values in (wall, cpu))
        table.add(label, *cells, goal)

    for name, statement in IMPORTS.items():
        row(f"`{statement}`", name, "theirs")
        row(f"`import sklearn_simclr` after it ({name})", name, "ours", "200 ms")
    row("an epoch of `fit`", "fit", "epoch")
    row("an epoch of a plain loop", "loop", "epoch")
    row("`fit` beyond its epochs", "fit", "later", "200 ms")
    row("the same in a plain loop", "loop", "later")
    row("the first `fit` of a process beyond its epoch", "fit", "first")
    row("the same in a plain loop", "loop", "first")
    table.save(append=False)


if __name__ == "__main__":
    main()
