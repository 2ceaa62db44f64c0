"""Quality of the same encoder after the same number of epochs, with this package and with lightly.

    pip install ".[benchmarks]"
    python quality.py --data cifar10.npz

Trains a narrow ResNet-18 on 10,000 training images of CIFAR-10, without labels: by the defaults, by
lightly's recipe with lightly, and by lightly's recipe with this package. They take turns, seed by
seed. The ten nearest neighbours and logistic regression are fitted on the features of these images
and scored on those of the 10,000 test images. Seconds are for training alone. The rows are added to
results/quality.md.
"""

import argparse
import time
from collections import deque
from functools import partial

import lightly
import numpy as np
from common import Table, cifar10, flat, knn_accuracy, linear_accuracy, machine, subset
from peers import features_of_lightly, train_lightly

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.encoders import ResNetEncoder


def ours(encoder, images, args, seed, **settings):
    simclr = SimCLRTransformer(
        encoder, max_epochs=args.epochs, device="cpu", random_state=seed, **settings
    )
    return simclr.fit(images).transform


def of_lightly(encoder, images, args, seed):
    network = encoder.build((3, 32, 32))
    epochs = train_lightly(
        network,
        round(512 * encoder.width),
        images,
        n_epochs=args.epochs,
        n_workers=args.workers,
        seed=seed,
    )
    deque(epochs, maxlen=0)
    return lambda images: features_of_lightly(network, images)


LIGHTLYS_RECIPE = {
    "temperature": 0.5,
    "optimizer": "sgd",
    "learning_rate": 0.06 * 256 / 128,
    "weight_decay": 5e-4,
    "batch_size": 256,
}
SIDES = {
    "ours": ours,
    "lightly": of_lightly,
    "ours, lightly's recipe": partial(ours, **LIGHTLYS_RECIPE),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help=".npz file, or folder to download to")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=float, default=1 / 8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    args = parser.parse_args()
    X_train, y_train, X_test, y_test = cifar10(args.data)
    X_train, y_train = subset(X_train, y_train, args.images)
    encoder = ResNetEncoder(width=args.width)
    table = Table(
        "quality",
        f"{len(X_train):,} images, ResNetEncoder(18, width={args.width:g}), {args.epochs} epochs",
        f"Raw pixels: kNN {knn_accuracy(flat(X_train), y_train, flat(X_test), y_test):.1f}. "
        f"lightly {lightly.__version__} with {args.workers} workers. {machine()}",
        ["recipe", "seed", "kNN (%)", "linear (%)", "seconds"],
    )
    figures = {name: [] for name in args.sides}
    for seed in args.seeds:
        for name in args.sides:
            start = time.perf_counter()
            features_of = SIDES[name](encoder, X_train, args, seed)
            seconds = time.perf_counter() - start
            data = (features_of(X_train), y_train, features_of(X_test), y_test)
            figures[name].append((knn_accuracy(*data), linear_accuracy(*data), seconds))
            knn, linear, seconds = figures[name][-1]
            table.add(name, f"{seed}", f"{knn:.1f}", f"{linear:.1f}", f"{seconds:.0f}")
    for name, rows in figures.items():
        knn, linear, seconds = np.mean(rows, axis=0)
        table.add(name, "mean", f"{knn:.1f}", f"{linear:.1f}", f"{seconds:.0f}")
    table.save()


if __name__ == "__main__":
    main()
