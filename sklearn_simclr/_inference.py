"""Passes over a trained network: features of samples, and how well it tells them apart."""

import math
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from sklearn_simclr._data import Samples
from sklearn_simclr._distributed import ALONE, World
from sklearn_simclr._kernels import resize
from sklearn_simclr._micro_batches import is_out_of_memory, release_memory
from sklearn_simclr._network import SimCLRNetwork
from sklearn_simclr._random import SCORE_STREAM, cpu_generator, derived_seed, global_draws
from sklearn_simclr._views import Views

_EVALUATED_ROWS = 256  # at a time, at most
_ROUND = 32  # vectors; matrix products with a multiple of as many rows were seen to give the same
# On a CPU as many as the first convolution makes this many values of, within bounds: the caches
# then hold most of what a layer passes on. By measurement of ResNets and small networks.
_EVALUATED_VALUES, _LEAST_ROWS, _MOST_ROWS = 2**21, 8, 128
_COLLECTED_BLOCKS = 32  # of evaluated rows, before they go to where they are wanted


@torch.no_grad()  # tensors of inference_mode cannot take part in autograd
def encode(
    network: SimCLRNetwork,
    samples: Samples,
    image_size: int | None,
    output_layer: int,
    device: torch.device,
    world: World = ALONE,
) -> Tensor:
    """Return the features (n, d), float32 on `device`, of whole samples, as `output_layer` asks.

    Each process of `world` encodes a share of the samples and returns the features of all.
    """
    network.eval()
    n, is_shared = len(samples), len(samples) >= world.size
    rows = torch.arange(n)[world.share(n)] if is_shared else torch.arange(n)
    indices = rows.split(_rows_at_a_time(network, samples, image_size))
    represent = in_halves(lambda batch: network.represent(resize(batch, image_size), output_layer))
    batches = samples.batches(indices)
    blocks = (represent(_filled_up(batch))[: len(batch)] for batch in batches)
    features = _collected(blocks, len(rows), device)
    return world.all_gather(features, n) if is_shared else features


def _filled_up(rows: Tensor) -> Tensor:
    """Bring vectors (n, d) to a round number by repeating the first; leave images alone.

    Matrix products of a few rows add up in another order, so that a sample's features would depend
    on how many others there are, if only in the last digits.
    """
    missing = -len(rows) % _ROUND
    return torch.cat([rows, rows[:1].expand(missing, -1)]) if rows.ndim == 2 and missing else rows


def _collected(blocks: Iterator[Tensor], n: int, device: torch.device) -> Tensor:
    """Put blocks of n rows (k, d) in all together, float32 on `device`, some blocks at a time.

    Each transfer from a GPU waits for what it has yet to do.
    """
    features, start = None, 0
    while some := list(islice(blocks, _COLLECTED_BLOCKS)):
        rows = torch.cat(some)
        if features is None:
            features = torch.empty((n, rows.shape[1]), dtype=torch.float32, device=device)
        features[start : start + len(rows)] = rows
        start += len(rows)
    return features


def _rows_at_a_time(network: SimCLRNetwork, samples: Samples, image_size: int | None) -> int:
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    first = next(convolutions, None)
    if first is None or samples.image_shape is None or samples.device.type != "cpu":
        return _EVALUATED_ROWS
    n_pixels = image_size**2 if image_size else math.prod(samples.image_shape[:2])
    n_values = first.out_channels * n_pixels // math.prod(first.stride)
    return min(max(_LEAST_ROWS, _EVALUATED_VALUES // max(1, n_values)), _MOST_ROWS)


def encode_views(
    network: SimCLRNetwork, samples: Samples, views: Views, output_layer: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the features (n, d), float32, of two random views of each sample.

    They are of the views that `discrimination_accuracy` draws for the same seed.
    """
    features, start = None, 0

    def keep(x: Tensor) -> None:
        nonlocal features, start
        h = network.represent(x, output_layer).cpu()  # (2m, d)
        if features is None:
            features = np.empty((2, len(samples), h.shape[1]), np.float32)
        stop = start + len(h) // 2
        features[:, start:stop] = h.float().numpy().reshape(2, -1, h.shape[1])
        start = stop

    _map_views(keep, network, samples, views, seed)
    return features[0], features[1]


def discrimination_accuracy(
    network: SimCLRNetwork, samples: Samples, views: Views, seed: int
) -> float:
    """Share of views whose nearest projection is the other view of the same sample.

    Samples compete in equal blocks of at most 256, in the same draw of views for the same seed.
    """

    def count_hits(x: Tensor) -> Tensor:
        z = nn.functional.normalize(network.head(network(x)), dim=1)  # (2m, projection_dim)
        similarity = (z @ z.T).fill_diagonal_(-torch.inf)
        other = torch.arange(len(z), device=z.device).roll(len(z) // 2)
        return (similarity.argmax(1) == other).sum()

    n_hits = torch.stack(_map_views(count_hits, network, samples, views, seed)).sum()
    return int(n_hits) / (2 * len(samples))


@torch.inference_mode()
def _map_views(
    function: Callable[[Tensor], Tensor | None],
    network: SimCLRNetwork,
    samples: Samples,
    views: Views,
    seed: int,
) -> list[Tensor | None]:
    """Apply a function to two views (2m, c, h, w) of each block of m >= 2 samples.

    Row i and row i + m are those of one sample.
    """
    network.eval()
    samples = samples.in_bytes() if views.take_bytes else samples
    generator = cpu_generator(seed, SCORE_STREAM)
    indices = torch.arange(len(samples)).tensor_split(-(-len(samples) // _EVALUATED_ROWS))
    with global_draws(views.draws_globally, derived_seed(seed, SCORE_STREAM), samples.device):
        batches = samples.batches(indices)
        return [function(torch.cat(views(batch, generator))) for batch in batches]


def in_halves(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Give a row-wise function half as many rows at a time when memory runs out.

    It keeps to the number that memory held.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr._inference import in_halves
    >>> def double(rows):
    ...     if len(rows) > 2:
    ...         raise torch.OutOfMemoryError
    ...     return 2 * rows
    >>> in_halves(double)(torch.arange(5))
    tensor([0, 2, 4, 6, 8])
    """
    size = None

    def of_rows(rows: Tensor) -> Tensor:
        nonlocal size
        while True:
            parts = rows.split(size or len(rows))
            try:
                return torch.cat([function(part) for part in parts])
            except RuntimeError as error:
                if len(parts[0]) == 1 or not is_out_of_memory(error):
                    raise
            size = -(-len(parts[0]) // 2)
            release_memory(rows.device)

    return of_rows
