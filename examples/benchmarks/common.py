"""What the benchmarks share: data sets, evaluation, and the record of machine and versions."""

import os
import platform
from pathlib import Path

import joblib
import numpy as np
import sklearn
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_simclr import metrics


def machine() -> str:
    """Describe processor, accelerator and versions in one line."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {gpu}; "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, scikit-learn {sklearn.__version__}, "
        f"numpy {np.__version__}, joblib {joblib.__version__}"
    )


class Table:
    """A table that is printed row by row and written to results/<name>.md at the end.

    The environment variable BENCHMARK_RESULTS names another folder.
    """

    def __init__(self, name: str, title: str, conditions: str, columns: list[str]):
        folder = os.environ.get("BENCHMARK_RESULTS", Path(__file__).parent / "results")
        self.path = Path(folder) / f"{name}.md"
        header = f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
        self.lines = [f"\n## {title}\n", f"{conditions}\n", header]
        print("\n".join(self.lines), flush=True)

    def add(self, *cells: str) -> None:
        """Print a row; missing cells stay empty."""
        self.lines.append(f"| {' | '.join(cells)} |")
        print(self.lines[-1], flush=True)

    def save(self, *, append: bool = True) -> None:
        """Append the table to the file of results, or replace the file."""
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("a" if append else "w") as file:
            file.write("\n".join(self.lines) + "\n")


def split(X, y, test_size=0.3):
    """Return X_train, y_train, X_test, y_test: a stratified split, always the same."""
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=test_size, stratify=y, random_state=0
    )
    return X_train, y_train, X_test, y_test


def digits(test_size=0.3):
    """Return a split of scikit-learn's digits: grey images of 8 x 8 pixels, values 0 to 16."""
    bunch = load_digits()
    return split(bunch.images, bunch.target, test_size)


def vectors(name: str):
    """Return a split of one of scikit-learn's small tables: "breast_cancer", "wine" or "digits"."""
    loaders = {"breast_cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}
    return split(*loaders[name](return_X_y=True))


def cifar10(path: str | None):
    """Return CIFAR-10 as uint8 (n, 32, 32, 3).

    `path` is an .npz file with X_train, y_train, X_test and y_test, or a folder into which
    torchvision downloads the original.
    """
    if path and path.endswith(".npz"):
        data = np.load(path)
        return tuple(data[key] for key in ("X_train", "y_train", "X_test", "y_test"))
    parts = []
    for train in (True, False):
        part = torchvision.datasets.CIFAR10(path or "cifar10", train=train, download=True)
        parts += [part.data, np.array(part.targets)]
    return tuple(parts)


def subset(X, y, n: int, seed: int = 0):
    """Return n rows, stratified by class."""
    X, _, y, _ = train_test_split(X, y, train_size=n, stratify=y, random_state=seed)
    return X, y


def sign_digits(folder: str, side: int = 32):
    """Return photographs of hands that sign the digits 0 to 9, resized, from FOLDER/<digit>/*.JPG.

    They are the Sign Language Digits Dataset of Turkey Ankara Ayranci Anadolu High School.
    """
    paths = sorted(Path(folder).glob("[0-9]/*.JPG"))
    if not paths:
        raise FileNotFoundError(f"No image {folder}/<digit>/*.JPG: pass the folder with 0 to 9.")
    images = [Image.open(path).convert("RGB").resize((side, side), Image.BOX) for path in paths]
    return split(np.stack([np.asarray(i) for i in images]), [int(p.parent.name) for p in paths])


def flat(X):
    """Return the raw values as features, for comparison."""
    X = np.asarray(X, dtype=np.float32)
    return X.reshape(len(X), -1)


def knn_accuracy(h_train, y_train, h_test, y_test) -> float:
    """Return the accuracy in percent of the 10 nearest neighbours by cosine distance."""
    return 100 * metrics.knn_accuracy(h_train, y_train, h_test, y_test, n_neighbors=10)


def linear_accuracy(h_train, y_train, h_test, y_test) -> float:
    """Return the accuracy in percent of logistic regression on standardised features."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return 100 * model.fit(h_train, y_train).score(h_test, y_test)


@torch.inference_mode()
def features_of_network(encoder: nn.Module, images, *, mean=(0.0,), std=(1.0,), device="cpu"):
    """Return the features of images (n, h, w, c), uint8, normalised with pixels in [0, 1]."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    encoder.eval()
    blocks = []
    for block in torch.from_numpy(images).split(500):
        x = (block.permute(0, 3, 1, 2).float().div(255) - mean) / std
        blocks.append(encoder(x.to(device)).cpu())
    return torch.cat(blocks).numpy()


def few_label_accuracy(
    h_train, y_train, h_test, y_test, n_labels: int, n_draws: int = 10, accuracy=linear_accuracy
) -> float:
    """Return the mean accuracy over draws of `n_labels` labelled rows per class."""
    y_train = np.asarray(y_train)
    scores = []
    for seed in range(n_draws):
        rng = np.random.default_rng(seed)
        rows = np.concatenate(
            [
                rng.choice(np.flatnonzero(y_train == label), n_labels, replace=False)
                for label in np.unique(y_train)
            ]
        )
        scores.append(accuracy(h_train[rows], y_train[rows], h_test, y_test))
    return float(np.mean(scores))


def nt_xent_of_matrix(z1: Tensor, z2: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Compute NT-Xent from the matrix of all similarities, as the formula has it."""
    z = F.normalize(torch.cat([z1, z2]))
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(z1)))
