"""The losses against brute forces in float64, written as loops over views and pairs."""

import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sklearn_simclr import _log_sums
from sklearn_simclr.losses import (
    LOSSES,
    dcl,
    margin_triplet,
    nt_logistic,
    nt_xent,
    resolve_loss,
    supcon,
)

# The class of each image; n images have the first n of these.
LABELS = torch.tensor([1, 0, 1, -1, 1, 0, -1])


def projections(n, d, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, d, generator=generator, dtype=dtype).mul_(3).unbind()


def labelled(z1, z2, **options):
    """Supcon with the labels above, so that it can be called like the others."""
    return supcon(z1, z2, LABELS[: len(z1)], **options)


def cosines(z1, z2):
    """Similarity of every two views, as a list of lists of float64 scalars."""
    z = [row / row.square().sum().sqrt() for row in torch.cat([z1, z2]).double()]
    return [[(a * b).sum() for b in z] for a in z]


def views(n):
    """Each view, its other view and the views of other images."""
    for i in range(2 * n):
        other = (i + n) % (2 * n)
        yield i, other, [k for k in range(2 * n) if k not in (i, other)]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def log_sum_exp(values):
    top = max(values).detach()
    return top + sum((value - top).exp() for value in values).log()


def semi_hard_choice(similarity, i, other, negatives):
    """The negatives of a view that count when only the semi-hard one does."""
    beyond = [k for k in negatives if similarity[i][k] < similarity[i][other]]
    if beyond:
        return [max(beyond, key=lambda k: similarity[i][k].item())]
    return [min(negatives, key=lambda k: similarity[i][k].item())]


def brute_nt_xent(z1, z2, temperature):
    """Equation 1 of the SimCLR paper."""
    s = cosines(z1, z2)
    return mean(
        log_sum_exp([s[i][k] / temperature for k in [other, *negatives]])
        - s[i][other] / temperature
        for i, other, negatives in views(len(z1))
    )


def brute_dcl(z1, z2, temperature):
    """The loss L_DC of Yeh et al."""
    s = cosines(z1, z2)
    return mean(
        log_sum_exp([s[i][k] / temperature for k in negatives]) - s[i][other] / temperature
        for i, other, negatives in views(len(z1))
    )


def brute_supcon(z1, z2, temperature):
    """Equation 2 of Khosla et al., its inner sum over the positives p."""
    s, n = cosines(z1, z2), len(z1)
    losses = []
    for i, other, negatives in views(n):
        label = LABELS[i % n]
        same = [k for k in negatives if label >= 0 and LABELS[k % n] == label]
        denominator = log_sum_exp([s[i][k] / temperature for k in [other, *negatives]])
        losses.append(mean(denominator - s[i][p] / temperature for p in [other, *same]))
    return mean(losses)


def brute_pairs(z1, z2, term, semi_hard):
    """Mean of ``term(s_positive, s_negative)`` over the negatives and then over the views."""
    s = cosines(z1, z2)
    losses = []
    for i, other, negatives in views(len(z1)):
        chosen = semi_hard_choice(s, i, other, negatives) if semi_hard else negatives
        losses.append(mean(term(s[i][other], s[i][k]) for k in chosen))
    return mean(losses)


def brute_nt_logistic(z1, z2, temperature, semi_hard=True):
    def term(positive, negative):  # -log sigmoid(x) is log(1 + exp(-x))
        zero = torch.zeros_like(positive)
        return log_sum_exp([zero, -positive / temperature]) + log_sum_exp(
            [zero, negative / temperature]
        )

    return brute_pairs(z1, z2, term, semi_hard)


def brute_margin_triplet(z1, z2, margin, semi_hard=True):
    return brute_pairs(z1, z2, lambda p, n: (n - p + margin).clamp(min=0), semi_hard)


BRUTE_FORCES = {
    nt_xent: brute_nt_xent,
    nt_logistic: brute_nt_logistic,
    margin_triplet: brute_margin_triplet,
    dcl: brute_dcl,
    labelled: brute_supcon,
}
with_each_loss = pytest.mark.parametrize("loss", BRUTE_FORCES)
with_each_option = pytest.mark.parametrize(
    "loss, options",
    [
        *((loss, {"temperature": t}) for loss in (nt_xent, dcl, labelled) for t in (0.01, 0.5, 2)),
        *(
            (nt_logistic, {"temperature": t, "semi_hard": semi_hard})
            for t in (0.01, 0.5, 2)
            for semi_hard in (True, False)
        ),
        *(
            (margin_triplet, {"margin": m, "semi_hard": semi_hard})
            for m in (0, 0.4, 1.6)
            for semi_hard in (True, False)
        ),
    ],
)


@pytest.mark.parametrize("n, d", [(2, 3), (3, 2), (7, 5)])
@with_each_option
def test_value_and_gradient_equal_brute_force(loss, options, n, d):
    z1, z2 = (z.requires_grad_() for z in projections(n, d))
    value, expected = loss(z1, z2, **options), BRUTE_FORCES[loss](z1, z2, **options)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    gradients = torch.autograd.grad(value, [z1, z2])
    expected_gradients = torch.autograd.grad(expected, [z1, z2])
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "loss, options",
    [
        (nt_xent, {"temperature": 0.3}),
        (dcl, {"temperature": 0.3}),
        (labelled, {"temperature": 0.3}),
        (nt_logistic, {"temperature": 0.3}),
        (nt_logistic, {"temperature": 0.3, "semi_hard": False}),
        (margin_triplet, {"margin": 1.6}),
        (margin_triplet, {"margin": 1.6, "semi_hard": False}),
    ],
)
def test_gradient_equals_finite_differences(loss, options):
    z = [z.requires_grad_() for z in projections(4, 3)]
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, **options), z)


@with_each_loss
def test_float32_is_close_to_float64(loss):
    z1, z2 = projections(32, 16)
    if loss is labelled:
        loss = functools.partial(supcon, labels=torch.arange(32) % 5)
    value, expected = loss(z1.float(), z2.float()), loss(z1, z2)
    assert value.dtype == torch.float32
    assert expected.dtype == torch.float64
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@with_each_loss
def test_logits_stay_float32_under_autocast(loss, dtype):
    z1, z2 = (z.to(dtype) for z in projections(7, 64))
    options = {"margin": 1.0} if loss is margin_triplet else {"temperature": 0.01}
    expected = loss(z1.float(), z2.float(), **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(z1, z2, **options)
    assert value.dtype == torch.float32
    assert value.item() == expected.item()
    exact = BRUTE_FORCES[loss](z1, z2, **options).item()
    assert value.item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("cosine", [1, -1])
@pytest.mark.parametrize("loss", [nt_xent, nt_logistic, dcl, labelled])
def test_no_overflow_at_temperature_001(loss, cosine):
    z = projections(7, 4, dtype=torch.float32)[0].requires_grad_()
    value = loss(z, cosine * z, temperature=0.01)
    value.backward()
    expected = BRUTE_FORCES[loss](z.detach(), cosine * z.detach(), 0.01).item()
    assert value.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.02, 0.05])
@pytest.mark.parametrize("loss", [nt_xent, dcl])
def test_low_temperatures_do_not_bias_the_loss(loss, temperature):
    z = projections(256, 128, dtype=torch.float32)[0]
    value, exact = (loss(*2 * [x], temperature=temperature).item() for x in (z, z.double()))
    assert value == pytest.approx(exact, rel=3e-7, abs=1e-6)


@with_each_loss
def test_gradient_is_finite_where_all_views_are_alike(loss):
    z = torch.ones(5, 3, requires_grad=True)
    loss(z, z).backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize(
    "loss, expected",
    [
        (nt_xent, lambda n: math.log(2 * n - 1)),
        (dcl, lambda n: math.log(2 * n - 2)),
        (functools.partial(nt_logistic, semi_hard=False), lambda n: 2 * math.log(2)),
        (functools.partial(margin_triplet, semi_hard=False), lambda n: 0.4),
    ],
)
@pytest.mark.parametrize("n", [2, 64])
def test_value_of_unrelated_projections(loss, expected, n):
    z1, z2 = projections(n, 20_000, dtype=torch.float32)
    assert loss(z1, z2).item() == pytest.approx(expected(n), abs=0.03)


@with_each_loss
def test_views_are_exchangeable(loss):
    z1, z2 = projections(6, 4)
    torch.testing.assert_close(loss(z1, z2), loss(z2, z1))


@with_each_loss
def test_order_of_images_does_not_matter(loss):
    z1, z2 = projections(6, 4)
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    if loss is labelled:
        moved = supcon(z1[order], z2[order], LABELS[:6][order])
    else:
        moved = loss(z1[order], z2[order])
    torch.testing.assert_close(moved, loss(z1, z2))


@with_each_loss
def test_length_of_projections_does_not_matter(loss):
    z1, z2 = projections(6, 4)
    lengths = torch.linspace(0.1, 10, 6, dtype=torch.float64)[:, None]
    torch.testing.assert_close(loss(z1 * lengths, z2), loss(z1, z2))


@pytest.mark.parametrize(
    "shape1, shape2", [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((1, 3), (1, 3)), ((4,), (4,))]
)
@with_each_loss
def test_wrong_shapes_are_refused(loss, shape1, shape2):
    with pytest.raises(ValueError, match="z1 and z2 must have the same shape") as error:
        loss(torch.zeros(shape1), torch.zeros(shape2))
    assert str(shape1) in str(error.value) and str(shape2) in str(error.value)


def test_nt_xent_is_half_of_the_sum_of_two_directions():
    z1, z2 = projections(5, 4)
    a, b = F.normalize(z1), F.normalize(z2)
    itself = torch.eye(5, dtype=torch.float64) * 1e9
    labels = torch.arange(5)
    loss_a = F.cross_entropy(torch.cat([a @ b.T, a @ a.T - itself], 1) / 0.5, labels)
    loss_b = F.cross_entropy(torch.cat([b @ a.T, b @ b.T - itself], 1) / 0.5, labels)
    torch.testing.assert_close(2 * nt_xent(z1, z2, temperature=0.5), loss_a + loss_b)


# In tiles, as large batches are

with_each_tiled_loss = pytest.mark.parametrize("loss", [nt_xent, dcl])


@pytest.fixture(params=[2**20, 0], ids=["kept", "anew"])
def tiles_of(request, monkeypatch):
    """Make tiles of a number of rows and columns, which are kept for the gradient or made anew."""
    return lambda edge: monkeypatch.setattr(_log_sums, "_ON_CPU", (request.param, edge))


def value_and_gradients(loss, z1, z2, **options):
    z1, z2 = (z.detach().requires_grad_() for z in (z1, z2))
    value = loss(z1, z2, **options)
    return value, *torch.autograd.grad(value, [z1, z2])


@pytest.mark.parametrize("edge", [1, 2, 3, 5, 7, 14, 100])
@pytest.mark.parametrize("n", [2, 7])
@pytest.mark.parametrize("temperature", [0.01, 0.025, 0.5])
@with_each_tiled_loss
def test_tiles_equal_brute_force(tiles_of, loss, temperature, n, edge):
    tiles_of(edge)
    z = projections(n, 3)
    met = value_and_gradients(loss, *z, temperature=temperature)
    expected = value_and_gradients(BRUTE_FORCES[loss], *z, temperature=temperature)
    torch.testing.assert_close(met, expected, rtol=1e-8, atol=1e-10)


@with_each_tiled_loss
def test_gradient_of_tiles_equals_finite_differences(tiles_of, loss):
    tiles_of(3)
    z = [z.requires_grad_() for z in projections(4, 3)]
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, temperature=0.3), z)


@pytest.mark.parametrize("temperature", [0.01, 0.025, 0.1, 0.5])
@pytest.mark.parametrize("n", [256, 512, 513, 1100])  # one tile, and several
@with_each_tiled_loss
def test_large_batches_are_exact(loss, n, temperature):
    """The whole matrix in float64 is what float32 has to come close to."""
    z1, noise = projections(n, 16)
    z = z1, z1 + 0.8 * noise

    def whole(z1, z2, temperature):
        logits = F.normalize(torch.cat([z1, z2])) @ F.normalize(torch.cat([z1, z2])).T / temperature
        positive = torch.cat([logits.diagonal(n), logits.diagonal(-n)])
        out = torch.eye(2 * n, dtype=bool)
        if loss is dcl:
            out = out | out.roll(n, 0)
        return (logits.masked_fill(out, -torch.inf).logsumexp(1) - positive).mean()

    value, *gradients = value_and_gradients(
        loss, *map(torch.Tensor.float, z), temperature=temperature
    )
    expected, *expected_gradients = value_and_gradients(whole, *z, temperature=temperature)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    for met, exact in zip(gradients, expected_gradients, strict=True):
        error = (met - exact).abs().max() / exact.abs().max()
        assert error < 1e-5 * max(1, 0.1 / temperature)  # as far as float32 tells logits apart


@pytest.mark.parametrize("edge", [1, 4, 14])
@with_each_tiled_loss
def test_view_unlike_all_others_at_temperature_001(tiles_of, loss, edge):
    """Relative to the largest logit of all, those of this view are less than float32 can hold."""
    tiles_of(edge)
    z1, z2 = (torch.ones(7, 3) + 0.01 * noise.float() for noise in projections(7, 3))
    z1[4] *= -1
    met = value_and_gradients(loss, z1, z2, temperature=0.01)
    exact = value_and_gradients(BRUTE_FORCES[loss], z1.double(), z2.double(), temperature=0.01)
    expected = [x.float() for x in exact]
    torch.testing.assert_close(met, expected, rtol=1e-3, atol=1e-4, check_dtype=False)


@with_each_tiled_loss
def test_tiles_are_float32_under_autocast(tiles_of, loss):
    tiles_of(4)
    z1, z2 = (z.bfloat16() for z in projections(7, 64))
    expected = value_and_gradients(loss, z1, z2, temperature=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        met = value_and_gradients(loss, z1, z2, temperature=0.01)  # backward too
    assert met[0].dtype == torch.float32
    assert met[1].dtype == torch.bfloat16
    torch.testing.assert_close(met, expected, rtol=0, atol=0)
    exact = BRUTE_FORCES[loss](z1, z2, temperature=0.01).item()
    assert met[0].item() == pytest.approx(exact, rel=1e-5)


@with_each_tiled_loss
def test_tiles_pass_on_what_is_not_finite(tiles_of, loss):
    tiles_of(2)
    z1, z2 = projections(4, 3)
    z1[1, 2] = torch.nan
    assert loss(z1, z2).isnan()


@with_each_tiled_loss
def test_gradient_of_tiles_can_be_differentiated(tiles_of, loss):
    tiles_of(3)
    z = [z.requires_grad_() for z in projections(4, 3)]
    assert torch.autograd.gradgradcheck(lambda a, b: loss(a, b, temperature=0.3), z)


class LargestTensor(TorchDispatchMode):
    """Notes the most numbers that the memory of a tensor has room for."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.untyped_storage().nbytes() // x.element_size())
        return result


@pytest.mark.parametrize("n", [1000, 2000])
@with_each_tiled_loss
def test_memory_is_linear_in_the_batch(monkeypatch, loss, n):
    edge = 512
    monkeypatch.setattr(_log_sums, "_ON_CPU", (2**20, edge))  # one tile
    z1, z2 = (z.float().requires_grad_() for z in projections(n, 64))
    with LargestTensor() as largest:
        loss(z1, z2).backward()
    assert z1.grad is not None
    assert largest.numel <= max(2 * edge**2, 2 * n * 64) < (2 * n) ** 2


# Semi-hard negatives


def at_degrees(*degrees):
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def cos(degrees):
    return math.cos(math.radians(degrees))


# Views on a circle. Seen from each, in degrees away: the positive, the negatives, and the one that
# counts: the closest that is farther than the positive, or the farthest if there is none.
#   0: positive 30, negatives 5 20 65 100 -> 65     30: positive 30, negatives 10 25 35 70 -> 35
#  20: positive 80, negatives 10 15 20 45 -> 45    100: positive 80, negatives 35 70 95 100 -> 95
#   5: positive 60, negatives 5 15 25 95 -> 95      65: positive 60, negatives 35 35 45 65 -> 65
CIRCLE = at_degrees(0, 20, 5), at_degrees(30, 100, 65)
POSITIVES, CHOSEN = (30, 80, 60, 30, 80, 60), (65, 45, 95, 35, 95, 65)


def test_semi_hard_negatives_of_nt_logistic():
    value = nt_logistic(*CIRCLE, temperature=0.5).item()
    terms = [
        math.log1p(math.exp(-cos(positive) / 0.5)) + math.log1p(math.exp(cos(chosen) / 0.5))
        for positive, chosen in zip(POSITIVES, CHOSEN, strict=True)
    ]
    assert value == pytest.approx(sum(terms) / 6)


@pytest.mark.parametrize("margin", [0, 0.3, 1.0])
def test_semi_hard_negatives_of_margin_triplet(margin):
    value = margin_triplet(*CIRCLE, margin=margin).item()
    terms = [
        max(cos(chosen) - cos(positive) + margin, 0)
        for positive, chosen in zip(POSITIVES, CHOSEN, strict=True)
    ]
    assert value == pytest.approx(sum(terms) / 6)


def test_views_with_all_negatives_closer_than_the_positive_are_not_taken_for_solved():
    assert margin_triplet(at_degrees(0, 10), at_degrees(180, 190), margin=0.3).item() > 0.3


# Labels


def test_supcon_without_labels_is_nt_xent():
    z = [z.requires_grad_() for z in projections(7, 4)]
    unlabelled = supcon(*z, torch.full((7,), -1), temperature=0.1)
    expected = nt_xent(*z, temperature=0.1)
    torch.testing.assert_close(unlabelled, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(torch.autograd.grad(unlabelled, z), torch.autograd.grad(expected, z))


def test_supcon_of_one_image_a_class_is_nt_xent():
    z1, z2 = projections(7, 4)
    torch.testing.assert_close(supcon(z1, z2, torch.arange(7)), nt_xent(z1, z2))


def test_supcon_of_one_class_with_equal_views_is_the_log_of_the_candidates():
    z = torch.ones(4, 3)
    assert supcon(z, z, torch.zeros(4, dtype=int)).item() == pytest.approx(math.log(7))


def test_names_of_classes_do_not_matter_to_supcon():
    z1, z2 = projections(6, 4)
    expected = supcon(z1, z2, torch.tensor([0, 1, 0, 2, 1, -1]))
    renamed = supcon(z1, z2, torch.tensor([9, 0, 9, 4, 0, -1], dtype=torch.int32))
    torch.testing.assert_close(renamed, expected)
    unsigned = supcon(z1, z2, torch.tensor([255, 0, 255, 4, 0, 7], dtype=torch.uint8))
    torch.testing.assert_close(unsigned, expected)


@pytest.mark.parametrize(
    "labels, met",
    [
        (torch.zeros(4, dtype=int), r"torch.int64 of shape \(4,\)"),
        (torch.zeros(5, 1, dtype=int), r"torch.int64 of shape \(5, 1\)"),
        (torch.zeros(5), r"torch.float32 of shape \(5,\)"),
    ],
)
def test_supcon_refuses_other_labels(labels, met):
    with pytest.raises(ValueError, match=rf"labels must be integers of shape \(5,\).* {met}"):
        supcon(*projections(5, 3), labels)


# The parameter `loss`


@pytest.mark.parametrize("name", LOSSES)
def test_names_resolve_to_the_functions(name):
    z1, z2 = projections(7, 4)
    options = {} if name == "margin_triplet" else {"temperature": 0.2}
    labels = (LABELS,) if name == "supcon" else ()
    expected = LOSSES[name](z1, z2, *labels, **options)
    assert LOSSES[name].__name__ == name
    assert resolve_loss(name, 0.2)(z1, z2, LABELS).item() == expected.item()


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"supcon"}))
def test_only_supcon_reads_labels(name):
    z1, z2 = projections(7, 4)
    loss = resolve_loss(name, 0.5)
    assert loss(z1, z2, None).item() == loss(z1, z2, LABELS).item()


class Energy(nn.Module):
    def forward(self, z1, z2):
        return (z1 - z2).square().mean()


class Tempered(nn.Module):
    def forward(self, z1, z2, temperature=0.5):
        return (z1 * z2).mean() / temperature


class TemperatureFirst(nn.Module):
    def forward(self, temperature, z1, z2):
        return (z1 * z2).mean() / temperature


class Overridden(nn.Module):
    def __call__(self, z1, z2, temperature=0.5):
        return (z1 * z2).mean() / temperature


@pytest.mark.parametrize(
    "loss, expected",
    [
        (lambda z1, z2, temperature: (z1 * z2).mean() / temperature, 25.0),
        (Tempered(), 25.0),
        (functools.partial(Tempered()), 25.0),
        (torch.fx.symbolic_trace(Tempered()), 25.0),
        (functools.partial(TemperatureFirst(), 0.2), 25.0),
        (Overridden(), 25.0),
        (lambda z1, z2, *, temperature=1.0: (z1 * z2).mean() / temperature, 25.0),
        (lambda z1, z2, scale=1.0: (z1 * z2).mean() / scale, 5.0),
        (lambda z1, z2, **options: (z1 * z2).mean() + len(options), 5.0),
        (Energy(), 16.0),
        (functools.partial(nt_xent), math.log(3)),
    ],
)
def test_callables_get_the_temperature_if_they_take_it(loss, expected):
    z1, z2 = torch.full((2, 2), 5.0), torch.full((2, 2), 1.0)
    assert resolve_loss(loss, 0.2)(z1, z2, None).item() == pytest.approx(expected)


def test_partial_keeps_the_temperature_that_it_has():
    z1, z2 = projections(5, 4)
    bound = resolve_loss(functools.partial(nt_xent, temperature=0.1), 0.7)
    assert bound(z1, z2, None).item() == nt_xent(z1, z2, temperature=0.1).item()
    other_option = resolve_loss(functools.partial(nt_logistic, semi_hard=False), 0.7)
    expected = nt_logistic(z1, z2, temperature=0.7, semi_hard=False)
    assert other_option(z1, z2, None).item() == expected.item()


def test_function_without_signature_gets_no_temperature():
    assert resolve_loss(torch.dot, 0.5)(torch.ones(3), torch.ones(3), None).item() == 3


def test_callables_compute_in_float32_outside_autocast():
    seen = []

    def loss(z1, z2):
        seen.extend([z1.dtype, z2.dtype, (z1 @ z2.T).dtype])
        return (z1 @ z2.T).mean()

    z1, z2 = (z.bfloat16() for z in projections(4, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        resolve_loss(loss, 0.5)(z1, z2, None)
    assert seen == [torch.float32] * 3


def test_gradient_passes_through_a_callable():
    z1, z2 = (z.bfloat16().requires_grad_() for z in projections(4, 3))
    resolve_loss(lambda z1, z2: (z1 * z2).sum(), 0.5)(z1, z2, None).backward()
    torch.testing.assert_close(z1.grad, z2.detach())


@pytest.mark.parametrize(
    "loss, met",
    [
        (lambda z1, z2: None, "NoneType None"),
        (lambda z1, z2: 1.5, "float 1.5"),
        (lambda z1, z2: (z1 - z2).square(), r"torch.float32 of shape \(4, 3\)"),
        (lambda z1, z2: (z1 * z2).sum().reshape(1), r"torch.float32 of shape \(1,\)"),
        (lambda z1, z2: (z1 > z2).sum(), r"torch.int64 of shape \(\)"),
        (lambda z1, z2: (z1 * z2).sum().detach(), "one that is cut off from the projections"),
    ],
)
def test_values_that_cannot_be_trained_on_are_refused(loss, met):
    z1, z2 = (z.requires_grad_() for z in projections(4, 3, dtype=torch.float32))
    resolved = resolve_loss(loss, 0.5)
    with pytest.raises(ValueError, match=f"loss=<function .* scalar float Tensor .* got {met}"):
        resolved(z1, z2, None)


def test_no_gradient_is_asked_for_where_the_projections_have_none():
    z1, z2 = projections(4, 3)
    assert resolve_loss(lambda z1, z2: (z1 * z2).sum(), 0.5)(z1, z2, None).isfinite()


def test_function_supcon_is_refused_in_favour_of_its_name():
    with pytest.raises(ValueError, match='pass its name, loss="supcon"'):
        resolve_loss(supcon, 0.5)


@pytest.mark.parametrize("loss", [nt_xent, nt_logistic, dcl, labelled])
@pytest.mark.parametrize("temperature", [0, -1.0, math.nan])
def test_temperatures_that_are_not_positive_are_refused(loss, temperature):
    with pytest.raises(ValueError, match=f"temperature must be > 0, got {temperature}"):
        loss(*projections(4, 3), temperature=temperature)


def test_a_loss_with_parameters_to_learn_is_refused():
    loss = nn.Bilinear(3, 3, 1)
    with pytest.raises(ValueError, match=r"loss=Bilinear.* loss\.requires_grad_\(False\)"):
        resolve_loss(loss, 0.5)
    assert callable(resolve_loss(loss.requires_grad_(False), 0.5))
