"""LARS, Muon, the schedule and the learning rates against numbers made by hand or by torch."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_simclr.optim import (
    DEFAULT_LEARNING_RATE,
    LARS,
    Muon,
    default_learning_rate,
    make_optimizer,
    scaled_learning_rate,
    set_learning_rate,
    warmup_cosine,
)

RATES = (0.5, 0.5, 0.05, 2.0)  # changes show whether it multiplies inside the momentum buffer


def lars_by_hand(weight, gradients, rates, *, momentum, weight_decay, trust_coefficient):
    """The original algorithm on one parameter, in float64."""
    weight, buffer = weight.astype(float), np.zeros(weight.shape)
    for gradient, rate in zip(gradients, rates, strict=True):
        trust_ratio = 1.0
        if weight.ndim > 1:
            gradient = gradient + weight_decay * weight
            w_norm, g_norm = math.sqrt((weight**2).sum()), math.sqrt((gradient**2).sum())
            if w_norm > 0 and g_norm > 0:
                trust_ratio = trust_coefficient * w_norm / g_norm
        buffer = momentum * buffer + rate * trust_ratio * gradient
        weight = weight - buffer
    return weight


def take_steps(optimizer, param, gradients, rates):
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        param.grad = torch.from_numpy(gradient.copy())
        optimizer.step()


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 3, 3), (5,), (1, 1), ()])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_lars_steps_equal_the_original(shape, weight_decay, momentum):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(shape)
    gradients = [np.asarray(rng.standard_normal(shape)) for _ in RATES]
    options = {"momentum": momentum, "weight_decay": weight_decay, "trust_coefficient": 0.02}
    param = nn.Parameter(torch.tensor(weight))
    take_steps(LARS([param], lr=1.0, **options), param, gradients, RATES)
    expected = lars_by_hand(np.asarray(weight), gradients, RATES, **options)
    np.testing.assert_allclose(param.detach().numpy(), expected, rtol=1e-12)


def test_lars_default_options_are_the_papers():
    param = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    gradients = [np.array([[0.0, 2.0]]), np.array([[1.0, 0.0]])]
    take_steps(LARS([param], lr=1.0), param, gradients, (0.3, 0.2))
    expected = lars_by_hand(
        np.array([[3.0, 4.0]]),
        gradients,
        (0.3, 0.2),
        momentum=0.9,
        weight_decay=1e-6,
        trust_coefficient=0.001,
    )
    np.testing.assert_allclose(param.detach().numpy(), expected, rtol=1e-14)


def test_lars_leaves_one_dimensional_parameters_alone_whatever_the_decay():
    param = nn.Parameter(torch.tensor([10.0, -4.0], dtype=torch.float64))
    take_steps(LARS([param], lr=1.0, weight_decay=5.0), param, [np.zeros(2)], [1.0])
    assert param.tolist() == [10.0, -4.0]
    take_steps(LARS([param], lr=1.0, weight_decay=5.0), param, [np.ones(2)], [0.5])
    assert param.tolist() == [9.5, -4.5]  # the plain gradient step: no trust ratio


@pytest.mark.parametrize("weight, gradient", [(0.0, 2.0), (3.0, 0.0)])
def test_lars_trust_ratio_of_a_zero_norm_is_one(weight, gradient):
    param = nn.Parameter(torch.full((2, 2), weight, dtype=torch.float64))
    optimizer = LARS([param], lr=1.0, weight_decay=0.0, trust_coefficient=0.1)
    take_steps(optimizer, param, [np.full((2, 2), gradient)], [0.5])
    torch.testing.assert_close(param.detach(), torch.full_like(param, weight - 0.5 * gradient))


def test_lars_weight_decay_comes_before_the_trust_ratio():
    # With no gradient, w' = w - lr * coefficient * |w| / |decay * w| * decay * w.
    param = nn.Parameter(torch.full((2, 2), 3.0, dtype=torch.float64))
    optimizer = LARS([param], lr=1.0, weight_decay=0.25, trust_coefficient=0.1)
    take_steps(optimizer, param, [np.zeros((2, 2))], [1.0])
    torch.testing.assert_close(param.detach(), torch.full_like(param, 3.0 * (1 - 0.1)))


def test_lars_skips_parameters_without_gradient_and_returns_the_closures_loss():
    used, unused = (nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    optimizer = LARS([used, unused], lr=1.0)

    def closure():
        optimizer.zero_grad()
        loss = used.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert (used != 1).all() and (unused == 1).all()


@pytest.mark.parametrize(
    "name, value",
    [
        ("lr", -1.0),
        ("lr", math.nan),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("weight_decay", -1e-6),
        ("trust_coefficient", 0.0),
    ],
)
def test_lars_refuses_options_out_of_range(name, value):
    options = {"lr": 0.1} | {name: value}
    with pytest.raises(ValueError, match=f"^{name} must be .*, got {value!r}"):
        LARS([nn.Parameter(torch.ones(2))], **options)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (4, 4)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_muon_steps_as_that_of_torch_does(shape, weight_decay):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(shape).astype("float32")
    gradients = [rng.standard_normal(shape).astype("float32") for _ in RATES]
    ours, of_torch = (nn.Parameter(torch.tensor(weight)) for _ in range(2))
    options = {"lr": 1.0, "weight_decay": weight_decay}
    take_steps(Muon([ours], **options), ours, gradients, RATES)
    options |= {"ns_steps": 3, "adjust_lr_fn": "match_rms_adamw"}
    take_steps(torch.optim.Muon([of_torch], **options), of_torch, gradients, RATES)
    # torch multiplies in bfloat16 everywhere.
    torch.testing.assert_close(ours, of_torch, rtol=0, atol=0.03 * sum(RATES))


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (2, 4, 3, 3)])
def test_muon_moves_by_as_much_in_all_directions(shape):
    generator = torch.Generator().manual_seed(0)
    param = nn.Parameter(torch.zeros(shape))
    gradient = torch.randn(shape, generator=generator)
    take_steps(Muon([param], lr=1.0), param, [gradient.numpy()], [0.5])
    u, _, v = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    step = -param.detach().flatten(1) / (0.5 * 0.2 * math.sqrt(max(gradient.flatten(1).shape)))
    along = u.T @ step @ v.T  # diagonal, for the step has the gradient's directions
    assert ((along.diagonal() > 0.6) & (along.diagonal() < 1.25)).all()
    torch.testing.assert_close(along, along.diagonal().diag(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(5,), (), (1, 3), (4, 1)])
def test_muon_brings_the_step_of_one_row_or_column_to_one_length(shape):
    param, scaled = (nn.Parameter(torch.zeros(shape)) for _ in range(2))
    for each, factor in ((param, 1.0), (scaled, 1000.0)):
        gradient = np.full(shape, factor, dtype="float32")
        take_steps(Muon([each], lr=1.0), each, [gradient], [1.0])
    torch.testing.assert_close(param, scaled)
    torch.testing.assert_close(param.detach(), torch.full(shape, -0.2))


def test_muon_steps_the_same_whatever_else_has_the_shape():
    """Parameters of one shape are computed together; a kernel and a matrix may be among them."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in [(2, 3, 2), (2, 6), (2, 6)]]
    together, alone = ([nn.Parameter(value.clone()) for value in values] for _ in range(2))
    optimizers = [Muon(together, lr=0.1), *(Muon([param], lr=0.1) for param in alone)]
    for _ in range(3):
        for a, b in zip(together, alone, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(together, alone)


def test_muon_uses_the_momentum_of_nesterov():
    """After one gradient and none since, steps go on in its direction."""
    param = nn.Parameter(torch.zeros(2, 2))
    zeros = np.zeros((2, 2), dtype="float32")
    optimizer = Muon([param], lr=1.0, momentum=0.5)
    take_steps(optimizer, param, [np.eye(2, dtype="float32")], [1.0])
    first = param.detach().clone()
    torch.testing.assert_close(optimizer.state[param]["momentum_buffer"], 0.5 * torch.eye(2))
    take_steps(optimizer, param, [zeros], [1.0])
    torch.testing.assert_close(optimizer.state[param]["momentum_buffer"], 0.25 * torch.eye(2))
    # Orthogonalised, the smaller momentum makes as long a step; the decay is a tenth.
    torch.testing.assert_close(param.detach(), first + 0.9 * first)


def test_muon_of_no_gradient_only_decays():
    with_zeros, without = (nn.Parameter(torch.full((2, 3), 2.0)) for _ in range(2))
    with_zeros.grad = torch.zeros(2, 3)
    Muon([with_zeros, without], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(with_zeros.detach(), torch.full((2, 3), 2.0 * 0.95))
    assert (without == 2).all()


@pytest.mark.parametrize("name, value", [("lr", -1.0), ("momentum", 1.0), ("weight_decay", -0.1)])
def test_muon_refuses_options_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*, got {value!r}"):
        Muon([nn.Parameter(torch.ones(2))], **{"lr": 0.1} | {name: value})


def test_warmup_cosine_at_hand_computed_steps():
    shares = [warmup_cosine(step, 14, 4) for step in range(14)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    assert shares[4] == 1.0
    assert shares[9] == pytest.approx(0.5)  # half way from step 4 to 14
    assert shares[-1] == pytest.approx(0.5 * (1 + math.cos(0.9 * math.pi)))
    assert all(later < earlier for earlier, later in itertools.pairwise(shares[4:]))


@pytest.mark.parametrize("n_warmup_steps", [0, 1, 50])
def test_warmup_cosine_ends_near_zero(n_warmup_steps):
    assert 0 <= warmup_cosine(999, 1000, n_warmup_steps) < 1e-5


def test_warmup_cosine_past_a_run_that_is_all_warmup():
    assert warmup_cosine(6, 6, 6) == 1.0  # asked for by torch's schedulers after the last step


@pytest.mark.parametrize("n_steps, n_warmup_steps", [(1, 0), (1, 1), (3, 3)])
def test_warmup_cosine_of_the_shortest_runs(n_steps, n_warmup_steps):
    shares = [warmup_cosine(step, n_steps, n_warmup_steps) for step in range(n_steps)]
    assert all(0 < share <= 1 for share in shares)
    assert max(shares) == 1.0


@pytest.mark.parametrize(
    "batch_size, base, rule, expected",
    [
        (256, 0.3, "linear", 0.3),
        (64, 0.3, "linear", 0.075),
        (512, 0.03, "linear", 0.06),
        (256, 0.075, "sqrt", 1.2),
        (1024, 0.075, "sqrt", 2.4),
    ],
)
def test_scaled_learning_rate(batch_size, base, rule, expected):
    assert scaled_learning_rate(batch_size, base=base, rule=rule) == pytest.approx(expected)


def test_scaled_learning_rate_refuses_an_unknown_rule():
    with pytest.raises(ValueError, match="rule must be 'linear' or 'sqrt', got 'cubic'"):
        scaled_learning_rate(256, rule="cubic")


@pytest.mark.parametrize(
    "name, share", [("sgd", 0.25), ("lars", 0.25), ("adamw", 1.0), ("muon", 1.0)]
)
def test_default_learning_rate_of_a_batch_of_64(name, share):
    expected = share * DEFAULT_LEARNING_RATE[name]
    assert default_learning_rate(name, 64) == pytest.approx(expected)


def small_network():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    for param in network.parameters():
        nn.init.constant_(param, 2.0)
    return network


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw", "muon"])
def test_only_weights_of_two_dimensions_or_more_decay(name):
    network = small_network()
    optimizer = make_optimizer(name, network, lr=0.1, weight_decay=0.5)
    for param in network.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    for param in network.parameters():
        assert (param < 2).all() if param.ndim > 1 else (param == 2).all()


@pytest.mark.parametrize("name, kind", [("lars", LARS), ("sgd", torch.optim.SGD)])
def test_make_optimizer_has_a_momentum_of_09(name, kind):
    bias = nn.Linear(1, 1).requires_grad_(True)
    nn.init.zeros_(bias.bias)
    optimizer = make_optimizer(name, bias, lr=0.1, weight_decay=0.0)
    assert isinstance(optimizer, kind)
    for _ in range(2):
        bias.bias.grad = torch.ones(1)
        optimizer.step()
    assert bias.bias.item() == pytest.approx(-0.1 * (1 + 1.9))


def test_adamw_decays_apart_from_the_moments():
    network = small_network()
    optimizer = make_optimizer("adamw", network, lr=0.1, weight_decay=0.5)
    for param in network.parameters():
        param.grad = torch.full_like(param, 7.0)
    optimizer.step()
    # The first step of Adam is the learning rate, whatever the gradient.
    for param in network.parameters():
        decayed = 2 * (1 - 0.1 * 0.5) if param.ndim > 1 else 2
        torch.testing.assert_close(param.detach(), torch.full_like(param, decayed - 0.1))


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw", "muon"])
def test_make_optimizer_covers_each_trainable_parameter_once(name):
    network = small_network()
    network[0].requires_grad_(False)
    optimizer = make_optimizer(name, network, lr=0.1, weight_decay=0.5)
    covered = [param for group in optimizer.param_groups for param in group["params"]]
    expected = [*network[1].parameters(), *network[3].parameters()]
    assert len(covered) == len(expected)
    assert {id(param) for param in covered} == {id(param) for param in expected}


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw", "muon"])
def test_parameters_may_get_their_first_gradients_late(name):
    module = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    optimizer = make_optimizer(name, module, lr=0.1, weight_decay=0.5)
    for layers in (module[:1], module):
        before = [param.detach().clone() for param in layers.parameters()]
        sum(layer(torch.ones(2, 3)).sum() for layer in layers).backward()
        optimizer.step()
        assert not any(map(torch.equal, before, layers.parameters()))


@pytest.mark.parametrize("name, kind", [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_the_fused_optimizers_step_as_the_plain_ones(name, kind):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    plain_module = copy.deepcopy(module)
    optimizer = make_optimizer(name, module, lr=0.1, weight_decay=0.01)
    groups = [
        {"params": [plain_module[0].weight], "weight_decay": 0.01},
        {"params": [plain_module[0].bias, *plain_module[1].parameters()], "weight_decay": 0.0},
    ]
    momentum = {"momentum": 0.9} if name == "sgd" else {}
    plain = kind(groups, 0.1, foreach=False, **momentum)
    assert optimizer.defaults["fused"]
    x = torch.randn(16, 4)
    for _ in range(4):
        for each, of in ((module, optimizer), (plain_module, plain)):
            of.zero_grad()
            each(x).pow(3).sum().backward()
            of.step()
    for actual, expected in zip(module.parameters(), plain_module.parameters(), strict=True):
        torch.testing.assert_close(actual, expected)


def test_muon_multiplies_in_the_precision_of_autocast():
    exact, rounded = (nn.Parameter(torch.zeros(4, 6)) for _ in range(2))
    gradient = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")
    take_steps(Muon([exact], lr=1.0), exact, [gradient], [1.0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        take_steps(Muon([rounded], lr=1.0), rounded, [gradient], [1.0])
    assert rounded.dtype == torch.float32
    assert 1e-4 < (exact - rounded).abs().max() < 0.02


@pytest.mark.parametrize("kind", [LARS, Muon])
def test_a_learning_rate_that_is_a_tensor_is_read_anew(kind):
    weights = []
    for rate in (0.1, torch.tensor(0.1)):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        optimizer = kind(network.parameters(), rate)
        for new in (0.1, 0.3):
            set_learning_rate(optimizer, new)
            network(torch.ones(2, 3, 5, 5) * torch.arange(2).view(2, 1, 1, 1)).sum().backward()
            optimizer.step()
        assert isinstance(optimizer.param_groups[0]["lr"], type(rate))
        weights.append(torch.cat([param.detach().flatten() for param in network.parameters()]))
    torch.testing.assert_close(*weights)
