"""Several processes: whether the model is the same, the speed, and what the processes send.

    python processes.py
    python processes.py --processes 1 2 4 8      on a machine with 8 GPUs

Trains on scikit-learn's digits in this process, and then under torchrun with several numbers of
processes, each with one thread or one GPU. Losses and features are compared with those of this
process; for comparison, the table has the differences that rounding makes with two threads instead
of one. The network for digits is so small that messages cost more than the network itself, so speed
is also measured with a ResNet-18 of a quarter of the width on noise images of 32 x 32 pixels. What
each step sends is calculated, not measured, for a ResNet-50 on ImageNet. Both tables are written to
results/processes.md.
"""

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import Table, digits, knn_accuracy, machine
from torch import nn

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.encoders import ResNetEncoder
from sklearn_simclr.projection import projection_head

BATCH_SIZE, PROJECTION_DIM, FLOAT32 = 4096, 128, 4  # of the calculation; bytes
N_NOISE, NOISE_EPOCHS = 512, 5
RATE = 10e9  # bytes per second that a process sends


class Clock:
    """A callback that notes when each epoch ended."""

    def __init__(self):
        self.times = []

    def setup(self, estimator, context):
        self.times.append(time.perf_counter())

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.times.append(time.perf_counter())


def fit(X, epochs: int, encoder="auto") -> tuple[SimCLRTransformer, float]:
    """Train; return the transformer and the images per second."""
    clock = Clock()
    simclr = SimCLRTransformer(encoder, max_epochs=epochs, precision="float32", random_state=0)
    simclr.set_callbacks(clock).fit(X)
    seconds = np.diff(clock.times)[1:epochs]  # the first epoch is a warm-up
    return simclr, len(X) / np.median(seconds)


def train(epochs: int) -> dict:
    """Train on digits and on noise; return speeds, losses, features and accuracy on digits."""
    X_train, y_train, X_test, y_test = digits()
    noise = np.random.default_rng(0).integers(0, 256, (N_NOISE, 32, 32, 3), dtype=np.uint8)
    simclr, speed = fit(X_train, epochs)
    features = simclr.transform(X_train)
    return {
        "speed": speed,
        "resnet_speed": fit(noise, NOISE_EPOCHS, ResNetEncoder(width=0.25))[1],
        "losses": np.array(simclr.loss_curve_),
        "features": features,
        "accuracy": knn_accuracy(features, y_train, simclr.transform(X_test), y_test),
    }


def under_torchrun(n_processes: int, args) -> dict:
    """Train with several processes; return the result of the first."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.pkl"
        own = ["--out", out, "--epochs", str(args.epochs)]
        run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n_processes)]
        run += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
        one_thread = {"OMP_NUM_THREADS": "1"}
        subprocess.run([*run, __file__, *own], check=True, env=os.environ | one_thread)
        return pickle.loads(out.read_bytes())


def sent_in_a_step(network: nn.Module, n_processes: int) -> dict[str, float]:
    """Return the bytes that each process sends in a step, with ring algorithms.

    To add up S bytes, each of p processes sends 2 (p - 1) / p S; to gather S bytes, half as much.
    """
    gather = (n_processes - 1) / n_processes
    channels = [m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm1d)]
    channels += [m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    # Forward: mean, scale and number of values of each process; backward: two sums of gradients.
    forward = gather * sum((2 * c + 1) * n_processes for c in channels)
    backward = 2 * gather * sum(2 * c for c in channels)
    projections = 2 * BATCH_SIZE * PROJECTION_DIM
    numbers = {
        "gradients": 2 * gather * sum(p.numel() + 1 for p in network.parameters()),
        "projections": gather * projections + 2 * gather * projections,
        "batch normalisation": forward + backward,
    }
    return {name: FLOAT32 * n for name, n in numbers.items()}


def calculate() -> Table:
    """Make the table of the bytes sent."""
    encoder = ResNetEncoder(50).build((3, 224, 224))
    network = nn.Sequential(encoder, projection_head(2048, PROJECTION_DIM, 2))
    n_norms = sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in network.modules())
    n_weights = sum(p.numel() for p in network.parameters())
    table = Table(
        "processes",
        f"calculated: MB that a GPU sends in a step, ResNet-50, batches of {BATCH_SIZE}",
        f"Not measured. Ring algorithms, float32, {n_weights / 1e6:.1f} million weights, "
        f"{3 + 2 * n_norms} messages a step; the last column is the time of the total at "
        f"{RATE / 1e9:.0f} GB/s, without latencies.",
        ["GPUs", "gradients", "projections", "batch normalisation", "total", "ms"],
    )
    for n_processes in (8, 16, 32, 64):
        sent = sent_in_a_step(network, n_processes)
        total = sum(sent.values())
        cells = [f"{value / 1e6:.1f}" for value in (*sent.values(), total)]
        table.add(str(n_processes), *cells, f"{1e3 * total / RATE:.1f}")
    return table


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # this is one of the processes
    args = parser.parse_args()
    if args.out:
        result = train(args.epochs)
        if os.environ["RANK"] == "0":
            args.out.write_bytes(pickle.dumps(result))
        return
    torch.set_num_threads(1)
    plain = train(args.epochs)
    table = Table(
        "processes",
        f"measured: digits, {len(plain['features'])} images, {args.epochs} epochs, batches of 256",
        f"{machine()}; load average {os.getloadavg()[0]:.1f} at the start. A process has one "
        "thread, or one GPU; more processes than cores take turns. "
        "Differences are from the plain run: the largest of the losses, and the largest of the "
        "features, as a share of the largest feature.",
        [
            "processes",
            "images/s, digits",
            "images/s, ResNet",
            "losses differ by",
            "features differ by",
            "kNN (%)",
        ],
    )

    def add(name: str, found: dict) -> None:
        losses = np.abs(found["losses"] - plain["losses"]).max()
        features = np.abs(found["features"] - plain["features"]).max() / plain["features"].max()
        speeds = f"{found['speed']:.0f}", f"{found['resnet_speed']:.0f}"
        cells = f"{losses:.0e}", f"{features:.0e}", f"{found['accuracy']:.1f}"
        table.add(name, *speeds, *cells)

    add("plain run, without torchrun", plain)
    torch.set_num_threads(2)
    add("plain run, two threads", train(args.epochs))
    for n_processes in args.processes:
        add(str(n_processes), under_torchrun(n_processes, args))
    table.save(append=False)
    calculate().save()


if __name__ == "__main__":
    main()
