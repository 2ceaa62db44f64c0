"""How the cost of training grows with the number of images, the batch, the image side, the width.

    python scaling.py

One quantity changes at a time, starting from ResNetEncoder(width=1/8) on noise images of 32 pixels
in batches of 256: the seconds per epoch as a function of the number of images, and those per step
as a function of the other three. The figures are medians over epochs after the first. A line fitted
to the logarithms gives the power with which the cost grows; 1 means in proportion. Written to
results/scaling.md and results/scaling.png.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
from common import Table, machine
from step_profile import Training, noise

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.encoders import ResNetEncoder

WIDTH = 1 / 8
# For each quantity the values at which it is measured, and the other settings.
QUANTITIES = {
    "images": ((512, 1024, 2048, 4096), {"batch_size": 256}),
    "batch size": ((32, 64, 128, 256, 512, 1024), {}),
    "side": ((16, 24, 32, 48, 64), {"batch_size": 64}),
    "width": ((1 / 16, 1 / 8, 1 / 4, 1 / 2, 1), {"batch_size": 64}),
}
XLABELS = {
    "images": "images",
    "batch size": "images in a batch",
    "side": "side of the images (pixels)",
    "width": "width of ResNet-18",
}


def seconds(quantity: str, value: float, rest: dict, n_epochs: int, device: str) -> float:
    """Return the median seconds of an epoch, which is one step unless the images are varied."""
    batch_size = rest.get("batch_size", value)
    n = value if quantity == "images" else batch_size
    simclr = SimCLRTransformer(
        ResNetEncoder(width=value if quantity == "width" else WIDTH, stem="small"),
        batch_size=batch_size,
        augmentation="simclr",
        random_state=0,
        device=device,
    )
    X = noise(n, value if quantity == "side" else 32)
    return statistics.median(Training.of(simclr, X).epoch_seconds(n_epochs))


def power(values, measured) -> tuple[float, float]:
    """Fit a power law by least squares of the logarithms; return its exponent and factor."""
    exponent, logarithm = np.polyfit(np.log(values), np.log(measured), 1)
    return float(exponent), float(np.exp(logarithm))


def plot(found: dict[str, tuple[list[float], list[float]]], path: Path) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    fig, axes = plt.subplots(2, 2, figsize=(8.5, 6.2), layout="constrained")
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    for ax, (quantity, (values, measured)) in zip(axes.flat, found.items(), strict=True):
        exponent, factor = power(values, measured)
        ends = np.array([min(values), max(values)]) * [0.9, 1.1]
        ax.loglog(ends, factor * ends**exponent, color="0.6", zorder=1)
        ax.loglog(values, measured, "o", color="C0")
        ax.annotate(
            f"power {exponent:.2f}", (0.05, 0.9), xycoords="axes fraction", color="0.35", va="top"
        )
        ax.set(
            xlabel=XLABELS[quantity],
            ylabel=f"seconds {'an epoch' if quantity == 'images' else 'a step'}",
        )
        ax.set_xticks(values, [_shown(value) for value in values])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(plain)
        if max(measured) / min(measured) > 30:
            ax.yaxis.set_minor_formatter(NullFormatter())
        else:
            ax.yaxis.set_minor_formatter(plain)
            ax.tick_params(axis="y", which="minor", labelsize="small")
        ax.grid(alpha=0.3, which="major")
        ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=110)


def _shown(value: float) -> str:
    return f"{value:,}" if value >= 1 else f"1/{round(1 / value)}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=3, help="that count, after a first")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    table = Table(
        "scaling",
        f"Seconds of training, median of {args.epochs} epochs",
        f"ResNet-18 at 1/8 width, images of 32 pixels, batches of 256, but for the quantity that "
        f"changes; batches of 64 with side and width. {machine()}",
        ["quantity", "values", "seconds", "power"],
    )
    found = {}
    for quantity, (values, rest) in QUANTITIES.items():
        measured = [seconds(quantity, v, rest, args.epochs, args.device) for v in values]
        found[quantity] = list(values), measured
        per = "an epoch" if quantity == "images" else "a step"
        table.add(
            f"{quantity}, {per}",
            ", ".join(map(_shown, values)),
            ", ".join(f"{s:.3g}" for s in measured),
            f"{power(values, measured)[0]:.2f}",
        )
    table.save(append=False)
    plot(found, table.path.with_suffix(".png"))


if __name__ == "__main__":
    main()
