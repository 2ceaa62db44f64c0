"""Operations of the views on batches: each image has its own parameters; nothing is drawn."""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from sklearn_simclr._placement import placed

_CACHED_VALUES = 2**17  # how much a CPU works on at a time: half a MiB of float32
_LARGE_SIDE = 64  # from where on a CPU resizes faster pixel by pixel than by matrix products
_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, the weights torchvision uses
_CONTRAST, _SATURATION, _HUE = 1, 2, 3  # in an order of the operations on colours; brightness is 0


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

    Bilinear with anti-aliasing; equal to torchvision's ``resized_crop`` of each image.

    Parameters
    ----------
    batch : Tensor of shape (n, c, h, w)
        Images, as floats; or as bytes, 255 of which are 1.
    top, left, height, width : Tensor of shape (n,)
        The boxes, in whole pixels.
    flip : Tensor of shape (n,)
        True for boxes that are mirrored left to right.
    size : int or (int, int)
        Height and width of the result, in pixels.

    Returns
    -------
    Tensor of shape (n, c, out_height, out_width)
        The images of the boxes, as floats.

    Notes
    -----
    On a CPU, bytes of images from 64 pixels a side are resized to bytes, as Pillow and torchvision
    do, which takes a fraction of the time and rounds to steps of 1/255.

    Examples
    --------
    >>> import torch
    >>> from sklearn_simclr.augmentation import resized_crop
    >>> image = torch.tensor([[[[0.0, 1.0, 2.0, 3.0]]]])
    >>> at = torch.tensor([0])
    >>> resized_crop(image, at, at + 1, at + 1, at + 2, flip=at == 0, size=(1, 2))
    tensor([[[[2., 1.]]]])
    """
    size = (size, size) if isinstance(size, int) else size
    dtype = torch.float32 if batch.dtype == torch.uint8 else batch.dtype
    views = batch.new_empty(*batch.shape[:2], *size, dtype=dtype)
    boxes = torch.stack([top, left, height, width])  # (4, n)
    on_cpu = _is_on_cpu(batch)
    if on_cpu and max(*batch.shape[2:], *size) >= _LARGE_SIDE:
        for each in zip(views, batch, flip.tolist(), boxes.T.tolist(), strict=True):
            _resize_box(*each)
        return views
    n_at_once = _few(views[0].numel()) if on_cpu else len(batch)
    flip, boxes = placed(flip, batch.device), placed(boxes, batch.device)
    parts = (part.split(n_at_once) for part in (views, batch, flip))
    for some in zip(*parts, boxes.split(n_at_once, dim=1), strict=True):
        _resize_boxes(*some)
    return views


def _resize_box(view: Tensor, image: Tensor, is_flipped: bool, box: list[int]) -> None:
    """Resize a box of one image (c, h, w) into `view`, as large images take less time for."""
    top, left, height, width = box
    image = image[None, :, top : top + height, left : left + width]
    is_bytes = image.dtype == torch.uint8
    # The order in memory that torch resizes fastest.
    layout = torch.channels_last if is_bytes else torch.contiguous_format
    image = image.contiguous(memory_format=layout)
    resized = F.interpolate(image, view.shape[1:], mode="bilinear", antialias=True)[0]
    view.copy_(resized.flip(2) if is_flipped else resized)
    if is_bytes:
        view.div_(255)


def _resize_boxes(views: Tensor, images: Tensor, flip: Tensor, boxes: Tensor) -> None:
    """Resize a box of each image (n, c, h, w) into `views`, by two matrix products."""
    n, channels, in_height, in_width = images.shape
    out_height, out_width = views.shape[2:]
    top, left, height, width = boxes
    rows = _interpolation_matrix(top, height, in_height, out_height)  # (n, out_h, in_h)
    columns = _interpolation_matrix(left, width, in_width, out_width)  # (n, out_w, in_w)
    columns = torch.where(flip[:, None, None], columns.flip(1), columns)
    rows, columns = rows.to(views.dtype), columns.to(views.dtype)
    if images.dtype == torch.uint8:
        images = images.to(views.dtype).div_(255)
    # Columns first, all channels of an image in one product, then rows channel by channel.
    wide = images.reshape(n, channels * in_height, in_width) @ columns.mT
    wide = wide.view(n, channels, in_height, out_width)
    torch.matmul(rows[:, None], wide, out=views)


def _interpolation_matrix(start: Tensor, length: Tensor, n_in: int, n_out: int) -> Tensor:
    """Weights (n, n_out, n_in) that resize the stretch [start, start + length) to n_out pixels."""
    start, length = start.float()[:, None], length.float()[:, None]
    scale = length / n_out
    out_pixel, pixel = (torch.arange(n, device=start.device).float() + 0.5 for n in (n_out, n_in))
    centre = start + out_pixel * scale  # (n, n_out)
    away = (pixel - centre[:, :, None]).abs_().div_(scale.clamp(min=1)[:, :, None])
    inside = (pixel > start) & (pixel < start + length)  # (n, n_in)
    weights = (1 - away).clamp_(min=0).mul_(inside[:, None])
    return weights.div_(weights.sum(2, keepdim=True))


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
    jitter_rows(images, torch.ones(len(images), dtype=torch.bool), order, factors)
    return images


def jitter_rows(images: Tensor, chosen: Tensor, order: Tensor, factors: Tensor) -> None:
    """Replace the chosen rows of `images`, in place, by their `color_jitter`."""
    factors = factors.to(images.dtype)
    if not _is_on_cpu(images):
        update_rows(images, chosen, _jitter_in_few_calls, order, factors)
        return
    operations = COLOR_OPERATIONS if images.shape[1] == 3 else COLOR_OPERATIONS[:2]
    for index, numbers in _sample_by_sample(chosen.nonzero().squeeze(1), order, images[0].numel()):
        rows, params = _take(images, index), factors[index]
        for number in numbers:
            if number < len(operations):
                operations[number](rows, params[:, number])
        _put(images, index, rows)


def _sample_by_sample(
    index: Tensor, order: Tensor, n_values: int
) -> Iterator[tuple[Tensor, list[int]]]:
    """All operations of a few samples that have them in one order, so that these stay in cache."""
    code = order[index] @ order.new_tensor([64, 16, 4, 1])
    code, by_code = code.sort()
    for same in index[by_code].split(code.unique_consecutive(return_counts=True)[1].tolist()):
        for few in same.split(_few(n_values)):
            yield few, order[few[0]].tolist()


def _jitter_in_few_calls(images: Tensor, order: Tensor, factors: Tensor) -> Tensor:
    """Do the `color_jitter` of all images at once: the blends before the hue, it, those after.

    Each image has three blends in an order of its own, of which some number comes before its hue. A
    blend of factor 1 changes nothing, and holds the place of those that are on the other side.
    """
    has_colours = images.shape[1] == 3
    is_hue = (order == _HUE).int()
    blends = order.gather(1, is_hue.argsort(dim=1, stable=True))[:, :_HUE]  # (n, 3)
    is_contrast, is_saturation = blends == _CONTRAST, blends == _SATURATION
    factor = factors.gather(1, blends)
    if not has_colours:
        factor = factor.masked_fill(is_saturation, 1)
    kinds = torch.stack([is_contrast, is_saturation]).to(images.dtype)  # (2, n, 3)
    is_before = torch.arange(_HUE, device=order.device) < is_hue.argmax(1, keepdim=True)
    images = _blended(images, factor.masked_fill(~is_before, 1), kinds)
    if has_colours:
        adjust_hue_(images, factors[:, _HUE])
    return _blended(images, factor.masked_fill(is_before, 1), kinds)


def _blended(images: Tensor, factors: Tensor, kinds: Tensor) -> Tensor:
    """Blend images (n, c, h, w) with black, their mean grey or grayscale version, several times.

    Parameters
    ----------
    images : Tensor of shape (n, c, h, w)
    factors : Tensor of shape (n, k)
        Of each of the k blends.
    kinds : Tensor of shape (2, n, k)
        1 where a blend is with the mean grey, and where it is with the grayscale version.
    """
    factors, kinds = factors.T[..., None, None, None], kinds.movedim(2, 0)[..., None, None, None]
    for factor, (is_contrast, is_saturation) in zip(factors, kinds, strict=True):
        grey = grayscale(images)
        mean = grey.mean((2, 3), keepdim=True)
        other = torch.addcmul(mean * is_contrast, grey, is_saturation)
        images = torch.lerp(other, images, factor).clamp_(0, 1)
    return images


def adjust_brightness_(images: Tensor, factor: Tensor) -> None:
    """Blend each image (n, c, h, w) with black, in place."""
    images.mul_(factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_contrast_(images: Tensor, factor: Tensor) -> None:
    """Blend each image (n, c, h, w) with its mean grey, in place."""
    mean, factor = grayscale(images.mean((2, 3), keepdim=True)), factor.view(-1, 1, 1, 1)
    images.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def adjust_saturation_(images: Tensor, factor: Tensor) -> None:
    """Blend each image (n, 3, h, w) with its grayscale version, in place."""
    torch.lerp(grayscale(images), images, factor.view(-1, 1, 1, 1), out=images).clamp_(0, 1)


def adjust_hue_(images: Tensor, turn: Tensor) -> None:
    """Turn the hue of each image (n, 3, h, w), in place, keeping HSV's saturation and value.

    Turning the hue keeps the largest and the smallest of a pixel's three channels, so the way
    through HSV shrinks to one piecewise linear function of the hue for each channel. In units of
    the span between the two, nothing has to be divided. Choices are made by arithmetic: on CPUs
    that is several times as fast as ``torch.where``.
    """
    red, green, blue = images.unbind(1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    span = high - low
    is_red, is_green = red.clone().eq_(high), green.clone().eq_(high)
    # The hue in sixths of a turn from red, times the span: from -1 to 5 spans.
    hue = torch.add(red - green, span, alpha=4)
    hue.lerp_(torch.add(blue - red, span, alpha=2), is_green)
    hue.lerp_(green - blue, is_red)
    # How far it is from the hue at which a channel is the largest, within 6 spans of it.
    past = 6 * turn.view(-1, 1) - torch.arange(0, 6, 2, device=images.device)  # (n, 3)
    past = torch.remainder(past + 5, 6) - 5
    away = torch.addcmul(hue[:, None], span[:, None], past[:, :, None, None])
    # 3 spans there, 0 on the other side of the circle.
    near = away.abs_().sub_(span[:, None], alpha=3).abs_()
    near.add_((low - span)[:, None])
    torch.clamp(near, low[:, None], high[:, None], out=images)


COLOR_OPERATIONS = (adjust_brightness_, adjust_contrast_, adjust_saturation_, adjust_hue_)


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
    deviations = offsets / placed(sigma, images.device)[:, None]
    kernel = torch.softmax(-0.5 * deviations**2, dim=1)
    if _is_on_cpu(images):
        rows = zip(images, kernel[:, radius:].tolist(), sigma.tolist(), strict=True)
        return torch.stack([_blurred(image, *its_own) for image, *its_own in rows])
    kernel = kernel.to(images.dtype).repeat_interleave(channels, 0)[:, None]  # (n * c, 1, k)
    padded = F.pad(images, [radius] * 4, mode="reflect").flatten(0, 1)[None]  # (1, n * c, h, w)
    blurred = F.conv2d(padded, kernel[:, :, None], groups=n * channels)
    blurred = F.conv2d(blurred, kernel[..., None], groups=n * channels)
    return blurred.view_as(images)


def _blurred(image: Tensor, half_kernel: list[float], sigma: float) -> Tensor:
    """Blur one image (c, h, w) by adding up as many shifted copies as count, within 4 sigma."""
    centre, *sides = half_kernel[: math.ceil(4 * sigma) + 1]
    height, width = image.shape[1:]
    padded = F.pad(image, [len(sides)] * 4, mode="reflect")
    for axis, length in ((1, height), (2, width)):
        blurred = padded.narrow(axis, len(sides), length) * centre
        for distance, weight in enumerate(sides, start=1):
            before = padded.narrow(axis, len(sides) - distance, length)
            after = padded.narrow(axis, len(sides) + distance, length)
            blurred.add_(before + after, alpha=weight)
        padded = blurred
    return blurred


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
    # Inverse of rotation * shear * scale, then of the shift: output to input coordinates, which
    # affine_grid counts in half sides instead of pixels.
    cos, sin = (
        torch.cos(rotation - shear_y) / torch.cos(shear_y),
        torch.sin(rotation - shear_y) / torch.cos(shear_y),
    )
    linear = torch.stack(
        [
            torch.cos(rotation) - sin * torch.tan(shear_x),
            (torch.sin(rotation) + cos * torch.tan(shear_x)) * (height / width),
            -sin * (width / height),
            cos,
        ],
        dim=1,
    ).view(-1, 2, 2) / scale.view(-1, 1, 1)
    along_x, along_y = translate.unbind(1)
    shift = -(linear @ torch.stack([2 * along_x / width, 2 * along_y / height], dim=1)[:, :, None])
    theta = placed(torch.cat([linear, shift], dim=2).to(images.dtype), images.device)
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
    if not len(index):
        return
    params = [placed(param[index], images.device) for param in params]
    index, on_cpu = placed(index, images.device), _is_on_cpu(images)
    n_at_once = _few(images[0].numel()) if on_cpu else len(index)
    parts = (part.split(n_at_once) for part in (index, *params))
    for some, *its_params in zip(*parts, strict=True):
        _put(images, some, operation(_take(images, some), *its_params))


def grayscale(images: Tensor) -> Tensor:
    """Grey version (n, 1, h, w); the mean of the channels unless there are 3."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _is_on_cpu(images: Tensor) -> bool:
    """Whether what fits its cache is faster, rather than what takes few calls."""
    return images.device.type == "cpu"


def _few(n_values: int) -> int:
    """How many samples of so many values a CPU works on at a time."""
    return max(1, _CACHED_VALUES // n_values)


def _take(images: Tensor, index: Tensor) -> Tensor:
    """Copy the rows at `index`; a single one is not copied."""
    if len(index) == 1 and _is_on_cpu(images):
        return images[index[0] :][:1]
    return images.index_select(0, index)


def _put(images: Tensor, index: Tensor, rows: Tensor) -> None:
    """Put back what has become of the rows that were taken."""
    if len(index) > 1 or not _is_on_cpu(images):
        images.index_copy_(0, index, rows)
    elif rows.data_ptr() != images[index[0]].data_ptr():
        images[index[0]] = rows[0]
