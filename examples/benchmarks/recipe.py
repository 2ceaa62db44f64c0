"""Which recipe reaches a given accuracy fastest: optimizer, rates, batches, views, temperature.

    python recipe.py --data cifar10.npz

Trains a ResNet-18 of an eighth of the width on 10,000 training images of CIFAR-10, without labels.
Every recipe is trained for the same few epochs; batches and optimizers hardly change the cost of an
epoch here, so the recipe that is better after equal epochs is the faster one. Accuracy is that of
the ten nearest neighbours and of logistic regression, fitted on the features of the training images
and scored on the 10,000 test images. One setting is changed at a time, first from a starting
recipe, then from the best so far: --from names the changes that all recipes share. The rows are
added to results/recipe.md.
"""

import argparse
import time

import numpy as np
from common import Table, cifar10, knn_accuracy, linear_accuracy, machine, subset

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.augmentation import SimCLRAugmentation
from sklearn_simclr.encoders import ResNetEncoder

CHANGES = {
    "as it is": {},
    "temperature 0.1": {"temperature": 0.1},
    "temperature 0.2": {"temperature": 0.2},
    "temperature 0.5": {"temperature": 0.5},
    "AdamW 0.001": {"optimizer": "adamw", "learning_rate": 1e-3},
    "AdamW 0.004": {"optimizer": "adamw", "learning_rate": 4e-3},
    "AdamW 0.008": {"optimizer": "adamw", "learning_rate": 8e-3},
    "Muon 0.01": {"optimizer": "muon", "learning_rate": 0.01},
    "Muon 0.03": {"optimizer": "muon", "learning_rate": 0.03},
    "Muon 0.08": {"optimizer": "muon", "learning_rate": 0.08},
    "Muon 0.03, decay 0.01": {
        "optimizer": "muon",
        "learning_rate": 0.03,
        "weight_decay": 0.01,
    },
    "SGD 0.06": {"optimizer": "sgd"},
    "SGD 0.12": {"optimizer": "sgd", "learning_rate": 0.12},
    "SGD 0.5": {"optimizer": "sgd", "learning_rate": 0.5},
    "LARS 0.3": {"optimizer": "lars"},
    "LARS 1": {"optimizer": "lars", "learning_rate": 1.0},
    "LARS 3": {"optimizer": "lars", "learning_rate": 3.0},
    "batches of 128": {"batch_size": 128},
    "batches of 512": {"batch_size": 512},
    "crops from 0.2": {"augmentation": SimCLRAugmentation(crop_scale=(0.2, 1.0))},
    "grayscale 0.1": {"augmentation": SimCLRAugmentation(grayscale_p=0.1)},
    "crops from 0.2, grayscale 0.1": {
        "augmentation": SimCLRAugmentation(crop_scale=(0.2, 1.0), grayscale_p=0.1)
    },
    "linear head": {"projection_layers": 1},
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help=".npz file, or folder to download to")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--width", type=float, default=1 / 8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--from", dest="start", nargs="*", default=[], choices=CHANGES)
    parser.add_argument("--only", nargs="*", default=list(CHANGES), choices=CHANGES)
    args = parser.parse_args()
    X_train, y_train, X_test, y_test = cifar10(args.data)
    X_train, y_train = subset(X_train, y_train, args.images)
    start = {name: value for change in args.start for name, value in CHANGES[change].items()}
    table = Table(
        "recipe",
        f"{len(X_train):,} images, ResNetEncoder(18, width={args.width:g}), {args.epochs} epochs, "
        f"changes from: {', '.join(args.start) or 'the defaults'}",
        machine(),
        ["change", "kNN (%)", "linear (%)", "seconds to fit", "seeds"],
    )
    for change in args.only:
        figures = []
        for seed in args.seeds:
            simclr = SimCLRTransformer(
                ResNetEncoder(width=args.width), max_epochs=args.epochs, random_state=seed
            ).set_params(**start | CHANGES[change])
            begin = time.perf_counter()
            simclr.fit(X_train)
            seconds = time.perf_counter() - begin
            data = (simclr.transform(X_train), y_train, simclr.transform(X_test), y_test)
            figures.append((knn_accuracy(*data), linear_accuracy(*data), seconds))
        knn, linear, seconds = np.mean(figures, axis=0)
        table.add(change, f"{knn:.1f}", f"{linear:.1f}", f"{seconds:.0f}", f"{len(args.seeds)}")
    table.save()


if __name__ == "__main__":
    main()
