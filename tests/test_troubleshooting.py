"""Every message that the troubleshooting page explains is raised, as it is written there."""

import re
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from unittest.mock import patch

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from sklearn_simclr import SimCLRClassifier, SimCLRTransformer
from sklearn_simclr._distributed import World
from sklearn_simclr._graphs import Replayed
from sklearn_simclr._micro_batches import MicroBatches
from sklearn_simclr._training import check_agreement, train
from sklearn_simclr._workers import fair_threads
from sklearn_simclr.augmentation import SimCLRAugmentation
from sklearn_simclr.datasets import load_image_paths
from sklearn_simclr.encoders import ResNetEncoder
from sklearn_simclr.metrics import knn_scorer

PAGE = Path(__file__).parents[1] / "docs" / "user_guide" / "troubleshooting.rst"
DIGITS = load_digits()
IMAGES = DIGITS.images[:32]
COLOURED = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), dtype=np.uint8)
VECTORS = np.random.default_rng(0).normal(size=(32, 5))


def quick(**params):
    return SimCLRTransformer(**({"max_epochs": 1, "random_state": 0, "device": "cpu"} | params))


def later(first, then, **params):
    """Fit on one X and transform another."""
    return lambda: quick(**params).fit(first).transform(then)


def of_fit(X=IMAGES, y=None, **params):
    return lambda: quick(**params).fit(X, y)


def failing(batch):
    raise RuntimeError("no")


def go_on_with_another_head():
    quick(warm_start=True).fit(IMAGES).set_params(projection_dim=7).fit(IMAGES)


def press_ctrl_c():
    n_calls = 0

    def views(batch):
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2 + 2 + 1:  # in the trial, in the first epoch, in the second
            signal.raise_signal(signal.SIGINT)
        return batch + 0.1 * torch.randn_like(batch)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        quick(augmentation=views, max_epochs=3).fit(IMAGES)
    finally:
        signal.signal(signal.SIGINT, before)


def fit_in_threads():
    def compute(_):
        with fair_threads():
            together.wait()

    together, n_threads = Barrier(2, timeout=60), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(compute, range(2)))
    finally:
        torch.set_num_threads(n_threads)


def damage_a_checkpoint(tmp_path):
    quick(checkpoint_dir=tmp_path).fit(IMAGES)
    for path in tmp_path.iterdir():
        path.write_bytes(b"no checkpoint")
    quick(checkpoint_dir=tmp_path).fit(IMAGES)


class Disagreeing(World):
    """Two processes, the second of which has read other data."""

    def all_gather_object(self, value):
        facts, glimpse = value
        return [value, (facts | {"the number of rows of X": 7}, glimpse)]


def differ():
    class Samples:
        input_shape, pixel_range, device = (1, 8, 8), (0, 16), torch.device("cpu")

        def __len__(self):
            return 32

        def batch(self, index):
            return torch.zeros(len(index), 1, 8, 8)

    check_agreement(Disagreeing(0, 2), Samples(), dict)


def share_too_little():
    epochs = train(
        *[None] * 2,
        range(32),
        *[None] * 2,
        n_epochs=1,
        first_epoch=0,
        batch_size=32,
        learning_rate_at=None,
        precision=torch.float32,
        seed=0,
        world=World(0, 64),
    )
    next(epochs)


def run_out_of_memory(limit):
    class Encoder(nn.Flatten):
        def forward(self, x):
            if self.training and len(x) > limit:
                raise torch.OutOfMemoryError
            return super().forward(x)

    quick(encoder=Encoder()).fit(IMAGES)


def share_too_much():
    def output_of(x):
        raise torch.OutOfMemoryError

    cut = MicroBatches(
        nn.Linear(1, 1),
        output_of,
        device=torch.device("cpu"),
        precision=torch.float32,
        draws_globally=False,
        batch_size=32,
        world=World(0, 2),
    )
    cut.backward(torch.zeros(16, 1), torch.sum, 32)


def lose_a_process():
    lost = RuntimeError("Connection closed by peer")
    with patch("sklearn_simclr._distributed._joined_group", side_effect=lost):
        World(0, 2).all_reduce_mean(torch.zeros(1))


def fit_without_a_compiler():
    with patch("torch.compile", return_value=failing):
        quick(compile=True).fit(IMAGES)


def record_without_a_gpu():
    replayed = Replayed(torch.clone, n_calls=20)
    with patch("torch.cuda.CUDAGraph", side_effect=RuntimeError("no GPU")):
        for _ in range(20):
            replayed(torch.zeros(1))


# What raises each message, by the message as it stands on the page.
CASES = {
    "X of shape … looks as if the channels came first, but channel_axis=-1 says last.": of_fit(
        COLOURED.transpose(0, 3, 1, 2)
    ),
    "X must be vectors (n, d) or images (n, h, w), (n, h, w, c) or, with channel_axis=1, "
    "(n, c, h, w); got shape …": of_fit(np.zeros((2, 3, 8, 8, 3))),
    "X of shape … looks as if it were a single image. Pass X[None], or several images.": later(
        COLOURED, COLOURED[0]
    ),
    "X must be an array, a tensor, or a list of samples or paths; got a …": of_fit(iter(IMAGES)),
    "X must hold samples of one shape, got a ragged sequence": of_fit([IMAGES[0], IMAGES[0, 1:]]),
    "image_shape=… needs rows of … values, but X has shape …": of_fit(
        IMAGES.reshape(32, -1), image_shape=(9, 9)
    ),
    "Found array with 1 sample(s)": of_fit(IMAGES[:1]),
    "X holds … values in [0, 1], but the transformer was fitted on pixels in 0..255.": later(
        COLOURED, COLOURED / 255
    ),
    "X reaches …, but the transformer was fitted on pixels in …": later(IMAGES / 16, IMAGES),
    "X holds pixels from … to …, but the transformer was fitted on …: if the units differ": later(
        IMAGES, IMAGES * 2
    ),
    "X is uint8, whose 255 stands for white, but its largest value is …": of_fit(
        IMAGES.astype(np.uint8)
    ),
    "X is uint8, whose 255 stands for 1, but its largest value is 1": later(
        IMAGES > 8, (IMAGES > 8).astype(np.uint8)
    ),
    "X holds pixels in 0..255, but the transformer was fitted on pixels from … to ….": later(
        IMAGES - 8, IMAGES.astype(np.uint8)
    ),
    "X holds images of (h, w, c) = …, but SimCLRTransformer was fitted on …": later(
        IMAGES, np.zeros((2, 9, 9))
    ),
    "Input X contains NaN.": of_fit(np.full((4, 8, 8), np.nan)),
    "… of … image files in X cannot be read:": of_fit(["a.jpg", "b.jpg"]),
    "X must be a sequence of the paths of image files, got the single path …": of_fit("a.jpg"),
    "root=… holds no images, neither in subfolders nor, if there are none, directly.": (
        load_image_paths
    ),
    "augmentation=… is a class; pass an object, …": of_fit(augmentation=SimCLRAugmentation),
    "augmentation=… does not suit X, which holds …": of_fit(augmentation="scarf"),
    "augmentation=… failed on a batch of shape …": of_fit(augmentation=failing),
    "The augmentation … skips what does not apply to images of (h, w, c) = …": of_fit(
        augmentation="simclr"
    ),
    "encoder=… needs images, but the rows of X are vectors of … features": of_fit(
        VECTORS, encoder="resnet18"
    ),
    "encoder=… cannot take input of shape …": of_fit(encoder=nn.Linear(3, 3)),
    "encoder=… must map a batch of n samples to a float32 tensor of shape (n, d)": of_fit(
        encoder=nn.Conv2d(1, 3, 3)
    ),
    "The weights do not fit encoder=…": of_fit(
        encoder=ResNetEncoder(
            width=0.125, weights=ResNetEncoder(width=0.25).build((1, 8, 8)).state_dict()
        )
    ),
    "loss='supcon' learns from labels.": of_fit(loss="supcon"),
    "output_layer=… is not a layer of a projection head with projection_layers=…": of_fit(
        output_layer=3
    ),
    "batch_size=… is larger than the data": of_fit(),
    "Epoch … ended with a loss of …": of_fit(learning_rate=1e30, max_epochs=3),
    "The memory of … does not hold what the network keeps of … samples (batch_size=…).": (
        lambda: run_out_of_memory(16)
    ),
    "The memory of … does not hold even … samples at a time": lambda: run_out_of_memory(1),
    "The memory of … does not hold its share of batches of … samples": share_too_much,
    "device=… cannot be used on this machine": of_fit(device="cuda:99"),
    "… differs from the … of the model that training would continue from.": (
        go_on_with_another_head
    ),
    "torch.compile does not work here, and the network is used as it is.": fit_without_a_compiler,
    "A step could not be recorded as a CUDA graph and is taken as it is": record_without_a_gpu,
    "Training interrupted by user after … of … epochs": press_ctrl_c,
    "Several threads of this process compute at once": fit_in_threads,
    "checkpoint_dir=… needs a seed, but random_state=None draws another one each time": of_fit(
        checkpoint_dir="somewhere", random_state=None
    ),
    "The checkpoint … Delete it, or move it away, to train": damage_a_checkpoint,
    "Batches of … samples cannot be shared by … processes": share_too_little,
    "Processes 0 and … of this run differ in …": differ,
    "has lost another process of this run": lose_a_process,
    "SimCLRClassifier requires y to be passed, but the target y is None.": (
        lambda: SimCLRClassifier().fit(IMAGES, None)
    ),
    "needs labelled samples of at least 2 classes, but y contains …": (
        lambda: SimCLRClassifier().fit(IMAGES, np.full(32, -1))
    ),
    "knn_scorer needs labels, got y=None.": lambda: knn_scorer(quick().fit(IMAGES), IMAGES),
    "This SimCLRTransformer instance is not fitted yet.": lambda: quick().transform(IMAGES),
}
NEEDS_FOLDER = (load_image_paths, damage_a_checkpoint)


def messages_of_the_page():
    """Messages in the first column of the tables, in their order."""
    return re.findall(r"^   \* - ``(.+)``$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def what_is_said(case, *args):
    """Texts of the warnings and the error that a call ends in."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            case(*args)
        except Exception as error:
            return [*(str(warning.message) for warning in caught), str(error)]
    return [str(warning.message) for warning in caught]


def test_every_message_of_the_page_has_its_case():
    assert messages_of_the_page() == list(CASES)


@pytest.mark.parametrize("message", CASES)
def test_message_is_raised_as_the_page_has_it(message, tmp_path):
    case = CASES[message]
    said = what_is_said(case, *([tmp_path] if case in NEEDS_FOLDER else []))
    pattern = re.escape(message).replace("…", ".+")
    assert [text for text in said if re.search(pattern, text, flags=re.DOTALL)], said
