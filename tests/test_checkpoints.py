"""Runs that are killed: their checkpoints, and what a rerun makes of them."""

import hashlib
import io
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.callback import ProgressBar
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from torch import nn

from sklearn_simclr import (
    SimCLRClassifier,
    SimCLRTransformer,
    _checkpoints,
    _run,
    _transformer,
)
from sklearn_simclr._checkpoints import CheckpointStore, prepare_directory
from sklearn_simclr.augmentation import AffineAugmentation, FeatureCorruption, SimCLRAugmentation
from sklearn_simclr.encoders import ConvNetEncoder, MLPEncoder, ResNetEncoder
from sklearn_simclr.losses import nt_xent
from sklearn_simclr.optim import Muon

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
KEY = "0123456789abcdef"
STATE = {
    "weights": {
        "float": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "scalar": np.array(7),
        "bool": np.array([True, False]),
        "half": np.array([0.1, np.inf, np.nan], np.float16),
        "complex": np.array([1 + 2j], np.complex64),
        "bytes": np.arange(4, dtype=np.uint8),
        "empty": np.zeros((0, 3)),
        "an.array0/with ä": np.zeros(1),
    },
    "moments": {0: {"step": np.array(3.0, np.float32), "exp_avg": np.ones(2)}, 1: {}},
    "loss_curve": [0.1, 1e-300, -0.0, 3],
    "nested": [None, True, "text", [], {}, {"dict": [["array", 0]]}],
}


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path, KEY)


@pytest.fixture
def every_epoch(monkeypatch):
    """Save after every epoch, however short it was."""
    monkeypatch.setattr(_checkpoints, "_SHARE", 0)


@pytest.fixture(autouse=True)
def hears_ctrl_c():
    """Listen to SIGINT, which whoever starts the tests in the background has ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def names_in(directory):
    return sorted(path.name for path in Path(directory).iterdir())


# ------------------------------------------------------------------------------------------------
# The file


def test_a_state_comes_back_as_it_was(store, tmp_path):
    assert store.load() is None
    store.save(STATE)
    assert names_in(tmp_path) == [f"{KEY}.ckpt"]
    loaded = CheckpointStore(str(tmp_path), KEY).load()
    np.testing.assert_equal(loaded, STATE)
    for name, array in STATE["weights"].items():
        assert loaded["weights"][name].dtype == array.dtype
        assert loaded["weights"][name].shape == array.shape
    assert list(loaded["moments"]) == [0, 1]


def test_the_next_state_takes_the_place_of_the_one_before(store, tmp_path):
    store.save(STATE)
    store.save({"weights": {}})
    assert store.load() == {"weights": {}}
    assert names_in(tmp_path) == [f"{KEY}.ckpt"]


@pytest.mark.parametrize(
    "value", [np.array([None]), object(), (1,), {1}, np.float64(1), torch.zeros(1), b"bytes"]
)
def test_nothing_else_is_saved(store, tmp_path, value):
    store.save({"old": 1})
    with pytest.raises(TypeError):
        store.save({"new": value})
    assert store.load() == {"old": 1}
    assert names_in(tmp_path) == [f"{KEY}.ckpt"]


def refused(store, match="Delete it, or move it away, to train from the start"):
    with pytest.raises(ValueError, match=match) as caught:
        store.load()
    assert str(store.path) in str(caught.value)
    return True


def test_every_damage_is_refused(store):
    store.save({"a": np.arange(3), "b": [1.5]})
    content = store.path.read_bytes()
    rng = np.random.default_rng(0)
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= rng.integers(1, 256)
        store.path.write_bytes(damaged)
        assert refused(store)
    for length in range(len(content)):
        store.path.write_bytes(content[:length])
        assert refused(store)
    for more in (b"\0", content):
        store.path.write_bytes(content + more)
        assert refused(store)
    store.path.write_bytes(content)
    assert store.load() is not None


def signed(body):
    """Make a checkpoint of anything, as somebody could who knows the format."""
    body = b"sklearn_simclr checkpoint 1\n" + body
    return body + hashlib.blake2b(body, digest_size=32).digest()


def archive(structure, **arrays):
    file = io.BytesIO()
    text = structure if isinstance(structure, bytes) else json.dumps(structure).encode()
    np.savez(file, structure=np.frombuffer(text, np.uint8), **arrays)
    return file.getvalue()


class Bomb:
    has_gone_off = False

    def __reduce__(self):
        return setattr, (Bomb, "has_gone_off", True)


def test_a_checkpoint_made_by_hand_is_read(store):
    structure = {"key": KEY, "state": {"dict": [["a", {"array": 0}]]}}
    store.path.write_bytes(signed(archive(structure, array0=np.arange(3))))
    np.testing.assert_equal(store.load(), {"a": np.arange(3)})


BOMBS = np.empty(1, object)
BOMBS[0] = Bomb()
FOREIGN = {
    "nothing": b"",
    "a pickle": pickle.dumps(Bomb()),
    "a signed pickle": signed(pickle.dumps(Bomb())),
    "an archive alone": archive({"key": KEY, "state": 1}),
    "a bomb inside": signed(archive({"key": KEY, "state": {"array": 0}}, array0=BOMBS)),
    "no structure": signed(b"PK"),
    "no JSON": signed(archive(b"{")),
    "no key": signed(archive({"state": 1})),
    "no state": signed(archive({"key": KEY})),
    "another key": signed(archive({"key": "fedcba", "state": {"dict": []}})),
    "an array that is not there": signed(archive({"key": KEY, "state": {"array": 3}})),
    "an unknown kind": signed(archive({"key": KEY, "state": {"code": 3}})),
    "a later format": signed(archive({"key": KEY, "state": 1})).replace(b"t 1\n", b"t 2\n"),
    "far too deep": signed(archive(b'{"key": 1, "state": ' + b"[" * 100_000)),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_foreign_files_are_refused_and_run_nothing(store, content):
    pickle.loads(pickle.dumps(Bomb()))
    assert Bomb.has_gone_off  # it works
    Bomb.has_gone_off = False
    store.path.write_bytes(content)
    assert refused(store)
    assert not Bomb.has_gone_off


def test_errors_say_what_is_wrong(store, tmp_path):
    store.save(STATE)
    other = CheckpointStore(tmp_path, "another")
    other.path.write_bytes(store.path.read_bytes())
    assert refused(other, "another training under a changed name")
    store.path.write_bytes(store.path.read_bytes().replace(b"t 1\n", b"t 2\n"))
    assert refused(store, "of another version of its format")
    store.path.write_bytes(b"text")
    assert refused(store, "is not a checkpoint")
    store.path.unlink()
    store.path.mkdir()
    assert refused(store, "cannot be read")


def test_the_file_is_on_disk_before_it_gets_its_name(store, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("sync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("replace"), replace(*names)))
    store.save(STATE)
    assert events == ["sync", "replace", "sync"]  # the last of the directory


@pytest.mark.parametrize("call", ["savez", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_leaves_the_old_checkpoint_alone(
    store, tmp_path, monkeypatch, call, error
):
    def fail(*args, **kwargs):
        raise error

    store.save({"old": 1})
    with monkeypatch.context() as patch:
        patch.setattr(np if call == "savez" else os, call, fail)
        with pytest.raises(type(error)):
            store.save(STATE)
    assert names_in(tmp_path) == [f"{KEY}.ckpt"]
    assert store.load() == {"old": 1}


def test_what_killed_writers_have_left_is_swept(store, tmp_path):
    (tmp_path / f"{KEY}.ckpt.00ff.sklearn_simclr.tmp").write_bytes(b"half a checkpoint")
    (tmp_path / "notes.tmp").touch()
    assert store.load() is None
    assert names_in(tmp_path) == ["notes.tmp"]


def test_many_writers_of_one_checkpoint(tmp_path):
    states = [{"a": np.full(20_000, number), "n": number} for number in range(4)]
    stores = [CheckpointStore(tmp_path, KEY) for _ in states]
    stores[0].save(states[0])
    done, failures = threading.Event(), []

    def write(store, state):
        try:
            for _ in range(30):
                store.save(state)
        except BaseException as error:
            failures.append(error)

    def read():
        while not done.is_set():
            try:
                state = CheckpointStore(tmp_path, KEY).load()
                assert (state["a"] == state["n"]).all()
            except BaseException as error:
                failures.append(error)

    writers = [
        threading.Thread(target=write, args=pair) for pair in zip(stores, states, strict=True)
    ]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert failures == []
    assert names_in(tmp_path) == [f"{KEY}.ckpt"]


def test_saving_takes_a_fiftieth_of_the_time_at_most(store, monkeypatch):
    clock, saved = 0.0, []

    def save(state):
        nonlocal clock
        saved.append((clock, state))
        clock += 2

    monkeypatch.setattr(time, "monotonic", lambda: clock)
    monkeypatch.setattr(store, "save", save)
    for epoch in range(500):
        clock += 1
        store.offer(lambda epoch=epoch: epoch, last=epoch == 499)
    epochs = [state for _, state in saved]
    assert epochs[0] == 0 and epochs[-1] == 499  # the first and the last, whatever they take
    times = [moment for moment, _ in saved[:-1]]
    assert np.diff(times) == pytest.approx(102)  # 2 to save, then 100 of training


# ------------------------------------------------------------------------------------------------
# The directory


@pytest.mark.usefixtures("every_epoch")
def test_a_directory_is_made_with_its_parents(simclr, digits, tmp_path):
    for directory in (tmp_path / "a" / "b", str(tmp_path / "c")):
        simclr(checkpoint_dir=directory).fit(digits[0])
        (name,) = names_in(directory)
        assert name.endswith(".ckpt") and len(name) == 32 + 5


def bad_directories(tmp_path):
    (tmp_path / "file").touch()
    yield tmp_path / "file"
    yield tmp_path / "file" / "below"
    yield "/proc/sklearn_simclr"
    yield tmp_path / ("n" * 300)
    yield "null\0byte"


def test_impossible_directories_are_refused_before_any_work(simclr, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(SimCLRTransformer, "_prepare", None)
    for directory in bad_directories(tmp_path):
        with pytest.raises(ValueError, match=r"checkpoint_dir=.*written to.*checkpoint_dir=None"):
            simclr(checkpoint_dir=directory).fit(digits[0])


def test_a_read_only_directory_is_refused_before_any_work(simclr, digits, tmp_path, monkeypatch):
    def touch(path, exist_ok):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", touch)  # root may write everywhere
    monkeypatch.setattr(SimCLRTransformer, "_prepare", None)
    model = simclr(checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint_dir=.*PermissionError"):
        model.fit(digits[0])
    with pytest.raises(NotFittedError):
        model.transform(digits[0])


@pytest.mark.usefixtures("every_epoch")
def test_a_directory_that_holds_no_name_as_long_as_a_checkpoints(
    simclr, digits, tmp_path, monkeypatch
):
    lengths, touch, replace = [], Path.touch, os.replace
    monkeypatch.setattr(Path, "touch", lambda path, **kw: lengths.append(path) or touch(path, **kw))
    monkeypatch.setattr(os, "replace", lambda *names: lengths.append(names[0]) or replace(*names))
    simclr(checkpoint_dir=tmp_path, max_epochs=1).fit(digits[0])
    tried, written = (len(str(path)) for path in lengths[:2])
    assert tried == written


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="needs to become another user"
)
def test_a_really_read_only_directory(tmp_path):
    directory = tmp_path / "read-only"
    directory.mkdir(mode=0o555)
    for path in (directory, *directory.parents[:-1]):
        if path.stat().st_uid == 0 and not path.stat().st_mode & 0o005:
            path.chmod(path.stat().st_mode | 0o005)

    def try_it():
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(ValueError, match=r"checkpoint_dir=.*PermissionError"):
            prepare_directory(directory)

    assert in_a_fork(try_it) == 0


def in_a_fork(function):
    """Run a function that changes the process in a fork; 0 if it does not fail."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_seed_is_needed(simclr, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(SimCLRTransformer, "_prepare", None)
    with pytest.raises(ValueError, match=r"checkpoint_dir=.*random_state=None.*Pass an int"):
        simclr(checkpoint_dir=tmp_path, random_state=None).fit(digits[0])
    assert names_in(tmp_path) == []


def test_partial_fit_leaves_no_checkpoints(simclr, digits, tmp_path):
    simclr(checkpoint_dir=tmp_path / "a", random_state=None).partial_fit(digits[0])
    assert names_in(tmp_path) == []


# ------------------------------------------------------------------------------------------------
# Failing to write


def assert_unharmed(model, simclr, images, caught, directory, cause):
    expected = simclr(max_epochs=model.max_epochs).fit(images)
    assert_array_equal(model.transform(images), expected.transform(images))
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 1, messages
    assert str(directory) in messages[0] and cause in messages[0] and "goes on" in messages[0]
    assert caught[0].category is UserWarning and caught[0].filename == __file__


@pytest.mark.usefixtures("every_epoch")
def test_a_directory_that_vanishes(simclr, digits, tmp_path):
    directory = tmp_path / "checkpoints"

    class Vanish(Watcher):
        def at_epoch(self, epoch):
            if epoch == 1:
                for path in directory.iterdir():
                    path.unlink()
                directory.rmdir()
            if epoch == 4:
                directory.mkdir()

    model = simclr(checkpoint_dir=directory, max_epochs=6).set_callbacks(Vanish())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(digits[0])
    assert_unharmed(model, simclr, digits[0], caught, directory, "FileNotFoundError")
    assert len(names_in(directory)) == 1  # it was tried again


@pytest.mark.usefixtures("every_epoch")
def test_a_full_disk(simclr, digits, tmp_path):
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems cannot be mounted here")
    try:

        class Fill(Watcher):
            def at_epoch(self, epoch):
                if epoch == 2:
                    with pytest.raises(OSError), open(directory / "full", "wb", 0) as file:
                        while True:
                            file.write(b"0" * 512)

        model = simclr(checkpoint_dir=directory, max_epochs=5).set_callbacks(Fill())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(digits[0])
        assert_unharmed(model, simclr, digits[0], caught, directory, "No space left")
        checkpoint, _ = names_in(directory)  # no temporary file
        (directory / "full").unlink()
        state = CheckpointStore(directory, checkpoint.removesuffix(".ckpt")).load()
        assert len(state["loss_curve"]) == 2
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@needs_fork
@pytest.mark.usefixtures("every_epoch")
def test_a_quota(simclr, digits, tmp_path):
    resource = pytest.importorskip("resource")

    class Quota(Watcher):
        def at_epoch(self, epoch):
            if epoch == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))

    def fit():
        model = simclr(checkpoint_dir=tmp_path, max_epochs=5).set_callbacks(Quota())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(digits[0])
        assert_unharmed(model, simclr, digits[0], caught, tmp_path, "File too large")
        (checkpoint,) = names_in(tmp_path)
        state = CheckpointStore(tmp_path, checkpoint.removesuffix(".ckpt")).load()
        assert len(state["loss_curve"]) == 2

    assert in_a_fork(fit) == 0


# ------------------------------------------------------------------------------------------------
# Reruns


class Killed(Exception):
    """Stands for a kill, which the slower tests are about."""


class Watcher:
    """Callback that is asked at the end of every epoch, counted from 0 in its call to fit."""

    def setup(self, estimator, context):
        self.n_epochs = 0

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "epoch":
            self.n_epochs += 1
            return self.at_epoch(self.n_epochs - 1)
        return False

    def at_epoch(self, epoch):
        return False


class Kill(Watcher):
    def __init__(self, epoch):
        self.epoch = epoch

    def at_epoch(self, epoch):
        if epoch == self.epoch:
            raise Killed


class StopAt(Kill):
    def at_epoch(self, epoch):
        return epoch == self.epoch


def fit_in_pieces(make, X, y=None, *, kills=(2, 1)):
    """Fit, be killed, fit again, ...; `kills` are the epochs of each call that end in one."""
    for epoch in kills:
        with pytest.raises(Killed):
            make().set_callbacks(Kill(epoch)).fit(X, y)
    watcher = Watcher()
    return make().set_callbacks(watcher).fit(X, y).set_callbacks(), watcher.n_epochs


def assert_same_model(model, expected, X):
    assert_array_equal(model.transform(X), expected.transform(X))
    assert model.loss_curve_ == expected.loss_curve_
    assert (model.n_iter_, model.loss_) == (expected.n_iter_, expected.loss_)
    assert model.learning_rate_ == expected.learning_rate_
    np.testing.assert_equal(model._weights, expected._weights)


def users_encoder():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Dropout(0.3), nn.Linear(12, 6)
    )


def noisy(batch):
    return batch + 0.1 * torch.randn_like(batch)


SETTINGS = {
    "AdamW": {},
    "SGD": {"optimizer": "sgd"},
    "LARS": {"optimizer": "lars", "learning_rate": 1.0},
    "bfloat16": {"precision": "bfloat16"},
    "a residual network": {"encoder": ResNetEncoder(width=0.05), "augmentation": "simclr"},
    "a module of the user's": {"encoder": users_encoder(), "augmentation": noisy},
    "a function of the user's": {"encoder": users_encoder, "loss": nt_xent},
    "dropout of torchvision": {"encoder": "squeezenet1_0", "image_size": 24},
    "a loss that reads labels": {"loss": "supcon"},
    "unequal batches": {"batch_size": 13},
}


@pytest.mark.filterwarnings("ignore:The augmentation")
@pytest.mark.usefixtures("every_epoch")
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_a_rerun_ends_as_if_never_killed(simclr, digits, tmp_path, setting):
    images, labels = digits
    make = partial(simclr, max_epochs=5, **setting)
    expected = make().fit(images, labels)
    model, n_epochs = fit_in_pieces(partial(make, checkpoint_dir=tmp_path), images, labels)
    assert n_epochs == 5 - 2 - 1  # the others were not trained again
    assert_same_model(model, expected, images)
    assert len(names_in(tmp_path)) == 1


@pytest.mark.usefixtures("every_epoch")
def test_vectors(simclr, vectors, tmp_path):
    make = partial(simclr, encoder=MLPEncoder(hidden_dim=8), max_epochs=5, batch_size=16)
    model, _ = fit_in_pieces(partial(make, checkpoint_dir=tmp_path), vectors)
    assert_same_model(model, make().fit(vectors), vectors)


@pytest.mark.usefixtures("every_epoch")
def test_a_warm_start(simclr, digits, tmp_path):
    images, _ = digits
    start = simclr().fit(images)

    def make(**params):
        model = pickle.loads(pickle.dumps(start))
        return model.set_params(warm_start=True, max_epochs=5, temperature=0.2, **params)

    model, n_epochs = fit_in_pieces(partial(make, checkpoint_dir=tmp_path), images)
    assert (model.n_iter_, n_epochs) == (2 + 5, 2)
    assert_same_model(model, make().fit(images), images)
    # Another round is another training, a rerun of a script finds all of them.
    model.fit(images)
    assert model.n_iter_ == 2 + 5 + 5
    assert len(names_in(tmp_path)) == 2
    again = make(checkpoint_dir=tmp_path).set_callbacks(Kill(0)).fit(images).fit(images)
    assert_same_model(again, model, images)


@pytest.mark.usefixtures("every_epoch")
def test_partial_fit_goes_on_from_a_finished_rerun(simclr, digits, tmp_path):
    images, _ = digits
    model, _ = fit_in_pieces(
        partial(simclr, checkpoint_dir=tmp_path, max_epochs=5), images, kills=[3]
    )
    expected = simclr(max_epochs=5).fit(images)
    assert_same_model(model.partial_fit(images), expected.partial_fit(images), images)


def test_a_finished_training_is_not_trained_again(simclr, digits, tmp_path, monkeypatch):
    images, _ = digits
    expected = simclr(checkpoint_dir=tmp_path).fit(images)
    before = (tmp_path / names_in(tmp_path)[0]).read_bytes()
    monkeypatch.setattr(_transformer, "train", lambda *args, **kwargs: iter(()))
    watcher = Watcher()
    model = simclr(checkpoint_dir=tmp_path).set_callbacks(watcher).fit(images)
    assert watcher.n_epochs == 0
    assert_same_model(model, expected, images)
    assert (tmp_path / names_in(tmp_path)[0]).read_bytes() == before


def test_the_last_epoch_is_saved_without_moments(simclr, digits, tmp_path):
    simclr(checkpoint_dir=tmp_path, max_epochs=3).fit(digits[0])
    (name,) = names_in(tmp_path)
    state = CheckpointStore(tmp_path, name.removesuffix(".ckpt")).load()
    assert len(state["loss_curve"]) == 3 and state["moments"] == {}


@pytest.mark.usefixtures("every_epoch")
def test_callbacks_that_stop(simclr, digits, tmp_path):
    images, _ = digits
    make = partial(simclr, checkpoint_dir=tmp_path, max_epochs=6)
    stopped = make().set_callbacks(StopAt(2)).fit(images)
    assert stopped.n_iter_ == 3
    # The same callbacks have stopped it already; with others it goes on.
    again = make().set_callbacks(StopAt(0)).fit(images)
    assert_same_model(again, stopped, images)
    model = make().fit(images)
    assert model.n_iter_ == 6
    assert_same_model(model, simclr(max_epochs=6).fit(images), images)


@pytest.mark.usefixtures("every_epoch")
@pytest.mark.parametrize("kill", [0, 1, 2])
def test_progress_bar_of_a_rerun(simclr, digits, tmp_path, capsys, kill):
    pytest.importorskip("rich")
    make = partial(simclr, checkpoint_dir=tmp_path, max_epochs=3)
    with pytest.raises(Killed):
        make(max_epochs=3).set_callbacks(Kill(kill)).fit(digits[0])
    capsys.readouterr()
    make().set_callbacks(ProgressBar()).fit(digits[0])
    make().set_callbacks(ProgressBar()).fit(digits[0])  # nothing left to do
    assert "SimCLRTransformer" in capsys.readouterr().out


@pytest.mark.usefixtures("every_epoch")
def test_verbose_says_where_it_goes_on(simclr, digits, tmp_path, capsys):
    make = partial(simclr, checkpoint_dir=tmp_path, max_epochs=4, verbose=1)
    fit_in_pieces(make, digits[0], kills=[2])
    lines = capsys.readouterr().out.splitlines()[4:]
    (name,) = names_in(tmp_path)
    assert lines[0].startswith("SimCLRTransformer on cpu")
    assert lines[1] == f"epoch 2/4  from {tmp_path / name}"
    assert [line[:9] for line in lines[2:]] == ["epoch 3/4", "epoch 4/4"]


@pytest.mark.usefixtures("every_epoch")
def test_damaged_and_foreign_checkpoints_leave_the_estimator_as_it_was(simclr, digits, tmp_path):
    images, _ = digits
    make = partial(simclr, checkpoint_dir=tmp_path)
    model = make().fit(images)
    path = tmp_path / names_in(tmp_path)[0]
    features, content = model.transform(images), path.read_bytes()
    store = CheckpointStore(tmp_path, path.stem)
    state = store.load()
    misfits = [
        {},
        {"weights": {}},
        state
        | {"weights": {name: array.reshape(-1)[:1] for name, array in state["weights"].items()}},
        state | {"moments": {0: {"exp_avg": np.zeros(3)}}},
        state | {"loss_curve": ["a"]},
    ]
    for misfit in [None, *misfits]:
        if misfit is None:
            path.write_bytes(content[:-1])
        else:
            store.save(misfit)
        with pytest.raises(ValueError, match="Delete it, or move it away, to train"):
            model.fit(images)
        assert_array_equal(model.transform(images), features)
        fresh = make()
        with pytest.raises(ValueError, match="Delete it, or move it away, to train"):
            fresh.fit(images)
        assert not hasattr(fresh, "n_iter_") and not hasattr(fresh, "n_features_in_")
    path.unlink()
    assert_same_model(make().fit(images), model, images)


# ------------------------------------------------------------------------------------------------
# What a training is known by


def key(model, X, y=None):
    return model._prepare(X, y, continuing=False).key(model._training_settings())


MATTERS = {
    "encoder": [ConvNetEncoder(width=5, n_layers=2), "mlp", users_encoder, users_encoder()],
    "augmentation": [
        AffineAugmentation(degrees=3),
        AffineAugmentation(noise=0.3),
        noisy,
        lambda batch: batch + 0.2,
        lambda batch: batch + 0.3,
    ],
    "projection_dim": [7],
    "projection_layers": [0, 1, 3],
    "loss": ["dcl", lambda z1, z2: (z1 - z2).norm(), lambda z1, z2: (z1 - z2).abs().sum()],
    "temperature": [0.4],
    "optimizer": ["adamw", "sgd", "lars"],
    "learning_rate": [0.01, 0.001],
    "weight_decay": [0.0, 0.01],
    "batch_size": [15],
    "max_epochs": [3],
    "image_size": [9],
    "precision": ["float32", "bfloat16"],
    "random_state": [1],
}
DOES_NOT = {
    "output_layer": [1],
    "device": ["cpu", torch.device("cpu")],
    "verbose": [1],
    "compile": [True, False],
    "n_jobs": [2],
    "cache_dir": ["elsewhere"],
    "on_bad_files": ["skip"],
    "checkpoint_dir": ["elsewhere"],
    "warm_start": [True],
    "random_state": [np.int64(0)],
    "temperature": [0.5, np.float32(0.5)],
    "optimizer": ["muon"],
    "augmentation": ["auto", AffineAugmentation()],
    "encoder": [ConvNetEncoder(n_layers=2, width=4)],
    "learning_rate": [0.03],
    "weight_decay": [0.1],
}


def test_every_parameter_that_matters_is_in_the_key(simclr, digits):
    images, _ = digits
    keys = [key(simclr(), images)]
    keys += [
        key(simclr(**{name: value}), images) for name, values in MATTERS.items() for value in values
    ]
    assert len(set(keys)) == len(keys)
    # The last two say what X is, which is in the key as such.
    known = MATTERS.keys() | DOES_NOT.keys() | {"image_shape", "channel_axis"}
    assert known == set(SimCLRTransformer().get_params())


def test_parameters_that_do_not_matter_are_not_in_the_key(simclr, digits):
    images, _ = digits
    expected = key(simclr(), images)
    for name, values in DOES_NOT.items():
        for value in values:
            assert key(simclr(**{name: value}), images) == expected, name
    assert key(simclr().set_callbacks(ProgressBar()), images) == expected
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads + 1)
        assert key(simclr(), images) == expected
    finally:
        torch.set_num_threads(n_threads)


def test_data_are_in_the_key(simclr, digits):
    images, labels = digits
    other = images.copy()
    other[-1, -1, -1] += 1
    rows = images.reshape(64, -1)
    keys = [
        key(simclr(), images),
        key(simclr(), other),
        key(simclr(), images[::-1].copy()),
        key(simclr(), images[:-1]),
        key(simclr(encoder="mlp", augmentation=FeatureCorruption()), rows),
        key(simclr(image_shape=(4, 16)), rows),
        key(simclr(loss="supcon"), images, labels),
        key(simclr(loss="supcon"), images, labels[::-1].copy()),
    ]
    assert len(set(keys)) == len(keys)
    assert key(simclr(), images, labels) == keys[0]  # it does not read them
    assert key(simclr(image_shape=(8, 8)), rows) == keys[0]
    assert key(simclr(), images.tolist()) == keys[0]


def test_the_weights_at_the_start_are_in_the_key(simclr, photos):
    encoder = ResNetEncoder(width=0.05)
    weights = encoder.build((3, 16, 16)).state_dict()
    other = {name: value + 1 for name, value in weights.items()}
    make = partial(simclr, augmentation=SimCLRAugmentation())
    keys = [
        key(make(encoder=ResNetEncoder(width=0.05, weights=start)), photos[0])
        for start in (None, weights, other)
    ]
    assert len(set(keys)) == 3
    modules = [users_encoder(), users_encoder()]
    assert len({key(simclr(encoder=module), np.zeros((9, 8, 8))) for module in modules}) == 1


def test_the_epochs_before_are_in_the_key(simclr, digits):
    images, _ = digits
    model = simclr().fit(images)
    keys = []
    for losses in ([1.0, 2.0], [1.0, 3.0], [1.0]):
        model.loss_curve_ = losses
        run = model._prepare(images, None, continuing=True)
        keys.append(run.key(model._training_settings()))
    assert len(set(keys)) == 3


def test_the_version_of_the_package_is_in_the_key(simclr, digits, monkeypatch):
    before = key(simclr(), digits[0])
    monkeypatch.setattr(_run, "__version__", "9.9")
    assert key(simclr(), digits[0]) != before


class Locked:
    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, batch):
        return batch + 0.1


def test_parts_that_cannot_be_described_are_refused_before_training(simclr, digits, tmp_path):
    model = simclr(augmentation=Locked(), checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=r"augmentation=.*Locked.*checkpoint_dir=None"):
        model.fit(digits[0])
    assert not hasattr(model, "n_iter_")
    model.set_params(checkpoint_dir=None).fit(digits[0])


class WithExtraState(nn.Module):
    def __init__(self, state):
        super().__init__()
        self.linear, self.state = nn.Linear(64, 4), state

    def forward(self, x):
        return self.linear(x.flatten(1))

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.state = state


@pytest.mark.usefixtures("every_epoch")
def test_extra_state_has_to_be_a_tensor(simclr, digits, tmp_path):
    images, _ = digits
    with pytest.raises(
        ValueError, match=r"(?s)encoder=.*encoder._extra_state.*dict.*get_extra_state"
    ):
        simclr(encoder=WithExtraState({"a": 1}), checkpoint_dir=tmp_path).fit(images)
    make = partial(simclr, encoder=WithExtraState(torch.arange(3)), max_epochs=5)
    model, _ = fit_in_pieces(partial(make, checkpoint_dir=tmp_path), images)
    assert_same_model(model, make().fit(images), images)


# ------------------------------------------------------------------------------------------------
# Inside scikit-learn


def pipeline(simclr, **params):
    return Pipeline([("simclr", simclr(**params)), ("clf", LogisticRegression(max_iter=50))])


GRID = {"simclr__temperature": [0.2, 0.5], "simclr__learning_rate": [1e-3, 1e-2]}


@pytest.mark.usefixtures("every_epoch")
def test_a_killed_grid_search_goes_on(simclr, digits, tmp_path):
    expected = GridSearchCV(pipeline(simclr), GRID, cv=2).fit(*digits)

    def search(callback):
        model = pipeline(simclr, checkpoint_dir=tmp_path)
        model[0].set_callbacks(callback)
        return GridSearchCV(model, GRID, cv=2, error_score="raise").fit(*digits)

    for n_epochs in (3, 6):  # of 2 in each of 9 trainings
        with pytest.raises(Killed):
            search(KillAfter(n_epochs))
    counter = KillAfter(1_000)
    found = search(counter)
    assert counter.n_epochs == 2 * 9 - 3 - 6
    assert len(names_in(tmp_path)) == 9
    scores = [search.cv_results_["mean_test_score"] for search in (found, expected)]
    assert_array_equal(*scores)
    assert_array_equal(found.predict(digits[0]), expected.predict(digits[0]))


class KillAfter(Watcher):
    """Kills after so many epochs of all trainings."""

    def __init__(self, n_epochs):
        self.left, self.n_epochs = n_epochs, 0

    def __deepcopy__(self, memo):
        return self

    def setup(self, estimator, context):
        pass

    def at_epoch(self, epoch):
        self.left -= 1
        if self.left < 0:
            raise Killed


def test_a_grid_search_of_several_processes_shares_a_directory(simclr, digits, tmp_path):
    make = partial(GridSearchCV, param_grid=GRID, cv=2)
    expected = make(pipeline(simclr)).fit(*digits)
    for n_jobs in (2, 1):
        found = make(pipeline(simclr, checkpoint_dir=tmp_path), n_jobs=n_jobs).fit(*digits)
        assert_array_equal(
            found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
        )
        assert len(names_in(tmp_path)) == 9


def test_the_classifier_pre_trains_with_checkpoints(simclr, digits, tmp_path):
    images, labels = digits
    few = np.where(np.arange(64) < 20, labels, -1)
    make = partial(SimCLRClassifier, max_iter=4, method="linear", distill=False)
    model = make(simclr(checkpoint_dir=tmp_path, random_state=None), random_state=0)
    expected = model.fit(images, few).predict_proba(images)
    assert len(names_in(tmp_path)) == 1
    assert_array_equal(model.fit(images, few).predict_proba(images), expected)
    assert len(names_in(tmp_path)) == 1
    with pytest.raises(ValueError, match=r"checkpoint_dir=.*random_state=None"):
        model.set_params(random_state=None).fit(images, few)


# ------------------------------------------------------------------------------------------------
# Ctrl-C


class Interrupting:
    """Views that are interrupted by a signal at one of their calls, in the middle of an epoch."""

    def __init__(self, n_calls):
        self.n_calls = n_calls  # 2 in the trial, then 8 an epoch

    def __call__(self, batch):
        self.n_calls -= 1
        if self.n_calls == 0:
            signal.raise_signal(signal.SIGINT)
        return batch + 0.1 * torch.randn_like(batch)


class Snapshot(Watcher):
    """The features of images after an epoch."""

    def __init__(self, epoch, images):
        self.epoch, self.images = epoch, images

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        if context.task_name == "epoch" and context.task_id == self.epoch:
            self.features = fitted_estimator.transform(self.images)


def test_ctrl_c_leaves_the_epochs_so_far(simclr, digits):
    images, _ = digits
    model = simclr(augmentation=Interrupting(2 + 8 * 3 + 4), max_epochs=9)
    with pytest.warns(UserWarning, match=r"interrupted by user after 3 of 9 epochs") as caught:
        assert model.fit(images) is model
    assert [warning.filename for warning in caught] == [__file__]
    assert model.n_iter_ == 3

    snapshot = Snapshot(2, images)
    simclr(augmentation=Interrupting(0), max_epochs=9).set_callbacks(snapshot).fit(images)
    assert_array_equal(model.transform(images), snapshot.features)
    assert model.set_params(warm_start=True).fit(images).n_iter_ == 3 + 9


class InterruptingOnce:
    """Views that are interrupted once; joblib sees no difference before and after."""

    n_calls = 0

    def __call__(self, batch):
        InterruptingOnce.n_calls += 1
        if InterruptingOnce.n_calls == 2 + 8 * 2 + 4:
            signal.raise_signal(signal.SIGINT)
        return batch + 0.1 * torch.randn_like(batch)


def test_ctrl_c_leaves_nothing_half_trained_in_the_cache_of_a_pipeline(
    simclr, digits, tmp_path, monkeypatch
):
    images, labels = digits
    monkeypatch.setattr(InterruptingOnce, "n_calls", 0)
    model = simclr(augmentation=InterruptingOnce(), max_epochs=4)
    pipeline = make_pipeline(model, KNeighborsClassifier(), memory=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        pipeline.fit(images, labels)
    assert pipeline.fit(images, labels)[0].n_iter_ == 4


def test_ctrl_c_while_an_epoch_is_printed(simclr, digits, monkeypatch):
    class Output(io.StringIO):
        def write(self, text):
            if text.startswith("epoch 2/"):
                raise KeyboardInterrupt
            return super().write(text)

    images, _ = digits
    monkeypatch.setattr("sys.stdout", Output())
    model = simclr(max_epochs=4, verbose=1, learning_rate=0.01)
    with pytest.warns(UserWarning, match="interrupted by user after 2 of 4 epochs"):
        model.fit(images)
    monkeypatch.undo()
    assert len(model.loss_curve_) == 2
    longer = simclr(max_epochs=4, learning_rate=0.01).set_callbacks(snapshot := Snapshot(1, images))
    longer.fit(images)
    assert_array_equal(model.transform(images), snapshot.features)


def test_ctrl_c_in_fit_transform_leaves_the_epochs_so_far(simclr, digits):
    images, _ = digits
    model = simclr(augmentation=Interrupting(2 + 8 * 2 + 4), max_epochs=4)
    with pytest.raises(KeyboardInterrupt):
        model.fit_transform(images)
    assert model.n_iter_ == 2
    model.augmentation.n_calls = 2 + 8 * 2 + 4
    with pytest.warns(UserWarning, match="interrupted by user after 2 of 4"):
        model.fit(images)


def test_ctrl_c_leaves_a_network_whose_layers_have_versions_at_its_last_epoch(simclr, photos):
    images, _ = photos
    n_batches = len(images) // 8
    views = Interrupting(2 + 2 * n_batches + n_batches)
    model = simclr(encoder="mnasnet0_5", augmentation=views, max_epochs=3, batch_size=8)
    with pytest.warns(UserWarning, match=r"interrupted by user after 1 of 3 epochs"):
        model.fit(images)
    assert model.n_iter_ == 1


def test_ctrl_c_before_the_end_of_the_first_epoch(simclr, digits, photos):
    images, _ = digits
    views = Interrupting(2 + 4)
    model = simclr(augmentation=views)
    with pytest.raises(KeyboardInterrupt):
        model.fit(images)
    assert not hasattr(model, "n_iter_") and not hasattr(model, "n_features_in_")
    features = model.fit(images).transform(images)
    for n_calls, method in [(1, "fit"), (2 + 4, "fit"), (2 + 4, "partial_fit")]:
        views.n_calls = n_calls
        with pytest.raises(KeyboardInterrupt):
            getattr(model, method)(images if method == "partial_fit" else photos[0])
        assert model.n_iter_ == 2
        assert_array_equal(model.transform(images), features)


class Calls(Watcher):
    def __init__(self):
        self.calls = []

    def setup(self, estimator, context):
        self.calls.append("setup")

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        self.calls.append(f"{context.task_name} {fitted_estimator.n_iter_}")


def test_callbacks_get_their_end_after_ctrl_c(simclr, digits):
    calls = Calls()
    model = simclr(augmentation=Interrupting(2 + 8 * 2 + 4), max_epochs=9).set_callbacks(calls)
    with pytest.warns(UserWarning, match="interrupted"):
        model.fit(digits[0])
    assert calls.calls == ["setup", "epoch 1", "epoch 2", "fit 2", "teardown"]
    pytest.importorskip("rich")
    model.augmentation.n_calls = 2 + 8 * 2 + 4
    with pytest.warns(UserWarning, match="interrupted"):
        model.set_callbacks(ProgressBar()).fit(digits[0])


@pytest.mark.usefixtures("every_epoch")
def test_a_rerun_after_ctrl_c_ends_as_if_never_interrupted(simclr, digits, tmp_path, monkeypatch):
    images, _ = digits
    make = partial(simclr, max_epochs=5)
    expected = make().fit(images)
    n_steps, step = 0, Muon.step

    def interrupted_step(*args, **kwargs):
        nonlocal n_steps
        n_steps += 1
        if n_steps in (4 * 2 + 3, 4 * 3 + 4):  # in the third epoch, and in the next one tried
            signal.raise_signal(signal.SIGINT)
        return step(*args, **kwargs)

    monkeypatch.setattr(Muon, "step", interrupted_step)
    for n_epochs in (2, 3):
        with pytest.warns(UserWarning, match=f"after {n_epochs} of 5 epochs"):
            make(checkpoint_dir=tmp_path).fit(images)
    assert_same_model(make(checkpoint_dir=tmp_path).fit(images), expected, images)


# ------------------------------------------------------------------------------------------------
# Real kills


def train_in_a_process(started, directory, output, share, params):
    """Run one fit, and leave its features in a file when it is done."""
    torch.set_num_threads(1)
    _checkpoints._SHARE = share
    started.set()
    images = np.load(output / "images.npy")
    model = SimCLRTransformer(checkpoint_dir=directory, **params)
    features = model.fit(images).transform(images)
    np.save(output / "features.part.npy", features)
    os.replace(output / "features.part.npy", output / "features.npy")


def start(directory, output, share, params):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sklearn_simclr"])
    started = context.Event()
    process = context.Process(
        target=train_in_a_process, args=(started, directory, output, share, params)
    )
    process.start()
    assert started.wait(120)
    return process


def kill_again_and_again(images, directory, output, *, n_kills, longest, share, **params):
    """Kill a training at random moments, and run it again after each, until it is done.

    If it is done before enough kills, it starts anew. Returns how often it was done.
    """
    np.save(output / "images.npy", images)
    expected = SimCLRTransformer(**params).fit_transform(images)
    rng = np.random.default_rng(0)
    n_done, n_killed = 0, 0
    while n_killed < n_kills or not n_done:
        process = start(directory, output, share, params)
        process.join(rng.uniform(0, longest) if n_killed < n_kills else None)
        process.kill()
        process.join()
        n_killed += process.exitcode == -signal.SIGKILL
        assert process.exitcode in (0, -signal.SIGKILL)
        for path in directory.glob("*.ckpt"):
            assert CheckpointStore(directory, path.stem).load() is not None
        if process.exitcode == 0:
            n_done += 1
            assert_array_equal(np.load(output / "features.npy"), expected)
            assert [path.suffix for path in directory.iterdir()] == [".ckpt"]
            for path in directory.iterdir():
                path.unlink()
    return n_done


@pytest.fixture
def folders(tmp_path):
    directory, output = tmp_path / "checkpoints", tmp_path / "output"
    output.mkdir()
    return directory, output


def test_three_kills(digits, folders):
    kill_again_and_again(
        digits[0],
        *folders,
        n_kills=3,
        longest=1.0,
        share=0,
        encoder=ConvNetEncoder(width=8, n_layers=2),
        batch_size=16,
        max_epochs=60,
        random_state=0,
    )


@pytest.mark.slow
@pytest.mark.parametrize("share", [0, 20])
@pytest.mark.parametrize("optimizer", ["muon", "adamw", "lars"])
def test_twenty_kills(photos, folders, share, optimizer):
    kill_again_and_again(
        photos[0],
        *folders,
        n_kills=20,
        longest=2.0,
        share=share,
        encoder=ResNetEncoder(width=0.25),  # 2 MB of weights: many kills hit while they are written
        batch_size=8,
        max_epochs=60,
        optimizer=optimizer,
        random_state=0,
    )


def test_a_real_ctrl_c(digits, folders):
    directory, output = folders
    np.save(output / "images.npy", digits[0])
    params = {"batch_size": 16, "max_epochs": 100_000, "random_state": 0}
    process = start(directory, output, 20, params)
    try:
        while not list(directory.glob("*.ckpt")):  # the first epoch is over
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        process.join(60)
        assert process.exitcode == 0
    finally:
        process.kill()
    assert np.isfinite(np.load(output / "features.npy")).all()
