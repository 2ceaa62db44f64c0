"""Digests of values: the same in every process, another one for whatever differs."""

import collections
import copy
import enum
import functools
import importlib.util
import itertools
import math
import os
import pickle
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from torch import nn

from sklearn_simclr import losses
from sklearn_simclr._fingerprint import fingerprint
from sklearn_simclr.augmentation import (
    AffineAugmentation,
    ColorJitter,
    Compose,
    Crop,
    SimCLRAugmentation,
)
from sklearn_simclr.encoders import MLPEncoder, ResNetEncoder

STRENGTH = 2


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Noise(BaseEstimator):
    def __init__(self, scale=0.1):
        self.scale = scale

    def __call__(self, batch):
        return batch + self.scale


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


Pair = collections.namedtuple("Pair", "a b")


def scaled(factor):
    return lambda z1, z2: factor * (z1 - z2).norm()


def named(a, b=1, *, c=2):
    return a * b * c * STRENGTH


# Of each group every value is another one, and none is equal to one of another group.
GROUPS = {
    "plain": [None, True, False, 1, 2, 1.0, 1.5, -0.0, 0.0, 1j, "", "1", "None", b"1", ...],
    "not finite": [math.inf, -math.inf, math.nan],
    "containers": [[], (), {}, set(), [1], (1,), {1}, {1: 2}, [[1]], [1, [2]], [[1], 2], [1, 2]],
    "dicts": [{"a": "b"}, {"a": "b", "c": "d"}, {"ab": ""}, {"a": {"b": 1}}, {"a": ("b", 1)}],
    "long lists": [list(range(n)) for n in (1_000, 1_001)] + [[*range(999), 7]],
    "arrays": [
        np.zeros(3),
        np.zeros(3, np.float32),
        np.zeros((3, 1)),
        np.zeros((1, 3)),
        np.array([0, 0, 1.0]),
        np.array(["a", "b"]),
        np.array(["a", 3], object),
        np.zeros(0),
    ],
    "tensors": [
        torch.zeros(3),
        torch.zeros(3, requires_grad=True),
        torch.zeros(3, 1),
        torch.zeros(3, dtype=torch.bfloat16),
        torch.tensor(True),
        torch.tensor(1.0),
    ],
    "types": [torch.float32, torch.float64, np.float32, float, np.dtype("f4"), nn.Linear, nn.ReLU],
    "names": [torch.relu, torch.exp, np.exp, math.exp, losses.nt_xent, losses.dcl, len, nn.init],
    "objects": [
        Path("a"),
        Path("b"),
        Colour.RED,
        Colour.BLUE,
        Pair(1, 2),
        Pair(2, 1),
        Slotted(1),
        Slotted(2),
        random.Random(0),
        np.random.default_rng(0),
        np.random.default_rng(1),
        collections.OrderedDict(a=1),
        torch.device("cpu"),
        torch.Size([1]),
    ],
    "parameter objects": [
        Noise(),
        Noise(0.2),
        AffineAugmentation(),
        AffineAugmentation(degrees=3),
        SimCLRAugmentation(),
        MLPEncoder(),
        ResNetEncoder(18),
        ResNetEncoder(34),
        Compose([("crop", Crop(size=8)), ("jitter", ColorJitter())]),
        Compose([("jitter", ColorJitter()), ("crop", Crop(size=8))]),
        Compose([("crop", Crop(size=8)), ("jitter", ColorJitter(strength=0.4))]),
    ],
    "networks": [
        nn.Sequential(nn.Flatten(), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.GELU()),
        nn.Sequential(nn.ReLU(), nn.Flatten()),
        nn.Dropout(0.5),
        nn.Dropout(0.4),
    ],
    "functions": [
        scaled(1),
        scaled(2),
        named,
        functools.partial(named, 3),
        functools.partial(named, 4),
        functools.partial(named, b=4),
        lambda x: x + 1,
        lambda x: x + 2,
        lambda x: x - 1,
        lambda x, y=1: x - 1,
        lambda x, *, y=1: x - 1,
        lambda x: [x for x in [1]],
        lambda x: [x for x in [2]],
        lambda x: x.real,
        lambda x: x.imag,
        Noise(0.1).__call__,
        Noise(0.2).__call__,
    ],
}


def of(value):
    return fingerprint({"value": value})


def test_values_that_differ_have_digests_that_differ():
    digests = {name: [of(value) for value in values] for name, values in GROUPS.items()}
    for name, found in digests.items():
        assert len(set(found)) == len(GROUPS[name]), name
    everything = list(itertools.chain.from_iterable(digests.values()))
    assert len(set(everything)) == len(everything)
    assert all(len(digest) == 32 and int(digest, 16) for digest in everything)


def test_names_count_and_do_not_run_into_values():
    assert fingerprint({"a": 1}) != fingerprint({"b": 1})
    assert fingerprint({"a": "b", "c": "d"}) != fingerprint({"a": "bc", "": "d"})
    assert fingerprint({"a": [1], "b": []}) != fingerprint({"a": [], "b": [1]})


@pytest.mark.parametrize("group", set(GROUPS) - {"types", "functions", "names"})
def test_copies_are_the_same(group):
    for value in GROUPS[group]:
        copies = [pickle.loads(pickle.dumps(value)), copy.deepcopy(value)]
        if isinstance(value, BaseEstimator):
            copies.append(clone(value))
        for other in copies:
            assert of(other) == of(value), value


def test_functions_are_the_same_where_they_are_sent_to():
    cloudpickle = pytest.importorskip("cloudpickle")  # what loky sends functions by
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        for value in [*GROUPS["functions"], Noise(3), Slotted(4)]:
            assert of(cloudpickle.loads(cloudpickle.dumps(value))) == of(value), value
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def test_numbers_of_numpy_are_those_of_python():
    assert of(np.float64(0.5)) == of(0.5)
    assert of(np.int32(3)) == of(3)
    assert of(np.bool_(True)) == of(True)
    assert of(np.str_("a")) == of("a")


def test_memory_layout_does_not_count():
    array = np.arange(6.0).reshape(2, 3)
    assert of(np.asfortranarray(array)) == of(array)
    images = torch.rand(2, 3, 4, 4)
    assert of(images.to(memory_format=torch.channels_last)) == of(images)
    assert of(torch.nn.Parameter(images, requires_grad=False)) == of(images)


def test_running_a_function_does_not_change_it():
    def function(x):
        return sum(i * x for i in range(3)) + STRENGTH

    before = of(function)
    for i in range(1_000):  # the interpreter adapts code that runs often
        function(i)
        function(float(i))
    assert of(function) == before


def load(path, text, name="augs"):
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # The loader would take the bytecode of another text, written in the same second, as long.
    exec(compile(text, path, "exec"), vars(module))
    return module


USERS_CODE = """
import math
import threading

LOCK = threading.Lock()
SCALE = 0.1
UNUSED = 1

def helper(x):
    return x * SCALE

class Base:
    factor = 1

    def change(self, x):
        return helper(x) * self.factor

class Views(Base):
    def __init__(self):
        self.p = 0.5

    @property
    def twice(self):
        return 2 * self.p

    @staticmethod
    def shift(x):
        return x + 1

    def __call__(self, batch):
        with LOCK:
            return self.shift(self.change(batch)) * self.twice

def views(batch):
    return [helper(x) for x in batch]

def recursive(n):
    return mutual(n - 1) if n else views(n)

def mutual(n):
    return recursive(n)
"""
CHANGES = {
    "a global": ("SCALE = 0.1", "SCALE = 0.2"),
    "a function that is called": ("x * SCALE", "x + SCALE"),
    "a class attribute of a base": ("factor = 1", "factor = 2"),
    "a method of a base": ("* self.factor", "+ self.factor"),
    "a property": ("2 * self.p", "3 * self.p"),
    "a static method": ("x + 1", "x + 2"),
    "its own code": ("self.shift(self.change(batch))", "self.change(self.shift(batch))"),
    "a base": ("class Views(Base)", "class Views(Other, Base)"),
}


@pytest.fixture
def users(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "augs", None)
    return lambda text: load(tmp_path / "augs.py", text)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_code_of_the_user_is_noticed(users, change):
    text = USERS_CODE.replace("class Views", "class Other:\n    pass\n\nclass Views")
    before = of(users(text).Views())
    assert of(users(text).Views()) == before
    assert change[0] in text
    assert of(users(text.replace(*change)).Views()) != before


WRAPPED_CODE = """
import functools
import threading

@functools.lru_cache
def cached(size):
    return size + 1

@functools.singledispatch
def dispatched(x):
    return x + 2

@dispatched.register
def _(x: int):
    return x + 3

class Guarded:
    def __init__(self):
        self.lock = threading.Lock()
        self.strength = 4

    def change(self, x):
        return x + 5

GUARDED = Guarded()

class Kind(type):
    def made(cls):
        return 6

class Helper(metaclass=Kind):
    @functools.cached_property
    def ready(self):
        return 7

    @functools.singledispatchmethod
    def takes(self, x):
        return x + 8

def views(batch):
    helper = Helper()
    seen = cached(1), dispatched(2), GUARDED.change(batch), Helper.made(), helper.ready
    return helper.takes(seen)
"""


def test_looking_at_a_class_does_not_change_it(users):
    module = users("class Views:\n    def __call__(self, batch):\n        return batch\n")
    before = of(module.Views)
    assert module.Views.__annotations__ == {}
    assert of(module.Views) == before


@pytest.mark.parametrize("number", range(1, 9))
def test_changed_code_is_noticed_through_what_python_wraps_around_it(users, number):
    before = of(users(WRAPPED_CODE).views)
    assert of(users(WRAPPED_CODE).views) == before
    changed = WRAPPED_CODE.replace(f" {number}\n", " 99\n")
    assert changed != WRAPPED_CODE
    assert of(users(changed).views) != before


def test_installed_functions_count_by_what_they_were_made_with(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    text = "def weighted(alpha):\n    def loss(z):\n        return alpha * z\n    return loss\n"
    monkeypatch.setitem(sys.modules, "installed_losses", None)
    weighted = load(folder / "installed_losses.py", text, "installed_losses").weighted
    assert of(weighted(1)) == of(weighted(1)) != of(weighted(50))


def test_compiled_functions_are_the_same_in_whatever_order_they_were_compiled():
    def double(x):
        return 2 * x

    first, second = (torch.compile(double, backend="eager") for _ in range(2))
    assert of(first) == of(second) != of(torch.compile(lambda x: 3 * x, backend="eager"))


def test_code_that_is_not_used_and_comments_are_not_noticed(users):
    before = users(USERS_CODE)
    changed = users("# A comment.\n\n" + USERS_CODE.replace("UNUSED = 1", "UNUSED = 2"))
    assert of(changed.views) == of(before.views)
    assert of(changed.Views()) == of(before.Views())


def test_functions_that_call_each_other_in_a_circle(users):
    before = of(users(USERS_CODE).recursive)
    assert of(users(USERS_CODE).recursive) == before
    assert of(users(USERS_CODE.replace("SCALE = 0.1", "SCALE = 3")).recursive) != before


def test_functions_of_a_module_of_the_users_are_noticed(users):
    def through_the_module(text):
        return eval("lambda batch: augs.views(batch)", {"augs": users(text), "__name__": "mine"})

    before = of(through_the_module(USERS_CODE))
    assert of(through_the_module(USERS_CODE.replace("UNUSED = 1", "UNUSED = 2"))) == before
    assert of(through_the_module(USERS_CODE.replace("SCALE = 0.1", "SCALE = 3"))) != before


def test_objects_that_hold_themselves():
    circles = [[1], [2]]
    for circle in circles:
        circle.append(circle)
    assert len({of(circle) for circle in circles}) == 2
    noise, other = Noise(), Noise()
    noise.source, other.source = noise, other
    assert of(noise) == of(other) != of(Noise())


@pytest.mark.parametrize(
    "make", [threading.Lock, lambda: [threading.RLock()], lambda: Slotted(i for i in ())]
)
def test_what_cannot_be_described_is_refused_by_its_name(make):
    with pytest.raises(ValueError, match=r"augmentation=.*cannot be described.*checkpoint_dir"):
        fingerprint({"seed": 1, "augmentation": make()})


SCRIPT = """
import functools
from pathlib import Path
import numpy as np
import torch
from torch import nn
from sklearn_simclr._fingerprint import fingerprint
from sklearn_simclr.augmentation import AffineAugmentation, Compose, Crop

KINDS = {"b", "a", "c"}

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        nn.init.ones_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x):
        return self.linear(x) if "a" in {"a", "b", "c"} else x

def views(batch, *, kinds=frozenset("xyz")):
    return batch if "b" in KINDS else [b for b in batch]

DIGEST = fingerprint({
    "views": views,
    "partial": functools.partial(views, kinds=KINDS),
    "network": Network(),
    "composition": Compose([("crop", Crop(size=8)), ("affine", AffineAugmentation())]),
    "array": np.arange(9.0),
    "tensor": torch.arange(9),
    "set": KINDS,
    "paths": {Path("a"), Path("b"), Path("c"), Path("d")},
})
print(DIGEST)
"""


def test_other_processes_find_the_same(root, tmp_path):
    expected = load(tmp_path / "script.py", SCRIPT).DIGEST
    seed = str(1 + int(os.environ.get("PYTHONHASHSEED", "0").replace("random", "0")))
    environment = os.environ | {"PYTHONPATH": root, "PYTHONHASHSEED": seed}
    done = subprocess.run(
        [sys.executable, "script.py"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected
