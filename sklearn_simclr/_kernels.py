"""Operations of the views on batches: each image has its own parameters; nothing is drawn."""

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, the weights torchvision uses


def resized_crop(
    batch: Tensor,
    top: Tensor,
    left: Tensor,
    height: Tensor,
    width: Tensor,
    flip: Tensor,
    size: int | tuple[int, int],
) -> Tensor:
    """Cut a box of whole pixels out of each image, flip it if asked, and resize it.

    Bilinear with anti-aliasing, as two products with interpolation matrices; equal to
    torchvision's ``resized_crop`` of each image.

    Parameters
    ----------
    batch : Tensor of shape (n, c, h, w)
        Images.
    top, left, height, width : Tensor of shape (n,)
        The boxes, in whole pixels.
    flip : Tensor of shape (n,)
        True for boxes that are mirrored left to right.
    size : int or (int, int)
        Height and width of the result, in pixels.

    Returns
    -------
    Tensor of shape (n, c, out_height, out_width)
        The images of the boxes.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import resized_crop
    >>> image = torch.tensor([[[[0.0, 1.0, 2.0, 3.0]]]])
    >>> at = torch.tensor([0])
    >>> resized_crop(image, at, at + 1, at + 1, at + 2, flip=at == 0, size=(1, 2))
    tensor([[[[2., 1.]]]])
    """
    out_height, out_width = (size, size) if isinstance(size, int) else size
    n, channels, in_height, in_width = batch.shape
    rows = _interpolation_matrix(top, height, in_height, out_height)  # (n, out_h, in_h)
    columns = _interpolation_matrix(left, width, in_width, out_width)  # (n, out_w, in_w)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    rows, columns = (
        matrix.to(batch.device, batch.dtype, non_blocking=True) for matrix in (rows, columns)
    )
    # Columns first, all channels of an image in one product, then rows channel by channel.
    wide = batch.reshape(n, channels * in_height, in_width) @ columns.mT
    return rows[:, None] @ wide.view(n, channels, in_height, out_width)


def _interpolation_matrix(start: Tensor, length: Tensor, n_in: int, n_out: int) -> Tensor:
    """Weights (n, n_out, n_in) that resize the stretch [start, start + length) to n_out pixels."""
    start, length = start.float()[:, None, None], length.float()[:, None, None]
    scale = length / n_out
    out_pixel, pixel = (torch.arange(n, device=start.device).float() + 0.5 for n in (n_out, n_in))
    centre = start + out_pixel[:, None] * scale
    weights = (1 - (pixel - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    weights = weights * ((pixel > start) & (pixel < start + length))
    return weights / weights.sum(2, keepdim=True)


def color_jitter(images: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image, in its own order.

    Parameters
    ----------
    images : Tensor of shape (n, c, h, w)
        Images in [0, 1]. Saturation and hue are left alone unless c is 3.
    order : Tensor of shape (n, 4)
        A permutation of the integers 0 (brightness), 1 (contrast), 2 (saturation) and 3 (hue)
        for each image.
    factors : Tensor of shape (n, 4)
        Factors of brightness, contrast and saturation, 1 changes nothing; and the turn of the hue
        in [-0.5, 0.5].

    Returns
    -------
    Tensor of shape (n, c, h, w)
        Clipped to [0, 1] after each operation.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import color_jitter
    >>> red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    >>> third_of_a_turn = torch.tensor([[1.0, 1.0, 1.0, 1 / 3]])
    >>> color_jitter(red, torch.arange(4)[None], third_of_a_turn).flatten().round()
    tensor([0., 1., 0.])
    """
    images = images.clone()
    operations = COLOR_OPERATIONS if images.shape[1] == 3 else COLOR_OPERATIONS[:2]
    for turn in order.T:
        for number, operation in enumerate(operations):
            update_rows(images, turn == number, operation, factors[:, number])
    return images


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image (n, c, h, w) with black."""
    return (images * factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image (n, c, h, w) with its mean grey."""
    return _blend(images, grayscale(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image (n, 3, h, w) with its grayscale version."""
    return _blend(images, grayscale(images), factor)


def adjust_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of each image (n, 3, h, w), keeping HSV's saturation and value.

    Turning the hue keeps the largest and the smallest of a pixel's three channels, so the way
    through HSV shrinks to one piecewise linear function of the hue for each channel.
    """
    red, green, blue = images.unbind(1)
    low, high = images.aminmax(dim=1)
    span = high - low
    divisor = torch.where(span > 0, span, 1)
    hue = torch.where(
        high == red,
        (green - blue) / divisor,
        torch.where(high == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )  # in sixths of a turn
    hue = hue + 6 * turn.view(-1, 1, 1)
    sector = (images.new_tensor([5, 3, 1]).view(3, 1, 1) + hue[:, None]).remainder_(6)
    fade = torch.minimum(sector, 4 - sector).clamp_(0, 1)
    return torch.addcmul(high[:, None], span[:, None], fade, value=-1)


COLOR_OPERATIONS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image with its own sigma and an odd kernel of a tenth of the side, 3 at least.

    Parameters
    ----------
    images : Tensor of shape (n, c, h, w)
        Images; mirrored beyond their borders.
    sigma : Tensor of shape (n,)
        Standard deviations in pixels, > 0.

    Returns
    -------
    Tensor of shape (n, c, h, w)
        The blurred images.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import gaussian_blur
    >>> flat = torch.full((1, 1, 40, 40), 0.5)
    >>> torch.allclose(gaussian_blur(flat, torch.tensor([2.0])), flat)
    True
    """
    n, channels, height, width = images.shape
    # A kernel of 2 * radius + 1 is a tenth of the side, odd; a mirror shows less than the image.
    radius = min(max(height // 20, width // 20, 1), height - 1, width - 1)
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.softmax(-0.5 * (offsets / sigma[:, None].to(images.device)) ** 2, dim=1)
    kernel = kernel.repeat_interleave(channels, 0)[:, None]  # (n * c, 1, k)
    padded = F.pad(images, [radius] * 4, mode="reflect").flatten(0, 1)[None]  # (1, n * c, h, w)
    blurred = F.conv2d(padded, kernel[:, :, None], groups=n * channels)
    blurred = F.conv2d(blurred, kernel[..., None], groups=n * channels)
    return blurred.view_as(images)


def affine(
    images: Tensor, angle: Tensor, translate: Tensor, scale: Tensor, shear: Tensor
) -> Tensor:
    """Rotate, shift, magnify and shear each image about its centre; borders are repeated.

    Parameters
    ----------
    images : Tensor of shape (n, c, h, w)
        Images.
    angle : Tensor of shape (n,)
        Rotation in degrees, clockwise.
    translate : Tensor of shape (n, 2)
        Shift in pixels along x and y.
    scale : Tensor of shape (n,)
        Magnification, > 0.
    shear : Tensor of shape (n, 2)
        Shear in degrees along x and y.

    Returns
    -------
    Tensor of shape (n, c, h, w)
        The changed images.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import affine
    >>> image = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    >>> zero, one_right = torch.zeros(1), torch.tensor([[1.0, 0.0]])
    >>> affine(image, zero, one_right, zero + 1, torch.zeros(1, 2)).flatten().round()
    tensor([1., 1., 2.])
    """
    height, width = images.shape[-2:]
    rotation, shear_x, shear_y = (torch.deg2rad(a) for a in (angle, shear[:, 0], shear[:, 1]))
    # Inverse of rotation * shear * scale, then of the shift: output to input coordinates.
    cos, sin = (
        torch.cos(rotation - shear_y) / torch.cos(shear_y),
        torch.sin(rotation - shear_y) / torch.cos(shear_y),
    )
    linear = torch.stack(
        [
            torch.cos(rotation) - sin * torch.tan(shear_x),
            torch.sin(rotation) + cos * torch.tan(shear_x),
            -sin,
            cos,
        ],
        dim=1,
    ).view(-1, 2, 2) / scale.view(-1, 1, 1)
    shift = -(linear @ translate[:, :, None])
    # affine_grid counts in half sides instead of pixels.
    half = images.new_tensor([width / 2, height / 2])
    theta = torch.cat([linear * half / half[:, None], shift / half[:, None]], dim=2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Rotate each image by its own angle in degrees, clockwise; borders are repeated."""
    still = angle.new_zeros(len(angle), 2)
    return affine(images, angle, still, torch.ones_like(angle), still)


def quarter_turns(images: Tensor, turns: Tensor) -> Tensor:
    """Rotate each image by 0 to 3 quarter turns, counter-clockwise; odd numbers need squares."""
    images = images.clone()
    for number in (1, 2, 3):
        update_rows(images, turns == number, partial(torch.rot90, k=number, dims=(2, 3)))
    return images


def erase(images: Tensor, top: Tensor, left: Tensor, *, side: int, fill: float) -> Tensor:
    """Paint one square of each image in one value; it may reach beyond the border."""
    rows = _within(top, side, images.shape[2])  # (n, h)
    columns = _within(left, side, images.shape[3])  # (n, w)
    return images.masked_fill((rows[:, :, None] & columns[:, None])[:, None], fill)


def _within(start: Tensor, length: int, n_pixels: int) -> Tensor:
    """Which of n_pixels lie in the stretch [start, start + length): (n, n_pixels)."""
    past = torch.arange(n_pixels, device=start.device) - start[:, None]
    return (past >= 0) & (past < length)


def add_noise(images: Tensor, bits: Tensor, *, std: float) -> Tensor:
    """Add noise, and clip to [0, 1]: the normal quantiles of `bits`, int16 of the images' shape."""
    noise = torch.erfinv((bits.to(images.dtype) + 0.5) / 2**15)
    return torch.add(images, noise, alpha=std * math.sqrt(2)).clamp_(0, 1)


def sobel_magnitude(images: Tensor) -> Tensor:
    """Length of each channel's Sobel gradient; a straight edge from 0 to 1 has 1, the largest."""
    padded = F.pad(images, [1] * 4, mode="replicate")
    across = padded[..., 2:] - padded[..., :-2]  # (n, c, h + 2, w)
    down = padded[..., 2:, :] - padded[..., :-2, :]  # (n, c, h, w + 2)
    across = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    down = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
    return (torch.hypot(across, down) / 4).clamp_(max=1)


def invert_bright(images: Tensor, *, threshold: float) -> Tensor:
    """Invert the values in [0, 1] that reach the threshold."""
    return torch.where(images >= threshold, 1 - images, images)


def resize(batch: Tensor, size: int) -> Tensor:
    """Bring whole images (n, c, h, w) to a square of `size` pixels, with anti-aliasing."""
    if batch.shape[-2:] == (size, size):
        return batch
    return F.interpolate(batch, (size, size), mode="bilinear", antialias=True)


def resizing_matrices(height: int, width: int, size: int) -> tuple[Tensor, Tensor]:
    """Make what resizes images of one size as `resize` does, ``rows @ images @ columns``.

    Returns
    -------
    rows, columns : Tensor of shape (size, height) and (width, size)

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr._kernels import resizing_matrices
    >>> rows, columns = resizing_matrices(1, 4, 2)
    >>> torch.tensor([[0.0, 1.0, 2.0, 3.0]]) @ columns
    tensor([[0.7143, 2.2857]])
    """
    start = torch.tensor([0])
    rows = _interpolation_matrix(start, torch.tensor([height]), height, size)[0]
    columns = _interpolation_matrix(start, torch.tensor([width]), width, size)[0]
    return rows, columns.T.contiguous()


def update_rows(images: Tensor, chosen: Tensor, operation, *params: Tensor) -> None:
    """Replace the chosen rows of `images`, in place, by ``operation(rows, *their_params)``."""
    index = chosen.nonzero().squeeze(1)
    if len(index):
        params = [param[index].to(images.device, non_blocking=True) for param in params]
        index = index.to(images.device, non_blocking=True)
        images[index] = operation(images[index], *params)


def grayscale(images: Tensor) -> Tensor:
    """Grey version (n, 1, h, w); the mean of the channels unless there are 3."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other, images, factor.view(-1, 1, 1, 1)).clamp_(0, 1)
