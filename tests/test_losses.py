"""NT-Xent against a brute force in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from sklearn_simclr.losses import nt_xent


def projections(n, d, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, d, generator=generator, dtype=dtype).mul_(3).unbind()


def brute_force(z1, z2, temperature):
    """Equation 1 of the paper by loops over the 2n views, in float64."""
    z = [row / row.square().sum().sqrt() for row in torch.cat([z1, z2]).double()]
    n = len(z1)
    losses = []
    for i in range(2 * n):
        partner = i + n if i < n else i - n
        others = [(z[i] * z[k]).sum() / temperature for k in range(2 * n) if k != i]
        positive = (z[i] * z[partner]).sum() / temperature
        top = max(others).detach()
        losses.append(top + sum((s - top).exp() for s in others).log() - positive)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("n, d", [(2, 3), (3, 1), (7, 5)])
@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.5, 2.0])
def test_value_and_gradient_equal_brute_force(n, d, temperature):
    z1, z2 = (z.requires_grad_() for z in projections(n, d))
    loss, expected = nt_xent(z1, z2, temperature=temperature), brute_force(z1, z2, temperature)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    gradients = torch.autograd.grad(loss, [z1, z2])
    expected_gradients = torch.autograd.grad(expected, [z1, z2])
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-8, atol=1e-10)


def test_gradient_equals_finite_differences():
    z = [z.requires_grad_() for z in projections(4, 3)]
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature=0.3), z)


def test_float32_is_close_to_float64():
    z1, z2 = projections(32, 16)
    loss = nt_xent(z1.float(), z2.float(), temperature=0.1)
    assert loss.dtype == torch.float32
    assert nt_xent(z1, z2, temperature=0.1).dtype == torch.float64
    assert loss.item() == pytest.approx(brute_force(z1, z2, 0.1).item(), rel=1e-5)


def test_logits_stay_float32_under_autocast():
    z1, z2 = projections(16, 64, dtype=torch.float32)
    expected = nt_xent(z1, z2, temperature=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(z1, z2, temperature=0.01)
    assert loss.dtype == torch.float32
    assert loss.item() == expected.item()


def test_logits_are_float32_for_bfloat16_projections():
    z1, z2 = (z.bfloat16() for z in projections(16, 64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(z1, z2, temperature=0.01)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(brute_force(z1, z2, 0.01).item(), rel=1e-5)


@pytest.mark.parametrize("cosine", [1, -1])
def test_no_overflow_at_temperature_001(cosine):
    z = projections(8, 4, dtype=torch.float32)[0].requires_grad_()
    loss = nt_xent(z, cosine * z, temperature=0.01)
    loss.backward()
    expected = brute_force(z.detach(), cosine * z.detach(), 0.01).item()
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("n", [2, 64, 256])
def test_unrelated_projections_give_log_of_the_candidates(n):
    z1, z2 = projections(n, 20_000, dtype=torch.float32)
    assert nt_xent(z1, z2).item() == pytest.approx(math.log(2 * n - 1), abs=0.03)


def test_views_are_exchangeable():
    z1, z2 = projections(6, 4)
    torch.testing.assert_close(nt_xent(z1, z2), nt_xent(z2, z1))


def test_length_of_projections_does_not_matter():
    z1, z2 = projections(6, 4)
    lengths = torch.linspace(0.1, 10, 6, dtype=torch.float64)[:, None]
    torch.testing.assert_close(nt_xent(z1 * lengths, z2), nt_xent(z1, z2))


def test_is_half_of_the_sum_of_two_directions():
    z1, z2 = projections(5, 4)
    a, b = F.normalize(z1), F.normalize(z2)
    itself = torch.eye(5, dtype=torch.float64) * 1e9
    labels = torch.arange(5)
    loss_a = F.cross_entropy(torch.cat([a @ b.T, a @ a.T - itself], 1) / 0.5, labels)
    loss_b = F.cross_entropy(torch.cat([b @ a.T, b @ b.T - itself], 1) / 0.5, labels)
    torch.testing.assert_close(2 * nt_xent(z1, z2, temperature=0.5), loss_a + loss_b)


@pytest.mark.parametrize(
    "shape1, shape2", [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((1, 3), (1, 3)), ((4,), (4,))]
)
def test_wrong_shapes_are_refused(shape1, shape2):
    with pytest.raises(ValueError, match="z1 and z2 must be of one shape") as error:
        nt_xent(torch.zeros(shape1), torch.zeros(shape2))
    assert str(shape1) in str(error.value) and str(shape2) in str(error.value)
