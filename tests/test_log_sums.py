"""Log2 of sums in tiles against torch.logsumexp of the whole matrix in float64."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sklearn_simclr import _log_sums
from sklearn_simclr._log_sums import log2_sums

LN2 = math.log(2)


@pytest.fixture(params=[1, 2, 3, 4, 10, 100])
def edge(request, monkeypatch, are_kept):
    """Rows and columns of a tile."""
    monkeypatch.setattr(_log_sums, "_ON_CPU", (2**20 if are_kept else 0, request.param))
    return request.param


@pytest.fixture(params=[True, False], ids=["kept", "anew"])
def are_kept(request):
    """Whether the tiles are kept for the gradient."""
    return request.param


def views(n, d=3, scale=1.0):
    generator = torch.Generator().manual_seed(n)
    return scale * torch.randn(2 * n, d, generator=generator, dtype=torch.float64)


def whole(z, with_positives):
    n = len(z) // 2
    out = torch.eye(2 * n, dtype=bool)
    if not with_positives:
        out = out | out.roll(n, 0)
    return (z @ z.T).masked_fill(out, -torch.inf).mul(LN2).logsumexp(1) / LN2


# Products of some hundredths, some tens and some thousands; a bound of 58 makes sums not relative.
@pytest.mark.parametrize("scale, bound", [(0.1, 58), (0.1, 59), (2, 58), (2, 59), (20, 1e4)])
@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("with_positives", [True, False])
def test_values_equal_the_whole_matrix(edge, with_positives, n, scale, bound):
    z = views(n, scale=scale)
    met = log2_sums(z, bound, with_positives=with_positives)
    torch.testing.assert_close(met, whole(z, with_positives), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("bound", [58, 59])
@pytest.mark.parametrize("with_positives", [True, False])
def test_gradient_weighs_each_view_as_asked(edge, with_positives, bound):
    z = views(5).requires_grad_()
    weights = torch.linspace(-1, 2, 10, dtype=torch.float64)

    def tiled(z):
        return log2_sums(z, bound, with_positives=with_positives)

    met, expected = (
        torch.autograd.grad(sums @ weights, z) for sums in (tiled(z), whole(z, with_positives))
    )
    torch.testing.assert_close(met, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(tiled, z)


@pytest.mark.parametrize("cosine", [1, -1])
@pytest.mark.parametrize("bound", [58, 59])
def test_float32_holds_the_extremes_of_a_bound(edge, bound, cosine):
    """One view is as unlike all others as can be, and these are all alike, or the reverse."""
    z = torch.zeros(8, 3)
    z[:, 0] = 58**0.5
    z[3] *= cosine
    z.requires_grad_()
    weights = torch.arange(8.0)
    met = log2_sums(z, bound)
    exact = whole(z.double(), True)
    torch.testing.assert_close(met, exact.float(), rtol=1e-6, atol=1e-5)
    (gradient,) = torch.autograd.grad(met @ weights, z)
    (expected,) = torch.autograd.grad(exact @ weights.double(), z)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


def test_gradient_can_be_asked_for_again(edge):
    z = views(4).requires_grad_()
    total = log2_sums(z, 58).sum()
    (first,), (second,) = (torch.autograd.grad(total, z, retain_graph=True) for _ in "12")
    assert torch.equal(first, second)


@pytest.mark.parametrize("bound", [58, 59])
@pytest.mark.parametrize("with_positives", [True, False])
def test_gradient_can_be_differentiated(edge, with_positives, bound):
    z = views(3).requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda z: log2_sums(z, bound, with_positives=with_positives), z
    )


class Products(TorchDispatchMode):
    """Counts the products of matrices that are made anew, rather than added to others."""

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += function is torch.ops.aten.mm.out
        return function(*args, **kwargs or {})


# Of 12 views there are 3 * 3 tiles of 4 * 4, and 6 of them on and above the diagonal.
@pytest.mark.parametrize(
    "most_bytes, bound, n_products",
    [(6 * 4**2 * 8, 58, 6), (6 * 4**2 * 8 - 1, 58, 12), (6 * 4**2 * 8, 59, 12)],
)
def test_tiles_are_kept_up_to_a_number_of_bytes(monkeypatch, most_bytes, bound, n_products):
    monkeypatch.setattr(_log_sums, "_ON_CPU", (most_bytes, 4))
    with Products() as products:
        log2_sums(views(6).requires_grad_(), bound).sum().backward()
    assert products.n == n_products
