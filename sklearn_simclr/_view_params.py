"""Parameters of the views: how they are drawn, for each sample its own, and checked."""

import math
from numbers import Real

import torch
from sklearn.utils._param_validation import Interval
from torch import Generator, Tensor
from torch.nn import functional as F

CROP_RATIO = (3 / 4, 4 / 3)  # the paper's
PROBABILITY = [Interval(Real, 0, 1, closed="both")]
_CROP_TRIES = 10


def draw_crops(
    n: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: Generator,
) -> dict[str, Tensor]:
    """Boxes with an area in `scale` and an aspect ratio in `ratio`, as torchvision draws them.

    Of ten tries the first that fits is taken; if none does, the largest central box of an allowed
    aspect ratio.
    """
    tries = (n, _CROP_TRIES)
    area = height * width * uniform(tries, *scale, generator)
    aspect = uniform(tries, math.log(ratio[0]), math.log(ratio[1]), generator).exp()
    # The last column is the central box.
    tallest = max(1, min(height, round(width / ratio[0])))
    widest = max(1, min(width, round(height * ratio[1])))
    heights = F.pad((area / aspect).sqrt().round(), (0, 1), value=tallest)
    widths = F.pad((area * aspect).sqrt().round(), (0, 1), value=widest)
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    first = fits.int().argmax(1, keepdim=True)
    box_height, box_width = (side.gather(1, first).squeeze(1).long() for side in (heights, widths))
    free = torch.stack([height - box_height, width - box_width])  # (2, n)
    corner = (rand((2, n), generator) * (free + 1)).long().minimum(free)
    corner = torch.where(first.squeeze(1) == _CROP_TRIES, free // 2, corner)
    return {"top": corner[0], "left": corner[1], "height": box_height, "width": box_width}


def draw_color_jitter(
    n: int, strength: float, p: float, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Whether the colours of a sample change, in which order, and by which factors.

    The paper's factors: brightness, contrast and saturation within ``1 ± 0.8 strength``, the hue
    within ``± 0.2 strength`` turns, at most half a turn.
    """
    reach, hue = 0.8 * strength, min(0.2 * strength, 0.5)
    low = floats([max(0, 1 - reach)] * 3 + [-hue], generator)
    high = floats([1 + reach] * 3 + [hue], generator)
    chosen = rand(n, generator) < p * (strength > 0)
    order = rand((n, len(low)), generator).argsort(1)
    return chosen, order, low + (high - low) * rand((n, len(low)), generator)


def rand(shape, generator: Generator) -> Tensor:
    """Draw from [0, 1), where the generator lives."""
    return torch.rand(shape, generator=generator, dtype=torch.float32, device=generator.device)


def randn(shape, generator: Generator) -> Tensor:
    """Draw from the standard normal distribution, where the generator lives."""
    return torch.randn(shape, generator=generator, dtype=torch.float32, device=generator.device)


def normal_bits(shape, generator: Generator) -> Tensor:
    """Draw int16 numbers that `_kernels.add_noise` turns into normal ones where the images are.

    Noise has as many numbers as the batch. Four of these come out of one 64-bit draw, which takes
    a ninth of the time of `randn` on the CPU, and half the way to a GPU.
    """
    count = math.prod(shape)
    words = torch.empty(-(-count // 4), dtype=torch.int64, device=generator.device)
    return words.random_(-(2**63), None, generator=generator).view(torch.int16)[:count].view(shape)


def floats(values: list[float], generator: Generator) -> Tensor:
    """Put numbers where the generator lives."""
    return torch.tensor(values, dtype=torch.float32, device=generator.device)


def uniform(shape, low: float, high: float, generator: Generator) -> Tensor:
    """Draw from [low, high), where the generator lives."""
    return low + (high - low) * rand(shape, generator)


def check_range(name: str, value, owner, *, upper: float) -> None:
    """Refuse a (low, high) parameter unless 0 < low <= high <= upper."""
    is_pair = len(value) == 2 and all(isinstance(end, Real) for end in value)
    if not is_pair or not 0 < value[0] <= value[1] <= upper or value[1] == math.inf:
        bound = "" if upper == math.inf else f" <= {upper}"
        raise ValueError(
            f"The {name!r} parameter of {type(owner).__name__} must be a pair (low, high) with "
            f"0 < low <= high{bound}. Got {value!r} instead."
        )
