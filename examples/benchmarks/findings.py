"""The paper's findings at small scale: views, head, layer, loss, length and temperature.

    python findings.py --data cifar10.npz --seeds 0 1 2

Trains a ResNet-18 of an eighth of the width on 10,000 images of CIFAR-10, without labels, and
changes one setting at a time. Each encoder is measured on all 10,000 test images, by the 10 nearest
neighbours and by logistic regression with the labels of the training images. A training run takes
minutes on a core and there are dozens: each is saved in results/findings.csv as soon as it is
measured, and a call continues where the last one stopped. Several calls with different seeds may
run in parallel. At the end results/findings.md and results/findings.png are made from everything in
results/findings.csv.
"""

import argparse
import csv
import statistics
import time
from functools import partial
from pathlib import Path

from common import Table, cifar10, flat, knn_accuracy, linear_accuracy, machine, subset

from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.augmentation import SimCLRAugmentation
from sklearn_simclr.encoders import ResNetEncoder
from sklearn_simclr.losses import margin_triplet, nt_logistic

RECORDS = Path(__file__).parent / "results" / "findings.csv"
COLUMNS = ["setting", "seed", "layer", "knn", "linear", "loss", "seconds"]
EPOCHS = 8
LONG = f"{3 * EPOCHS} epochs"

BASELINE = {
    "encoder": ResNetEncoder(width=1 / 8),
    "temperature": 0.2,
    "batch_size": 128,
    "max_epochs": EPOCHS,
}
CROP_ALONE = SimCLRAugmentation(color_p=0, grayscale_p=0)
COLOR_ALONE = SimCLRAugmentation(crop_scale=(1, 1), flip_p=0)
SETTINGS = {
    "baseline": {},
    "crop alone": {"augmentation": CROP_ALONE},
    "colour alone": {"augmentation": COLOR_ALONE},
    "no head": {"projection_layers": 0},
    "linear head": {"projection_layers": 1},
    "NT-Logistic, τ 0.2": {"loss": partial(nt_logistic, temperature=0.2)},
    "NT-Logistic, τ 0.5": {"loss": partial(nt_logistic, temperature=0.5)},
    "margin 0.4": {"loss": partial(margin_triplet, margin=0.4)},
    "margin 0.8": {"loss": partial(margin_triplet, margin=0.8)},
    "τ 0.05": {"temperature": 0.05},
    "τ 0.1": {"temperature": 0.1},
    "τ 0.5": {"temperature": 0.5},
    "τ 1": {"temperature": 1.0},
    f"{EPOCHS // 4} epochs": {"max_epochs": EPOCHS // 4},
    LONG: {"max_epochs": 3 * EPOCHS},
    "NT-Logistic, τ 0.2, all negatives": {
        "loss": partial(nt_logistic, temperature=0.2, semi_hard=False)
    },
    "margin 0.8, all negatives": {"loss": partial(margin_triplet, margin=0.8, semi_hard=False)},
}
# The comparisons, each a list of (setting, layer), in the order of the paper.
PANELS = {
    "Views (figure 5)": [("crop alone", "h"), ("colour alone", "h"), ("baseline", "h")],
    "Projection head (figure 8)": [("no head", "h"), ("linear head", "h"), ("baseline", "h")],
    "Layer (section 4.2)": [("baseline", "z"), ("baseline", "h"), (LONG, "z"), (LONG, "h")],
    "Loss (table 4)": [
        ("margin 0.4", "h"),
        ("margin 0.8", "h"),
        ("margin 0.8, all negatives", "h"),
        ("NT-Logistic, τ 0.2", "h"),
        ("NT-Logistic, τ 0.5", "h"),
        ("NT-Logistic, τ 0.2, all negatives", "h"),
        ("baseline", "h"),
    ],
    "Length (figure 9)": [
        (f"{EPOCHS // 4} epochs", "h"),
        ("baseline", "h"),
        (LONG, "h"),
    ],
    "Temperature (table 5)": [
        ("τ 0.05", "h"),
        ("τ 0.1", "h"),
        ("baseline", "h"),
        ("τ 0.5", "h"),
        ("τ 1", "h"),
    ],
}
BASELINE_NAMES = {
    "Views (figure 5)": "crop and colour",
    "Projection head (figure 8)": "nonlinear head",
    "Layer (section 4.2)": f"{EPOCHS} epochs",
    "Loss (table 4)": "NT-Xent",
    "Length (figure 9)": f"{EPOCHS} epochs",
    "Temperature (table 5)": "τ 0.2",
}


def read_records() -> list[dict]:
    if not RECORDS.exists():
        return []
    with RECORDS.open(newline="") as file:
        return list(csv.DictReader(file))


def add_records(*records: dict) -> None:
    """Append to the file immediately, so that no measurement is lost."""
    new = not RECORDS.exists()
    with RECORDS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows(records)


def measure(setting: str, seed: int, data) -> list[dict]:
    """Train one setting; return a record for each layer that is compared."""
    X_train, y_train, X_test, y_test = data
    start = time.perf_counter()
    simclr = SimCLRTransformer(**{**BASELINE, **SETTINGS[setting], "random_state": seed})
    simclr.fit(X_train)
    seconds = time.perf_counter() - start
    records = []
    for layer, name in enumerate(["h", "z"] if setting in ("baseline", LONG) else ["h"]):
        simclr.set_params(output_layer=layer * simclr.projection_layers)
        features = simclr.transform(X_train), y_train, simclr.transform(X_test), y_test
        accuracies = knn_accuracy(*features), linear_accuracy(*features)
        measured = [*(f"{a:.2f}" for a in accuracies), f"{simclr.loss_:.4f}", f"{seconds:.0f}"]
        records.append(dict(zip(COLUMNS, [setting, seed, name, *measured], strict=True)))
    return records


def summaries(records: list[dict]) -> dict[str, list[tuple[str, int, dict]]]:
    """Return the lines of each panel: label, number of seeds, mean and spread of accuracies."""
    panels = {}
    for panel, lines in PANELS.items():
        panels[panel] = []
        for setting, layer in lines:
            found = [r for r in records if (r["setting"], r["layer"]) == (setting, layer)]
            if not found:
                continue
            label = BASELINE_NAMES[panel] if setting == "baseline" else setting
            label += f", {layer}" if panel.startswith("Layer") else ""
            values = {name: [float(r[name]) for r in found] for name in ("knn", "linear")}
            spread = {
                name: (statistics.mean(v), statistics.stdev(v) if len(v) > 1 else 0.0)
                for name, v in values.items()
            }
            panels[panel].append((label, len(found), spread))
    return panels


def report(records: list[dict], raw: tuple[float, float]) -> None:
    """Write the table and draw the plot."""
    table = Table(
        "findings",
        f"10,000 images, ResNetEncoder(18, width=1/8), {EPOCHS} epochs, batches of 128",
        f"Mean ± standard deviation over the seeds. Raw pixels: kNN {raw[0]:.1f}, linear "
        f"{raw[1]:.1f}. {machine()}",
        ["comparison", "setting", "kNN (%)", "linear (%)", "seeds"],
    )
    panels = summaries(records)
    for panel, lines in panels.items():
        for number, (label, n_seeds, spread) in enumerate(lines):
            cells = (f"{mean:.1f} ± {std:.1f}" for mean, std in spread.values())
            table.add("" if number else panel, label, *cells, str(n_seeds))
    table.save(append=False)
    plot(panels)


def plot(panels) -> None:
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained", sharex=True)
    for ax, (panel, lines) in zip(axes.flat, panels.items(), strict=True):
        for shift, (name, label) in enumerate([("linear", "linear"), ("knn", "kNN")]):
            positions = [number + 0.38 * shift - 0.19 for number in range(len(lines))]
            means, stds = zip(*(spread[name] for _, _, spread in lines), strict=True)
            ax.barh(positions, means, height=0.36, xerr=stds, label=label)
        ax.set_yticks(range(len(lines)), [label for label, _, _ in lines])
        ax.invert_yaxis()
        ax.set_title(panel, fontsize="medium")
        ax.grid(axis="x", alpha=0.3)
    axes[0, 0].set_xlim(left=20)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    fig.supxlabel("accuracy on the test images (%)")
    fig.savefig(RECORDS.with_suffix(".png"), dpi=110)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help=".npz file, or folder to download to")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", default=list(SETTINGS), help="names of settings")
    args = parser.parse_args()
    X_train, y_train, X_test, y_test = cifar10(args.data)
    X_train, y_train = subset(X_train, y_train, 10_000)
    for seed in args.seeds:
        for setting in args.only:
            if not any((r["setting"], r["seed"]) == (setting, str(seed)) for r in read_records()):
                records = measure(setting, seed, (X_train, y_train, X_test, y_test))
                print(*records, sep="\n", flush=True)
                add_records(*records)
    raw = flat(X_train) / 255, y_train, flat(X_test) / 255, y_test
    report(read_records(), (knn_accuracy(*raw), linear_accuracy(*raw)))


if __name__ == "__main__":
    main()
