"""Operations of the views on batches: each image has its own parameters; nothing is drawn."""

import math
from collections.abc import Callable
from functools import partial, wraps
from inspect import signature
from numbers import Integral

import torch
from torch import Tensor
from torch.nn import functional as F

from sklearn_simclr._placement import placed

_CACHED_VALUES = 2**17  # how much each thread of a CPU has in work: half a MiB of float32
_LARGE_SIDE = 64  # from where on a CPU resizes faster pixel by pixel than by matrix products
_LONG_LINE = 160  # from where on a CPU blurs faster by convolutions than by sums, in pixels
_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, the weights torchvision uses
_CONTRAST, _SATURATION, _HUE = 1, 2, 3  # in an order of the operations on colours; brightness is 0


def _outside_autocast(operation: Callable) -> Callable:
    """Let an operation keep the precision of its images, its first argument, in an autocast."""
    name = next(iter(signature(operation).parameters))

    @wraps(operation)
    def precise(*args, **kwargs):
        images = args[0] if args else kwargs[name]
        with torch.autocast(images.device.type, enabled=False):
            return operation(*args, **kwargs)

    return precise


@_outside_autocast
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
    size = (int(size), int(size)) if isinstance(size, Integral) else size
    dtype = torch.float32 if batch.dtype == torch.uint8 else batch.dtype
    views = batch.new_empty(*batch.shape[:2], *size, dtype=dtype)
    boxes = torch.stack([top, left, height, width])  # (4, n)
    on_cpu = _is_on_cpu(batch)
    if on_cpu and max(*batch.shape[2:], *size) >= _LARGE_SIDE:
        for each in zip(views, batch, flip.tolist(), boxes.T.tolist(), strict=True):
            _resize_box(*each)
        return views
    n_at_once = _few(math.prod(views.shape[1:])) if on_cpu else len(batch)
    flip, boxes = placed(flip, batch.device), placed(boxes, batch.device)
    parts = (part.split(n_at_once) for part in (views, batch, flip))
    for some in zip(*parts, boxes.split(n_at_once, dim=1), strict=True):
        _resize_boxes(*some)
    return views


def _resize_box(view: Tensor, image: Tensor, is_flipped: bool, box: list[int]) -> None:
    """Resize a box of one image (c, h, w) into `view`, as large images take less time for."""
    top, left, height, width = box
    image = image[None, :, top : top + height, left : left + width]
    image = image.flip(3) if is_flipped else image
    image = image.float() if image.dtype in (torch.bfloat16, torch.float16) else image
    is_bytes = image.dtype == torch.uint8
    # The order in memory that torch resizes fastest.
    layout = torch.channels_last if is_bytes else torch.contiguous_format
    image = image.contiguous(memory_format=layout)
    resized = F.interpolate(image, view.shape[1:], mode="bilinear", antialias=True)
    view.copy_(resized[0])
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


@_outside_autocast
def jitter_rows(images: Tensor, chosen: Tensor, order: Tensor, factors: Tensor) -> None:
    """Replace the chosen rows of `images`, in place, by their `color_jitter`."""
    mixes = hue_mixes(factors[:, _HUE]).to(images.dtype)
    factors = factors[:, :_HUE].to(images.dtype)
    if not _is_on_cpu(images):
        update_rows(images, chosen, _jitter_in_few_calls, order, factors, mixes)
        return
    operations = COLOR_OPERATIONS if images.shape[1] == 3 else COLOR_OPERATIONS[:2]
    n_values = math.prod(images.shape[1:])
    index, sizes = _by_order(chosen.nonzero().squeeze(1), order, n_values)
    params = (param[index].split(sizes) for param in (order, *factors.unbind(1), mixes))
    for some, numbers, *its_params in zip(index.split(sizes), *params, strict=True):
        rows = _take(images, some)
        for number in numbers[0].tolist():
            if number < len(operations):
                operations[number](rows, its_params[number])
        _put(images, some, rows)


def _by_order(index: Tensor, order: Tensor, n_values: int) -> tuple[Tensor, list[int]]:
    """Sort samples by the order of their operations, and size parts that share one and a cache."""
    code, by_code = (order[index] @ order.new_tensor([64, 16, 4, 1])).sort()
    counts, few = code.unique_consecutive(return_counts=True)[1].tolist(), _few(n_values)
    sizes = [min(few, count - done) for count in counts for done in range(0, count, few)]
    return index[by_code], sizes


def _jitter_in_few_calls(images: Tensor, order: Tensor, factors: Tensor, mixes: Tensor) -> Tensor:
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
        adjust_hue_(images, mixes)
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


def adjust_hue_(images: Tensor, mixes: Tensor) -> None:
    """Turn the hue of each image (n, 3, h, w), in place, by its `hue_mixes` (n, 3, 4).

    The largest and the smallest of a pixel's three channels stay, and with them the saturation and
    the value of HSV. Between these two each channel is linear in the hue.
    """
    high, low = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    mixed = torch.bmm(mixes[:, :, :3], images.flatten(2)).view_as(images)
    mixed.add_(torch.add(high, low).mul_(mixes[:, :1, 3:, None]))
    torch.clamp(mixed, low, high, out=images)


def hue_mixes(turn: Tensor) -> Tensor:
    """Weights (n, 3, 4) with which turned channels mix red, green, blue and largest plus smallest.

    A turn is some thirds of the circle, each of which moves every channel to the next, and a rest
    of at most a sixth to either side. Let t be that rest in sixths, from 0 to 1, and a, b, c be a
    channel, the next one on that side and the one before it. Then a becomes::

        (1 - t) (high + low) + a - b + (2 t - 1) c,  clipped to [low, high]

    Where c is the largest, this is low + (a - b) + t (high - low): of a and b one is the lowest
    there, and b falls before a rises. Where c is the smallest, it is high + (a - b) -
    t (high - low): b rises before a falls. Elsewhere a is itself the largest or the smallest, and
    clipping leaves it what it was.
    """
    sixths = 6 * turn[:, None]
    thirds = torch.round(sixths / 2)
    rest = sixths - 2 * thirds  # from -1 to 1
    side, t = torch.where(rest < 0, -1, 1), rest.abs()
    channel = torch.arange(3, device=turn.device)
    role = ((channel + thirds) * side).remainder(3).long()  # 0: itself, 1: next, 2: before it
    of_role = torch.cat([torch.ones_like(t), -torch.ones_like(t), 2 * t - 1], dim=1)
    weights = of_role.gather(1, role)[:, (channel - channel[:, None]) % 3]  # (n, 3, 3)
    return torch.cat([weights, (1 - t)[:, None].expand(-1, 3, 1)], dim=2)


COLOR_OPERATIONS = (adjust_brightness_, adjust_contrast_, adjust_saturation_, adjust_hue_)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image with its own sigma and an odd kernel of a tenth of the longer side.

    The kernel has 3 pixels at least, and less than twice as many as the shorter side.

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
    images = images.clone()
    blur_rows(images, torch.ones(len(images), dtype=torch.bool), sigma)
    return images


@_outside_autocast
def blur_rows(images: Tensor, chosen: Tensor, sigma: Tensor) -> None:
    """Replace the chosen rows of `images`, in place, by their `gaussian_blur`."""
    if not _is_on_cpu(images):
        update_rows(images, chosen, _blurred, sigma)
        return
    index = chosen.nonzero().squeeze(1)
    kernels = _blur_kernels(sigma[index], *images.shape[2:])
    radius = kernels.shape[1] // 2
    has_long_lines = min(images.shape[2:]) >= _LONG_LINE and images.dtype == torch.float32
    blurred = _convolved if has_long_lines and _has_onednn() else _summed
    for row, kernel in zip(index.tolist(), kernels, strict=True):
        # At least one neighbour: a convolution with a single value takes oneDNN a long time.
        reach = min(max(int(kernel.count_nonzero()) // 2, 1), radius)
        images[row] = blurred(images[row], kernel[radius - reach : radius + reach + 1])


def _blur_kernels(sigma: Tensor, height: int, width: int) -> Tensor:
    """Make a kernel for each sigma (n, k); what lies beyond 5 sigma, some millionths, is 0."""
    # A kernel of 2 * radius + 1 is a tenth of the side, odd; reflections must fit into the image.
    radius = min(max(height // 20, width // 20, 1), height - 1, width - 1)
    deviations = torch.arange(-radius, radius + 1, device=sigma.device) / sigma[:, None]
    log_weights = (-0.5 * deviations**2).masked_fill_(deviations.abs() > 5, -math.inf)
    return torch.softmax(log_weights, dim=1).float()


def _summed(image: Tensor, kernel: Tensor) -> Tensor:
    """Blur one image (c, h, w) by adding up shifted copies."""
    *sides, centre = kernel[: len(kernel) // 2 + 1].tolist()
    height, width = image.shape[1:]
    padded = F.pad(image, [len(sides)] * 4, mode="reflect")
    for axis, length in ((1, height), (2, width)):
        blurred = padded.narrow(axis, len(sides), length) * centre
        for before, weight in enumerate(sides):
            after = 2 * len(sides) - before
            both = padded.narrow(axis, before, length) + padded.narrow(axis, after, length)
            blurred.add_(both, alpha=weight)
        padded = blurred
    return blurred


def _convolved(image: Tensor, kernel: Tensor) -> Tensor:
    """Blur one image (c, h, w) by convolutions of many channels, which oneDNN is fast at."""
    radius = len(kernel) // 2
    columns = F.pad(image, [0, 0, radius, radius], mode="reflect").mT
    rows = F.pad(_convolved_lines(columns, kernel).mT, [radius, radius, 0, 0], mode="reflect")
    return _convolved_lines(rows, kernel)


def _convolved_lines(lines: Tensor, kernel: Tensor) -> Tensor:
    """Convolve lines (c, n_lines, length), each a channel."""
    weight = kernel.expand(lines.shape[1], 1, 1, -1)
    return F.conv2d(lines[:, :, None], weight, groups=len(weight))[:, :, 0]


def _blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image (n, c, h, w) with its own sigma, all of them at once."""
    n, channels, height, width = images.shape
    kernels = _blur_kernels(sigma, height, width).to(images.dtype)
    radius = kernels.shape[1] // 2
    kernels = kernels.repeat_interleave(channels, 0)[:, None]  # (n * c, 1, k)
    padded = F.pad(images, [radius] * 4, mode="reflect").flatten(0, 1)[None]  # (1, n * c, h, w)
    blurred = F.conv2d(padded, kernels[:, :, None], groups=n * channels)
    blurred = F.conv2d(blurred, kernels[..., None], groups=n * channels)
    return blurred.view_as(images)


@_outside_autocast
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
    # Half precision has no room for where between two pixels a point lies.
    dtype = torch.promote_types(images.dtype, torch.float32)
    theta = placed(torch.cat([linear, shift], dim=2).to(dtype), images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    mode = "border"
    if images.device.type == "mps":  # where torch does not know this mode before 2.13
        grid, mode = kept_inside_(grid, height, width), "zeros"
    moved = F.grid_sample(images.to(dtype), grid, padding_mode=mode, align_corners=False)
    return moved.to(images.dtype)


def kept_inside_(grid: Tensor, height: int, width: int) -> Tensor:
    """Move points (n, h, w, 2) beyond the centres of an image's outermost pixels to these."""
    grid[..., 0].clamp_(1 / width - 1, 1 - 1 / width)
    grid[..., 1].clamp_(1 / height - 1, 1 - 1 / height)
    return grid


def rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Rotate each image by its own angle in degrees, clockwise; borders are repeated."""
    still = angle.new_zeros(len(angle), 2)
    return affine(images, angle, still, torch.ones_like(angle), still)


def quarter_turns(images: Tensor, turns: Tensor) -> Tensor:
    """Rotate each image by 0 to 3 quarter turns, counter-clockwise; odd numbers need squares."""
    images = images.clone()
    is_square = images.shape[2] == images.shape[3]
    for number in (1, 2, 3) if is_square else (2,):
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
    precise = torch.promote_types(images.dtype, torch.float32)
    noise = torch.erfinv((bits.to(precise) + 0.5) / 2**15).to(images.dtype)
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


def resize(batch: Tensor, size: int | None) -> Tensor:
    """Resize images (n, c, h, w) to squares of `size` pixels, anti-aliased; None: not at all."""
    if size is None or batch.shape[-2:] == (size, size):
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


@_outside_autocast
def update_rows(images: Tensor, chosen: Tensor, operation, *params: Tensor) -> None:
    """Replace the chosen rows of `images`, in place, by ``operation(rows, *their_params)``.

    Elsewhere than on a CPU all rows are computed, and the chosen ones kept: their number need
    not be read from the device then.
    """
    if not _is_on_cpu(images):
        chosen, *params = (placed(values, images.device) for values in (chosen, *params))
        is_chosen = chosen.view(-1, *[1] * (images.ndim - 1))
        images.copy_(torch.where(is_chosen, operation(images, *params), images))
        return
    index = chosen.nonzero().squeeze(1)
    if not len(index):
        return
    parts = (part.split(_few(images[0].numel())) for part in (index, *(p[index] for p in params)))
    for some, *its_params in zip(*parts, strict=True):
        _put(images, some, operation(_take(images, some), *its_params))


def grayscale(images: Tensor) -> Tensor:
    """Grey version (n, 1, h, w); the mean of the channels unless there are 3."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    if _is_on_cpu(images):
        weights = images.new_tensor(_LUMA).expand(len(images), 1, 3)
        return torch.bmm(weights, images.flatten(2)).unflatten(2, images.shape[2:])
    red, green, blue = images.split(1, dim=1)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _is_on_cpu(images: Tensor) -> bool:
    """Whether small parts that fit the cache are fast, rather than few calls."""
    return images.device.type == "cpu"


def _has_onednn() -> bool:
    """Whether torch's convolutions on a CPU are oneDNN's."""
    return torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled


def _few(n_values: int) -> int:
    """How many samples of so many values a CPU works on at a time."""
    return max(1, _CACHED_VALUES * torch.get_num_threads() // n_values)


def _take(images: Tensor, index: Tensor) -> Tensor:
    """Copy the rows at `index`; a single one is not copied."""
    if len(index) == 1:
        return images.narrow(0, int(index), 1)
    return images.index_select(0, index)


def _put(images: Tensor, index: Tensor, rows: Tensor) -> None:
    """Put back what has become of the rows that were taken."""
    if len(index) > 1:
        images.index_copy_(0, index, rows)
    elif rows.data_ptr() != images[int(index)].data_ptr():
        images[int(index)] = rows[0]
