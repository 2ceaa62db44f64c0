"""One image file to pixels: formats, orientation, colours, size; and why a file is refused."""

import contextlib
import math
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

# Importing a plugin is what makes `Image.open` know its format. No other format is tried: some of
# Pillow's start programs.
_PLUGINS = {
    "JPEG": JpegImagePlugin,
    "PNG": PngImagePlugin,
    "WEBP": WebPImagePlugin,
    "BMP": BmpImagePlugin,
    "GIF": GifImagePlugin,
    "PPM": PpmImagePlugin,
    "TIFF": TiffImagePlugin,
}
LARGEST_PIXELS = 2**27  # of a file; takes some 2 GiB to decode
LARGEST_SIDE = 256  # of files that are read as they are

_GREY = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"}
_GREY_STEPS = {"L;2": 85, "L;4": 17}  # between the values of grey PNG files of few bits
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF and a value of the last
_GREY_WITH_ALPHA = "LA;16B"  # as which Pillow reads grey PNG files of 16 bits, to give RGBA
_ORIENTATION = 0x0112  # the tag of EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {5, 6, 7, 8}
_LONGEST_REASON = 120  # characters


class Header(NamedTuple):
    """What a file says of itself before its pixels are decoded."""

    height: int  # the right way up
    width: int
    is_grey: bool


class PixelBudget:
    """Bounds memory: threads decode up to `LARGEST_PIXELS` pixels at a time between them."""

    def __init__(self):
        self._free = LARGEST_PIXELS
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def spending(self, n_pixels: int) -> Iterator[None]:
        """Wait until so many are free, and hold them."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= n_pixels)
            self._free -= n_pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += n_pixels
                self._changed.notify_all()


class _Unreadable(ValueError):
    """A file that is refused for a reason of ours."""


class _QuietPillow:
    """Keep Pillow's warnings about odd files from the user, in all threads.

    The filters are the process's, and `warnings.catch_warnings` puts back those of its entry, which
    would undo what other threads have set since. So one filter is put in by the first that enters,
    and taken out by the last that leaves.
    """

    _FILTER = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

    def __init__(self):
        self._lock = threading.Lock()
        self._n_inside = 0

    def __enter__(self):
        with self._lock:
            self._n_inside += 1
            if self._n_inside == 1:
                # Not by filterwarnings, which some builds of Python apply to this thread alone.
                self._list = warnings.filters
                self._list.insert(0, self._FILTER)

    def __exit__(self, *error):
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                # Where another thread is within catch_warnings the present list is a copy.
                for filters in (self._list, warnings.filters):
                    with contextlib.suppress(ValueError):
                        filters.remove(self._FILTER)


quiet_pillow = _QuietPillow()
if hasattr(os, "register_at_fork"):  # another thread of the parent may have held the lock
    os.register_at_fork(after_in_child=quiet_pillow.__init__)


def read_header(path: str) -> Header:
    """Read size and colours of a file; raises whatever is wrong with it."""
    with _open(path) as image:
        is_grey = image.mode in _GREY or _stored_as(image) == _GREY_WITH_ALPHA
        width, height = image.size
        if width != height and max(width, height) <= LARGEST_SIDE:  # else the side does not matter
            if image.format in ("PNG", "TIFF"):
                image.load()  # the orientation may stand behind the pixels, or come with them
                width, height = image.size
            if _orientation(image) in _SIDEWAYS:
                width, height = height, width
        return Header(height, width, is_grey)


def decode(path: str, image_shape: tuple[int, int, int], budget: PixelBudget) -> np.ndarray:
    """Return the pixels (h * w * c,), uint8, of a file brought to the shape (h, w, c).

    Raises whatever is wrong with the file.
    """
    height, width, channels = image_shape
    with _open(path) as image:
        n_pixels = math.prod(image.size)
        if image.format in ("JPEG", "MPO"):
            enough = 2 * max(height, width)
            image.draft(None, (enough, enough))  # decodes a half, quarter or eighth of the size
            if "progressive" not in image.info:  # those are held whole before they are decoded
                n_pixels = math.prod(image.size)
        with budget.spending(n_pixels):
            return _pixels(image, height, width, channels)


def _pixels(image: Image.Image, height: int, width: int, channels: int) -> np.ndarray:
    """Load an image and return its pixels (h * w * c,), uint8, upright and of this shape."""
    _scale_key(image)
    image.load()
    turn = _TURNS.get(_orientation(image))
    image = _to_bytes(image, channels)
    if turn is not None:
        image = image.transpose(turn)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(image).reshape(-1)


def explain(error: Exception) -> str:
    """Say in a few words why a file could not be read."""
    if isinstance(error, UnidentifiedImageError):
        return f"not an image in a format that is read ({', '.join(_PLUGINS)})"
    if isinstance(error, _Unreadable):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.DecompressionBombError):  # a bound of Pillow's, seen before ours
        return f"too many pixels: {error}"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"broken: {reason[:_LONGEST_REASON]}"


def _open(path: str) -> Image.Image:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its other end
        raise _Unreadable("a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file")
    if not status.st_size:
        raise _Unreadable("empty")
    image = Image.open(path, formats=tuple(_PLUGINS))
    width, height = image.size
    if width * height > LARGEST_PIXELS:
        image.close()
        raise _Unreadable(f"too many pixels: {width} x {height}, more than {LARGEST_PIXELS}")
    return image


def _orientation(image: Image.Image) -> int:
    """Orientation as in EXIF, 1 to 8; 1, upright, if there is none that can be read."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF beside sound pixels
        return 1


def _stored_as(image: Image.Image) -> str:
    """How the pixels of a PNG lie in the file, in Pillow's terms."""
    return image.tile[0][3] if image.format == "PNG" and image.tile else ""


def _scale_key(image: Image.Image) -> None:
    """Bring the transparent colour of a PNG to 8 bits, as Pillow does with the pixels only."""
    key = image.info.get("transparency")
    stored = _stored_as(image) if key is not None else ""
    if stored == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)
    elif stored in _GREY_STEPS:
        image.info["transparency"] = key * _GREY_STEPS[stored]


def _to_bytes(image: Image.Image, channels: int) -> Image.Image:
    """Bring whatever a file holds to grey or RGB of 8 bits, on white where it is transparent."""
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        values, white = np.asarray(image).astype(np.uint32), 65535
        if image.format == "TIFF":
            white = 2 ** image.tag_v2[_BITS][0] - 1  # of 12 bits too
            if image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
                values = white - values
        values[values == image.info.get("transparency", -1)] = white
        image = Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))
    elif mode in ("I", "F"):
        raise _Unreadable(
            "pixels of 32 bits, or of 16 with a sign, whose range is unknown; pass such images as "
            "an array"
        )
    elif mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("L" if channels == 1 else "RGB")
