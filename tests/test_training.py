"""The training loop."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_simclr._data import Samples, batch_shape
from sklearn_simclr._inference import discrimination_accuracy
from sklearn_simclr._kernels import resize
from sklearn_simclr._network import build_network
from sklearn_simclr._training import Objective, check_training, train
from sklearn_simclr._views import Views
from sklearn_simclr.augmentation import (
    AffineAugmentation,
    FeatureCorruption,
    SimCLRAugmentation,
)
from sklearn_simclr.encoders import ConvNetEncoder, MLPEncoder
from sklearn_simclr.losses import nt_xent, resolve_loss
from sklearn_simclr.optim import make_optimizer

CPU = torch.device("cpu")


def identity(batch):
    return batch


def global_noise(batch):
    return batch + 0.3 * torch.randn_like(batch)


def vector_samples(n=40, d=5):
    rows = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    return Samples(rows, None, False, None, CPU)


def image_samples(n=40, side=8, channels=1):
    size = (n, side * side * channels)
    rows = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    return Samples(rows, (side, side, channels), False, (0.0, 255.0), CPU)


def make_network(samples, encoder=None, projection_layers=2, input_shape=None):
    """A small network around the module that `encoder` makes, the same at every call."""
    shape = input_shape or samples.input_shape
    if encoder is None:
        encoder = MLPEncoder(8, n_layers=2) if len(shape) == 1 else ConvNetEncoder(8)
    mean = np.linspace(0.1, 0.4, shape[0], dtype=np.float32)
    options = {"n_features": None, "seed": 0, "device": CPU}
    return build_network(encoder, (6, projection_layers), shape, mean, mean + 0.5, **options)


def make_views(augmentation, image_size=None):
    return Views(augmentation, image_size, not hasattr(augmentation, "make_params"))


def make_objective(loss="nt_xent", temperature=0.5, labels=None):
    return Objective(resolve_loss(loss, temperature), labels, f"temperature={temperature}")


def epochs(network, optimizer, samples, views, n_epochs, first_epoch=0, **options):
    defaults = {
        "batch_size": 16,
        "learning_rate_at": lambda step: 0.01,
        "precision": torch.float32,
        "seed": 3,
    }
    options = {"objective": make_objective()} | defaults | options
    return train(
        network, optimizer, samples, views, n_epochs=n_epochs, first_epoch=first_epoch, **options
    )


def run(samples, augmentation, n_epochs=2, **options):
    """Train the small network; return it and the records."""
    network = make_network(samples)
    optimizer = make_optimizer("adamw", network, lr=0.1, weight_decay=0.01)
    views = make_views(augmentation)
    return network, list(epochs(network, optimizer, samples, views, n_epochs, **options))


def state_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_same_state(network, state):
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name


def differs(network, state):
    return any(not torch.equal(value, state[name]) for name, value in network.state_dict().items())


# Views


def test_a_callable_and_an_augmentation_without_size_get_resized_images():
    batch = image_samples(n=4, side=20).batch(torch.arange(4))
    generator = torch.Generator().manual_seed(0)
    for view in make_views(identity, 12)(batch, generator):
        assert torch.equal(view, resize(batch, 12))
    first, second = make_views(AffineAugmentation(), 12)(batch, generator)
    assert first.shape == second.shape == (4, 1, 12, 12)


def test_an_augmentation_with_a_size_gets_the_images_whole():
    batch = image_samples(n=4, side=20, channels=3).batch(torch.arange(4))
    augmentation = SimCLRAugmentation(size=12)
    views = make_views(augmentation, 12)(batch, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    for view in views:
        assert torch.equal(view, augmentation(batch, generator))


@pytest.mark.parametrize(
    "augmentation",
    [
        lambda batch: batch[:1],
        lambda batch: torch.cat([batch, batch]),
        lambda batch: batch.long(),
        lambda batch: batch[:, :, :4],
        lambda batch: batch.numpy(),
        lambda batch: None,
        lambda batch: batch.no_such_thing,
        lambda batch: batch.expand(-1, 3, -1, -1),
    ],
    ids=["one", "twice", "integers", "shorter", "numpy", "none", "fails", "channels"],
)
def test_views_that_cannot_be_trained_on_are_refused(augmentation):
    samples = image_samples()
    network = make_network(samples, lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))
    with pytest.raises(ValueError, match=r"augmentation=<function .*\(2, 1, 8, 8\)"):
        check_training(network, samples, make_views(augmentation), make_objective())


def test_the_check_names_the_cause():
    def fails(batch):
        raise ZeroDivisionError("no such luck")

    samples = vector_samples()
    with pytest.raises(ValueError, match="ZeroDivisionError: no such luck") as error:
        check_training(make_network(samples), samples, make_views(fails), make_objective())
    assert isinstance(error.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    "loss, match",
    [
        (lambda z1, z2: (z1 - z2).sum(1), "scalar"),
        (lambda z1, z2: 1.0, "scalar"),
        (lambda z1, z2: (z1 - z2).detach().sum(), "detached"),
        (lambda z1, z2: (z1 - z2).no_such_thing, "AttributeError: .*no_such_thing"),
        (lambda z1: z1.sum(), "TypeError"),
    ],
    ids=["matrix", "number", "detached", "fails", "one argument"],
)
def test_a_loss_that_cannot_be_trained_on_is_refused(loss, match):
    samples = vector_samples()
    objective = make_objective(loss)
    with pytest.raises(ValueError, match=rf"temperature=0.5 failed on .*\(2, 6\).*{match}"):
        check_training(make_network(samples), samples, make_views(identity), objective)


@pytest.mark.parametrize("augmentation", [FeatureCorruption(), global_noise])
def test_the_check_leaves_no_trace(augmentation):
    samples = vector_samples()
    network = make_network(samples)
    before, rng = state_of(network), torch.get_rng_state()
    check_training(network, samples, make_views(augmentation), make_objective())
    assert_same_state(network, before)
    assert torch.equal(torch.get_rng_state(), rng)


# Training


def test_one_step_equals_gradient_descent_by_hand():
    samples = vector_samples(n=6, d=3)
    network = make_network(samples, lambda: nn.Linear(3, 2), projection_layers=1)
    weights = [p.detach().clone().requires_grad_() for p in network.parameters()]
    turns = []

    def alternate(batch):
        turns.append(batch)
        return batch if len(turns) % 2 else 2 * batch + 1

    def project(x):
        weight, bias, head = weights
        return ((x - network.mean) / network.scale @ weight.T + bias) @ head.T

    x = torch.from_numpy(samples.rows)
    expected_loss = nt_xent(project(x), project(2 * x + 1), temperature=0.2)
    gradients = torch.autograd.grad(expected_loss, weights)
    optimizer = torch.optim.SGD(network.parameters(), lr=99)
    (record,) = epochs(
        network,
        optimizer,
        samples,
        make_views(alternate),
        1,
        objective=make_objective(temperature=0.2),
        learning_rate_at=lambda step: 0.7,
    )
    assert record.loss == pytest.approx(expected_loss.item(), rel=1e-5)
    for param, weight, gradient in zip(network.parameters(), weights, gradients, strict=True):
        torch.testing.assert_close(param.detach(), (weight - 0.7 * gradient).detach())


@pytest.mark.parametrize(
    "samples, augmentation",
    [
        (vector_samples(), FeatureCorruption()),
        (vector_samples(), global_noise),
        (image_samples(), AffineAugmentation()),
        (image_samples(channels=3), SimCLRAugmentation()),
    ],
    ids=["corruption", "callable", "affine", "simclr"],
)
def test_epochs_depend_on_the_seed_and_their_number_only(samples, augmentation):
    straight, records = run(samples, augmentation, 4)

    network = make_network(samples)
    optimizer = make_optimizer("adamw", network, lr=0.1, weight_decay=0.01)
    views = make_views(augmentation)
    halves = list(epochs(network, optimizer, samples, views, 2))
    torch.rand(5)  # what happens in between does not matter
    halves += epochs(network, optimizer, samples, views, 2, first_epoch=2)
    assert_same_state(straight, state_of(network))
    assert [(r.epoch, r.loss) for r in halves] == [(r.epoch, r.loss) for r in records]
    assert [r.epoch for r in records] == [0, 1, 2, 3]


@pytest.mark.parametrize("augmentation", [FeatureCorruption(), global_noise])
def test_another_seed_is_another_training(augmentation):
    first, again, other = (run(vector_samples(), augmentation, seed=seed)[0] for seed in (3, 3, 4))
    assert_same_state(first, state_of(again))
    assert differs(first, state_of(other))


@pytest.mark.parametrize("augmentation", [FeatureCorruption(), global_noise])
def test_training_neither_reads_nor_moves_torchs_global_generator(augmentation):
    networks = []
    for global_seed in (1, 2):
        samples = vector_samples()
        network = make_network(samples, lambda: nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5)))
        optimizer = make_optimizer("sgd", network, lr=0.1, weight_decay=0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            state = torch.get_rng_state()
            views = Views(augmentation, None, draws_globally=True)
            for _ in epochs(network, optimizer, samples, views, 3):
                assert torch.equal(torch.get_rng_state(), state)
            assert torch.equal(torch.get_rng_state(), state)
        networks.append(network)
    assert_same_state(networks[0], state_of(networks[1]))


def test_a_callable_draws_anew_in_every_epoch():
    drawn = []

    def watch(batch):
        drawn.append(torch.rand(()).item())
        return batch + drawn[-1]

    for seed in (3, 4):
        run(vector_samples(), watch, 3, seed=seed)
    assert len(set(drawn)) == len(drawn) == 2 * 3 * 3 * 2  # seeds, epochs, batches, views


def test_no_gradient_reaches_a_module_that_makes_views():
    filtered = nn.Conv2d(1, 1, 3, padding=1)
    run(image_samples(), lambda batch: filtered(batch) + 0.3 * torch.randn_like(batch))
    assert filtered.weight.grad is None


def test_an_augmentation_that_makes_too_few_views_of_a_larger_batch_is_refused():
    with pytest.raises(ValueError, match="of 13 samples it made 6 views in two calls"):
        run(image_samples(), lambda batch: batch[:3])


def test_parts_that_bring_their_own_randomness_need_no_seeding():
    states = []
    for global_seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            before = torch.get_rng_state()
            states.append(state_of(run(vector_samples(), FeatureCorruption())[0]))
            assert torch.equal(torch.get_rng_state(), before)
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])


@pytest.mark.parametrize("n, batch_size", [(40, 16), (33, 16), (5, 2), (7, 100)])
def test_every_epoch_shuffles_the_rows_into_equal_batches(n, batch_size):
    rows = np.arange(n, dtype=np.float32)[:, None]
    samples = Samples(rows, None, False, None, CPU)
    seen = []

    def watch(batch):
        seen.append(batch.flatten().tolist())
        return batch + torch.rand(len(batch), 1)

    run(samples, watch, 3, batch_size=batch_size)
    n_batches, size = batch_shape(n, batch_size)
    first, second = seen[::2], seen[1::2]  # both views of a step are of the same rows
    assert first == second and len(first) == 3 * n_batches
    assert {len(batch) for batch in first} == {size}
    orders = torch.tensor(first).view(3, n_batches * size)
    assert all(len(order.unique()) == len(order) for order in orders)
    assert len(orders.unique(dim=0)) > 1


def test_the_loss_is_the_mean_over_the_batches_of_paired_views():
    losses = []

    def watch(z1, z2, temperature):
        assert z1.shape == z2.shape == (13, 6)
        assert temperature == 0.25
        torch.testing.assert_close(z1, z2)
        losses.append(nt_xent(z1, z2, temperature=temperature))
        return losses[-1]

    objective = make_objective(watch, 0.25)
    _, records = run(vector_samples(), identity, objective=objective)
    assert len(losses) == 6
    for record, batches in zip(records, (losses[:3], losses[3:]), strict=True):
        assert record.loss == pytest.approx(np.mean([loss.item() for loss in batches]), rel=1e-6)


def test_the_loss_gets_the_labels_of_the_rows_of_the_batch():
    samples = vector_samples()
    rows = torch.from_numpy(samples.rows)
    seen = []

    def watch(z1, z2, labels):
        seen.extend(labels.tolist())
        drawn = views.batches[-1]  # both views of this step are its rows
        assert torch.equal(drawn, rows[labels])
        return nt_xent(z1, z2)

    class Kept:
        batches = []

        def __call__(self, batch):
            self.batches.append(batch.clone())
            return batch

    views = Kept()
    objective = Objective(watch, torch.arange(len(samples)), "watch")
    run(samples, views, 1, objective=objective)
    assert len(seen) == len(set(seen)) == 39  # one of 40 rows sits out


def test_every_step_has_its_own_learning_rate():
    used = []

    class Watch(torch.optim.SGD):
        def step(self, closure=None):
            used.append([group["lr"] for group in self.param_groups])

    samples = vector_samples()
    network = make_network(samples)
    params = list(network.parameters())
    optimizer = Watch([{"params": params[:1]}, {"params": params[1:]}], lr=99)
    records = list(
        epochs(
            network,
            optimizer,
            samples,
            make_views(FeatureCorruption()),
            2,
            first_epoch=5,
            learning_rate_at=lambda step: 0.1 + step,
        )
    )
    assert used == [[0.1 + step] * 2 for step in range(6)]  # 3 batches an epoch
    assert [r.epoch for r in records] == [5, 6]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_precision_is_that_of_the_network_and_not_of_its_weights_or_the_loss(precision):
    seen = set()

    def watch(z1, z2, labels):
        seen.add((z1.dtype, z2.dtype))
        loss = nt_xent(z1, z2)
        assert loss.dtype == torch.float32
        return loss

    objective = Objective(watch, None, "watch")
    network, records = run(
        image_samples(), AffineAugmentation(), precision=precision, objective=objective
    )
    assert seen == {(precision, precision)}
    assert {param.dtype for param in network.parameters()} == {torch.float32}
    _, expected = run(image_samples(), AffineAugmentation())
    assert records[-1].loss == pytest.approx(expected[-1].loss, abs=0.1)


def test_training_normalizes_by_the_batch_and_follows_it():
    samples = vector_samples()
    network, _ = run(samples, identity)
    normalizations = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d)]
    assert len(normalizations) == 3  # of the encoder and of the head
    for module in normalizations:
        assert module.num_batches_tracked == 6
        assert (module.running_mean != 0).all()


def test_training_lowers_the_loss_and_tells_samples_apart():
    samples = vector_samples(n=64, d=10)
    views = make_views(FeatureCorruption(0.2))
    before = discrimination_accuracy(make_network(samples), samples, views, seed=0)
    network, records = run(samples, FeatureCorruption(0.2), 40, batch_size=32)
    assert records[-1].loss < records[0].loss - 0.2
    assert discrimination_accuracy(network, samples, views, seed=0) > before + 0.05


class FailsLater:
    """Views that are all right until an epoch of 3 batches is over, then not."""

    def __init__(self, value):
        self.value = value
        self.n_calls = 0

    def __call__(self, batch):
        self.n_calls += 1
        return batch * (self.value if self.n_calls > 8 else 1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training_in_the_state_before(value):
    samples = vector_samples()
    network = make_network(samples)
    optimizer = make_optimizer("adamw", network, lr=0.1, weight_decay=0.01)
    training = epochs(network, optimizer, samples, make_views(FailsLater(value)), 3)
    assert math.isfinite(next(training).loss)
    after_one_epoch = state_of(network)
    with pytest.raises(FloatingPointError, match="Epoch 2 ended with a loss of nan") as error:
        next(training)
    assert "0.01" in str(error.value) and "temperature=0.5" in str(error.value)
    assert_same_state(network, after_one_epoch)
    assert all(value.isfinite().all() for value in after_one_epoch.values())


def test_the_state_kept_is_finite_even_if_a_last_step_broke_the_weights():
    samples = vector_samples(n=8)
    network = make_network(samples)
    optimizer = make_optimizer("sgd", network, lr=0.1, weight_decay=0)
    rates = [0.1, math.inf, 0.1]  # one batch an epoch: only the next one's loss would show it
    views = make_views(FeatureCorruption())
    with pytest.raises(FloatingPointError, match="learning rate"):
        list(epochs(network, optimizer, samples, views, 3, learning_rate_at=rates.__getitem__))
    assert all(value.isfinite().all() for value in network.state_dict().values())
