"""How the C library's allocator is told to keep memory during a fit, and returns it afterwards."""

import faulthandler
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from sklearn_simclr import SimCLRTransformer, _allocator
from sklearn_simclr._allocator import reused_memory
from sklearn_simclr.encoders import ConvNetEncoder

needs_glibc = pytest.mark.skipif(
    not _allocator._is_tunable(), reason="another C library, or a malloc tuned by the environment"
)
FAULTS_OF_FRESH_MEMORY = """
import contextlib, resource
import torch
from sklearn_simclr._allocator import reused_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def pages():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

def faults_of_steps(n_values=2**24):  # 64 MiB
    torch.ones(n_values)
    before = faults()
    for _ in range(10):
        torch.ones(n_values)
    return faults() - before

with reused_memory():
    with reused_memory():
        nested = faults_of_steps()
    kept, held = faults_of_steps(), pages()
left = pages()
after = faults_of_steps(2**26)  # more than a hole that may be left in the heap
print(nested, kept, after, held - left)
"""


@needs_glibc
def test_memory_is_kept_within_and_returned_afterwards():
    command = [sys.executable, "-c", FAULTS_OF_FRESH_MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    nested, kept, after, returned = map(int, done.stdout.split())
    assert nested < 3 * 16_384  # pages of 4 KiB in a buffer
    assert kept < 100
    assert after > 9 * 65_536  # anew with each buffer, as before
    assert returned > 10_000


@needs_glibc
def test_only_the_outermost_use_sets_the_allocator(monkeypatch):
    calls = []
    monkeypatch.setattr(_allocator, "_set", calls.append)
    with reused_memory(), reused_memory():
        assert calls == [_allocator._KEEPING]
    assert calls == [_allocator._KEEPING, _allocator._RETURNING]


@needs_glibc
def test_the_allocator_is_set_back_after_an_error(monkeypatch):
    calls = []
    monkeypatch.setattr(_allocator, "_set", calls.append)
    with pytest.raises(ZeroDivisionError), reused_memory():
        1 / 0  # noqa: B018
    assert calls == [_allocator._KEEPING, _allocator._RETURNING]


@needs_glibc
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_waits_for_no_thread_of_its_parent(monkeypatch):
    calls, held, done = [], threading.Event(), threading.Event()

    def train_elsewhere():
        with reused_memory(), _allocator._lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=train_elsewhere)
    thread.start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later(20, exit=True)  # with exit status 1
        monkeypatch.setattr(_allocator, "_set", calls.append)
        with reused_memory():
            pass
        os._exit(0 if calls == [_allocator._KEEPING, _allocator._RETURNING] else 2)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@needs_glibc
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_from_within_may_leave_what_its_parent_has_entered():
    with reused_memory():
        pid = os.fork()
    if pid == 0:
        os._exit(_allocator._n_users)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert _allocator._n_users == 0


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_an_allocator_tuned_by_the_user_is_left_alone(monkeypatch, name):
    monkeypatch.setitem(os.environ, name, "1000000")
    assert not _allocator._is_tunable.__wrapped__()


@needs_glibc
def test_a_fit_keeps_memory(monkeypatch):
    calls = []
    monkeypatch.setattr(_allocator, "_set", calls.append)
    X = np.random.default_rng(0).random((8, 8, 8), dtype=np.float32)
    model = SimCLRTransformer(ConvNetEncoder(), max_epochs=1, random_state=0)
    model.fit(X)
    assert calls == [_allocator._KEEPING, _allocator._RETURNING]
    model.partial_fit(X)
    assert len(calls) == 4
