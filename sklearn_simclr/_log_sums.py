"""Sums over all pairs of views, in tiles, without the matrix of all similarities."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Up to how many bytes all tiles are kept for the gradient, and how many rows and columns one has.
# On CPUs by measurement: two tiles stay in the cache, and yet there is enough in one for several
# threads. Elsewhere by what the memory bears; large tiles keep thousands of cores at work.
_ON_CPU, _ELSEWHERE = (2**26, 640), (2**28, 4096)
# 2**-58, sums of 2**58 and the ratios of such sums are all normal numbers in float32.
_HARMLESS = 58


def log2_sums(z: Tensor, bound: float, *, with_positives: bool = True) -> Tensor:
    """Log2 of the sum of 2 ** (z_i . z_k) over all views k but i itself, for each view i.

    On CPUs torch computes powers of 2 three times as fast as those of e. Apart from the tiles that
    are kept of few rows, memory is a few times that of z.

    Parameters
    ----------
    z : Tensor of shape (2n, d), n >= 2, float32 or float64
        Both views of all images; the other view of row i is row i + n.
    bound : float
        Upper bound of the absolute values of the products, but for rounding. Up to 58 there is less
        to compute.
    with_positives : bool, default=True
        Whether the other view of the same image counts too.

    Returns
    -------
    Tensor of shape (2n,)

    Notes
    -----
    As in [1]_, the products are made tile by tile, each row keeps its largest so far and its sum
    relative to that, and the gradient makes the tiles anew, unless they take little memory. With a
    small bound no exponential is out of range, and sums need not be relative. The products are
    symmetric, so that the tiles on and above the diagonal are enough. A gradient that is to be
    differentiated itself is computed from the whole matrix.

    References
    ----------
    .. [1] Cheng, Zhang, Li, Leng, Hu, Wu, Zhao, Li & Bing (2024). Breaking the Memory Barrier: Near
       Infinite Batch Size Scaling for Contrastive Loss. https://arxiv.org/abs/2410.17243

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr._log_sums import log2_sums
    >>> log2_sums(2 * torch.eye(4), bound=4)  # log2 of 3
    tensor([1.5850, 1.5850, 1.5850, 1.5850])
    """
    n = len(z) // 2
    left_out = (0,) if with_positives else (0, n, -n)
    return _Log2Sums.apply(z, bound, left_out)


class _Log2Sums(torch.autograd.Function):
    """Log2 of sums of 2 to the products, but for the diagonals `left_out` of their matrix."""

    @staticmethod
    def forward(ctx, z: Tensor, bound: float, left_out: tuple[int, ...]) -> Tensor:
        is_relative = bound > _HARMLESS
        # Of each row the largest product so far, and the sum of 2 ** (product - largest): (2n,).
        top = z.new_full((len(z),), torch.finfo(z.dtype).min if is_relative else 0)
        total = torch.zeros_like(top)
        is_kept = ctx.needs_input_grad[0] and not is_relative
        kept = _room_for_all(z) if is_kept else z.new_empty(0)
        for rows, columns, tile, spare in _tiles(z, kept):
            _multiply(z, rows, columns, left_out, out=tile)
            if is_relative:
                _absorb(tile, 1, top[rows], total[rows], spare)
                if rows != columns:
                    _absorb(tile, 0, top[columns], total[columns], spare)
            else:
                total[rows] += tile.exp2_().sum(1)
                if rows != columns:
                    total[columns] += tile.sum(0)
        ctx.save_for_backward(z, top, total, kept)
        ctx.is_relative, ctx.left_out = is_relative, left_out
        return top + total.log2()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        z, top, total, kept = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated too
            sums = _of_matrix(z, ctx.left_out)
            return *torch.autograd.grad(sums, z, gradient, create_graph=True), None, None
        weight = gradient / total  # (2n,)
        dz = torch.zeros_like(z)
        for rows, columns, tile, slope in _tiles(z, kept):
            if not len(kept):
                _multiply(z, rows, columns, ctx.left_out, out=tile)
            # What the product of i and k adds to the sum of i, and what to that of k.
            if ctx.is_relative:
                torch.sub(tile, top[rows, None], out=slope).exp2_().mul_(weight[rows, None])
                slope.addcmul_(tile.sub_(top[columns]).exp2_(), weight[columns])
            else:
                torch.add(weight[rows, None], weight[columns], out=slope)
                slope.mul_(tile if len(kept) else tile.exp2_())
            dz[rows].addmm_(slope, z[columns])
            if rows != columns:
                dz[columns].addmm_(slope.T, z[rows])
        return dz, None, None


def _room_for_all(z: Tensor) -> Tensor:
    """Memory for all tiles, or for none of them if they take too much."""
    most_bytes, edge = _limits(z)
    n_spans = -(-len(z) // edge)
    shape = n_spans * (n_spans + 1) // 2, min(edge, len(z)) ** 2
    return z.new_empty(shape if math.prod(shape) * z.element_size() <= most_bytes else 0)


def _tiles(z: Tensor, kept: Tensor) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Yield rows, columns, their tile (r, c) and a spare one, on and above the diagonal.

    What is not kept is overwritten by the next: fresh memory would take longer to get than to fill.
    Autocast leaves alone what is written to memory at hand, here and in the gradient.
    """
    edge = min(_limits(z)[1], len(z))
    room = z.new_empty(2, edge * edge)
    spans = [slice(start, min(start + edge, len(z))) for start in range(0, len(z), edge)]
    pairs = [(rows, columns) for i, rows in enumerate(spans) for columns in spans[i:]]
    for number, (rows, columns) in enumerate(pairs):
        shape = rows.stop - rows.start, columns.stop - columns.start
        own = kept[number] if len(kept) else room[0]
        tile, spare = (values[: shape[0] * shape[1]].view(shape) for values in (own, room[1]))
        yield rows, columns, tile, spare


def _multiply(
    z: Tensor, rows: slice, columns: slice, left_out: tuple[int, ...], out: Tensor
) -> None:
    """Make the products (r, c) of rows and columns, -inf where left out."""
    torch.mm(z[rows], z[columns].T, out=out)
    for diagonal in left_out:
        out.diagonal(diagonal + rows.start - columns.start).fill_(-torch.inf)


def _absorb(products: Tensor, dim: int, top: Tensor, total: Tensor, out: Tensor) -> None:
    """Add the sum of 2 ** products over `dim` to `total`, relative to `top`, which may rise."""
    risen = torch.maximum(top, products.amax(dim))
    terms = torch.sub(products, risen.unsqueeze(dim), out=out).exp2_()
    total.mul_(top.sub_(risen).exp2_()).add_(terms.sum(dim))
    top.copy_(risen)


def _of_matrix(z: Tensor, left_out: tuple[int, ...]) -> Tensor:
    """Return the same from the whole matrix, which can be differentiated as often as one likes."""
    with torch.autocast(z.device.type, enabled=False):
        products = z @ z.T
    for diagonal in left_out:
        products.diagonal(diagonal).fill_(-torch.inf)
    return torch.logsumexp(products * math.log(2), 1) / math.log(2)


def _limits(z: Tensor) -> tuple[int, int]:
    return _ON_CPU if z.device.type == "cpu" else _ELSEWHERE
