"""Views per second on one core, with the paper's operations: ours, lightly and kornia.

    pip install ".[benchmarks]"
    python views.py

There are two settings: images of 32 pixels with colour strength 0.5 and no blur, as for CIFAR-10,
and photographs of 256 pixels, cropped to 224, with colour strength 1 and blur, as for ImageNet.
Images are uint8 noise, on which the operations take as long as on any others. Each package starts
from its usual input: ours from a batch of bytes and, in the row below, of floats; lightly from PIL
images, one after another, as its data sets provide them, up to the normalised tensor; kornia from a
batch of floats. All take turns. The medians and their ratios are added to results/views.md.
"""

import argparse
import statistics
import time

import kornia
import kornia.augmentation as K
import lightly
import torch
from common import Table, machine
from lightly.transforms import SimCLRTransform
from PIL import Image

from sklearn_simclr.augmentation import SimCLRAugmentation

SETTINGS = {  # side of the images, side of the views, strength of the jitter, images in a batch
    "32 px, no blur": (32, 32, 0.5, 256),
    "224 px from 256 px, blur": (256, 224, 1.0, 32),
}


def ours(images, size, strength, seed):
    augmentation = SimCLRAugmentation(size=size, color_strength=strength)
    generator = torch.Generator().manual_seed(seed)
    return lambda: augmentation(images, generator)


def of_lightly(images, size, strength):
    transform = SimCLRTransform(
        input_size=size, cj_strength=strength, gaussian_blur=0.5 if size > 32 else 0.0
    )
    pictures = [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).numpy()]
    return lambda: [transform(picture) for picture in pictures]  # two views each


def of_kornia(images, size, strength):
    operations = [
        K.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        K.RandomHorizontalFlip(0.5),
        K.ColorJitter(*[0.8 * strength] * 3, 0.2 * strength, p=0.8),
        K.RandomGrayscale(p=0.2),
    ]
    if size > 32:
        kernel = size // 10 + 1
        operations.append(K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=0.5))
    transform = K.AugmentationSequential(*operations)
    return lambda: transform(images)


def seconds_of(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    table = Table(
        "views",
        f"Views a second with {args.threads} threads, medians of {args.rounds} rounds in turn",
        f"{machine()}, lightly {lightly.__version__}, kornia {kornia.__version__}",
        ["setting", "package", "views a second", "ours (bytes) to it"],
    )
    for setting, (side, size, strength, n) in SETTINGS.items():
        images = torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        floats = images.float().div(255)
        packages = {
            "ours, bytes": (ours(images, size, strength, args.seed), 1),
            "ours, floats": (ours(floats, size, strength, args.seed), 1),
            "lightly": (of_lightly(images, size, strength), 2),
            "kornia": (of_kornia(floats.contiguous(), size, strength), 1),
        }
        seconds = {name: [] for name in packages}
        for _ in range(1 + args.rounds):
            for name, (function, _) in packages.items():
                seconds[name].append(seconds_of(function))
        rates = {
            name: views * n / statistics.median(seconds[name][1:])
            for name, (_, views) in packages.items()
        }
        for name, rate in rates.items():
            ratio = rates["ours, bytes"] / rate
            table.add(setting, name, f"{rate:,.0f}", f"{ratio:.1f}")
    table.save()


if __name__ == "__main__":
    main()
