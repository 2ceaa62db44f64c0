"""The C library's memory allocator while a network is trained on a CPU."""

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from functools import cache

# Parameters of glibc's mallopt.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_KEEPING = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26))
# What glibc adapts itself to in a process that has freed a few large buffers.
_RETURNING = (
    (_MMAP_MAX, 2**16),
    (_TRIM_THRESHOLD, 2**26),
    (_TOP_PAD, 2**17),
    (_MMAP_THRESHOLD, 2**25),
)
_lock = threading.Lock()
_n_users = 0


def _start_anew() -> None:
    """Forget the parent's other threads that train, one of which may have held the lock."""
    global _lock, _n_users
    _lock = threading.Lock()
    if _n_users:
        _n_users = 0
        _set(_RETURNING)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


@contextlib.contextmanager
def reused_memory() -> Iterator[None]:
    """Keep what is freed for what is allocated next, and return it to the system at the end.

    Every step of a training frees the same large buffers and asks for them again. glibc fetches
    each of more than 32 MiB from the system, which hands it over page by page, zeroed: a quarter
    of the time of a step. Other C libraries, and settings of malloc's in the environment, are left
    alone.
    """
    global _n_users
    if not _is_tunable():
        yield
        return
    with _lock:
        _n_users += 1
        if _n_users == 1:
            _set(_KEEPING)
    try:
        yield
    finally:
        with _lock:
            _n_users = max(0, _n_users - 1)  # 0 already in a fork from within
            if not _n_users:
                _set(_RETURNING)
                _libc().malloc_trim(0)


def _set(parameters: tuple[tuple[int, int], ...]) -> None:
    for parameter, value in parameters:
        _libc().mallopt(parameter, value)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@cache
def _is_tunable() -> bool:
    """Whether the C library is glibc, with a malloc that nobody has tuned."""
    tuned = any(name.startswith("MALLOC_") and name.endswith("_") for name in os.environ)
    if os.name != "posix" or tuned or "GLIBC_TUNABLES" in os.environ:
        return False
    return all(hasattr(_libc(), name) for name in ("gnu_get_libc_version", "mallopt"))
