"""Guards for several training runs at once: against hanging, thrashing and a crowded GPU."""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator

import joblib
import torch
from threadpoolctl import threadpool_limits  # scikit-learn requires it

from sklearn_simclr._warnings import warn_caller

_is_forked = False
_at_work: set[int] = set()  # the threads of this process that are in `fair_threads`
_lock = threading.Lock()


def _mark_as_forked() -> None:
    global _lock, _is_forked
    _is_forked = True
    _at_work.clear()
    _lock = threading.Lock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_as_forked)


@contextlib.contextmanager
def fair_threads() -> Iterator[None]:
    """Leave torch one thread in a worker of joblib's threads, and in a forked process.

    OpenMP gives every thread that calls it a team of its own, and several teams on the same cores
    take many times as long as one. A forked process hangs as soon as it uses more than one thread,
    if its parent has. Threads started by other means are warned of instead.
    """
    own = threading.get_ident()
    with _lock:
        nested = own in _at_work
        crowded = bool(_at_work - {own})
        _at_work.add(own)
    try:
        with contextlib.nullcontext() if nested else _limited(crowded):
            yield
    finally:
        if not nested:
            with _lock:
                _at_work.discard(own)


@contextlib.contextmanager
def _limited(crowded: bool) -> Iterator[None]:
    n_threads = torch.get_num_threads()
    if n_threads == 1:
        yield
    elif _is_forked:
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(n_threads)
    elif _in_worker_thread():
        with threadpool_limits(1, user_api="openmp"):
            yield
    else:
        if crowded and not torch.cuda.is_available():
            warn_caller(
                f"Several threads of this process compute at once, each with {n_threads} threads "
                "of torch's on the same cores, which takes many times as long. Call "
                "torch.set_num_threads(1) first, or use processes, joblib's backend 'loky'."
            )
        yield


def is_worker() -> bool:
    """Whether joblib has started what is running."""
    backend, _ = joblib.parallel.get_active_backend()
    return bool(backend.nesting_level)


def _in_worker_thread() -> bool:
    """Whether this thread is a worker of joblib's backend "threading"."""
    return is_worker() and threading.current_thread() is not threading.main_thread()


def warn_of_shared_gpu(device: torch.device) -> None:
    """Warn in a worker process of joblib's that the others will want the same GPU."""
    if device.type == "cuda" and is_worker() and multiprocessing.parent_process() is not None:
        warn_caller(
            f"Several processes of joblib's may share {device}: they take turns, which saves no "
            "time, and each keeps X and the network in its memory. Pass n_jobs=1, or give every "
            "worker a GPU of its own by CUDA_VISIBLE_DEVICES."
        )


def in_forked_process() -> bool:
    """Whether this process was forked from one that had imported the package."""
    return _is_forked
