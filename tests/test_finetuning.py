"""The supervised loop: steps, targets, batches and what it leaves alone."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sklearn_simclr._data import Samples
from sklearn_simclr._finetuning import NetworkWithHead, Task, drawn_batches, fine_tune
from sklearn_simclr._network import build_network
from sklearn_simclr._views import Views
from sklearn_simclr.augmentation import AffineAugmentation, FeatureCorruption, SimCLRAugmentation
from sklearn_simclr.encoders import MLPEncoder

CPU = torch.device("cpu")
N, D, K = 12, 5, 3
CODES = torch.arange(N) % K


def identity(batch):
    return batch


def linear():
    return nn.Linear(D, 4)


def vector_samples():
    rows = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
    return Samples(rows, None, False, None, CPU)


def make_model(encoder=linear, projection_layers=2, output_layer=0):
    """A small network with a head of random weights, the same at every call."""
    mean = np.linspace(0.1, 0.4, D, dtype=np.float32)
    network = build_network(
        encoder, (6, projection_layers), (D,), mean, mean + 0.5, n_features=None, seed=0, device=CPU
    )
    rng = np.random.default_rng(1)
    width = 6 if output_layer == projection_layers > 0 else network.n_features
    return NetworkWithHead(network, output_layer, rng.normal(size=(K, width)), rng.normal(size=K))


def steps(model, task, optimizer=None, samples=None, augmentation=identity, **options):
    """Fine-tune by SGD; return the records."""
    defaults = {
        "n_steps": 4,
        "batch_size": 4,
        "learning_rate_at": lambda step: 0.1,
        "precision": torch.float32,
        "seed": 3,
    }
    views = Views(augmentation, None, not hasattr(augmentation, "make_params"))
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1)
    samples = samples or vector_samples()
    return list(fine_tune(model, optimizer, samples, task, views, **(defaults | options)))


def all_rows(targets=CODES, temperature=1.0):
    return Task(torch.arange(N), targets, temperature)


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module, state):
    return {name for name, value in state.items() if not module.state_dict()[name].equal(value)}


# ------------------------------------------------------------------------------------------------
# A step


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("soft", [False, True])
def test_a_step_equals_one_worked_out_by_hand(soft, temperature):
    samples, model = vector_samples(), make_model()
    probabilities = np.eye(K)[CODES]
    if soft:
        probabilities = np.random.default_rng(2).dirichlet(np.ones(K), N)
    network = model.network
    weight, bias, coef, intercept, mean, scale = (
        part.detach().double().numpy().copy()
        for part in (
            network.encoder.weight,
            network.encoder.bias,
            model.coef,
            model.intercept,
            network.mean,
            network.scale,
        )
    )
    x = (samples.rows - mean) / scale
    h = x @ weight.T + bias
    guess = softmax((h @ coef.T + intercept) / temperature)
    d_logits = (guess - probabilities) / (N * temperature)
    d_h = d_logits @ coef

    targets = torch.tensor(probabilities, dtype=torch.float32) if soft else CODES
    records = steps(model, all_rows(targets, temperature), n_steps=1, batch_size=N)
    loss = -(probabilities * np.log(guess)).sum(axis=1).mean()
    assert_allclose(records[0].losses, [loss], rtol=1e-5)
    expected = {
        "coef": coef - 0.1 * d_logits.T @ h,
        "intercept": intercept - 0.1 * d_logits.sum(axis=0),
        "network.encoder.weight": weight - 0.1 * d_h.T @ x,
        "network.encoder.bias": bias - 0.1 * d_h.sum(axis=0),
    }
    for name, value in expected.items():
        assert_allclose(model.state_dict()[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_logits_are_the_linear_layer_on_the_chosen_features():
    for output_layer, n_layers in [(0, 2), (1, 2), (2, 2), (1, 3), (0, 0)]:
        model = make_model(projection_layers=n_layers, output_layer=output_layer).eval()
        x = torch.from_numpy(vector_samples().rows)
        features = model.network.represent(x, output_layer)
        expected = features.double() @ model.coef.double().T + model.intercept.double()
        assert_allclose(model(x).detach(), expected.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("output_layer", [0, 1, 3])
def test_layers_beyond_the_features_stay(output_layer):
    model = make_model(projection_layers=3, output_layer=output_layer)
    before = state_of(model)
    steps(model, all_rows())
    layers = {int(name.split(".")[2]) // 3 for name in changed(model, before) if ".head." in name}
    assert layers == set(range(output_layer))
    assert {"coef", "intercept", "network.encoder.weight"} <= changed(model, before)


def test_learning_rates_are_those_of_the_schedule():
    class Watched(torch.optim.SGD):
        rates = []

        def step(self):
            self.rates.append(self.param_groups[0]["lr"])
            return super().step()

    model = make_model()
    records = steps(
        model,
        all_rows(),
        Watched(model.parameters(), 1.0),
        n_steps=25,
        learning_rate_at=lambda step: 0.001 * step,
    )
    assert_allclose(Watched.rates, 0.001 * np.arange(25))
    assert [record.step for record in records] == [3, 6, 9, 12, 15, 17, 19, 21, 23, 25]
    assert sum(len(record.losses) for record in records) == 25
    assert len(steps(make_model(), all_rows(), n_steps=3)) == 3


def test_repeated_steps_learn_the_classes():
    model = make_model(MLPEncoder(16))
    losses = [loss for record in steps(model, all_rows(), n_steps=100) for loss in record.losses]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


# ------------------------------------------------------------------------------------------------
# Rows and batches


@pytest.mark.parametrize(
    "n_rows, batch_size, n_steps", [(1, 4, 3), (7, 3, 5), (50, 64, 2), (9, 1, 9)]
)
def test_batches_are_full_and_rows_come_up_equally_often(n_rows, batch_size, n_steps):
    batches = drawn_batches(n_rows, batch_size, n_steps, torch.Generator().manual_seed(0))
    assert batches.shape == (n_steps, batch_size)
    counts = batches.flatten().bincount(minlength=n_rows)
    assert counts.max() - counts.min() <= 1


def test_each_shuffle_is_another():
    batches = drawn_batches(50, 50, 3, torch.Generator().manual_seed(0))
    assert all(set(batch.tolist()) == set(range(50)) for batch in batches)
    assert not batches[0].equal(batches[1]) and not batches[1].equal(batches[2])


class Allocations(TorchDispatchMode):
    """Counts the bytes behind all that operations return."""

    def __init__(self):
        super().__init__()
        self.storages = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            storage = value.untyped_storage()
            self.storages[storage.data_ptr()] = storage.nbytes()
        return result


def test_shuffles_are_put_end_to_end_without_a_copy():
    with Allocations() as allocated:
        batches = drawn_batches(1000, 64, 100, torch.Generator().manual_seed(0))
    assert sum(allocated.storages.values()) == 7000 * 8  # seven shuffles of 1000 rows
    generator = torch.Generator().manual_seed(0)
    shuffles = torch.cat([torch.randperm(1000, generator=generator) for _ in range(7)])
    assert batches.flatten().equal(shuffles[:6400])


def test_other_rows_are_never_read():
    rows = torch.tensor([1, 4, 11])
    samples = vector_samples()
    poisoned = np.full_like(samples.rows, np.nan)
    poisoned[rows] = samples.rows[rows]
    models = [make_model(), make_model()]
    task = Task(rows, torch.tensor([2, 0, 1]))
    steps(models[0], task)
    steps(models[1], task, samples=Samples(poisoned, None, False, None, CPU))
    assert not changed(models[1], state_of(models[0]))


def test_a_row_keeps_its_target():
    seen = []

    def watch(batch):
        seen.append(batch[:, 0].clone())
        return batch

    class Watched(Task):
        def loss(self, logits, index):
            seen.append(self.targets[index])
            return super().loss(logits, index)

    samples = vector_samples()
    rows = torch.tensor([7, 2, 5, 9])
    steps(make_model(), Watched(rows, torch.arange(4) % K), augmentation=watch)
    _, *seen = seen  # the first view is a trial
    for first_features, targets in zip(seen[::2], seen[1::2], strict=True):
        for value, target in zip(first_features, targets, strict=True):
            row = int(np.flatnonzero(samples.rows[:, 0] == value.item())[0])
            assert rows.tolist().index(row) % K == target


# ------------------------------------------------------------------------------------------------
# Evaluation mode, precision, randomness


def test_running_statistics_stay_and_nothing_is_dropped():
    def encoder():
        return nn.Sequential(nn.Linear(D, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))

    model = make_model(encoder)
    before = state_of(model)
    first = steps(model, all_rows(), n_steps=1, batch_size=N)
    again = steps(make_model(encoder), all_rows(), n_steps=1, batch_size=N, seed=4)
    assert_allclose(first[0].losses, again[0].losses, rtol=1e-6)
    named = {name for name in changed(model, before) if "encoder.1" in name}
    assert named == {"network.encoder.1.weight", "network.encoder.1.bias"}


def test_bfloat16_is_close_and_the_loss_is_float32():
    for task in (all_rows(), all_rows(torch.full((N, K), 1 / K))):
        losses = [
            steps(make_model(), task, n_steps=1, precision=precision)[0].losses[0]
            for precision in (torch.float32, torch.bfloat16)
        ]
        assert losses[0] != losses[1]
        assert losses[1] == pytest.approx(losses[0], rel=0.05)
    logits = torch.tensor([[10.0, 10.01]], dtype=torch.bfloat16)
    assert (
        Task(torch.arange(1), torch.tensor([0])).loss(logits, torch.tensor([0])).dtype
        == torch.float32
    )


def test_views_are_made_in_full_precision():
    seen = []

    def watch(batch):
        seen.append(torch.is_autocast_enabled("cpu"))
        return batch

    steps(make_model(), all_rows(), augmentation=watch, precision=torch.bfloat16)
    assert seen and not any(seen)


def global_noise(batch):
    return batch + 0.3 * torch.randn_like(batch)


@pytest.mark.parametrize("augmentation", [FeatureCorruption(), global_noise])
def test_the_seed_decides_and_the_global_generator_is_left_alone(augmentation):
    states = []
    for seed, global_seed in [(3, 1), (3, 2), (4, 1)]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            before = torch.get_rng_state()
            model = make_model()
            steps(model, all_rows(), augmentation=augmentation, seed=seed)
            assert torch.get_rng_state().equal(before)
        states.append(state_of(model))
    assert not changed(model, states[2])
    assert all(states[0][name].equal(states[1][name]) for name in states[0])
    assert changed(model, states[0])


@pytest.mark.parametrize("rate", [1e30, float("nan")])
def test_a_loss_or_weights_beyond_bounds_end_it(rate):
    with pytest.raises(
        FloatingPointError, match=r"Steps 1 to \d+ of the fine-tuning.*learning rate"
    ):
        steps(make_model(), all_rows(), n_steps=40, learning_rate_at=lambda step: rate)


# ------------------------------------------------------------------------------------------------
# Single views


def seeded():
    return torch.Generator().manual_seed(0)


def test_a_single_view_is_the_first_of_the_augmentation():
    images = torch.rand(4, 1, 8, 8, generator=seeded())
    for augmentation in (AffineAugmentation(), SimCLRAugmentation(size=6)):
        view = Views(augmentation, None, False).single(images, seeded())
        assert view.equal(augmentation(images, seeded()))
    assert Views(identity, None, True).single(images, seeded()).equal(images)


def test_a_single_view_of_vectors_is_the_corrupted_one():
    vectors = torch.rand(8, D, generator=seeded())
    view = Views(FeatureCorruption(0.6), None, False).single(vectors, seeded())
    assert not view.equal(vectors)


def test_a_single_view_has_the_size_of_the_training():
    images = torch.rand(4, 1, 8, 8, generator=seeded())
    for augmentation in (AffineAugmentation(), identity):
        assert Views(augmentation, 12, True).single(images, seeded()).shape == (4, 1, 12, 12)


def test_no_stride_is_idle_in_fine_tuning():
    strided = nn.Conv2d(1, 4, 3, stride=2, padding=1)

    def encoder():
        return nn.Sequential(nn.Unflatten(1, (1, D, 1)), strided, nn.Flatten())

    model = make_model(encoder)
    steps(model, all_rows(), n_steps=1)
    assert model.network.encoder[1].stride == (2, 1)
