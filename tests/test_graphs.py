"""Recorded and compiled steps: when they are, and what happens where they cannot be."""

import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from numpy.testing import assert_allclose

from sklearn_simclr import _graphs, _micro_batches, _training, _views
from sklearn_simclr._graphs import Replayed, beside, compiled, fastest_convolutions


def no_graphs(error):
    def make():
        raise error

    return make


class Doubling:
    """A function that counts its calls."""

    def __init__(self):
        self.n_calls = 0

    def __call__(self, x):
        self.n_calls += 1
        return 2 * x


def test_of_a_few_calls_none_is_recorded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", no_graphs(AssertionError("recorded")))
    double = Doubling()
    replayed = Replayed(double, n_calls=6)
    assert [replayed(torch.tensor(i)).item() for i in range(6)] == [0, 2, 4, 6, 8, 10]
    assert double.n_calls == 6


def test_what_cannot_be_recorded_goes_on_and_says_so_once(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", no_graphs(RuntimeError("not here")))
    double = Doubling()
    replayed = Replayed(double, n_calls=30)
    with pytest.warns(UserWarning, match="could not be recorded.*not here") as caught:
        results = [replayed(torch.tensor(i)).item() for i in range(30)]
    assert results == list(range(0, 60, 2))
    assert len(caught) == 1 and double.n_calls == 30


def test_without_memory_for_a_recording_nothing_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", no_graphs(torch.OutOfMemoryError()))
    replayed = Replayed(Doubling(), n_calls=30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [replayed(torch.tensor(i)).item() for i in range(30)] == list(range(0, 60, 2))


class PretendedStream:
    """Does nothing, and lets nobody wait."""

    def __init__(self, device):
        self.device = device

    def wait_stream(self, stream):
        pass

    wait_event = wait_stream

    def record_event(self):
        pass


def test_each_thread_works_beside_on_a_stream_of_its_own_of_the_current_gpu(monkeypatch):
    # A recording on it takes in whatever is done on that stream.
    used = []
    monkeypatch.setattr(torch.cuda, "Stream", PretendedStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda own: used.append(own) or nullcontext())
    _graphs._stream.cache_clear()

    def streams(number):
        used.clear()
        current = PretendedStream(torch.device("cuda", number))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
        made = list(beside(torch.clone, torch.arange(3), torch.device("cuda")))
        assert [int(value) for value in made] == [0, 1, 2]
        return set(used)

    (first,), (again,), (second,) = streams(0), streams(0), streams(1)
    assert first is again and [first.device.index, second.device.index] == [0, 1]
    with ThreadPoolExecutor() as pool:
        (elsewhere,) = pool.submit(streams, 0).result()
    assert elsewhere is not first and elsewhere.device == first.device
    _graphs._stream.cache_clear()


class FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("no C compiler")


@pytest.fixture
def compiler(monkeypatch):
    """Let torch.compile apply to its function what a test sets."""
    made = {}

    def compile_(function, dynamic):
        assert not dynamic
        return made["fused"](function)

    monkeypatch.setattr(torch, "compile", compile_)
    return made


def fails(error):
    def function(x):
        raise error

    return function


def refuses(function):
    raise RuntimeError("no C compiler")


NO_COMPILERS = [
    refuses,  # as on a Python that torch does not compile for
    lambda function: fails(RuntimeError("no C compiler")),
    lambda function: lambda x: FailsBackward.apply(function(x)),
]


@pytest.mark.parametrize("no_compiler", NO_COMPILERS, ids=["at once", "forward", "backward"])
def test_without_a_compiler_the_network_is_used_with_one_warning(
    simclr, digits, compiler, no_compiler
):
    compiler["fused"] = no_compiler
    match = r"torch\.compile does not work.*compile='auto'.*no C compiler"
    with pytest.warns(UserWarning, match=match) as caught:
        model = simclr(compile=True, precision="float32").fit(digits[0])
    assert len(caught) == 1
    plain = simclr(precision="float32").fit(digits[0])
    assert model.loss_curve_ == pytest.approx(plain.loss_curve_, rel=1e-4)
    assert_allclose(model.transform(digits[0]), plain.transform(digits[0]), atol=1e-3)


def test_an_error_of_the_network_itself_is_its_own(simclr, digits, compiler):
    class Failing(torch.nn.Module):
        def forward(self, x):
            if self.training:
                raise ValueError("of the network")
            return x.flatten(1)

    compiler["fused"] = NO_COMPILERS[0]
    with pytest.raises(ValueError, match="of the network"):
        simclr(encoder=Failing(), compile=True).fit(digits[0])


def test_out_of_memory_halves_what_a_compiled_network_gets(simclr, digits, compiler):
    def fused(function):
        def run(x):
            if len(x) > 40:
                raise torch.OutOfMemoryError("too large")
            sizes.append(len(x))
            return function(x)

        return run

    sizes, compiler["fused"] = [], fused
    with pytest.warns(UserWarning, match="From now on it gets"):
        simclr(compile=True, batch_size=64).fit(digits[0])
    assert max(sizes) <= 40


def test_each_of_many_functions_of_one_code_is_compiled(monkeypatch):
    compile_, n_compiled = torch.compile, []

    def backend(graph, inputs):
        n_compiled.append(1)
        return graph.forward

    def of(layer):
        return lambda x: layer(x)

    monkeypatch.setattr(torch, "compile", partial(compile_, backend=backend))
    for width in range(1, 13):
        network = compiled(of(torch.nn.Linear(2, width)))
        assert network(torch.ones(3, 2)).shape == (3, width)
    assert len(n_compiled) == 12


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("needed", [False, True])
def test_setting_for_convolutions_is_put_back(monkeypatch, before, needed):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
    with fastest_convolutions(needed):
        assert torch.backends.cudnn.benchmark == (before or needed)
    assert torch.backends.cudnn.benchmark == before


def test_who_asks_for_deterministic_convolutions_keeps_them(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    with fastest_convolutions(True):
        assert not torch.backends.cudnn.benchmark


def test_who_asks_for_deterministic_algorithms_gets_them():
    torch.use_deterministic_algorithms(True)
    try:
        with fastest_convolutions(True):
            assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)


def test_flags_that_nobody_may_set_are_not_set():
    code = (
        "import numpy as np, torch; from sklearn_simclr import SimCLRTransformer as S;"
        "torch.backends.disable_global_flags();"
        "S(max_epochs=1, device='cpu').fit(np.random.rand(16, 4))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("value", "n_compiled"), [("auto", 0), (False, 0), (True, 1)])
def test_parameter_compile_on_a_cpu(simclr, digits, monkeypatch, value, n_compiled):
    functions = []
    monkeypatch.setattr(_micro_batches, "compiled", lambda f: functions.append(f) or f)
    model = simclr(compile=value, precision="float32").fit(digits[0])
    assert len(functions) == n_compiled
    expected = simclr(precision="float32").fit(digits[0]).loss_curve_
    assert model.loss_curve_ == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a compiler")
def test_compiled_training_is_the_same(simclr, digits):
    plain, quick = (
        simclr(compile=value, precision="float32", learning_rate=1e-3).fit(digits[0])
        for value in (False, True)
    )
    assert quick.loss_curve_ == pytest.approx(plain.loss_curve_, rel=1e-3)
    assert_allclose(quick.transform(digits[0]), plain.transform(digits[0]), rtol=1e-2, atol=1e-3)


@pytest.fixture
def pretended(monkeypatch):
    """Let trainings on a CPU go the way of recorded ones; returns the functions recorded."""
    recorded = []

    def record(self, inputs):
        own = [values.clone() for values in inputs]

        def replay():
            self._output = self._function(*own)

        self._graph, self._inputs = SimpleNamespace(replay=replay), own
        recorded.append(self._function)
        return True

    monkeypatch.setattr(Replayed, "_record", record)
    monkeypatch.setattr(_training, "_is_recordable", lambda *args: True)
    monkeypatch.setattr(_views, "beside", lambda make, items, device: map(make, items))
    return recorded


@pytest.mark.parametrize(("max_epochs", "n_recorded"), [(4, 0), (8, 2)])
def test_recorded_steps_are_those_of_a_plain_training(
    simclr, digits, request, max_epochs, n_recorded
):
    plain = simclr(max_epochs=max_epochs).fit(digits[0])  # of 4 batches an epoch
    recorded = request.getfixturevalue("pretended")
    model = simclr(max_epochs=max_epochs).fit(digits[0])
    assert len(recorded) == n_recorded  # views and the rest of a step
    assert model.loss_curve_ == plain.loss_curve_
    assert (model.transform(digits[0]) == plain.transform(digits[0])).all()


@pytest.mark.parametrize(("seconds", "n_compiled"), [(-1, 1), (60, 0)])
def test_only_what_is_long_is_compiled_on_its_way(
    simclr, digits, pretended, monkeypatch, seconds, n_compiled
):
    functions = []
    monkeypatch.setattr(_micro_batches, "compiled", lambda f: functions.append(f) or f)
    monkeypatch.setattr(_training, "_WORTH_COMPILING", seconds)
    simclr(max_epochs=15).fit(digits[0])
    assert len(functions) == n_compiled
    assert len(pretended) == 2 + n_compiled  # the step with the compiled network anew


def test_without_being_asked_to_compile_nothing_is_said(
    simclr, digits, pretended, monkeypatch, compiler
):
    compiler["fused"] = NO_COMPILERS[1]
    monkeypatch.setattr(_training, "_WORTH_COMPILING", -1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        simclr(max_epochs=15).fit(digits[0])


@pytest.mark.parametrize("max_epochs", [3, 8])
def test_without_compile_nothing_is_recorded(simclr, digits, pretended, max_epochs):
    simclr(max_epochs=max_epochs, compile=False).fit(digits[0])
    assert not pretended


def test_a_failed_epoch_leaves_a_recorded_training_as_it_was(simclr, digits, pretended):
    model = simclr(max_epochs=8).fit(digits[0])
    before = model.transform(digits[0])
    with pytest.raises(FloatingPointError, match="ended with a loss of nan"):
        model.set_params(warm_start=True, learning_rate=1e30).fit(digits[0])
    assert (model.transform(digits[0]) == before).all()
