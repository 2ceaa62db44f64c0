"""Files that are whole or not there: errors, killed and live writers, systems without locks."""

import contextlib
import os
import sys
from pathlib import Path

import pytest

from sklearn_simclr import _whole_files
from sklearn_simclr._whole_files import replacing, sweep, try_writing

TEMPORARY = ".sklearn_simclr.tmp"


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


def write(path, content=b"new"):
    with replacing(path) as file:
        file.write(content)


def test_the_file_takes_its_place_at_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
        assert len(names_in(tmp_path)) == 2
    assert path.read_bytes() == b"new"
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_an_error_leaves_the_old_file(tmp_path, monkeypatch, call, error):
    def fail(*args, **kwargs):
        raise error

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        if call != "write":
            patch.setattr(os, call, fail)
        with replacing(path) as file:
            file.write(b"new")
            if call == "write":
                fail()
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def test_what_killed_writers_have_left_is_swept_and_live_ones_are_left_alone(tmp_path):
    for name in (f"file.00ff{TEMPORARY}", f"other.00ff{TEMPORARY}", "notes.tmp"):
        (tmp_path / name).write_bytes(b"half a file")
    with replacing(tmp_path / "file") as file:
        sweep(tmp_path)
        assert names_in(tmp_path) == sorted([os.path.basename(file.name), "notes.tmp"])
    assert names_in(tmp_path) == ["file", "notes.tmp"]


@pytest.mark.skipif(_whole_files.fcntl is None, reason="the system has no such locks")
def test_a_file_swept_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    flock, n_swept = _whole_files.fcntl.flock, 0

    def sweep_first(file, flags):
        nonlocal n_swept
        if n_swept < 2:
            n_swept += 1
            os.unlink(file.name)
        flock(file, flags)

    monkeypatch.setattr(_whole_files.fcntl, "flock", sweep_first)
    write(tmp_path / "file")
    assert n_swept == 2
    assert (tmp_path / "file").read_bytes() == b"new"
    assert names_in(tmp_path) == ["file"]


@pytest.mark.skipif(_whole_files.fcntl is None, reason="the system has no such locks")
def test_file_systems_without_locks(tmp_path, monkeypatch):
    def fail(file, flags):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(_whole_files.fcntl, "flock", fail)
    (tmp_path / f"file.00ff{TEMPORARY}").touch()
    sweep(tmp_path)
    write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert len(names_in(tmp_path)) == 2  # whoever has left it may be writing


def test_systems_without_such_locks_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(_whole_files, "fcntl", None)
    (tmp_path / f"file.00ff{TEMPORARY}").touch()
    sweep(tmp_path)
    assert len(names_in(tmp_path)) == 1  # its writer may be about to rename it
    os.utime(tmp_path / f"file.00ff{TEMPORARY}", (0, 0))
    sweep(tmp_path)
    write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert names_in(tmp_path) == ["file"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the files that a process has open")
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_that_is_open_is_removed_or_replaced_on_windows(tmp_path, monkeypatch, fails):
    calls, unlink, replace = [], Path.unlink, os.replace

    def closed(call, path, *args):
        calls.append(call.__name__)
        assert Path(path) not in map(Path, open_files())
        return call(path, *args)

    def open_files():
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                yield os.readlink(link)

    monkeypatch.setattr(_whole_files, "fcntl", None)
    monkeypatch.setattr(Path, "unlink", lambda *args: closed(unlink, *args))
    monkeypatch.setattr(os, "replace", lambda *args: closed(replace, *args))
    with pytest.raises(OSError) if fails else contextlib.nullcontext():
        with replacing(tmp_path / "file") as file:
            file.write(b"new")
            if fails:
                raise OSError(28, "No space left on device")
    assert calls == (["unlink"] if fails else ["replace", "unlink"])
    assert names_in(tmp_path) == ([] if fails else ["file"])


def test_try_writing(tmp_path):
    try_writing(tmp_path / "a" / "b" / "file")
    assert names_in(tmp_path / "a" / "b") == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        try_writing(tmp_path / "file" / "file")
