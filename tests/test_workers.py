"""Many fits at once, by every backend of joblib's: the same results, no hang, no thrashing."""

import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sklearn_simclr import _workers
from sklearn_simclr._device import plain_torch, resolve_device
from sklearn_simclr._workers import fair_threads, warn_of_shared_gpu

BACKENDS = ["loky", "threading", "multiprocessing"]


@pytest.fixture
def two_threads():
    """Torch with two threads, as a machine with two cores has it."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def search(simclr, n_jobs):
    model = Pipeline([("simclr", simclr()), ("clf", LogisticRegression())])
    return GridSearchCV(model, {"simclr__temperature": [0.1, 0.5]}, cv=2, n_jobs=n_jobs)


def scores(fitted):
    """Scores and the features' parameters of a search."""
    weights = fitted.best_estimator_[0]._weights.values()
    return fitted.cv_results_["mean_test_score"], [weight.sum() for weight in weights]


def n_threads_inside(_=None):
    """Threads of torch's that a fit would use, and those after it."""
    with plain_torch():
        inside = torch.get_num_threads()
    return inside, torch.get_num_threads()


def with_barrier(barrier):
    with plain_torch():
        barrier.wait(10)
        inside = torch.get_num_threads()
        barrier.wait(10)
    return inside


# Grid searches


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_search_gives_the_same_by_every_backend(digits, simclr, backend):
    expected = scores(search(simclr, None).fit(*digits))
    with joblib.parallel_config(backend, n_jobs=2):
        found = scores(search(simclr, None).fit(*digits))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_a_search_gives_the_same_on_a_cluster_of_dask(digits, simclr, tmp_path):
    distributed = pytest.importorskip("distributed")
    expected = scores(search(simclr, None).fit(*digits))
    options = {"dashboard_address": None, "local_directory": str(tmp_path)}
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, **options) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config("dask"),
    ):
        found = scores(search(simclr, None).fit(*digits))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


# Threads


def test_outside_of_workers_torch_keeps_its_threads(two_threads):
    assert n_threads_inside() == (2, 2)


def test_a_worker_thread_of_joblib_uses_one_thread_of_torch(two_threads):
    found = joblib.Parallel(2, backend="threading")(
        joblib.delayed(n_threads_inside)(i) for i in range(4)
    )
    assert found == [(1, 2)] * 4
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="the system cannot fork"
)
def test_a_forked_process_uses_one_thread_of_torch(two_threads):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(n_threads_inside) == (1, 2)
        assert pool.apply(_workers.in_forked_process)
    assert not _workers.in_forked_process()


FORKED_FIT = """
import multiprocessing, numpy as np, torch, warnings
from sklearn_simclr import SimCLRTransformer
from sklearn_simclr.encoders import ConvNetEncoder
warnings.simplefilter("ignore")
X = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
def fit(_):
    return SimCLRTransformer(ConvNetEncoder(), max_epochs=1, random_state=0).fit(X).loss_
torch.set_num_threads(2)
fit(0)
with multiprocessing.get_context("fork").Pool(2) as pool:
    first, second = pool.map(fit, range(2))
print(first == second)
"""


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="the system cannot fork"
)
def test_a_fit_after_a_fork_does_not_hang():
    result = subprocess.run(
        [sys.executable, "-c", FORKED_FIT], capture_output=True, text=True, timeout=120
    )
    assert result.stdout.strip() == "True", result.stderr


FORK_WITHIN_A_FIT = """
import os, threading, numpy as np, warnings
from sklearn_simclr import SimCLRTransformer
warnings.simplefilter("ignore")
X = np.random.default_rng(0).random((16, 8, 8))
inside, over = threading.Event(), threading.Event()
def views(batch):
    inside.set()
    over.wait()
    return batch + 0.1
simclr = SimCLRTransformer(augmentation=views, max_epochs=1)
training = threading.Thread(target=simclr.fit, args=[X])
training.start()
inside.wait()
child = os.fork()
if not child:
    SimCLRTransformer(augmentation=lambda batch: batch + 0.1, max_epochs=1).fit(X)
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
over.set()
training.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_fit_in_a_fork_does_not_wait_for_a_thread_of_its_parent():
    result = subprocess.run(
        [sys.executable, "-c", FORK_WITHIN_A_FIT], capture_output=True, text=True, timeout=60
    )
    assert result.stdout.strip() == "7", result.stderr


def test_other_threads_at_once_are_warned(two_threads, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool, pytest.warns(UserWarning, match="set_num_threads") as met:
        assert list(pool.map(with_barrier, [barrier, barrier])) == [2, 2]
    assert len(met) == 1  # the first was alone when it began


def test_threads_of_torch_that_are_one_are_no_reason_to_warn():
    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(pool.map(with_barrier, [barrier, barrier])) == [1, 1]


def test_one_after_the_other_is_no_reason_to_warn(two_threads):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fair_threads(), fair_threads():  # a classifier's fit holds a transformer's
            pass
        thread = threading.Thread(target=n_threads_inside)
        thread.start()
        thread.join()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(n_threads_inside).result() == (2, 2)
    assert not _workers._at_work


def test_an_error_inside_leaves_nothing_behind(two_threads):
    with pytest.raises(KeyError), fair_threads():
        raise KeyError
    assert not _workers._at_work
    assert torch.get_num_threads() == 2


# GPUs


def shared_gpu_warnings(device):
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        warn_of_shared_gpu(torch.device(device))
    return [str(warning.message) for warning in met]


def test_a_gpu_that_worker_processes_share_is_warned_of():
    found = joblib.Parallel(2, backend="loky")(
        joblib.delayed(shared_gpu_warnings)(device) for device in ("cuda:0", "cpu")
    )
    assert len(found[0]) == 1 and "cuda:0" in found[0][0] and "n_jobs=1" in found[0][0]
    assert found[1] == []
    assert shared_gpu_warnings("cuda:0") == []


def test_cuda_in_a_forked_process_is_refused_with_the_mend(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", fail)
    monkeypatch.setattr(_workers, "_is_forked", True)
    with pytest.raises(ValueError, match=r"device='auto' .*backend 'loky'"):
        resolve_device("auto")
