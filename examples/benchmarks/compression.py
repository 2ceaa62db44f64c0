"""What it costs to store small images as JPEG.

    python compression.py --data cifar10.npz

Stores the images of CIFAR-10 as JPEG and trains the same encoder, without labels and by the
defaults, on the originals and on the copies. Each network is measured on both: the share of views
of the test images that find their partner (`score`), and the accuracy of the ten nearest neighbours
and of logistic regression, fitted on the features of the training images and scored on those of the
test images. A network that relies on what JPEG does to images finds fewer partners among originals.
--data must be the originals. The rows are added to results/compression.md.
"""

import argparse
import io
import time

import numpy as np
from common import Table, cifar10, knn_accuracy, linear_accuracy, machine, subset
from PIL import Image

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.encoders import ResNetEncoder


def jpeg(images: np.ndarray, quality: int) -> np.ndarray:
    """Return images as they are after JPEG, with half the resolution in colour."""
    copies = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        copies.append(np.asarray(Image.open(file)))
    return np.stack(copies)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help=".npz file, or folder to download to")
    parser.add_argument("--quality", type=int, default=75)
    parser.add_argument("--images", type=int, help="train on a part of the images")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--width", type=float, default=1 / 4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    X_train, y_train, X_test, y_test = cifar10(args.data)
    if args.images:
        X_train, y_train = subset(X_train, y_train, args.images)
    sides = {
        "originals": (X_train, X_test),
        f"JPEG, quality {args.quality}": (jpeg(X_train, args.quality), jpeg(X_test, args.quality)),
    }
    table = Table(
        "compression",
        f"{len(X_train):,} images, ResNetEncoder(18, width={args.width:g}), {args.epochs} epochs",
        machine(),
        ["trained on", "measured on", "score (%)", "kNN (%)", "linear (%)", "seconds", "seed"],
    )
    for seed in args.seeds:
        for name, (images, _) in sides.items():
            simclr = SimCLRTransformer(
                ResNetEncoder(width=args.width), max_epochs=args.epochs, random_state=seed
            )
            start = time.perf_counter()
            simclr.fit(images)
            seconds = time.perf_counter() - start
            for other, (train, test) in sides.items():
                features = simclr.transform(train), y_train, simclr.transform(test), y_test
                table.add(
                    name,
                    other,
                    f"{100 * simclr.score(test):.1f}",
                    f"{knn_accuracy(*features):.1f}",
                    f"{linear_accuracy(*features):.1f}",
                    f"{seconds:.0f}",
                    str(seed),
                )
    table.save()


if __name__ == "__main__":
    main()
