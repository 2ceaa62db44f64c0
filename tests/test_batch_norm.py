"""Batch normalisation of few channels: the same as torch's, by another way."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from sklearn_simclr import SimCLRTransformer, _batch_norm, _training
from sklearn_simclr._batch_norm import quick_batch_norm
from sklearn_simclr.encoders import ConvNetEncoder


def make_norm(channels, **options):
    norm = nn.BatchNorm2d(channels, dtype=torch.float32, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            if value is not None:
                value.copy_(torch.rand(channels, generator=generator) + 0.5)
    return norm


def make_maps(shape, dtype=torch.float32):
    """Maps with the channels last, whose channels differ in mean and spread."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    x = x * torch.arange(1, shape[1] + 1).view(-1, 1, 1) + 3
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def passes(norm, x, dy):
    """Outputs, gradients and statistics of two steps, in float64."""
    x = x.detach().requires_grad_()
    for _ in range(2):
        y = norm(x)
        gradients = torch.autograd.grad(y, (x, norm.weight, norm.bias), dy)
    buffers = [value.clone() for value in norm.buffers()]
    return [value.detach().double() for value in (y, *gradients, *buffers)]


@pytest.fixture
def calls(monkeypatch):
    """How many pixels were computed as one, at each use of the quick way."""
    seen, apply = [], _batch_norm._FoldedBatchNorm.apply

    def watch(*args):
        seen.append(args[-1])
        return apply(*args)

    monkeypatch.setattr(_batch_norm._FoldedBatchNorm, "apply", watch)
    return seen


@pytest.mark.parametrize(
    ("shape", "n_folded"),
    [
        ((4, 8, 6, 8), 16),
        ((2, 1, 4, 4), 16),
        ((3, 3, 2, 5), 2),
        ((4, 12, 3, 1), 4),
        ((16, 24, 1, 1), 16),
        ((5, 8, 3, 3), 1),
    ],
)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_it_is_that_of_torch_in_float64(calls, shape, n_folded, momentum):
    norm, x = make_norm(shape[1], momentum=momentum), make_maps(shape)
    dy = make_maps(shape).flip(0)
    expected = passes(copy.deepcopy(norm).double(), x.double(), dy.double())
    with quick_batch_norm(norm):
        values = passes(norm, x, dy)
    assert calls == 2 * [n_folded] * (n_folded > 1)  # else torch does it
    for value, other in zip(values, expected, strict=True):
        assert_allclose(value, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("channels", [2, 8, 12, 20])
def test_in_bfloat16_it_is_nearly_as_close_as_torch(calls, channels):
    shape = (8, channels, 8, 8)
    norm, x = make_norm(channels), make_maps(shape, torch.bfloat16)
    dy = make_maps(shape, torch.bfloat16).flip(0) - 3
    expected = passes(copy.deepcopy(norm).double(), x.double(), dy.double())
    torchs = passes(copy.deepcopy(norm), x, dy)
    with quick_batch_norm(norm):
        y = norm(x)
        assert y.dtype == torch.bfloat16 and y.is_contiguous(memory_format=torch.channels_last)
        norm.load_state_dict(make_norm(channels).state_dict())
        values = passes(norm, x, dy)
    assert calls == 3 * [16]
    for value, of_torch, exact in zip(values, torchs, expected, strict=True):
        error = float((of_torch - exact).norm())
        # The gradient is rounded three times and not once.
        assert float((value - exact).norm()) <= 2.5 * error + 1e-4 * float(exact.norm())


def test_statistics_that_are_not_kept(calls):
    norm, x = make_norm(8, track_running_stats=False), make_maps((4, 8, 4, 4))
    expected = norm(x)
    with quick_batch_norm(norm):
        assert_allclose(norm(x).detach(), expected.detach(), atol=1e-5)
    assert calls == [16]


@pytest.mark.parametrize(
    ("norm", "x"),
    [
        (make_norm(8).eval(), make_maps((4, 8, 4, 4))),
        (make_norm(8), make_maps((4, 8, 4, 4)).contiguous()),
        (make_norm(8).double(), make_maps((4, 8, 4, 4)).double()),
        (make_norm(16), make_maps((4, 16, 4, 4))),
        (make_norm(40), make_maps((4, 40, 4, 4))),
        (make_norm(8, affine=False), make_maps((4, 8, 4, 4))),
    ],
    ids=["evaluation", "channels first", "float64", "16 channels", "many channels", "not affine"],
)
def test_what_is_left_to_torch(calls, norm, x):
    other = copy.deepcopy(norm)
    with quick_batch_norm(norm):
        assert torch.equal(norm(x), other(x))
    assert not calls
    for value, expected in zip(norm.buffers(), other.buffers(), strict=True):
        assert torch.equal(value, expected)


class Own(nn.BatchNorm2d):
    """A layer of a user's."""


def test_layers_that_compute_otherwise_are_left_alone():
    own, patched, plain, without_bias = Own(8), make_norm(8), make_norm(8), make_norm(8)
    patched.forward = lambda x: x
    without_bias.register_parameter("bias", None)
    network = nn.Sequential(own, patched, plain, without_bias)
    with quick_batch_norm(network):
        assert "forward" not in {*vars(own), *vars(without_bias)} and "forward" in vars(plain)
        assert patched(1) == 1
    assert "forward" not in vars(plain) and patched(1) == 1


def test_layers_are_put_back_after_an_error():
    norm = make_norm(8)
    with pytest.raises(ZeroDivisionError), quick_batch_norm(norm):
        1 / 0  # noqa: B018
    assert "forward" not in vars(norm)


def test_errors_are_those_of_torch():
    norm = make_norm(8)
    with quick_batch_norm(norm):
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            norm(make_maps((1, 8, 1, 1)))
        with pytest.raises(ValueError, match="expected 4D input"):
            norm(torch.zeros(4, 8))


def test_a_fit_comes_to_the_same(calls, monkeypatch):
    X = np.random.default_rng(0).random((32, 8, 8), dtype=np.float32)
    simclr = SimCLRTransformer(
        ConvNetEncoder(8, n_layers=2), max_epochs=3, batch_size=16, precision="float32"
    ).set_params(random_state=0)
    features = simclr.fit(X).transform(X)
    assert len(calls) == 3 * 2 * 2  # epochs, batches, layers
    monkeypatch.setattr(_training, "quick_batch_norm", lambda network: quick_batch_norm(nn.ReLU()))
    assert_allclose(simclr.fit(X).transform(X), features, atol=0.01 * np.abs(features).max())
    assert len(calls) == 12
