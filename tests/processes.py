"""What `test_distributed.py` lets every process of a run do.

    WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=12345 python processes.py OUT NAME ...

Each process calls the functions named and leaves what they return in OUT/<rank>.pkl. Under torchrun
this is one of the processes, else it starts them.
"""

import contextlib
import io
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import joblib
import numpy as np
import torch
from joblib.externals.loky import get_reusable_executor
from sklearn.callback import FitCallback
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from torch import nn

from sklearn_simclr import SimCLRClassifier, SimCLRTransformer
from sklearn_simclr._distributed import global_batch_norm, joined
from sklearn_simclr._micro_batches import MicroBatches
from sklearn_simclr._training import _of_all
from sklearn_simclr.augmentation import (
    AffineAugmentation,
    ColorJitter,
    Compose,
    Crop,
    GaussianNoise,
)
from sklearn_simclr.callbacks import EarlyStopping, MeasureHistory
from sklearn_simclr.encoders import ConvNetEncoder
from sklearn_simclr.losses import LOSSES, resolve_loss

N = 7  # rows of the batch: shares of different lengths among 2 and among 4
PHOTO_VIEWS = Compose(
    [("crop", Crop(size=6)), ("jitter", ColorJitter()), ("noise", GaussianNoise())]
)


def digits():
    """64 images (8, 8), their labels, and one label in three."""
    images, labels = load_digits(return_X_y=True)
    few = np.where(np.arange(64) % 3 == 0, labels[:64] % 2, -1)
    return images[:64].reshape(-1, 8, 8), labels[:64], few


def simclr(**params):
    defaults = {
        "encoder": ConvNetEncoder(width=4, n_layers=2),
        "projection_dim": 8,
        "batch_size": 23,  # an epoch is 3 batches of 21
        "max_epochs": 2,
        "random_state": 0,
        "precision": "float32",
        "device": os.environ.get("TEST_DEVICE", "cpu"),
    }
    return SimCLRTransformer(**defaults | params)


def network(seed=0):
    """A network in float64 with batch normalisations of every kind, and a parameter unused."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(2, 3, 3, bias=False),
            nn.BatchNorm2d(3, momentum=None),
            nn.ReLU(),
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4, affine=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 6),
            nn.BatchNorm1d(6, track_running_stats=False),
            nn.ReLU(),
            nn.Linear(6, 5),
            nn.BatchNorm1d(5),
        ).double()
        net.unused = nn.Parameter(torch.ones(2).double())
    net.train()
    return net


def views_and_labels():
    generator = torch.Generator().manual_seed(1)
    pair = 3 + 2 * torch.randn(2, N, 2, 8, 8, generator=generator, dtype=torch.float64)
    return pair, torch.tensor([0, 1, 0, -1, 2, 1, -1])


def losses_and_gradients():
    """Loss, gradients and running statistics of one batch, for each loss."""
    pair, labels = views_and_labels()
    found = {}
    with joined("a test") as world:
        share = world.share(N)
        for name in LOSSES:
            net = network()
            with global_batch_norm(net, world):
                z = net(pair[:, share].flatten(0, 1))
                loss = resolve_loss(name, 0.2)(*_of_all(z, N, world), labels)
                (loss / world.size).backward()
            world.all_reduce_gradients(net.parameters())
            gradients = {key: param.grad for key, param in net.named_parameters()}
            found[name] = loss.detach(), gradients, dict(net.state_dict())
    return found


def micro_batches():
    """Loss, gradients and running statistics of one batch that is cut in three."""
    pair, labels = views_and_labels()
    net = network()
    with joined("a test") as world, global_batch_norm(net, world):
        cut = MicroBatches(
            net,
            net,
            device=torch.device("cpu"),
            precision=torch.float32,
            draws_globally=False,
            batch_size=N,
            n_views=2,
            size=2,  # which would be four pieces, more than some process has samples
            world=world,
        )
        loss = cut.backward(
            pair[:, world.share(N)].flatten(0, 1),
            lambda z: resolve_loss("nt_xent", 0.2)(*_of_all(z, N, world), labels),
            N,
        )
        world.all_reduce_gradients(net.parameters())
    gradients = {key: param.grad for key, param in net.named_parameters()}
    return loss, gradients, dict(net.state_dict())


def other_gradients():
    """Gradients where each process uses other parameters, and some none, and the mean of them."""
    params = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    with joined("a test") as world:
        (params[0].sum() * (1 + world.rank)).backward()
        if world.rank == 1:
            (params[1].sum() * 5).backward()
        world.all_reduce_gradients(params)
        mean = world.all_reduce_mean(
            torch.tensor([float(world.rank), np.inf if world.rank else 1.0])
        )
        rows = world.all_gather_with_gradient(
            torch.full((world.share(5).stop - world.share(5).start, 1), world.rank), 5
        )
    return [param.grad for param in params], mean, rows


def objects():
    """What the first process finds out, and an error that it has."""

    def fail():
        raise KeyError(f"from {os.getpid()}")

    with joined("a test") as world:
        pids = world.broadcast_result(os.getpid), os.getpid()
        try:
            world.broadcast_result(fail)
        except KeyError as error:
            caught = str(error)
        return pids, caught, world.all_gather_object(world.rank)


def fitted(model, X):
    return {
        "hash": joblib.hash(model),
        "loss_curve": model.loss_curve_,
        "weights": model._weights,
        "features": model.transform(X),
    }


TRAININGS = {
    "adamw": {},
    "sgd": {"optimizer": "sgd"},
    "lars, dcl": {"optimizer": "lars", "loss": "dcl"},
    "composed views": {"augmentation": PHOTO_VIEWS, "image_size": 6},
    "affine views, supcon": {"augmentation": AffineAugmentation(), "loss": "supcon"},
    "vectors": {"encoder": "mlp", "optimizer": "sgd"},
}


def two_trainings():
    return trainings("sgd", "composed views")


def trainings(*names):
    """Models of several kinds."""
    images, labels, _ = digits()
    found = {}
    for name in names or TRAININGS:
        params = TRAININGS[name]
        X = images.reshape(64, -1) if name == "vectors" else images
        model = simclr(**params)
        if name == "affine views, supcon":
            model.fit(X, labels)
        else:
            model.fit(X)
        found[name] = fitted(model, X)
    model = simclr(optimizer="sgd").partial_fit(images).partial_fit(images)
    found["partial_fit"] = fitted(model, images)
    return found


def own_network(*layers):
    """Features of a network whose weights are others in each process."""
    images, _, _ = digits()
    torch.manual_seed(int(os.environ.get("RANK", 0)))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), *layers, nn.BatchNorm1d(8))
    # Adam would make as large a step of a bias whose gradient is nothing but rounding.
    return simclr(encoder=encoder, optimizer="sgd").fit(images).transform(images)


def unseeded():
    """Models that draw their seeds, a RandomState and a network that draws its own weights."""
    images, _, few = digits()
    np.random.seed(os.getpid())
    rng = np.random.RandomState(os.getpid())
    found = {
        "None": fitted(simclr(random_state=None).fit(images), images),
        "RandomState": fitted(simclr(random_state=rng).fit(images), images)["features"],
        "own network": own_network(),
        "dropout": own_network(nn.Dropout(0.3)),
    }
    for method in ("linear", "fine_tuning"):
        classifier = SimCLRClassifier(simclr(random_state=None), method=method, max_iter=5)
        classifier.fit(images, few)
        found[method] = (
            joblib.hash(classifier),
            classifier.predict_proba(images),
            classifier.loss_curve_,
        )
    return found


def rows_in_order():
    """Features of few and of many rows."""
    images, _, _ = digits()
    model = joblib.load(os.environ["TEST_MODEL"])
    return {n: model.transform(images[:n]) for n in (1, 3, 5, 64)}


class StopsOne(FitCallback):
    """A callback that wants to stop, on the last process only, after the first epoch."""

    def on_fit_task_end(self, estimator, context):
        return os.environ.get("RANK", "1") == "1"


def stopped():
    """Epochs of a training that one process wants to stop."""
    images, _, _ = digits()
    return simclr().set_callbacks(StopsOne()).fit(images).n_iter_


def watched():
    """Measures of held-out images, an early end, and the features, beside those without these."""
    images, labels, _ = digits()
    X, X_val, y_val = images[:40], images[40:], labels[40:]
    history = MeasureHistory(X_val, y_val, scoring=["contrastive_accuracy", "rankme", "knn"])
    stopping = EarlyStopping(X_val, patience=2, min_delta=0.9)
    model = simclr(max_epochs=6).set_callbacks(history, stopping).fit(X)
    features = [model.transform(X)]
    short = StopsAfter(model.n_iter_)
    features.append(simclr(max_epochs=6).set_callbacks(short).fit(X).transform(X))
    return [list(row.values()) for row in history.history_], features


class StopsAfter(FitCallback):
    """A callback that stops after an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_fit_task_end(self, estimator, context):
        return context.task_id + 1 == self.epoch


@contextlib.contextmanager
def caught(errors):
    start = time.perf_counter()
    try:
        yield
    except Exception as error:
        errors.append((type(error).__name__, str(error), time.perf_counter() - start))
    else:
        errors.append(None)


def mistakes():
    """Errors that all processes get, or one; the next call works again."""
    images, labels, _ = digits()
    rank = int(os.environ.get("RANK", 0))
    errors = []
    broken = images.copy()
    broken[3, 2, 2] = np.nan
    noisy = images if rank == 0 else images[::-1]
    for params, X, y in (
        ({"batch_size": 16 + rank}, images, None),
        ({}, images[: 64 - rank], None),
        ({}, noisy, None),
        ({"loss": "supcon"}, images, labels + rank * (labels == 3)),
        ({"batch_size": 2}, images, None),
        ({}, broken if rank == 1 else images, None),
    ):
        with caught(errors):
            simclr(**params).fit(X, y)
    with caught(errors):
        model = simclr().fit(images)
        model.transform(images[: 64 - rank])
    with caught(errors):  # each waits for the other at once, however long their methods take
        (simclr().fit if rank == 0 else model.transform)(images)
    with caught(errors):
        (SimCLRClassifier(simclr()) if rank == 0 else simclr()).fit(images, labels)
    results = []
    with caught(errors):
        simclr(max_epochs=1).fit(images)
        thread = threading.Thread(target=lambda: in_a_thread(images, results))
        with joined("fit"):
            thread.start()
            thread.join()
    return errors, results


def in_a_thread(images, errors):
    with caught(errors):
        simclr(max_epochs=1).fit(images)


def after_all():
    """What a training comes to after whatever has gone wrong."""
    images, _, _ = digits()
    return joblib.hash(simclr().fit(images))


def too_small():
    """The error of batches that have not a sample for each process."""
    errors = []
    with caught(errors):
        simclr(batch_size=3).fit(digits()[0])
    return errors


def printed():
    """What a training prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        simclr(verbose=1, max_epochs=2).fit(digits()[0])
    return text.getvalue()


def grid():
    """The scores of a grid whose fits run in processes of their own, one model each."""
    images, _, _ = digits()
    search = GridSearchCV(simclr(max_epochs=1), {"temperature": [0.2, 0.5]}, cv=2, n_jobs=2)
    search.fit(images)
    get_reusable_executor().shutdown()  # a forked process ends without doing this
    return search.cv_results_["mean_test_score"]


def checkpointed():
    """A training that goes on from the checkpoint of another number of processes."""
    return fitted(
        simclr(checkpoint_dir=os.environ["TEST_CHECKPOINTS"]).fit(digits()[0]), digits()[0]
    )


class Dies:
    """An augmentation with which one process fails in the second epoch."""

    def __init__(self, how):
        self.how, self.n_calls = how, 0

    def __call__(self, batch):
        self.n_calls += 1
        if self.n_calls > 10 and os.environ["RANK"] == "1":
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("in one process")
        return batch + 0.1 * torch.rand_like(batch)


def one_dies():
    """The error of the others if one process is gone."""
    errors = []
    with caught(errors):
        simclr(augmentation=Dies("killed"), max_epochs=1000).fit(digits()[0])
    return errors


def one_dies_and_all_fail():
    simclr(augmentation=Dies("killed"), max_epochs=1000).fit(digits()[0])


def one_raises():
    """The errors if one process has one, which all survive."""
    errors = []
    with caught(errors):
        simclr(augmentation=Dies("raise"), max_epochs=1000).fit(digits()[0])
    return errors


def run(out, *names):
    """Do what is asked for as one of the processes, and leave what it comes to."""
    torch.set_num_threads(1)
    if "TEST_BACKEND" in os.environ:
        torch.distributed.init_process_group(os.environ["TEST_BACKEND"])
    results = {}
    for name in names:
        results[name] = globals()[name]()
        Path(out, f"{os.environ['RANK']}.pkl").write_bytes(pickle.dumps(results))


def start(rank, *arguments):
    """Start one process as torchrun does, but with all that is imported here."""
    pid = os.fork()
    if pid:
        return pid
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    try:
        run(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main():
    out, *names = sys.argv[1:]
    if "RANK" in os.environ:  # of torchrun
        return run(out, *names)
    pids = [start(rank, out, *names) for rank in range(int(os.environ["WORLD_SIZE"]))]
    return any([os.waitpid(pid, 0)[1] not in (0, signal.SIGKILL) for pid in pids])


if __name__ == "__main__":
    sys.exit(main())
