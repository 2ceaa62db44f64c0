"""Several processes that train as one: each does what `processes.py` says, with gloo."""

import os
import pickle
import socket
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import processes
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.callback import FitCallback
from sklearn.model_selection import GridSearchCV
from torch import nn

import sklearn_simclr
from sklearn_simclr._device import _best_device
from sklearn_simclr._distributed import ALONE, World, global_batch_norm, joined
from sklearn_simclr._views import Views
from sklearn_simclr.augmentation import (
    AffineAugmentation,
    FeatureCorruption,
    SimCLRAugmentation,
)
from sklearn_simclr.losses import LOSSES, resolve_loss

# The trained model, in float32: how far the largest feature, or a loss, may be off.
TRAINED = 1e-3
SCRIPT = Path(processes.__file__)


def environment(**variables):
    paths = (Path(sklearn_simclr.__file__).parents[1], SCRIPT.parent)
    path = os.pathsep.join(map(str, paths))
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | variables


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def run(n, out, *names, **variables):
    """Let n processes do what is named; return what each has left."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(n)}
    done = subprocess.run(
        [sys.executable, SCRIPT, out, *names],
        env=environment(**shared, **variables),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not done.returncode, done.stderr
    return [pickle.loads((out / f"{rank}.pkl").read_bytes()) for rank in range(n)]


@pytest.fixture(scope="session")
def fitted_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.joblib"
    joblib.dump(processes.simclr(max_epochs=1).fit(processes.digits()[0]), path)
    return str(path)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A directory with the checkpoint of a training of this process, after its first epoch."""
    directory = str(tmp_path_factory.mktemp("checkpoints"))

    class Ends(FitCallback):
        def on_fit_task_begin(self, estimator, context, *, X=None):
            if context.task_name == "epoch" and context.task_id == 1:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        model = processes.simclr(checkpoint_dir=directory).set_callbacks(Ends())
        model.fit(processes.digits()[0])
    return directory


@pytest.fixture(scope="session")
def of_two(tmp_path_factory, fitted_model, checkpoints):
    """What each of 2 processes comes to; at the end one of them is killed."""
    out = tmp_path_factory.mktemp("two")
    names = ("losses_and_gradients", "micro_batches", "other_gradients", "objects", "trainings")
    names += (
        "rows_in_order",
        "stopped",
        "watched",
        "printed",
        "unseeded",
        "checkpointed",
        "mistakes",
        "one_raises",
    )
    names += ("after_all", "one_dies")
    variables = {"TORCHELASTIC_RUN_ID": "test", "TEST_MODEL": fitted_model}
    variables["TEST_CHECKPOINTS"] = checkpoints
    return run(2, out, *names, **variables)


@pytest.fixture(scope="session")
def of_four(tmp_path_factory, fitted_model):
    """What each of 4 processes comes to, which initialise torch.distributed themselves."""
    out = tmp_path_factory.mktemp("four")
    names = ("losses_and_gradients", "two_trainings", "rows_in_order", "too_small")
    variables = {"TEST_BACKEND": "gloo", "TEST_MODEL": fitted_model}
    return run(4, out, *names, **variables)


@pytest.fixture(params=[2, 4])
def of_several(request):
    return request.getfixturevalue({2: "of_two", 4: "of_four"}[request.param])


@pytest.fixture(scope="session")
def of_one():
    """The models of this process alone."""
    return processes.trainings()


# ------------------------------------------------------------------------------------------------
# One step


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_gradients_and_statistics_are_those_of_one_process(of_several, loss):
    pair, labels = processes.views_and_labels()
    net = processes.network()
    value = resolve_loss(loss, 0.2)(*net(pair.flatten(0, 1)).chunk(2), labels)  # plain torch
    value.backward()
    for found in of_several:
        own_value, gradients, state = found["losses_and_gradients"][loss]
        assert own_value.item() == pytest.approx(value.item(), rel=1e-12)
        for name, param in net.named_parameters():
            if name == "unused":
                assert gradients[name] is None
            else:
                torch.testing.assert_close(gradients[name], param.grad, rtol=1e-10, atol=1e-12)
        assert state.keys() == net.state_dict().keys()
        for name, buffer in net.named_buffers():
            torch.testing.assert_close(state[name], buffer, rtol=1e-12, atol=1e-14)


def test_micro_batches_are_of_the_samples_of_all_processes(of_two):
    pair, labels = processes.views_and_labels()
    net = processes.network()
    rows = [0, 1, 4], [2, 5], [3, 6]  # the samples 0 to 3 and 4 to 6, each cut in three
    z = torch.cat([net(pair[:, row].flatten(0, 1)).unflatten(0, (2, -1)) for row in rows], dim=1)
    order = torch.tensor([row for piece in rows for row in piece]).argsort()
    value = resolve_loss("nt_xent", 0.2)(*z[:, order], labels)
    value.backward()
    for found in of_two:
        own_value, gradients, state = found["micro_batches"]
        assert own_value.item() == pytest.approx(value.item(), rel=1e-12)
        for name, param in net.named_parameters():
            if name != "unused":
                torch.testing.assert_close(gradients[name], param.grad, rtol=1e-10, atol=1e-12)
        for name, buffer in net.named_buffers():
            torch.testing.assert_close(state[name], buffer, rtol=1e-12, atol=1e-14)


def test_gradients_that_not_every_process_has(of_two):
    for found in of_two:
        gradients, mean, rows = found["other_gradients"]
        assert gradients[0].tolist() == [3, 3]  # 1 of the first process, 2 of the second
        assert gradients[1].tolist() == [5, 5]  # of the second only
        assert gradients[2] is None
        assert mean.tolist() == [0.5, torch.inf]
        assert rows.tolist() == [[0], [0], [0], [1], [1]]


class Dimming(BaseEstimator):
    """An object of a user's, whose parameters are arrays of NumPy."""

    def make_params(self, shape, generator):
        return {"factor": torch.rand(shape[0], generator=generator).numpy()}

    def apply(self, batch, params):
        return batch * torch.from_numpy(params["factor"])[:, None, None, None]


@pytest.mark.parametrize("n_processes", [2, 3, 7])
@pytest.mark.parametrize(
    "augmentation",
    [
        SimCLRAugmentation(size=10),
        AffineAugmentation(),
        processes.PHOTO_VIEWS,
        FeatureCorruption(),
        "a callable",
        Dimming(),
    ],
    ids=lambda augmentation: type(augmentation).__name__,
)
def test_views_of_the_shares_are_those_of_the_batch(augmentation, n_processes):
    shape = (7, 12) if isinstance(augmentation, FeatureCorruption) else (7, 3, 12, 12)
    batch = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    views = Views((lambda x: x + 1) if augmentation == "a callable" else augmentation, None, False)
    whole = views(batch, torch.Generator().manual_seed(1))
    parts = []
    for rank in range(n_processes):
        share = World(rank, n_processes).share(7)
        rows = batch if views.mixes_samples else batch[share]
        parts.append(views.of_share(rows, torch.Generator().manual_seed(1), share, 7))
    for view, shares in zip(whole, zip(*parts, strict=True), strict=True):
        assert_allclose(torch.cat(shares), view, atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 5, 12])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_shares_are_all_rows_in_their_order(n, size):
    shares = [np.arange(n)[World(rank, size).share(n)] for rank in range(size)]
    assert_array_equal(np.concatenate(shares), np.arange(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_batch_norm_is_put_back():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with global_batch_norm(net, World(0, 2)):
        assert "forward" in vars(net[1])
    assert "forward" not in vars(net[1])
    with global_batch_norm(net, ALONE):
        assert "forward" not in vars(net[1])


def test_batch_norm_of_another_kind_is_refused():
    class Own(nn.BatchNorm1d):
        def forward(self, x):
            return super().forward(x) + 1

    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), Own(3))
    message = "layer Own is a batch normalisation with a forward of its own"
    with pytest.raises(ValueError, match=message), global_batch_norm(net, World(0, 2)):
        pass
    assert "forward" not in vars(net[1])


# ------------------------------------------------------------------------------------------------
# Fit and transform


def close_to(model, expected):
    assert_allclose(model["loss_curve"], expected["loss_curve"], rtol=TRAINED)
    largest = np.abs(expected["features"]).max()
    assert_allclose(model["features"], expected["features"], atol=TRAINED * largest)
    assert model["weights"].keys() == expected["weights"].keys()


@pytest.mark.parametrize("name", [*processes.TRAININGS, "partial_fit"])
def test_models_of_two_processes_are_that_of_one(of_two, of_one, name):
    for found in of_two:
        close_to(found["trainings"][name], of_one[name])
    first, second = (found["trainings"][name] for found in of_two)
    assert first["hash"] == second["hash"]
    assert_array_equal(first["features"], second["features"])


@pytest.mark.parametrize("name", ["sgd", "composed views"])
def test_models_of_four_processes_are_that_of_one(of_four, of_one, name):
    for found in of_four:
        close_to(found["two_trainings"][name], of_one[name])
    assert len({found["two_trainings"][name]["hash"] for found in of_four}) == 1


def test_transform_gives_all_rows_in_their_order(of_several, fitted_model):
    images, model = processes.digits()[0], joblib.load(fitted_model)
    for found in of_several:
        for n, features in found["rows_in_order"].items():
            assert_allclose(features, model.transform(images[:n]), atol=1e-6)


def test_the_first_process_decides_what_is_drawn(of_two):
    first, second = (found["unseeded"] for found in of_two)
    assert first["None"]["hash"] == second["None"]["hash"]
    for name in ("RandomState", "own network", "dropout"):
        assert_array_equal(first[name], second[name])
    expected = processes.own_network()
    assert_allclose(first["own network"], expected, atol=TRAINED * np.abs(expected).max())


@pytest.mark.parametrize("method", ["linear", "fine_tuning"])
def test_classifiers_are_equal(of_two, method):
    (hash_1, p_1, losses_1), (hash_2, p_2, losses_2) = (f["unseeded"][method] for f in of_two)
    assert hash_1 == hash_2 and losses_1 == losses_2
    assert_array_equal(p_1, p_2)


def test_what_one_process_knows(of_two):
    for rank, found in enumerate(of_two):
        (pid, own_pid), error, ranks = found["objects"]
        assert (pid == own_pid) == (rank == 0)
        assert error == repr(f"from {pid}")
        assert ranks == [0, 1]


def test_one_process_that_stops_stops_all(of_two):
    assert [found["stopped"] for found in of_two] == [1, 1]


def test_measures_are_the_same_on_all_processes_and_change_nothing(of_two):
    (rows, features), (their_rows, their_features) = (found["watched"] for found in of_two)
    assert_array_equal(rows, their_rows)
    assert_array_equal(*features)
    assert_array_equal(*their_features)
    assert len(rows) == 1 + 3  # the first epoch is the best, two are no better by as much
    expected, _ = processes.watched()
    assert_allclose(rows, expected, rtol=1e-3, atol=0.05)


def test_a_run_goes_on_from_the_checkpoint_of_another_number_of_processes(
    of_two, of_one, checkpoints
):
    for found in of_two:
        close_to(found["checkpointed"], of_one["adamw"])
    assert of_two[0]["checkpointed"]["hash"] == of_two[1]["checkpointed"]["hash"]
    # It has gone on from the one there was, and the next call here finds what it has left there.
    assert len(list(Path(checkpoints).iterdir())) == 1
    model = processes.simclr(checkpoint_dir=checkpoints).fit(processes.digits()[0])
    assert_array_equal(
        model.transform(processes.digits()[0]), of_two[0]["checkpointed"]["features"]
    )


def test_the_first_process_prints(of_two):
    lines, none = (found["printed"].splitlines() for found in of_two)
    assert "cpu in float32, 2 processes: ConvNetEncoder" in lines[0]
    assert len(lines) == 3 and lines[1].startswith("epoch 1/2") and none == []


# ------------------------------------------------------------------------------------------------
# What goes wrong


def test_processes_that_differ_are_refused(of_two):
    messages = (
        "differ in batch_size: 16 and 17",
        "differ in the number of rows of X: 64 and 63",
        "differ in the values of X, or the order of its rows",
        "differ in the checksum of y",
    )
    for found in of_two:
        errors, _ = found["mistakes"]
        for (kind, message, _), expected in zip(errors, messages, strict=False):
            assert kind == "ValueError" and expected in message
        assert errors[4] is None  # batches of one sample a process
        assert "differ in the number of rows" in errors[6][1]
        assert errors[7][0] == "ValueError"
        assert "the method: SimCLRTransformer.fit and SimCLRTransformer.transform" in errors[7][1]
        assert "the method: SimCLRClassifier.fit and SimCLRTransformer.fit" in errors[8][1]
        assert errors[9] is None


def test_an_error_of_one_process_ends_all(of_two):
    (kind, message, seconds), (own_kind, own_message, _) = (f["mistakes"][0][5] for f in of_two)
    assert own_kind == "ValueError" and "NaN" in own_message
    assert kind == "RuntimeError" and "has lost another process" in message
    assert seconds < 30
    (kind, message, seconds), (own_kind, _, _) = (found["one_raises"][0] for found in of_two)
    assert own_kind == "ZeroDivisionError"
    assert kind == "RuntimeError" and "with checkpoint_dir it goes on" in message
    assert seconds < 30


def test_after_errors_all_is_as_before(of_two):
    for found in of_two:
        assert found["after_all"] == found["trainings"]["adamw"]["hash"]


def test_a_process_that_is_killed_ends_the_others(of_two):
    kind, message, seconds = of_two[0]["one_dies"][0]
    assert "one_dies" not in of_two[1]
    assert kind == "RuntimeError" and "Process 0 of 2 has lost another process" in message
    assert seconds < 30


def test_two_threads_cannot_train_at_once(of_two):
    for found in of_two:
        ((kind, message, _),) = found["mistakes"][1]
        assert kind == "RuntimeError" and "another of its threads" in message


def test_batches_smaller_than_the_number_of_processes(of_four):
    for found in of_four:
        ((kind, message, _),) = found["too_small"]
        assert kind == "ValueError"
        assert "Batches of 2 samples cannot be shared by 4 processes" in message
        assert "batch_size=3" in message


def torchrun(n, *arguments, options=(), **variables):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n), *options]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    return subprocess.run(
        [*command, SCRIPT, *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_torchrun_ends_when_a_process_is_killed(tmp_path):
    start_time = time.perf_counter()
    # torchrun would stop the other process too, perhaps before that has said why it ends.
    looks_seldom = ("--monitor-interval", "5")
    done = torchrun(2, tmp_path, "one_dies_and_all_fail", options=looks_seldom)
    assert done.returncode
    assert "RuntimeError: Process 0 of 2 has lost another process of this run" in done.stderr
    assert time.perf_counter() - start_time < 120


# ------------------------------------------------------------------------------------------------
# One process


@pytest.fixture
def alone_under_torchrun(monkeypatch):
    variables = {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_one_process_under_torchrun_is_a_plain_run(of_one, alone_under_torchrun):
    images = processes.digits()[0]
    with joined("a test") as world:
        assert world == ALONE
    found = processes.fitted(processes.simclr(optimizer="sgd").fit(images), images)
    assert not torch.distributed.is_initialized()
    assert found["hash"] == of_one["sgd"]["hash"]


def test_every_process_gets_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert _best_device() == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert _best_device() == "cuda"  # started by something else
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    assert _best_device() == "cuda:1"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="--nproc-per-node 2"):
        _best_device()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # the one that it can see
    assert _best_device() == "cuda"


# ------------------------------------------------------------------------------------------------
# What takes longer, or needs a GPU


@pytest.mark.slow
def test_one_process_of_torchrun_itself(tmp_path, of_one):
    assert not torchrun(1, tmp_path, "trainings").returncode
    found = pickle.loads((tmp_path / "0.pkl").read_bytes())["trainings"]
    assert {name: model["hash"] for name, model in found.items()} == {
        name: model["hash"] for name, model in of_one.items()
    }


@pytest.mark.slow
def test_models_of_a_grid_are_fitted_alone(tmp_path):
    found = run(2, tmp_path, "grid", TORCHELASTIC_RUN_ID="test")
    search = GridSearchCV(processes.simclr(max_epochs=1), {"temperature": [0.2, 0.5]}, cv=2)
    expected = search.fit(processes.digits()[0]).cv_results_["mean_test_score"]
    for result in found:
        assert_allclose(result["grid"], expected, atol=0.02)


@pytest.mark.gpu
def test_one_process_with_a_gpu_is_a_plain_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_DEVICE", "auto")
    expected = processes.trainings()
    done = torchrun(1, tmp_path, "trainings")
    assert not done.returncode, done.stderr
    found = pickle.loads((tmp_path / "0.pkl").read_bytes())["trainings"]
    for name, model in found.items():
        assert_allclose(model["loss_curve"], expected[name]["loss_curve"], rtol=1e-2)


@pytest.mark.gpu
def test_two_processes_that_share_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_DEVICE", "cuda")
    expected = processes.trainings()
    found = run(2, tmp_path, "trainings", TEST_BACKEND="gloo")
    for name, model in expected.items():
        for result in found:
            assert_allclose(result["trainings"][name]["loss_curve"], model["loss_curve"], rtol=1e-2)
        assert len({result["trainings"][name]["hash"] for result in found}) == 1
