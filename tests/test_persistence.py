"""Network and optimizer state to plain values and back."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_simclr._persistence import load_moments, load_weights, to_plain, to_tensors
from sklearn_simclr.optim import make_optimizer


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def take_steps(module, optimizer, n_steps):
    x = torch.linspace(-1, 1, 15).view(5, 3)
    for _ in range(n_steps):
        optimizer.zero_grad()
        module(x).square().sum().backward()
        optimizer.step()


def leaves(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def test_round_trip_keeps_values_types_and_structure():
    state = {
        "float": torch.randn(2, 3),
        "scalar": torch.tensor(7),
        "nested": {"list": [torch.zeros(0), None, 1.5], "pair": (torch.tensor(True), "text")},
    }
    plain = to_plain(state)
    assert not any(isinstance(leaf, torch.Tensor) for leaf in leaves(plain))
    assert isinstance(plain["scalar"], np.ndarray) and plain["scalar"].dtype == np.int64
    restored = to_tensors(plain)
    assert restored["nested"]["list"][1:] == [None, 1.5]
    assert isinstance(restored["nested"]["pair"], tuple)
    for before, after in zip(leaves(state), leaves(restored), strict=True):
        if isinstance(before, torch.Tensor):
            assert before.dtype == after.dtype and torch.equal(before, after)


def test_plain_state_shares_no_memory_with_the_network_either_way():
    module = network(0)
    plain = to_plain(module.state_dict())
    before = {name: value.copy() for name, value in plain.items()}
    with torch.no_grad():
        module[0].weight.fill_(9)
    np.testing.assert_equal(plain, before)
    load_weights(module, plain)
    with torch.no_grad():
        module[0].weight.fill_(9)
    np.testing.assert_equal(plain, before)


def test_weights_move_to_another_network_through_a_pickle():
    source, target = network(0).train(), network(1)
    source(torch.randn(5, 3))  # moves the batch-norm buffers
    load_weights(target, pickle.loads(pickle.dumps(to_plain(source.state_dict()))))
    x = torch.randn(5, 3)
    assert torch.equal(source.eval()(x), target.eval()(x))


def test_weights_of_another_architecture_are_refused():
    with pytest.raises(RuntimeError, match=r"size mismatch|Missing key"):
        load_weights(network(0), to_plain(nn.Linear(3, 4).state_dict()))


@pytest.mark.parametrize("name", ["muon", "adamw", "sgd", "lars"])
def test_training_goes_on_from_plain_moments_as_if_never_interrupted(name):
    def optimizer_of(module):
        return make_optimizer(name, module, lr=0.05, weight_decay=0.1)

    straight = network(0)
    take_steps(straight, optimizer_of(straight), 6)

    first = network(0)
    optimizer = optimizer_of(first)
    take_steps(first, optimizer, 3)
    moments = to_plain(optimizer.state_dict()["state"])
    kept = copy.deepcopy(moments)
    resumed = network(1)
    load_weights(resumed, to_plain(first.state_dict()))
    optimizer = optimizer_of(resumed)
    load_moments(optimizer, moments)
    take_steps(resumed, optimizer, 3)
    for expected, value in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, value)
    np.testing.assert_equal(moments, kept)


def test_moments_keep_the_options_of_the_new_optimizer():
    module = network(0)
    optimizer = make_optimizer("sgd", module, lr=0.05, weight_decay=0.1)
    take_steps(module, optimizer, 1)
    moments = to_plain(optimizer.state_dict()["state"])
    other = make_optimizer("sgd", module, lr=0.01, weight_decay=0.2)
    load_moments(other, moments)
    assert [group["lr"] for group in other.param_groups] == [0.01, 0.01]
    assert [group["weight_decay"] for group in other.param_groups] == [0.2, 0.0]


@pytest.mark.parametrize("name", ["muon", "adamw", "sgd", "lars"])
def test_moments_lie_in_memory_as_those_of_an_optimizer_do(name):
    module = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Conv2d(4, 2, 1)).to(
        memory_format=torch.channels_last
    )
    first, second = (make_optimizer(name, module, lr=0.1, weight_decay=0.1) for _ in range(2))
    module(torch.randn(2, 3, 4, 4)).square().sum().backward()
    first.step()
    load_moments(second, to_plain(first.state_dict()["state"]))
    for param in module.parameters():
        assert len(first.state[param]) == len(second.state[param]) > 0
        for key, moment in first.state[param].items():
            assert torch.equal(second.state[param][key], moment)
            if moment.ndim == 4:
                for loaded in (moment, second.state[param][key]):
                    assert loaded.is_contiguous(memory_format=torch.channels_last)


def test_moments_of_another_shape_are_refused():
    optimizer = make_optimizer("sgd", network(0), lr=0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"shape \(3,\) belongs to weights of shape \(4, 3\)"):
        load_moments(optimizer, {0: {"momentum_buffer": np.zeros(3)}})
