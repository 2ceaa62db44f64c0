"""The parts that views are composed of: the operations of the paper's figure 4, and two more.

Each part draws for each sample whether it is changed, with probability `p`, and how.
"""

import math
from functools import partial
from numbers import Integral, Real

import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval
from torch import Generator, Tensor

from sklearn_simclr._kernels import (
    add_noise,
    blur_rows,
    erase,
    grayscale,
    invert_bright,
    jitter_rows,
    quarter_turns,
    resized_crop,
    rotate,
    sobel_magnitude,
    update_rows,
)
from sklearn_simclr._view_params import (
    CROP_RATIO,
    PROBABILITY,
    check_range,
    draw_color_jitter,
    draw_crops,
    normal_bits,
    rand,
    uniform,
)


class ViewPart(BaseEstimator):
    """Base class of the parts, which are called and checked alike and change random samples."""

    def __call__(self, batch: Tensor, generator: Generator) -> Tensor:
        """Return one random view of each image, (n, c, h, w) in [0, 1]."""
        return self.apply(batch, self.make_params(batch.shape, generator))

    def validate(self) -> None:
        """Raise a ValueError that names the first parameter out of range."""
        self._validate_params()

    def skipped(self, shape: tuple[int, int, int]) -> list[str]:
        """List what is skipped for images of shape (c, h, w)."""
        return []

    def make_params(self, shape: tuple[int, ...], generator: Generator) -> dict[str, Tensor]:
        """Draw which samples of a batch of shape (n, c, h, w) are changed."""
        return {"chosen": rand(shape[0], generator) < self.p}


class Crop(ViewPart):
    """Cut a random box out of each image, and resize it.

    Parameters
    ----------
    scale : tuple of (float, float), default=(0.08, 1.0)
        Smallest and largest share of the image's area that a crop covers, in (0, 1].
    ratio : tuple of (float, float), default=(3/4, 4/3)
        Smallest and largest aspect ratio, width over height, of a crop, > 0.
    p : float, default=1.0
        Probability that a sample is cropped; the others are only resized.
    size : int or None, default=None
        Side of the views in pixels; None: the height and width of the images.

    Notes
    -----
    Interpolation is bilinear with anti-aliasing. The boxes are drawn as in torchvision's
    ``RandomResizedCrop``, and the views equal those of its ``resized_crop``.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import Crop
    >>> images = torch.rand(10, 3, 32, 32)
    >>> Crop(size=24)(images, torch.Generator().manual_seed(0)).shape
    torch.Size([10, 3, 24, 24])
    """

    _parameter_constraints: dict = {
        "scale": [tuple, list],
        "ratio": [tuple, list],
        "p": PROBABILITY,
        "size": [None, Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, *, scale=(0.08, 1.0), ratio=CROP_RATIO, p=1.0, size=None):
        self.scale = scale
        self.ratio = ratio
        self.p = p
        self.size = size

    def validate(self) -> None:
        """Raise a ValueError that names the first parameter out of range."""
        self._validate_params()
        check_range("scale", self.scale, self, upper=1)
        check_range("ratio", self.ratio, self, upper=math.inf)

    def make_params(self, shape: tuple[int, ...], generator: Generator) -> dict[str, Tensor]:
        """Draw the boxes of a batch of shape (n, c, h, w), in pixels."""
        n, _, height, width = shape
        box = draw_crops(n, height, width, self.scale, self.ratio, generator)
        whole = {"top": 0, "left": 0, "height": height, "width": width}
        chosen = rand(n, generator) < self.p
        return {name: torch.where(chosen, box[name], whole[name]) for name in whole}

    def apply(self, batch: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        no_flip = torch.zeros_like(params["top"], dtype=torch.bool)
        return resized_crop(batch, **params, flip=no_flip, size=self.size or batch.shape[-2:])


class Flip(ViewPart):
    """Mirror images left to right.

    Parameters
    ----------
    p : float, default=0.5
        Probability that a sample is mirrored.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import Flip
    >>> Flip(p=1)(torch.tensor([[[[0.0, 0.5, 1.0]]]]), torch.Generator())
    tensor([[[[1.0000, 0.5000, 0.0000]]]])
    """

    _parameter_constraints: dict = {"p": PROBABILITY}

    def __init__(self, *, p=0.5):
        self.p = p

    def apply(self, batch: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        return _updated(batch, params["chosen"], partial(torch.flip, dims=(3,)))


class QuarterTurns(ViewPart):
    """Rotate images by 90, 180 or 270 degrees, with equal probability.

    Parameters
    ----------
    p : float, default=0.75
        Probability that a sample is rotated; at 0.75 its four orientations are equally likely.

    Notes
    -----
    Images that are not square keep their shape: they are rotated by 180 degrees only.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import QuarterTurns
    >>> image = torch.tensor([[[[0.0, 0.1], [0.2, 0.3]]]])
    >>> QuarterTurns(p=1)(image, torch.Generator().manual_seed(0))
    tensor([[[[0.1000, 0.3000],
              [0.0000, 0.2000]]]])
    """

    _parameter_constraints: dict = {"p": PROBABILITY}

    def __init__(self, *, p=0.75):
        self.p = p

    def skipped(self, shape: tuple[int, int, int]) -> list[str]:
        """List what is skipped for images of shape (c, h, w)."""
        is_square = shape[1] == shape[2]
        return ["rotations by 90 and 270 degrees"] if self.p and not is_square else []

    def make_params(self, shape: tuple[int, ...], generator: Generator) -> dict[str, Tensor]:
        """Draw the number of quarter turns, counter-clockwise, of each sample."""
        n, _, height, width = shape
        chosen = rand(n, generator) < self.p
        turns = torch.randint(1, 4, (n,), generator=generator, device=generator.device)
        return {"turns": torch.where(chosen, turns if height == width else 2, 0)}

    def apply(self, batch: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        return quarter_turns(batch, params["turns"])


class Rotation(ViewPart):
    """Rotate images about their centre by a random angle.

    Parameters
    ----------
    degrees : float, default=15
        Largest rotation in either direction, in degrees, in [0, 180].
    p : float, default=0.5
        Probability that a sample is rotated.

    Notes
    -----
    Beyond its border the image repeats the border pixels. Interpolation is bilinear, as in
    torchvision's ``rotate``.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import Rotation
    >>> images = torch.rand(10, 3, 32, 24)
    >>> Rotation(degrees=30)(images, torch.Generator().manual_seed(0)).shape
    torch.Size([10, 3, 32, 24])
    """

    _parameter_constraints: dict = {
        "degrees": [Interval(Real, 0, 180, closed="both")],
        "p": PROBABILITY,
    }

    def __init__(self, *, degrees=15, p=0.5):
        self.degrees = degrees
        self.p = p

    def make_params(self, shape: tuple[int, ...], generator: Generator) -> dict[str, Tensor]:
        """Draw which samples are rotated, and by how many degrees clockwise."""
        angle = uniform(shape[0], -self.degrees, self.degrees, generator)
        return super().make_params(shape, generator) | {"angle": angle}

    def apply(self, batch: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        return _updated(batch, params["chosen"], rotate, params["angle"])


class Cutout(ViewPart):
    """Hide a random square of each image.

    Parameters
    ----------
    length : float, default=0.5
        Side of the square, as a share of the image's shorter side, in (0, 1]. The paper
        [1]_ uses half for CIFAR-10.
    fill : float, default=0.5
        Value of the square in every channel, in [0, 1]. The paper fills with the mean of the data,
        which mid-grey approximates; use 0 for digits on black.
    p : float, default=0.5
        Probability that a sample is changed.

    Notes
    -----
    The centre of the square is uniform over the pixels of the image, so part of the square may lie
    outside the image.

    References
    ----------
    .. [1] DeVries & Taylor (2017). Improved Regularization of Convolutional Neural Networks with
       Cutout. https://arxiv.org/abs/1708.04552

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import Cutout
    >>> view = Cutout(length=0.25, p=1)(torch.ones(1, 3, 32, 32), torch.Generator().manual_seed(1))
    >>> int((view == 0.5).sum())  # 8 * 8 pixels of 3 channels
    192
    """

    _parameter_constraints: dict = {
        "length": [Interval(Real, 0, 1, closed="right")],
        "fill": [Interval(Real, 0, 1, closed="both")],
        "p": PROBABILITY,
    }

    def __init__(self, *, length=0.5, fill=0.5, p=0.5):
        self.length = length
        self.fill = fill
        self.p = p

    def make_params(self, shape: tuple[int, ...], generator: Generator) -> dict[str, Tensor]:
        """Draw which samples are changed, and the corners of the squares, in pixels."""
        n, _, *sides = shape
        row, column = (
            torch.randint(side, (n,), generator=generator, device=generator.device)
            for side in sides
        )
        before = self._side(*sides) // 2
        corner = {"top": row - before, "left": column - before}
        return super().make_params(shape, generator) | corner

    def apply(self, batch: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        paint = partial(erase, side=self._side(*batch.shape[-2:]), fill=self.fill)
        return _updated(batch, params["chosen"], paint, params["top"], params["left"])

    def _side(self, height: int, width: int) -> int:
        return max(1, round(self.length * min(height, width)))


class ColorJitter(ViewPart):
    """Change brightness, contrast, saturation and hue, in a random order for each sample.

    Parameters
    ----------
    strength : float, default=0.5
        The paper's s, >= 0: brightness, contrast and saturation change by factors within
        ``1 ± 0.8 s``, the hue within ``± 0.2 s`` turns (at most half a turn). The paper uses 1 for
        ImageNet, 0.5 for CIFAR-10.
    p : float, default=0.8
        Probability that a sample's colours change.

    Notes
    -----
    Images without exactly 3 channels have no saturation and no hue; only their brightness and
    contrast change.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import ColorJitter
    >>> view = ColorJitter(strength=1.0)(torch.rand(4, 3, 8, 8), torch.Generator().manual_seed(0))
    >>> 0 <= view.min() and view.max() <= 1
    tensor(True)
    """

    _parameter_constraints: dict = {
        "strength": [Interval(Real, 0, None, closed="left")],
        "p": PROBABILITY,
    }

    def __init__(self, *, strength=0.5, p=0.8):
        self.strength = strength
        self.p = p

    def skipped(self, shape: tuple[int, int, int]) -> list[str]:
        """List what is skipped for images of shape (c, h, w)."""
        return ["saturation and hue"] if shape[0] != 3 and self.strength * self.p else []

    def make_params(self, shape: tuple[int, ...], generator: Generator) -> dict[str, Tensor]:
        """Draw which samples change, in which order, and by which factors."""
        drawn = draw_color_jitter(shape[0], self.strength, self.p, generator)
        return dict(zip(("chosen", "order", "factors"), drawn, strict=True))

    def apply(self, batch: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        views = batch.clone()
        jitter_rows(views, params["chosen"], params["order"], params["factors"])
        return views


class ColorDrop(ViewPart):
    """Convert images to grey, the same in all 3 channels.

    Parameters
    ----------
    p : float, default=0.2
        Probability that a sample is converted; only for images with 3 channels.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import ColorDrop
    >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    >>> ColorDrop(p=1)(red, torch.Generator()).flatten()
    tensor([0.2989, 0.2989, 0.2989])
    """

    _parameter_constraints: dict = {"p": PROBABILITY}

    def __init__(self, *, p=0.2):
        self.p = p

    def skipped(self, shape: tuple[int, int, int]) -> list[str]:
        """List what is skipped for images of shape (c, h, w)."""
        return ["colour drop"] if shape[0] != 3 and self.p else []

    def apply(self, batch: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        chosen = params["chosen"] & (batch.shape[1] == 3)
        return _updated(batch, chosen, lambda rows: grayscale(rows).expand_as(rows))


class GaussianNoise(ViewPart):
    """Add independent Gaussian noise to all pixels and channels.

    Parameters
    ----------
    std : float, default=0.1
        Standard deviation of the noise, >= 0, for pixels in [0, 1].
    p : float, default=0.5
        Probability that a sample is changed.

    Notes
    -----
    The results are clipped to [0, 1]. The noise takes 65,536 values, at the quantiles of the normal
    distribution, up to 4.2 standard deviations.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import GaussianNoise
    >>> grey = torch.full((1, 3, 100, 100), 0.5)
    >>> view = GaussianNoise(std=0.1, p=1)(grey, torch.Generator().manual_seed(0))
    >>> round(view.std().item(), 2)
    0.1
    """

    _parameter_constraints: dict = {
        "std": [Interval(Real, 0, None, closed="left")],
        "p": PROBABILITY,
    }

    def __init__(self, *, std=0.1, p=0.5):
        self.std = std
        self.p = p

    def make_params(self, shape: tuple[int, ...], generator: Generator) -> dict[str, Tensor]:
        """Draw which samples are changed, and the random bits of the noise, (n, c, h, w)."""
        return super().make_params(shape, generator) | {"bits": normal_bits(shape, generator)}

    def apply(self, batch: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        add = partial(add_noise, std=self.std)
        return _updated(batch, params["chosen"], add, params["bits"])


class GaussianBlur(ViewPart):
    """Blur images with a Gaussian kernel.

    Parameters
    ----------
    sigma : tuple of (float, float), default=(0.1, 2.0)
        Smallest and largest standard deviation in pixels, > 0.
    p : float, default=0.5
        Probability that a sample is blurred.

    Notes
    -----
    The kernel is a tenth of the image's longer side, as in the paper, and at least 3 pixels, but
    less than twice the shorter side, the limit of reflection padding. Images of any size are
    blurred, whereas the paper does not blur CIFAR-10, and `SimCLRAugmentation` does not blur
    views of at most 32 pixels per side.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import GaussianBlur
    >>> dot = torch.zeros(1, 1, 40, 40)
    >>> dot[..., 20, 20] = 1
    >>> view = GaussianBlur(sigma=(1, 2), p=1)(dot, torch.Generator().manual_seed(0))
    >>> int((view > 0).sum())  # the kernel has 5 * 5 pixels
    25
    """

    _parameter_constraints: dict = {"sigma": [tuple, list], "p": PROBABILITY}

    def __init__(self, *, sigma=(0.1, 2.0), p=0.5):
        self.sigma = sigma
        self.p = p

    def validate(self) -> None:
        """Raise a ValueError that names the first parameter out of range."""
        self._validate_params()
        check_range("sigma", self.sigma, self, upper=math.inf)

    def make_params(self, shape: tuple[int, ...], generator: Generator) -> dict[str, Tensor]:
        """Draw which samples are blurred, and with which standard deviation."""
        sigma = uniform(shape[0], *self.sigma, generator)
        return super().make_params(shape, generator) | {"sigma": sigma}

    def apply(self, batch: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        views = batch.clone()
        blur_rows(views, params["chosen"], params["sigma"])
        return views


class Sobel(ViewPart):
    """Replace images by their edges: the magnitude of the Sobel gradient of each channel.

    Parameters
    ----------
    p : float, default=0.5
        Probability that a sample is replaced.

    Notes
    -----
    The magnitude is divided by 4 and clipped to 1, so that a straight edge from 0 to 1 gives 1.
    Beyond its border the image repeats the border pixels.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import Sobel
    >>> step = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 2, 4)
    >>> Sobel(p=1)(step, torch.Generator())
    tensor([[[[0., 1., 1., 0.],
              [0., 1., 1., 0.]]]])
    """

    _parameter_constraints: dict = {"p": PROBABILITY}

    def __init__(self, *, p=0.5):
        self.p = p

    def apply(self, batch: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        return _updated(batch, params["chosen"], sobel_magnitude)


class Solarize(ViewPart):
    """Invert the bright values of images.

    Parameters
    ----------
    threshold : float, default=0.5
        Smallest value in [0, 1] that is inverted.
    p : float, default=0.2
        Probability that a sample is changed.

    References
    ----------
    .. [1] Grill et al. (2020). Bootstrap your own latent. NeurIPS, appendix B.
       https://arxiv.org/abs/2006.07733

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import Solarize
    >>> Solarize(p=1)(torch.tensor([[[[0.25, 0.5, 0.75]]]]), torch.Generator())
    tensor([[[[0.2500, 0.5000, 0.2500]]]])
    """

    _parameter_constraints: dict = {
        "threshold": [Interval(Real, 0, 1, closed="both")],
        "p": PROBABILITY,
    }

    def __init__(self, *, threshold=0.5, p=0.2):
        self.threshold = threshold
        self.p = p

    def apply(self, batch: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Make the views that `params` describe; a pure function of its arguments."""
        return _updated(batch, params["chosen"], partial(invert_bright, threshold=self.threshold))


def _updated(batch: Tensor, chosen: Tensor, operation, *params: Tensor) -> Tensor:
    """Copy the batch, with the chosen rows replaced by ``operation(rows, *their_params)``."""
    views = batch.clone()
    update_rows(views, chosen, operation, *params)
    return views
