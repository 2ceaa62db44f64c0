"""Batches that memory does not hold: exact gradients, and steps that are tried again."""

import warnings
import weakref

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from sklearn_simclr import SimCLRClassifier, _micro_batches
from sklearn_simclr._data import Samples
from sklearn_simclr._distributed import World
from sklearn_simclr._inference import encode
from sklearn_simclr._micro_batches import MicroBatches, is_out_of_memory
from sklearn_simclr._network import build_network
from sklearn_simclr._training import Objective, train
from sklearn_simclr._views import Views
from sklearn_simclr.augmentation import FeatureCorruption
from sklearn_simclr.losses import resolve_loss

CPU = torch.device("cpu")
N, D = 11, 6
LABELS = torch.tensor([0, 1, 0, -1, 2, 1, -1, 0, 0, 2, 1])


class Centred(nn.Module):
    """Subtracts a running mean, for which every pass in training makes another tensor."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(1))

    def forward(self, x):
        if self.training:
            self.centre = 0.9 * self.centre + 0.1 * x.detach().mean()
        return x - self.centre


class Limited(nn.Module):
    """Fails on more than `limit` rows, in the forward or the backward pass of a training."""

    def __init__(self, limit, where="forward", error=torch.OutOfMemoryError):
        super().__init__()
        self.limit, self.where, self.error, self.failed = limit, where, error, []

    def forward(self, x):
        if not self.training or len(x) <= self.limit:
            return x
        return FailsInBackward.apply(x, self) if self.where == "backward" else self.fail(x)

    def fail(self, x):
        self.failed.append(len(x))
        if self.error is None:
            torch.empty(2**55, dtype=torch.uint8)  # of which torch's own allocator complains
        raise self.error("no such luck")


class FailsInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, limited):
        ctx.limited = limited
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.limited.fail(gradient)


LAYERS = {
    "plain": lambda: [nn.Linear(D, 5), nn.Tanh()],
    "batch norm": lambda: [nn.Linear(D, 5), nn.BatchNorm1d(5), nn.ReLU()],
    "cumulative": lambda: [nn.BatchNorm1d(D, momentum=None), nn.Linear(D, 5)],
    "dropout": lambda: [nn.Linear(D, 9), nn.Dropout(0.5), nn.BatchNorm1d(9), nn.Linear(9, 5)],
    "replaced buffer": lambda: [Centred(), nn.Linear(D, 5), nn.Tanh()],
}


def make_encoder(kind, *more):
    """A network of some kind, with the same weights at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(*LAYERS[kind](), *more)


def make_batch():
    """Two views (2n, d) of n samples, in float64."""
    generator = torch.Generator().manual_seed(1)
    return 1 + torch.randn(2 * N, D, generator=generator, dtype=torch.float64)


def make_loss(name="nt_xent"):
    loss = resolve_loss(name, 0.2)
    return lambda z: loss(*z.chunk(2), LABELS)


def loss_that_draws(z):
    return make_loss()(z + 0.1 * torch.randn_like(z))


def micro_batches(network, size=None, precision=torch.float32, **options):
    defaults = {"n_views": 2, "draws_globally": True, "batch_size": 777}
    options = defaults | options
    return MicroBatches(network, network, device=CPU, precision=precision, size=size, **options)


def oracle(network, x, loss_of, pieces, precision=torch.float32):
    """Loss of all outputs, with the graphs of all pieces kept, and one backward pass."""
    network.zero_grad()
    z1, z2 = [], []
    for piece in pieces:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            z = network(torch.cat([x[piece], x[N + piece]]))
        z1.append(z[: len(piece)])
        z2.append(z[len(piece) :])
    loss = loss_of(torch.cat([*z1, *z2]))
    loss.backward()
    return loss.detach()


def pieces_of(size):
    """Numbers of the samples of each micro-batch, at most `size`, as equal as can be."""
    return [torch.from_numpy(part) for part in np.array_split(np.arange(N), -(-N // size))]


def assert_same_step(network, loss, expected_network, expected_loss, **tolerance):
    torch.testing.assert_close(loss, expected_loss)
    for one, other in zip(network.parameters(), expected_network.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, **tolerance)
    expected = dict(expected_network.named_buffers())
    for name, buffer in network.named_buffers():
        torch.testing.assert_close(buffer, expected[name], msg=name)


# One step


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 10, N, 100])
@pytest.mark.parametrize("loss", ["nt_xent", "supcon", "margin_triplet"])
def test_without_batch_norm_the_step_is_that_of_the_whole_batch(size, loss):
    x, whole, cut = make_batch(), *(make_encoder("plain").double() for _ in range(2))
    expected = oracle(whole, x, make_loss(loss), [torch.arange(N)])
    found = micro_batches(cut, size).backward(x, make_loss(loss), N)
    assert_same_step(cut, found, whole, expected)
    assert not found.requires_grad


@pytest.mark.parametrize("size", [2, 3, 5, 6])
@pytest.mark.parametrize("kind", LAYERS)
def test_steps_are_those_of_an_oracle(size, kind):
    x, whole, cut = make_batch(), *(make_encoder(kind).double() for _ in range(2))
    ours = micro_batches(cut, size)
    for _ in range(2):  # the second step shows what the first has left
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            expected = oracle(whole, x, loss_that_draws, pieces_of(size))
            after = torch.rand(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            found = ours.backward(x, loss_that_draws, N)
            assert torch.equal(torch.rand(1), after)
        assert_same_step(cut, found, whole, expected)


@pytest.mark.parametrize("kind", ["plain", "batch norm"])
def test_half_precision_is_that_of_an_oracle(kind):
    x, whole, cut = make_batch().float(), *(make_encoder(kind) for _ in range(2))
    expected = oracle(whole, x, make_loss(), pieces_of(4), torch.bfloat16)
    found = micro_batches(cut, 4, torch.bfloat16).backward(x, make_loss(), N)
    assert_same_step(cut, found, whole, expected, rtol=1e-2, atol=1e-3)


def test_what_draws_nothing_leaves_the_generator_alone(monkeypatch):
    ours = micro_batches(make_encoder("batch norm", Limited(7)).double(), draws_globally=False)
    monkeypatch.setattr(torch, "set_rng_state", None)  # another thread may be drawing
    with pytest.warns(UserWarning, match="3 at a time"):
        ours.backward(make_batch(), make_loss(), N)


def test_only_the_second_pass_has_a_graph():
    class Notes(nn.Module):
        def forward(self, x):
            passes.append((len(x), torch.is_grad_enabled()))
            return x

    passes = []
    ours = micro_batches(make_encoder("plain", Notes()).double(), 4)
    ours.backward(make_batch(), make_loss(), N)
    assert passes == [(8, False), (8, False), (6, False), (8, True), (8, True), (6, True)]


# Out of memory


@pytest.mark.parametrize("text", _micro_batches._LACKS)
def test_a_lack_of_memory_is_recognised_by_what_is_said(text):
    assert is_out_of_memory(RuntimeError(f"It failed: {text}."))
    assert not is_out_of_memory(ValueError(text))


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, None], ids=["error", "allocator"])
def test_a_step_that_fails_is_taken_in_halves(kind, where, error):
    x, limit, n_warned = make_batch(), Limited(100, where, error), []
    whole, cut = make_encoder(kind).double(), make_encoder(kind, limit).double()
    ours = micro_batches(cut)
    for size in (N, 3, 3):
        limit.limit = 2 * size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            expected = oracle(whole, x, loss_that_draws, pieces_of(size))
            after = torch.rand(1)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.manual_seed(3)
            found = ours.backward(x, loss_that_draws, N)
            assert torch.equal(torch.rand(1), after)
        assert_same_step(cut, found, whole, expected)
        n_warned.append(len(caught))
    assert limit.failed == [2 * 11, 2 * 6]  # and is not tried again
    assert n_warned == [0, 1, 0]


def test_the_warning_says_what_has_changed():
    network = make_encoder("batch norm", Limited(7)).double()
    with pytest.warns(UserWarning) as caught:
        micro_batches(network).backward(make_batch(), make_loss(), N)
    (warning,) = caught
    for part in ("11 samples (batch_size=777)", "gets 3 at a time", "Batch normalisation"):
        assert part in str(warning.message)


def test_batch_normalisation_that_does_not_train_is_not_warned_of():
    network = make_encoder("batch norm").double().eval()
    with pytest.warns(UserWarning) as caught:
        failing_once(micro_batches(network)).backward(make_batch(), make_loss(), N)
    assert "Batch normalisation" not in str(caught[0].message)


def failing_once(ours):
    """Let the first pass of a whole batch fail, in evaluation mode too."""
    network = ours.output_of

    def output_of(x):
        if len(x) == 2 * N:
            raise torch.OutOfMemoryError
        return network(x)

    ours.output_of = output_of
    return ours


@pytest.mark.parametrize("size", [None, 4, 2])
def test_two_samples_that_are_too_many_are_refused(size):
    limit = Limited(3)
    network = make_encoder("batch norm", limit).double()
    match = r"cpu does not hold even 2 samples .*batch_size=777, image_size .*: no such luck"
    with pytest.raises(torch.OutOfMemoryError, match=match) as error:
        micro_batches(network, size).backward(make_batch(), make_loss(), N)
    assert str(error.value.__cause__) == "no such luck"
    assert limit.failed[-1] == 4


def test_one_of_several_processes_does_not_halve():
    limit = Limited(21)
    ours = micro_batches(make_encoder("plain", limit).double(), world=World(0, 2))
    with pytest.raises(torch.OutOfMemoryError, match=r"share of batches of 777 .* 2 processes"):
        ours.backward(make_batch(), make_loss(), 2 * N)
    assert limit.failed == [2 * N]


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("error", [RuntimeError, ZeroDivisionError, MemoryError])
def test_other_errors_pass(size, where, error):
    limit = Limited(7, where, error)
    ours = micro_batches(make_encoder("batch norm", limit).double(), size)
    with pytest.raises(error, match=r"^no such luck$"):
        ours.backward(make_batch(), make_loss(), N)
    assert len(limit.failed) == 1


def test_nothing_of_a_failed_attempt_is_kept(monkeypatch):
    kept, alive = [], []

    class Remembers(nn.Module):
        def forward(self, x):
            kept.append(weakref.ref(x))
            return x

    def release(device):
        release_memory(device)
        alive.append([ref() is not None for ref in kept])

    release_memory = _micro_batches.release_memory
    monkeypatch.setattr(_micro_batches, "release_memory", release)
    network = make_encoder("batch norm", Remembers(), Limited(11, "backward")).double()
    with pytest.warns(UserWarning):
        micro_batches(network).backward(make_batch(), make_loss(), N)
    assert alive == [[False], [False] * 4]  # of the whole; of both halves, and the first again


# Whole trainings


def make_samples(n=22):
    rows = np.random.default_rng(0).normal(size=(n, D)).astype(np.float32)
    return Samples(rows, None, False, None, CPU)


def train_network(encoder, *, projection_layers=1, **options):
    """Train for two epochs of two batches; return the network and the losses."""
    samples, zeros = make_samples(), np.zeros(D, np.float32)
    network = build_network(
        lambda: encoder,
        (5, projection_layers),
        (D,),
        zeros,
        zeros + 1,
        n_features=None,
        seed=0,
        device=CPU,
    )
    records = train(
        network,
        torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        samples,
        Views(FeatureCorruption(), None, True),
        Objective(resolve_loss("nt_xent", 0.5), None, ""),
        n_epochs=2,
        first_epoch=0,
        batch_size=N,
        learning_rate_at=lambda step: 0.1,
        precision=torch.float32,
        seed=3,
        **options,
    )
    return network, [record.loss for record in records]


def test_a_training_does_not_depend_on_the_micro_batch_without_batch_norm():
    whole, losses = train_network(make_encoder("plain"))
    for size in (2, 4, 6):
        cut, their_losses = train_network(make_encoder("plain"), micro_batch=size)
        assert their_losses == pytest.approx(losses, rel=1e-5)
        torch.testing.assert_close(cut.state_dict(), whole.state_dict())


@pytest.mark.parametrize("kind", ["batch norm", "dropout"])
def test_a_training_that_runs_out_of_memory_goes_on_in_halves(kind):
    limit = Limited(7)
    with pytest.warns(UserWarning) as caught:
        halved, losses = train_network(make_encoder(kind, limit), projection_layers=2)
    assert len(caught) == 1 and len(limit.failed) == 2
    asked, expected = train_network(make_encoder(kind), projection_layers=2, micro_batch=3)
    assert losses == expected
    torch.testing.assert_close(halved.state_dict(), asked.state_dict(), rtol=0, atol=0)
    whole, _ = train_network(make_encoder(kind), projection_layers=2)
    assert not torch.allclose(whole.encoder[0].weight, halved.encoder[0].weight)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("loss", ["nt_xent", "supcon"])
def test_fit_warns_its_caller_and_goes_on(simclr, vectors, method, loss):
    y = np.arange(48) % 3 if loss == "supcon" else None
    model = simclr(encoder=make_encoder("dropout", Limited(16)), loss=loss)
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match=r"16 samples \(batch_size=16\)") as caught:
        getattr(model, method)(vectors, y)
    assert [(len(caught), caught[0].filename)] == [(1, __file__)]
    assert np.isfinite(model.transform(vectors)).all()
    assert torch.equal(torch.get_rng_state(), state)


def test_fit_fails_with_what_to_lower(simclr, vectors):
    with pytest.raises(torch.OutOfMemoryError, match="Lower batch_size=16"):
        simclr(encoder=make_encoder("plain", Limited(0))).fit(vectors)


def test_fine_tuning_does_not_depend_on_the_micro_batch(simclr, vectors):
    y = np.where(np.arange(48) < 24, np.arange(48) % 3, -1)

    class LimitedInEvaluation(nn.Module):
        def forward(self, x):
            if not self.training and torch.is_grad_enabled() and len(x) > 5:
                raise torch.OutOfMemoryError
            return x

    found = []
    for more in ([], [LimitedInEvaluation()]):
        model = simclr(encoder=make_encoder("batch norm", *more), max_epochs=1)
        classifier = SimCLRClassifier(model, method="fine_tuning", max_iter=4, random_state=0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found.append(classifier.fit(vectors, y).predict_proba(vectors))
        texts = [str(warning.message) for warning in caught]
        assert any("gets 4 at a time" in text for text in texts) == bool(more)
    assert_allclose(*found, rtol=1e-4)


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_features_do_not_depend_on_how_many_rows_memory_holds(limit):
    samples, zeros = make_samples(300), np.zeros(D, np.float32)

    class LimitedInEvaluation(nn.Module):
        limit = 1000

        def forward(self, x):
            if len(x) > self.limit:
                raise torch.OutOfMemoryError
            return x

    layer = LimitedInEvaluation()
    network = build_network(
        lambda: make_encoder("batch norm", layer),
        (5, 1),
        (D,),
        zeros,
        zeros + 1,
        n_features=5,
        seed=0,
        device=CPU,
    )
    expected = encode(network, samples, None, 0, CPU)
    layer.limit = limit
    torch.testing.assert_close(encode(network, samples, None, 0, CPU), expected)
    layer.limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        encode(network, samples, None, 0, CPU)
