"""The study behind the defaults: one change at a time against the default, on small data.

    python defaults.py digits
    python defaults.py cifar10 --data cifar10.npz --n-images 5000 --epochs 20
    python defaults.py sign_digits --data Dataset
    python defaults.py vectors

Each row has the accuracy of logistic regression with 1, 5 and 20 labels per class (mean over 10
draws) and with all labels, that of the 10 nearest neighbours with all labels, and the estimator's
label-free score, each as a mean over the seeds. The first rows are for raw values and for the
untrained encoder. Results are added to results/defaults_<data>.md. To run only some variants, name
them: --only temperature=0.2 batch_size=128.
"""

import argparse
import time
import warnings

import numpy as np
from common import (
    Table,
    cifar10,
    digits,
    few_label_accuracy,
    flat,
    knn_accuracy,
    linear_accuracy,
    machine,
    sign_digits,
    subset,
    vectors,
)

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.augmentation import AffineAugmentation, FeatureCorruption, SimCLRAugmentation
from sklearn_simclr.encoders import ConvNetEncoder, MLPEncoder, ResNetEncoder

TRAINING = {
    "temperature=0.1": {"temperature": 0.1},
    "temperature=0.2": {"temperature": 0.2},
    "temperature=0.5": {"temperature": 0.5},
    "temperature=1": {"temperature": 1.0},
    "learning_rate=0.0005": {"learning_rate": 5e-4},
    "learning_rate=0.001": {"learning_rate": 1e-3},
    "learning_rate=0.005": {"learning_rate": 5e-3},
    "weight_decay=0": {"weight_decay": 0.0},
    "weight_decay=0.01": {"weight_decay": 1e-2},
    "weight_decay=0.1": {"weight_decay": 1e-1},
    "batch_size=128": {"batch_size": 128},
    "batch_size=512": {"batch_size": 512},
    "adamw": {"optimizer": "adamw"},
    "muon": {"optimizer": "muon"},
    "muon 0.01": {"optimizer": "muon", "learning_rate": 0.01},
    "sgd": {"optimizer": "sgd"},
    "lars": {"optimizer": "lars"},
    "lars 1.5": {"optimizer": "lars", "learning_rate": 1.5},
    "projection_layers=1": {"projection_layers": 1},
    "projection_layers=3": {"projection_layers": 3},
    "projection_dim=64": {"projection_dim": 64},
}


def photo(**options):
    return {"augmentation": SimCLRAugmentation(**options)}


def affine(**options):
    return {"augmentation": AffineAugmentation(**options)}


PHOTOS = {
    "crop_scale=(0.2, 1)": photo(crop_scale=(0.2, 1.0)),
    "crop_scale=(0.4, 1)": photo(crop_scale=(0.4, 1.0)),
    "grayscale_p=0.1": photo(grayscale_p=0.1),
    "grayscale_p=0": photo(grayscale_p=0.0),
    "color_strength=0.25": photo(color_strength=0.25),
    "color_strength=1": photo(color_strength=1.0),
    "flip_p=0": photo(flip_p=0.0),
    "affine views": affine(),
    "width=0.5": {"encoder": ResNetEncoder(width=0.5)},
    "ConvNetEncoder": {"encoder": ConvNetEncoder()},
}
DIGITS = {
    "simclr views": photo(),
    "simclr views, no flip, crop >= 0.4": photo(flip_p=0.0, crop_scale=(0.4, 1.0)),
    "weaker": affine(degrees=10, translate=0.07, scale=(0.9, 1.1), shear=5),
    "stronger": affine(degrees=20, translate=0.15, scale=(0.7, 1.3), shear=15),
    "translate=0.2": affine(translate=0.2),
    "noise=0": affine(noise=0.0),
    "noise=0.05": affine(noise=0.05),
    "noise=0.2": affine(noise=0.2),
    "noise=0.3": affine(noise=0.3),
    "ConvNetEncoder(32)": {"encoder": ConvNetEncoder(32)},
    "ConvNetEncoder(128)": {"encoder": ConvNetEncoder(128)},
    "ConvNetEncoder(32, n_layers=6)": {"encoder": ConvNetEncoder(32, n_layers=6)},
    "ResNetEncoder(width=0.25)": {"encoder": ResNetEncoder(width=0.25)},
}
VECTORS = {
    "rate=0.2": {"augmentation": FeatureCorruption(0.2)},
    "rate=0.6": {"augmentation": FeatureCorruption(0.6)},
    "rate=0.8": {"augmentation": FeatureCorruption(0.8)},
    "MLPEncoder(n_layers=1)": {"encoder": MLPEncoder(n_layers=1)},
    "MLPEncoder(n_layers=4)": {"encoder": MLPEncoder(n_layers=4)},
    "MLPEncoder(hidden_dim=512)": {"encoder": MLPEncoder(512)},
    "max_epochs=300": {"max_epochs": 300},
}
LABELS = (1, 5, 20)


def evaluate(h_train, y_train, h_test, y_test) -> list[float]:
    """Return the accuracies of a row of the table, in percent."""
    data = (h_train, y_train, h_test, y_test)
    few = [few_label_accuracy(*data, n_labels=n) for n in LABELS]
    return [*few, linear_accuracy(*data), knn_accuracy(*data)]


def measure(data, seeds: int, **params) -> list[float]:
    """Train with each seed; return the mean accuracies, the score in percent and the seconds."""
    X_train, y_train, X_test, y_test = data
    rows = []
    for seed in range(seeds):
        start = time.perf_counter()
        simclr = SimCLRTransformer(random_state=seed, **params).fit(X_train)
        seconds = time.perf_counter() - start
        accuracies = evaluate(simclr.transform(X_train), y_train, simclr.transform(X_test), y_test)
        rows.append([*accuracies, 100 * simclr.score(X_test), seconds])
    return np.mean(rows, axis=0).tolist()


def untrained(data, seeds: int, **params) -> list[float]:
    """Measure the encoder with its initial weights, by training with a tiny learning rate."""
    return measure(data, seeds, **{**params, "learning_rate": 1e-12, "max_epochs": 1})


def study(name: str, data, variants: dict, args, **base) -> None:
    """Print and append a table for one data set."""
    table = Table(
        f"defaults_{args.dataset}",
        f"{name}: {len(data[0])} samples to train on, {len(data[2])} to test on",
        f"{args.epochs or 'default number of'} epochs; {args.seeds} seeds; {machine()}",
        ["variant", "1 label", "5 labels", "20 labels", "all labels", "kNN", "score", "seconds"],
    )

    def row(label, measurement, *arguments, **params):
        if not args.only or label in args.only:
            table.add(label, *(f"{value:.1f}" for value in measurement(*arguments, **params)))

    row("raw values", evaluate, flat(data[0]), data[1], flat(data[2]), data[3])
    row("untrained", untrained, data, args.seeds, **base)
    row("default", measure, data, args.seeds, **base)
    for label, change in variants.items():
        row(label, measure, data, args.seeds, **{**base, **change})
    table.save()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=["digits", "cifar10", "sign_digits", "vectors"])
    parser.add_argument("--data", help="file or folder of cifar10 or sign_digits")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, help="max_epochs, if not the default")
    parser.add_argument("--n-images", type=int, default=5000, help="of cifar10 to train on")
    parser.add_argument("--only", nargs="*", help="names of variants")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "batch_size=")
    base = {"max_epochs": args.epochs} if args.epochs else {}
    if args.dataset == "digits":
        study("digits", digits(), TRAINING | DIGITS, args, **base)
    elif args.dataset == "vectors":
        for name in ("breast_cancer", "wine", "digits"):
            study(f"vectors, {name}", vectors(name), TRAINING | VECTORS, args, **base)
    elif args.dataset == "sign_digits":
        study("sign digits", sign_digits(args.data), TRAINING | PHOTOS, args, **base)
    else:
        X_train, y_train, X_test, y_test = cifar10(args.data)
        data = (*subset(X_train, y_train, args.n_images), *subset(X_test, y_test, 2000))
        study("CIFAR-10", data, TRAINING | PHOTOS, args, **base)


if __name__ == "__main__":
    main()
