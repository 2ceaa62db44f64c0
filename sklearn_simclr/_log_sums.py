"""Sums over all pairs of views, in tiles, without the matrix of all similarities."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Up to how many bytes the matrix is made whole, and how many rows and columns of it a tile has. On
# CPUs by measurement: the matrix is the faster way up to 512 images; two tiles stay in the cache,
# and yet there is enough in one for several threads. Elsewhere by what the memory bears; large
# tiles keep thousands of cores at work.
_ON_CPU, _ELSEWHERE = (2**22, 1024), (2**28, 4096)
# exp(-40), sums of exp(40) and the ratios of such sums are all normal numbers in float32.
_HARMLESS = 40


def fits_matrix(z: Tensor) -> bool:
    """Whether the products of all rows of z (m, d) are few enough for one matrix (m, m).

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr._log_sums import fits_matrix
    >>> fits_matrix(torch.empty(512, 128)), fits_matrix(torch.empty(2048, 128))
    (True, False)
    """
    return len(z) ** 2 * z.element_size() <= _limits(z)[0]


def log_sums(z: Tensor, bound: float, *, with_positives: bool = True) -> Tensor:
    """Log of the sum of exp(z_i . z_k) over all views k but i itself, for each view i.

    It takes memory for z a few times, however many rows that has.

    Parameters
    ----------
    z : Tensor of shape (2n, d), n >= 2, float32 or float64
        Both views of all images; the other view of row i is row i + n.
    bound : float
        What the absolute values of the products do not exceed, but for rounding. Up to 40 there is
        less to do.
    with_positives : bool, default=True
        Whether the other view of the same image counts too.

    Returns
    -------
    Tensor of shape (2n,)
        It can be differentiated once.

    Raises
    ------
    RuntimeError
        By its gradient if that is asked for with ``create_graph=True``.

    Notes
    -----
    As in [1]_, the products are made tile by tile, each row keeps its largest so far and its sum
    relative to that, and the gradient makes the tiles anew. With a small bound no exponential is
    out of range, and sums need not be relative. The products are symmetric, so that the tiles on
    and above the diagonal are enough.

    References
    ----------
    .. [1] Cheng, Zhang, Li, Leng, Hu, Wu, Zhao, Li & Bing (2024). Breaking the Memory Barrier: Near
       Infinite Batch Size Scaling for Contrastive Loss. https://arxiv.org/abs/2410.17243

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr._log_sums import log_sums
    >>> log_sums(torch.eye(4), bound=1)  # ln 3
    tensor([1.0986, 1.0986, 1.0986, 1.0986])
    """
    n = len(z) // 2
    left_out = (0,) if with_positives else (0, n, -n)
    return _Log2Sums.apply(z / math.log(2) ** 0.5, bound, left_out) * math.log(2)


class _Log2Sums(torch.autograd.Function):
    """log2 of sums of 2 to the products, but for the diagonals `left_out` of their matrix.

    On CPUs torch computes powers of 2 three times as fast as those of e.
    """

    @staticmethod
    def forward(ctx, z: Tensor, bound: float, left_out: tuple[int, ...]) -> Tensor:
        is_relative = bound > _HARMLESS
        # Of each row the largest product so far, and the sum of 2 ** (product - largest): (2n,).
        top = z.new_full((len(z),), torch.finfo(z.dtype).min if is_relative else 0)
        total = torch.zeros_like(top)
        for rows, columns, products, spare in _tiles(z, left_out):
            if is_relative:
                _absorb(products, 1, top[rows], total[rows], spare)
                if rows != columns:
                    _absorb(products, 0, top[columns], total[columns], products)
            else:
                total[rows] += products.exp2_().sum(1)
                if rows != columns:
                    total[columns] += products.sum(0)
        ctx.save_for_backward(z, top, total)
        ctx.is_relative, ctx.left_out = is_relative, left_out
        return top + total.log2()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        z, top, total = ctx.saved_tensors
        if torch.is_grad_enabled():  # once_differentiable would let a second derivative be wrong
            raise RuntimeError(
                f"The loss of {len(z) // 2} images can be differentiated once, not with "
                "create_graph=True; smaller batches can."
            )
        weight = gradient / total  # (2n,)
        dz = torch.zeros_like(z)
        for rows, columns, products, spare in _tiles(z, ctx.left_out):
            # What the product of i and k adds to the sum of i, and what to that of k.
            if ctx.is_relative:
                slope = torch.sub(products, top[rows, None], out=spare).exp2_()
                slope.mul_(weight[rows, None])
                slope.addcmul_(products.sub_(top[columns]).exp2_(), weight[columns])
            else:
                slope = torch.add(weight[rows, None], weight[columns], out=spare)
                slope.mul_(products.exp2_())
            dz[rows].addmm_(slope, z[columns])
            if rows != columns:
                dz[columns].addmm_(slope.T, z[rows])
        return dz, None, None


def _tiles(z: Tensor, left_out: tuple[int, ...]) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Yield rows, columns, their products (r, c), -inf where left out, and a spare tile (r, c).

    The next tile overwrites both: fresh memory would take longer to get than to fill. Autocast
    leaves alone what is written to memory at hand, here and in the gradient.
    """
    edge = min(_limits(z)[1], len(z))
    room = z.new_empty(2, edge * edge)
    spans = [slice(start, min(start + edge, len(z))) for start in range(0, len(z), edge)]
    for i, rows in enumerate(spans):
        for columns in spans[i:]:
            shape = rows.stop - rows.start, columns.stop - columns.start
            products, spare = (tile[: shape[0] * shape[1]].view(shape) for tile in room)
            torch.mm(z[rows], z[columns].T, out=products)
            for diagonal in left_out:
                products.diagonal(diagonal + rows.start - columns.start).fill_(-torch.inf)
            yield rows, columns, products, spare


def _absorb(products: Tensor, dim: int, top: Tensor, total: Tensor, out: Tensor) -> None:
    """Add the sum of 2 ** products over `dim` to `total`, relative to `top`, which may rise."""
    risen = torch.maximum(top, products.amax(dim))
    terms = torch.sub(products, risen.unsqueeze(dim), out=out).exp2_()
    total.mul_(top.sub_(risen).exp2_()).add_(terms.sum(dim))
    top.copy_(risen)


def _limits(z: Tensor) -> tuple[int, int]:
    return _ON_CPU if z.device.type == "cpu" else _ELSEWHERE
