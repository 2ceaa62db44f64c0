"""Image files as X: every format and mode, orientation, sizes, memory, cache, and bad files."""

import hashlib
import os
import re
import shutil
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from numpy.testing import assert_array_equal
from PIL import Image
from sklearn.callback import ScoringMonitor
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from torchvision.transforms.v2 import functional as TF

from sklearn_simclr import SimCLRClassifier, SimCLRTransformer, _decoding, _files, _pixel_cache
from sklearn_simclr._data import Samples
from sklearn_simclr._files import FileRows, as_paths, read_files

pytestmark = pytest.mark.filterwarnings("ignore:batch_size=16 is larger than the data")

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 14, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (20, 14), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(COLOUR[:5, :4]).resize((96, 120), Image.Resampling.BICUBIC))


def pixels(*paths, **options):
    """The images (n, h, w, c) or (n, h, w) that files are read as."""
    files = read_files([str(path) for path in paths], **options)
    images = files.rows[np.arange(len(files))].reshape(-1, *files.image_shape)
    return images[..., 0] if files.image_shape[2] == 1 else images


def save(path, image, **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(path, **options)
    return path


@pytest.fixture
def folder(photos, tmp_path):
    """Paths of the 32 photos as PNG files, which lose nothing."""
    images, _ = photos
    return [str(save(tmp_path / f"{i:02}.png", image)) for i, image in enumerate(images)]


# ------------------------------------------------------------------------------------------------
# Paths

NAMES = ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    "X",
    [
        NAMES,
        tuple(NAMES),
        [Path(name) for name in NAMES],
        ["a.png", Path("b.png"), np.str_("c.png")],
        np.array(NAMES),
        np.array(NAMES, dtype=object),
        np.array([Path(name) for name in NAMES]),
        np.array(NAMES)[:, None],
        np.array(NAMES, dtype=np.dtypes.StringDType()),
        [[name] for name in NAMES],
        pd.Series(NAMES, index=[7, 8, 9]),
        pd.Series(NAMES, dtype="string"),
        pd.Series([PurePosixPath(name) for name in NAMES]),
        pd.DataFrame({"file": NAMES}),
        pl.Series(NAMES),
        pl.DataFrame({"file": NAMES}),
    ],
    ids=lambda X: f"{type(X).__module__}.{type(X).__name__}",
)
def test_paths_are_seen_in_every_container(X):
    paths = as_paths(X)
    assert paths == NAMES
    assert {type(path) for path in paths} == {str}


@pytest.mark.parametrize(
    "X",
    [
        [],
        [1, 2],
        [[1, 2], [3, 4]],
        [[1], [2]],
        [np.zeros((2, 2))] * 3,
        np.zeros((3, 1)),
        np.zeros(3),
        np.zeros((3, 2, 2)),
        np.array([["a", "b"], ["c", "d"]]),
        np.array([b"a.png"]),
        [b"a.png"],
        torch.zeros(3, 1),
        pd.Series([1.0, 2.0]),
        pd.DataFrame({"a": [1], "b": ["a.png"]}),
        None,
        3.0,
        np.float64(3),
    ],
    ids=repr,
)
def test_what_holds_no_paths_is_left_to_others(X):
    assert as_paths(X) is None


@pytest.mark.parametrize("X", ["a.png", Path("a.png"), b"a.png"])
def test_a_single_path_is_refused_with_the_mend(simclr, X):
    with pytest.raises(ValueError, match=r"single path.*a\.png.*Pass \[path\].*load_image_paths"):
        simclr().fit(X)


@pytest.mark.parametrize(
    ("X", "match"),
    [
        (["a.png", 3], "row 1 is 3"),
        (["a.png", None], "row 1 is None"),
        (pd.Series(["a.png", np.nan]), "row 1 is nan"),
        (np.array([np.zeros(2), "a.png"], dtype=object), "row 0 is array"),
    ],
)
def test_paths_among_other_things_are_refused(simclr, X, match):
    with pytest.raises(ValueError, match=match):
        simclr().fit(X)


# ------------------------------------------------------------------------------------------------
# Formats and modes

LOSSLESS = {
    "png": {},
    "bmp": {},
    "tif": {},
    "tiff": {"compression": "tiff_lzw"},
    "ppm": {},
    "webp": {"lossless": True},
}


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_formats_give_the_pixels_themselves(suffix, tmp_path):
    path = save(tmp_path / f"a.{suffix}", COLOUR, **LOSSLESS[suffix])
    assert_array_equal(pixels(path), COLOUR[None])
    if suffix != "webp":  # which has no grey images
        path = save(tmp_path / f"b.{suffix}", GREY, **LOSSLESS[suffix])
        assert_array_equal(pixels(path), GREY[None])


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
@pytest.mark.parametrize("progressive", [False, True])
def test_lossy_formats_give_what_pillow_gives(suffix, progressive, tmp_path):
    path = save(tmp_path / f"a.{suffix}", COLOUR, progressive=progressive)
    assert_array_equal(pixels(path), np.asarray(Image.open(path).convert("RGB"))[None])
    assert abs(pixels(save(path, SMOOTH))[0].astype(int) - SMOOTH).mean() < 8


def test_the_name_does_not_tell_the_format(tmp_path):
    path = save(tmp_path / "a.jpg", COLOUR, format="PNG")
    assert_array_equal(pixels(path), COLOUR[None])


def test_gif_gives_the_first_frame(tmp_path):
    frames = [Image.fromarray(GREY).convert("P"), Image.fromarray(GREY[::-1]).convert("P")]
    path = save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert Image.open(path).n_frames == 2
    read = pixels(path)[0]
    assert_array_equal(read if read.ndim == 2 else read[..., 0], GREY)


@pytest.mark.parametrize(
    ("width", "height", "refused"),
    [(2**14, 2**13, False), (2**14, 2**13 + 1, True), (2**15, 2**13, True), (1, 2**27 + 1, True)],
)
def test_bound_of_the_pixels(width, height, refused, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(width, height, 1, 0, []))
    reason = r"too many pixels: .*" if refused else "broken: "
    with pytest.raises(ValueError, match=rf"a\.png: {reason}"):
        read_files([str(path)])


def test_first_picture_of_a_stereo_jpeg(tmp_path):
    pictures = [Image.fromarray(SMOOTH), Image.fromarray(SMOOTH[::-1].copy())]
    path = save(
        tmp_path / "a.jpg", pictures[0], format="MPO", save_all=True, append_images=pictures[1:]
    )
    assert Image.open(path).format == "MPO"
    assert_array_equal(pixels(path)[0], np.asarray(Image.open(path)))
    assert pixels(path, path, save(tmp_path / "b.png", COLOUR), image_size=20).shape[1] == 20


def test_first_page_of_a_tiff(tmp_path):
    pages = [Image.fromarray(COLOUR), Image.fromarray(COLOUR[::-1])]
    path = save(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:])
    assert_array_equal(pixels(path), COLOUR[None])


def test_palette(tmp_path):
    image = Image.fromarray(COLOUR).quantize(16)
    for name in ("a.png", "a.gif", "a.bmp", "a.tif"):
        path = save(tmp_path / name, image)
        assert_array_equal(pixels(path), np.asarray(image.convert("RGB"))[None])


ALPHA = RNG.integers(0, 256, (20, 14), dtype=np.uint8)
ON_WHITE = 255 - ALPHA[..., None] / 255 * (255.0 - np.dstack([COLOUR, GREY]))  # (20, 14, 4)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_alpha_is_composed_on_white(name, tmp_path):
    options = {"lossless": True, "exact": True} if name == "a.webp" else {}
    path = save(tmp_path / name, np.dstack([COLOUR, ALPHA]), **options)
    assert abs(pixels(path)[0] - ON_WHITE[..., :3]).max() <= 1


def test_grey_with_alpha_stays_grey(tmp_path):
    image = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])
    read = pixels(save(tmp_path / "a.png", image))
    assert read.shape == (1, 20, 14)
    assert abs(read[0] - ON_WHITE[..., 3]).max() <= 1


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_a_transparent_colour_of_a_palette_is_white(name, tmp_path):
    image = Image.fromarray(COLOUR).quantize(8)
    index = np.asarray(image)
    path = save(tmp_path / name, image, transparency=3)
    expected = np.where((index == 3)[..., None], 255, np.asarray(image.convert("RGB")))
    assert_array_equal(pixels(path)[0], expected)


def test_transparency_of_each_colour_of_a_palette(tmp_path):
    image = Image.fromarray(COLOUR).quantize(4)
    alphas = np.array([0, 90, 180, 255])
    path = save(tmp_path / "a.png", image, transparency=bytes(alphas.tolist()))
    alpha = alphas[np.asarray(image)][..., None] / 255
    expected = 255 - alpha * (255.0 - np.asarray(image.convert("RGB")))
    assert abs(pixels(path)[0] - expected).max() <= 1


def test_one_bit(tmp_path):
    bits = GREY > 127
    for name in ("a.png", "a.tif", "a.bmp", "a.pbm"):
        read = pixels(save(tmp_path / name, Image.fromarray(bits)))
        assert_array_equal(read[0][..., 0] if read.ndim == 4 else read[0], bits * 255)


def png(width, height, bit_depth, colour_type, rows, chunks=(), key=None):
    """A PNG file; `chunks` stand behind the pixels, the transparent colour `key` before them."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + bytes(row) for row in rows)
    keys = [] if key is None else [(b"tRNS", np.array(key, ">u2").tobytes())]
    parts = [(b"IHDR", header), *keys, (b"IDAT", zlib.compress(lines)), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


SIXTEEN = RNG.integers(0, 2**16, (20, 14), dtype=np.uint16)
SIXTEEN[0, :4] = 0, 128, 129, 65535
EIGHT = np.rint(SIXTEEN / 257)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bit_grey_is_scaled(name, tmp_path):
    path = save(tmp_path / name, SIXTEEN)
    read = pixels(path)
    assert read.shape == (1, 20, 14)
    assert_array_equal(read[0], EIGHT)


def test_sixteen_bit_big_endian_tiff(tmp_path):
    image = Image.frombytes("I;16B", (14, 20), SIXTEEN.astype(">u2").tobytes())
    path = save(tmp_path / "a.tif", image)
    assert_array_equal(pixels(path)[0], EIGHT)


def test_sixteen_bit_grey_with_alpha(tmp_path):
    path = tmp_path / "a.png"
    opaque = np.stack([SIXTEEN, np.full_like(SIXTEEN, 65535)], axis=-1)
    path.write_bytes(png(14, 20, 16, 4, [row.astype(">u2").tobytes() for row in opaque]))
    read = pixels(path)
    assert read.shape == (1, 20, 14)
    assert abs(read[0] - SIXTEEN / 257).max() <= 1


def test_sixteen_bit_colour(tmp_path):
    values = RNG.integers(0, 2**16, (20, 14, 3), dtype=np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(png(14, 20, 16, 2, [row.astype(">u2").tobytes() for row in values]))
    assert abs(pixels(path)[0] - values / 257).max() <= 1


@pytest.mark.parametrize(
    ("bit_depth", "row", "greys"),
    [
        (1, [0b0101_0000], [0, 255, 0, 255]),
        (2, [0b0001_1011], [0, 85, 170, 255]),
        (4, [0x03, 0x7F], [0, 51, 119, 255]),
        (8, [0, 3, 7, 255], [0, 3, 7, 255]),
        (16, [0, 0, 0, 3, 0x75, 0x30, 255, 255], [0, 0, 117, 255]),
    ],
)
@pytest.mark.parametrize("position", range(4))
def test_a_transparent_grey_is_white(bit_depth, row, greys, position, tmp_path):
    values = np.unpackbits(np.array(row, np.uint8))[: 4 * bit_depth].reshape(4, bit_depth)
    values = values @ (1 << np.arange(bit_depth)[::-1])
    path = tmp_path / "a.png"
    path.write_bytes(png(4, 1, bit_depth, 0, [row], key=values[position]))
    assert_array_equal(pixels(path)[0, 0], np.where(values == values[position], 255, greys))


@pytest.mark.parametrize("bit_depth", [8, 16])
@pytest.mark.parametrize("position", range(3))
def test_a_transparent_colour_is_white(bit_depth, position, tmp_path):
    values = np.array([[0x80, 0x12, 0x40], [0x12, 0x12, 0x12], [0, 0x80, 0x80]])
    expected = values.copy()
    expected[position] = 255
    if bit_depth == 16:
        values = values << 8 | 0x12
    path = tmp_path / "a.png"
    row = values.astype(">u2" if bit_depth == 16 else np.uint8).tobytes()
    path.write_bytes(png(3, 1, bit_depth, 2, [row], key=values[position]))
    assert_array_equal(pixels(path)[0, 0], expected)


@pytest.mark.parametrize(("values", "scaled"), [(GREY, GREY), (SIXTEEN, EIGHT)])
def test_tiff_whose_white_is_zero(values, scaled, tmp_path):
    path = save(tmp_path / "a.tif", values)
    black_is_zero = struct.pack("<HHIH", 262, 3, 1, 1)  # the entry of the photometric tag
    content = path.read_bytes()
    assert content.count(black_is_zero) == 1
    path.write_bytes(content.replace(black_is_zero, struct.pack("<HHIH", 262, 3, 1, 0)))
    assert_array_equal(pixels(path)[0], 255 - scaled)


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk(name, tmp_path):
    cmyk = np.dstack([SMOOTH, SMOOTH[..., 0] // 3])
    image = Image.frombytes("CMYK", (96, 120), cmyk.tobytes())
    options = {"quality": 100, "subsampling": 0} if name == "a.jpg" else {}
    expected = (255 - cmyk[..., :3].astype(float)) * (255 - cmyk[..., 3:].astype(float)) / 255
    assert abs(pixels(save(tmp_path / name, image, **options))[0] - expected).max() <= 6


def tiff(width, height, bits, data, *, kind=1):
    """A TIFF file without compression; kind 1: unsigned, 2: signed."""
    entries = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 0, 277: 1}
    entries |= {278: height, 279: len(data), 339: kind}
    entries[273] = 8 + 2 + 12 * len(entries) + 4  # where the pixels begin
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + tags + bytes(4) + data


def test_twelve_bits_are_scaled_by_their_own_white(tmp_path):
    path = tmp_path / "a.tif"
    # Two pixels in three bytes: 0, 1000, 2048, 4095.
    path.write_bytes(tiff(4, 1, 12, bytes.fromhex("0003e8800fff")))
    assert_array_equal(pixels(path)[0, 0], [0, 62, 128, 255])


def test_tiff_with_a_sign_is_refused_with_the_mend(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(2, 1, 16, struct.pack("<2h", -5, 1000), kind=2))
    with pytest.raises(ValueError, match=r"a\.tif: pixels .*of 16 with a sign.*as an array"):
        pixels(path)


def test_files_of_which_none_is_bright_are_warned_of(simclr, tmp_path, monkeypatch):
    paths = []
    for number, values in enumerate(RNG.integers(0, 4096, (16, 20, 14)).astype(np.uint16)):
        paths.append(str(save(tmp_path / f"{number}.png", values)))  # 12 bits in files of 16
    for kept_bytes in (_files._KEPT_BYTES, 0):
        monkeypatch.setattr(_files, "_KEPT_BYTES", kept_bytes)
        with pytest.warns(UserWarning, match=r"is 16 in 0\.\.255: .* nearly black"):
            simclr(max_epochs=1).fit(paths)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_tiff_of_32_bits_is_refused_with_the_mend(dtype, tmp_path):
    path = save(tmp_path / "a.tif", GREY.astype(dtype))
    with pytest.raises(ValueError, match=r"a\.tif: pixels of 32 bits.*as an array"):
        pixels(path)


# ------------------------------------------------------------------------------------------------
# Orientation

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_orientation(name, orientation, tmp_path):
    options = {
        "a.jpg": {"quality": 100, "subsampling": 0},
        "a.webp": {"lossless": True},
        "a.tif": {"compression": "tiff_deflate"},
    }.get(name, {})
    path = save(tmp_path / name, SMOOTH, exif=exif(orientation), **options)
    expected = UPRIGHT[orientation](SMOOTH)
    read = pixels(path)[0]
    assert read.shape == expected.shape
    assert abs(read.astype(int) - expected).max() <= (6 if name == "a.jpg" else 0)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_that_stands_behind_the_pixels(orientation, tmp_path):
    tags = exif(orientation).tobytes().removeprefix(b"Exif\0\0")
    path = tmp_path / "a.png"
    path.write_bytes(png(14, 20, 8, 2, [row.tobytes() for row in COLOUR], [(b"eXIf", tags)]))
    assert_array_equal(pixels(path)[0], UPRIGHT[orientation](COLOUR))


def test_files_of_one_size_only_once_upright(tmp_path):
    lying = save(tmp_path / "a.png", COLOUR, exif=exif(6))  # (20, 14), shown as (14, 20)
    upright = save(tmp_path / "b.png", np.rot90(COLOUR).copy())
    read = pixels(lying, upright)
    assert read.shape == (2, 14, 20, 3)
    assert_array_equal(read, [np.rot90(COLOUR, -1), np.rot90(COLOUR)])
    assert pixels(lying, save(tmp_path / "c.png", COLOUR)).shape == (2, 128, 128, 3)


def test_orientation_comes_before_the_size(tmp_path):
    path = save(tmp_path / "a.png", SMOOTH, exif=exif(6))
    upright = save(tmp_path / "b.png", np.rot90(SMOOTH, -1).copy())
    other = save(tmp_path / "c.png", COLOUR)
    read = pixels(path, upright, other, image_size=24)
    assert_array_equal(read[0], read[1])


@pytest.mark.parametrize("tags", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"nonsense" * 9])
def test_damaged_exif_beside_sound_pixels(tags, tmp_path):
    path = save(tmp_path / "a.jpg", SMOOTH, exif=tags)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = pixels(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_array_equal(read[0], np.asarray(Image.open(path)))


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_orientation_that_does_not_exist(orientation, tmp_path):
    path = save(tmp_path / "a.png", COLOUR, exif=exif(orientation))
    assert_array_equal(pixels(path)[0], COLOUR)


# ------------------------------------------------------------------------------------------------
# Sizes and channels


@pytest.mark.parametrize(
    ("sizes", "image_size", "expected"),
    [
        ([(20, 14)] * 2, None, (20, 14)),
        ([(20, 14)] * 2, 8, (20, 14)),  # image_size then acts on the views, as for arrays
        ([(256, 10)] * 2, None, (256, 10)),
        ([(257, 10)] * 2, None, (128, 128)),
        ([(10, 257)] * 2, 64, (64, 64)),
        ([(20, 14), (14, 20)], None, (128, 128)),
        ([(20, 14), (20, 15)], 16, (16, 16)),
        ([(1, 1), (300, 400)], 16, (16, 16)),
    ],
)
def test_size_of_the_images(sizes, image_size, expected, tmp_path):
    paths = [
        save(tmp_path / f"{i}.png", Image.new("RGB", (width, height), "red"))
        for i, (height, width) in enumerate(sizes)
    ]
    read = pixels(*paths, image_size=image_size)
    assert read.shape == (2, *expected, 3)
    assert_array_equal(read, np.broadcast_to([255, 0, 0], read.shape))


@pytest.mark.parametrize("side", [33, 64, 150])
def test_resizing_is_antialiased_as_torchvision_does_it(side, tmp_path):
    noisy = RNG.integers(0, 256, (120, 96, 3), dtype=np.uint8)
    path = save(tmp_path / "a.png", noisy)
    other = save(tmp_path / "b.png", COLOUR)
    expected = TF.resize(torch.tensor(noisy).permute(2, 0, 1), [side, side], antialias=True)
    read = pixels(path, other, image_size=side)[0]
    assert abs(read.astype(int) - expected.permute(1, 2, 0).numpy()).max() <= 1


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_shrinking_a_lot_takes_the_mean(name, tmp_path):
    noisy = np.kron(RNG.integers(0, 256, (64, 64), dtype=np.uint8), np.ones((16, 16), np.uint8))
    path = save(tmp_path / name, noisy, **({"quality": 95} if name == "a.jpg" else {}))
    expected = TF.resize(torch.tensor(noisy)[None], [32, 32], antialias=True)[0].numpy()
    read = pixels(path, image_size=32)[0]
    assert abs(read.astype(int) - expected).mean() < 3
    assert noisy.std() > 1.4 * read.std()  # a sample of single pixels would keep the spread


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(tmp_path, monkeypatch):
    path = save(tmp_path / "a.jpg", np.zeros((1024, 1024), np.uint8))
    seen = []
    to_bytes = _decoding._to_bytes
    monkeypatch.setattr(
        _decoding, "_to_bytes", lambda image, c: seen.append(image.size) or to_bytes(image, c)
    )
    pixels(path, image_size=100)
    assert seen == [(256, 256)]  # the smallest that is twice the size at least


@pytest.mark.parametrize(
    ("modes", "channels"),
    [
        (["L", "1", "LA", "I;16"], 1),
        (["L", "RGB"], 3),
        (["L", "P"], 3),
        (["P"], 3),
        (["RGBA"], 3),
        (["CMYK", "L"], 3),
    ],
)
def test_channels(modes, channels, tmp_path):
    paths = []
    for mode in modes:
        image = Image.fromarray(SIXTEEN if mode == "I;16" else GREY)
        image = image if image.mode == mode else image.convert(mode)
        paths.append(str(save(tmp_path / f"{mode[0]}{len(paths)}.tif", image)))
    assert read_files(paths).image_shape == (20, 14, channels)


# ------------------------------------------------------------------------------------------------
# Kept, cached, streamed


def all_ways(monkeypatch, cache_dir):
    """Options that read files in each of the ways, and the types of the rows."""
    yield {}, np.ndarray
    yield {"n_jobs": 3}, np.ndarray
    for _ in range(2):  # written, then found
        yield {"cache_dir": cache_dir}, np.memmap
    monkeypatch.setattr(_files, "_KEPT_BYTES", 1000)
    yield {}, FileRows
    yield {"n_jobs": 3}, FileRows
    monkeypatch.setattr(_files, "_BLOCK_BYTES", 5000)  # 6 images
    yield {}, FileRows
    yield {"n_jobs": 3}, FileRows
    yield {"cache_dir": cache_dir / "new"}, np.memmap
    monkeypatch.setattr(_files, "_KEPT_BYTES", 10**6)
    yield {"n_jobs": -1}, np.ndarray


def test_rows_are_the_same_in_every_way(folder, photos, tmp_path, monkeypatch):
    images, _ = photos
    expected = images.reshape(32, -1)
    index = np.array([5, 0, 31, 5])
    for options, kind in all_ways(monkeypatch, tmp_path / "cache"):
        files = read_files(folder, **options)
        rows = files.rows
        assert type(rows) is kind
        assert (len(files), rows.shape, rows.dtype) == (32, (32, 768), np.uint8)
        assert_array_equal(rows[index], expected[index])
        assert_array_equal(rows[np.arange(32)], expected)
        assert_array_equal(files.kept, np.arange(32))
        assert files.left_out == ""


def test_hash_is_that_of_the_array(folder, photos, tmp_path, monkeypatch):
    def digest(rows):
        return Samples(rows, (16, 16, 3), False, (0.0, 255.0), torch.device("cpu")).digest()

    expected = digest(photos[0])
    for options, _ in all_ways(monkeypatch, tmp_path / "cache"):
        assert digest(read_files(folder, **options).rows) == expected


def test_training_does_not_depend_on_the_way(simclr, folder, photos, tmp_path, monkeypatch):
    images, _ = photos
    expected = simclr().fit(images)
    features, score = expected.transform(images), expected.score(images)
    for options, _ in all_ways(monkeypatch, tmp_path / "cache"):
        model = simclr(**options).fit(folder)
        assert_array_equal(model.transform(folder), features)
        assert_array_equal(model.transform(images), features)
        assert model.score(folder) == score
        assert model.loss_curve_ == expected.loss_curve_


def test_memory_of_a_stream_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(_files, "_KEPT_BYTES", 1000)
    monkeypatch.setattr(_files, "_BLOCK_BYTES", 5000)
    sizes = []
    pixels_of = _files._Decoder.pixels

    def spy(self, paths, image_shape):
        sizes.append(len(paths))
        return pixels_of(self, paths, image_shape)

    monkeypatch.setattr(_files._Decoder, "pixels", spy)
    read_files(folder)
    assert sum(sizes) == 32 and max(sizes) <= 6


def test_threads_decode_a_bounded_number_of_pixels_at_a_time(monkeypatch):
    monkeypatch.setattr(_decoding, "LARGEST_PIXELS", 100)
    budget, inside, most = _decoding.PixelBudget(), [], []

    def work(n_pixels):
        with budget.spending(n_pixels):
            inside.append(n_pixels)
            most.append(sum(inside))
            time.sleep(0.001)
            inside.remove(n_pixels)

    threads = [threading.Thread(target=work, args=(n,)) for n in (60, 50, 100, 10, 30, 60) * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert max(most) <= 100 and len(most) == 30


@pytest.fixture
def decoded(monkeypatch):
    """List of the names of files, as they are decoded."""
    names = []
    decode = _files.decode

    def spy(path, *args):
        names.append(Path(path).name)
        return decode(path, *args)

    monkeypatch.setattr(_files, "decode", spy)
    return names


def test_the_cache_spares_decoding(folder, tmp_path, decoded):
    cache = tmp_path / "a" / "cache"
    read_files(folder, cache_dir=cache)
    assert len(decoded) == 32
    read_files(folder, cache_dir=str(cache))
    read_files(folder, cache_dir=cache, image_shape=(16, 16, 3))  # as in transform
    assert len(decoded) == 32
    read_files(folder, cache_dir=cache, image_shape=(8, 8, 3))
    read_files(folder[:5], cache_dir=cache)
    assert len(decoded) == 32 + 32 + 5
    assert len(list(cache.iterdir())) == 3


def test_pixels_that_another_process_has_just_written_are_taken(folder, tmp_path, monkeypatch):
    before = read_files(folder, cache_dir=tmp_path / "other")
    (written,) = (tmp_path / "other").iterdir()

    def replace(source, path):  # Windows does not replace a file that is mapped
        shutil.copy(written, path)
        raise PermissionError(13, "Access is denied", str(path))

    monkeypatch.setattr(os, "replace", replace)
    rows = read_files(folder, cache_dir=tmp_path / "cache").rows
    assert_array_equal(rows, before.rows)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [written.name]
    written.write_bytes(b"of another kind")
    with pytest.raises(PermissionError):
        read_files(folder, cache_dir=tmp_path / "cache", image_shape=(8, 8, 3))


def test_a_changed_file_is_decoded_again(folder, tmp_path, decoded):
    cache = tmp_path / "cache"
    read_files(folder, cache_dir=cache)
    os.utime(folder[3], ns=(1, 1))
    read_files(folder, cache_dir=cache)
    assert len(decoded) == 64
    save(folder[3], np.zeros((16, 16, 3), np.uint8))
    assert not pixels(*folder, cache_dir=cache)[3].any()


def truncated(data):
    return data[:-20]


def flipped(data):
    return data[:100] + bytes([data[100] ^ 1]) + data[101:]


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        flipped,
        lambda data: b"",
        lambda data: b"short",
        lambda data: data[:24576] + b"\0" * 200,
        lambda data: data[:-64] + struct.pack("<Q", 2**63) + data[-56:],
        lambda data: data[10:],
        lambda data: data.replace(b"[32, 768]", b"[64, 384]"),
    ],
)
def test_a_damaged_cache_is_made_anew(folder, photos, tmp_path, decoded, damage):
    cache = tmp_path / "cache"
    read_files(folder, cache_dir=cache)
    (path,) = cache.iterdir()
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    assert_array_equal(pixels(*folder, cache_dir=cache), photos[0])
    assert len(decoded) == 64
    assert path.read_bytes() == sound


def test_every_damage_of_the_record_of_a_cache_is_seen(folder, tmp_path):
    cache = tmp_path / "cache"
    read_files([*folder, "gone.png"], cache_dir=cache, skip_bad=True, image_shape=(16, 16, 3))
    (path,) = cache.iterdir()
    sound = path.read_bytes()
    bad = b'"bad": {"32": "No such file or directory"}'
    assert bad in sound and _pixel_cache.open_pixels(path, 768) is not None
    flips = [
        sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :]
        for place in range(32 * 768, len(sound))
    ]
    for damaged in [*flips, sound.replace(bad, b'"bad": {}'.ljust(len(bad)))]:
        path.write_bytes(damaged)
        assert _pixel_cache.open_pixels(path, 768) is None


def test_a_cache_is_whole_or_not_there(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr(_files, "_BLOCK_BYTES", 5000)

    def interrupted(path, *args):
        if Path(path).name == "20.png":
            raise KeyboardInterrupt
        return np.zeros(768, np.uint8)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_files, "decode", interrupted)
        read_files(folder, cache_dir=cache)
    assert list(cache.iterdir()) == []


def test_what_killed_processes_have_left_is_swept(folder, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "f0.pixels.00ff.sklearn_simclr.tmp").write_bytes(b"half of the pixels")
    (cache / "notes.tmp").touch()
    read_files(folder, cache_dir=cache)
    assert sorted(path.suffix for path in cache.iterdir()) == [".pixels", ".tmp"]
    assert (cache / "notes.tmp").exists()


@pytest.mark.parametrize("below", ["", "cache"])
def test_cache_dir_that_is_a_file(simclr, folder, below, monkeypatch):
    monkeypatch.delattr(_files, "read_header")  # not to be called
    with pytest.raises(ValueError, match=r"cache_dir='.*00\.png.*Pass another folder"):
        simclr(cache_dir=os.path.join(folder[0], below)).fit(folder)


def test_bad_files_are_remembered_by_the_cache(folder, tmp_path, decoded):
    cache = tmp_path / "cache"
    sound = Path(folder[4]).read_bytes()
    Path(folder[4]).write_bytes(sound[:-60])
    first = read_files(folder, cache_dir=cache, skip_bad=True)
    assert len(first) == 31 and len(decoded) == 32
    again = read_files(folder, cache_dir=cache, skip_bad=True)
    assert decoded[32:] == ["04.png"]  # only to see whether it still is bad
    assert again.left_out == first.left_out and "04.png" in again.left_out
    assert_array_equal(again.rows, first.rows)
    assert_array_equal(again.kept, np.delete(np.arange(32), 4))
    with pytest.raises(ValueError, match=r"04\.png: broken"):
        read_files(folder, cache_dir=cache)


def test_a_file_that_became_readable_is_seen(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    decode = _files.decode

    def forbidden(path, *args):
        if path == folder[4]:
            raise PermissionError(13, "Permission denied")
        return decode(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(_files, "decode", forbidden)
        assert len(read_files(folder, cache_dir=cache, skip_bad=True)) == 31
    assert len(read_files(folder, cache_dir=cache, skip_bad=True)) == 32


def test_a_file_that_changes_under_a_stream(simclr, folder, monkeypatch):
    monkeypatch.setattr(_files, "_KEPT_BYTES", 1000)
    rows = read_files(folder).rows
    os.remove(folder[7])
    assert rows[np.array([6, 8])].shape == (2, 768)
    with pytest.raises(ValueError, match=r"1 of 2 .*\n.*07\.png: No such file.*\n.*leave the fi"):
        rows[np.array([6, 7])]


# ------------------------------------------------------------------------------------------------
# Bad files


def bad_files(folder):
    """Write bad files of every kind; return their paths and what is said of them."""
    sound = save(folder / "sound.png", COLOUR).read_bytes()
    jpeg = save(folder / "sound.jpg", SMOOTH).read_bytes()
    (folder / "folder.png").mkdir()
    kinds = {
        "empty.png": (b"", "empty"),
        "text.png": (b"no image at all", "not an image in a format that is read"),
        "cut.png": (sound[:-80], "broken: "),
        "cut header.png": (sound[:20], "not an image|broken"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "broken: "),
        "noise.png": (sound[:60] + bytes(200) + sound[260:], "broken: "),
        "bomb.png": (png(2**15, 2**13, 8, 2, []), "too many pixels: "),
        "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    }
    for name, (data, _) in kinds.items():
        (folder / name).write_bytes(data)
    reasons = {str(folder / name): reason for name, (_, reason) in kinds.items()}
    reasons[str(folder / "missing.png")] = "No such file"
    reasons[str(folder / "folder.png")] = "a folder"
    reasons["nul\0.png"] = "null"
    reasons[str(folder / ("a" * 300))] = "File name too long|No such file"
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.png")
        reasons[str(folder / "pipe.png")] = "not a regular file"
        reasons["/dev/null"] = "not a regular file"
    return reasons


def test_a_pipeline_refuses_bad_files_before_it_trains(simclr, folder, monkeypatch):
    monkeypatch.setattr(SimCLRTransformer, "fit", pytest.fail)
    model = simclr(on_bad_files="skip")
    for refusing in (model.fit_transform, make_pipeline(model, LogisticRegression()).fit):
        with pytest.raises(ValueError, match=r"1 of 33 image files(.*\n)*.*fit_transform do not"):
            refusing([*folder, "missing.png"], np.arange(33) % 2)


def test_a_column_of_paths_beside_others(simclr, folder):
    frame = pd.DataFrame({"file": folder, "age": np.arange(32)})
    both = ColumnTransformer([("image", simclr(), ["file"]), ("rest", "passthrough", ["age"])])
    features = both.set_output(transform="pandas").fit_transform(frame)
    names = [*(f"image__simclrtransformer{i}" for i in range(4)), "rest__age"]
    assert features.columns.tolist() == both.get_feature_names_out().tolist() == names
    assert_array_equal(features[names[:4]], simclr().fit_transform(folder))


@pytest.mark.parametrize("n_jobs", [1, 3])
@pytest.mark.parametrize("method", ["fit", "partial_fit", "transform", "score"])
def test_bad_files_are_refused_by_name_all_at_once(
    simclr, folder, tmp_path, method, n_jobs, recwarn
):
    model = simclr(n_jobs=n_jobs)
    if method in ("transform", "score"):
        model.fit(folder).set_params(on_bad_files="skip")  # which is for fit only
    (tmp_path / "bad").mkdir()
    reasons = bad_files(tmp_path / "bad")
    X = [*folder, *reasons]
    with pytest.raises(ValueError, match=rf"{len(reasons)} of {len(X)} image files") as caught:
        getattr(model, method)(X)
    lines = str(caught.value).split("\n")
    assert "on_bad_files='skip'" in lines[-1]
    for line, (path, reason) in zip(lines[1:-1], reasons.items(), strict=True):
        assert re.match(rf"  {re.escape(path)}: .*({reason})", line)
    assert not recwarn.list


def test_of_very_many_bad_files_the_first_are_listed(folder):
    missing = [f"{number:03}.jpg" for number in range(300)]
    with pytest.raises(ValueError, match="300 of 332 image files") as caught:
        read_files([*folder, *missing])
    message = str(caught.value)
    assert message.count("No such file") == 20
    assert "000.jpg" in message and "019.jpg" in message and "020.jpg" not in message
    assert "and 280 more" in message


def test_nothing_is_trained_or_changed_by_bad_files(simclr, folder, monkeypatch):
    model = simclr().fit(folder)
    weights = model._weights
    with pytest.raises(ValueError, match=r"1 of 33 .*\n  gone\.png"):
        model.fit([*folder, "gone.png"])
    assert model._weights is weights and model.n_iter_ == 2


@pytest.mark.parametrize("position", [0, 7])
@pytest.mark.parametrize("kind", ["missing", "cut"])
@pytest.mark.parametrize("way", [{}, {"n_jobs": 2}, {"cache_dir": True}, {"stream": True}])
def test_skipped_files_take_their_labels_along(
    simclr, folder, photos, tmp_path, position, kind, way, monkeypatch
):
    images, labels = photos
    way = dict(way)
    if way.pop("stream", False):
        monkeypatch.setattr(_files, "_KEPT_BYTES", 1000)
        monkeypatch.setattr(_files, "_BLOCK_BYTES", 5000)  # 6 images
    if "cache_dir" in way:
        way["cache_dir"] = tmp_path / "cache"
    bad = tmp_path / "bad.png"
    if kind == "cut":  # of another size, which must not count
        large = save(tmp_path / "large.png", SMOOTH[:90, :90].copy())
        bad.write_bytes(large.read_bytes()[:-100])
    X = [*folder[:position], str(bad), *folder[position:]]
    y = np.insert(labels, position, 7)
    model = simclr(loss="supcon", on_bad_files="skip", **way)
    with pytest.warns(UserWarning, match=r"1 of 33 image files.*\n.*bad\.png.*\n.*labels") as seen:
        model.fit(X, y)
    assert [Path(warning.filename).name for warning in seen] == ["test_files.py"]
    expected = simclr(loss="supcon").fit(images, labels)
    assert model.image_shape_ == (16, 16, 3)
    assert_array_equal(model.transform(folder), expected.transform(images))
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[33, 32\]"):
        model.fit(X, labels)


def test_partial_fit_skips_too(simclr, folder, photos):
    images, labels = photos
    model = simclr(loss="supcon", on_bad_files="skip").partial_fit(images, labels)
    with pytest.warns(UserWarning, match=r"gone\.png"):
        model.partial_fit(["gone.png", *folder], [5, *labels])
    expected = simclr(loss="supcon").partial_fit(images, labels).partial_fit(images, labels)
    assert_array_equal(model.transform(images), expected.transform(images))


def test_callbacks_do_not_see_skipped_files(simclr, folder, photos):
    monitor = ScoringMonitor(scoring={"own": lambda estimator, X, y: estimator.score(X)})
    model = simclr(loss="supcon", on_bad_files="skip").set_callbacks(monitor)
    with pytest.warns(UserWarning, match=r"gone\.png"):
        model.fit(pd.Series(["gone.png", *folder]), pd.Series([5, *photos[1]]))
    scores = [row["own"] for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(scores) == 2
    assert scores[-1] == model.score(folder)


def test_classifier_skips_files_where_the_transformer_reads_labels(simclr, folder, photos):
    images, labels = photos

    def fit(X, y):
        transformer = simclr(loss="supcon", on_bad_files="skip")
        return SimCLRClassifier(transformer, max_iter=4, batch_size=8, random_state=0).fit(X, y)

    with pytest.warns(UserWarning, match=r"gone\.png"):
        model = fit(["gone.png", *folder], [-1, *labels])
    assert_array_equal(model.predict_proba(images), fit(images, labels).predict_proba(images))


def test_too_few_files(simclr, folder):
    skipping = simclr(on_bad_files="skip")
    with pytest.raises(ValueError, match=r"2 of 2 .*\n  a\.png.*\n  b\.png"):
        skipping.fit(["a.png", "b.png"])
    with pytest.raises(ValueError, match=r"Found array with 1 sample\(s\).*minimum of 2"):
        with pytest.warns(UserWarning, match=r"a\.png"):
            skipping.fit(["a.png", folder[0]])
    with pytest.raises(ValueError, match=r"Found array with 1 sample\(s\).*minimum of 2"):
        skipping.fit(folder[:1])
    model = simclr().fit(folder)
    assert model.transform(folder[:1]).shape == (1, 4)


# ------------------------------------------------------------------------------------------------
# Pillow's warnings


@pytest.mark.parametrize(
    "name, options, pixels_held",
    [
        ("a.jpg", {}, 100 * 80),  # an eighth of the sides is enough
        ("a.jpg", {"progressive": True}, 800 * 640),
        ("a.png", {}, 800 * 640),
    ],
)
def test_threads_wait_for_memory_that_decoding_takes(
    tmp_path, monkeypatch, name, options, pixels_held
):
    asked, spending = [], _decoding.PixelBudget.spending
    monkeypatch.setattr(
        _decoding.PixelBudget,
        "spending",
        lambda budget, n_pixels: asked.append(n_pixels) or spending(budget, n_pixels),
    )
    Image.new("RGB", (800, 640)).save(tmp_path / name, **options)
    read_files([str(tmp_path / name)], image_shape=(32, 32, 3))
    assert asked == [pixels_held]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_warnings_of_pillow_stay_inside(tmp_path, n_jobs, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60 * 96)  # warns of twice as many
    monkeypatch.setattr(_files, "_KEPT_BYTES", 100)
    paths = [str(save(tmp_path / f"{i}.png", SMOOTH)) for i in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Image.DecompressionBombWarning):
            Image.open(paths[0])
        before = list(warnings.filters)
        files = read_files(paths, n_jobs=n_jobs)
        assert_array_equal(files.rows[np.array([3])].reshape(SMOOTH.shape), SMOOTH)
        assert warnings.filters == before


def test_filters_of_this_thread_alone_are_left_to_it(monkeypatch):
    def filterwarnings(*args, **kwargs):
        pytest.fail("changes the filters of its context, where Python has such")

    monkeypatch.setattr(warnings, "filterwarnings", filterwarnings)
    before = list(warnings.filters)
    with _decoding._QuietPillow():
        assert warnings.filters[1:] == before
    assert warnings.filters == before


def test_filters_of_others_survive():
    quiet = _decoding._QuietPillow()
    with warnings.catch_warnings():
        before = list(warnings.filters)
        quiet.__enter__()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            quiet.__enter__()
            quiet.__exit__()
            quiet.__exit__()
            assert warnings.filters[0][0] == "error"
        assert warnings.filters == before


# ------------------------------------------------------------------------------------------------
# The estimators


@pytest.mark.parametrize("container", [list, np.array, pd.Series, tuple])
def test_files_in_pipelines_and_searches(simclr, folder, photos, container):
    _, labels = photos
    X = container(folder)
    model = make_pipeline(simclr(n_jobs=2), LogisticRegression())
    model.fit(X, labels)
    assert model.predict(X).shape == (32,)
    scores = cross_val_score(model, X, labels, cv=2, error_score="raise")
    assert np.isfinite(scores).all()
    search = GridSearchCV(model, {"simclrtransformer__temperature": [0.1, 0.5]}, cv=2)
    search.set_params(error_score="raise").fit(X, labels)
    assert search.best_score_ >= 0.5


def test_frame_of_one_column(simclr, folder):
    frame = pd.DataFrame({"file": folder})
    model = simclr().set_output(transform="pandas").fit(frame)
    assert not hasattr(model, "feature_names_in_")
    assert model.n_features_in_ == 768
    features = model.transform(frame)
    assert features.shape == (32, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_array_equal(model.transform(folder), features.to_numpy())
        model.transform(pd.DataFrame({"other": folder}))


def test_attributes_of_a_model_of_files(simclr, folder):
    model = simclr().fit(folder)
    assert model.image_shape_ == (16, 16, 3)
    assert model.pixel_range_ == (0.0, 255.0)


def test_transform_brings_files_to_the_images_of_fit(simclr, folder, tmp_path):
    model = simclr().fit(folder)
    large = save(tmp_path / "large.png", SMOOTH[:40, :30].copy())
    grey = save(tmp_path / "grey.png", GREY)
    resized = [
        np.asarray(Image.fromarray(array).resize((16, 16), Image.Resampling.BILINEAR))
        for array in (SMOOTH[:40, :30].copy(), GREY)
    ]
    resized[1] = np.repeat(resized[1][..., None], 3, axis=2)
    assert_array_equal(model.transform([large, grey]), model.transform(np.array(resized)))
    of_grey = simclr(image_size=16).fit([str(grey), str(save(tmp_path / "b.png", GREY[:9]))])
    assert of_grey.image_shape_ == (16, 16, 1)
    assert of_grey.transform(folder).shape == (32, 4)


def test_files_after_a_fit_on_arrays(simclr, folder, photos, digits, vectors, tmp_path):
    images, _ = photos
    model = simclr().fit(images / 255)
    assert_array_equal(model.transform(folder), model.transform(images))
    first = simclr(channel_axis=1).fit(images.transpose(0, 3, 1, 2))
    assert_array_equal(first.transform(folder), first.transform(images.transpose(0, 3, 1, 2)))
    rows = simclr(image_shape=(16, 16, 3)).fit(images.reshape(32, -1))
    assert_array_equal(rows.transform(folder), rows.transform(images.reshape(32, -1)))
    path = save(tmp_path / "digit.png", np.rint(digits[0][0] / 16 * 255).astype(np.uint8))
    model = simclr().fit(digits[0])  # floats from 0 to 16
    difference = model.transform([path]) - model.transform(digits[0][:1])
    assert abs(difference).max() < 0.01
    with pytest.raises(ValueError, match=r"pixels in 0\.\.255, .* fitted on pixels from -"):
        simclr().fit(images / 128 - 1.0).transform(folder)
    with pytest.raises(ValueError, match=r"paths of image files.*fitted on vectors"):
        simclr(encoder="mlp").fit(vectors).transform(folder)
    with pytest.raises(ValueError, match=r"1 or 3 channels.*\(16, 16, 4\)"):
        simclr().fit(np.repeat(images[..., :1], 4, axis=3)).transform(folder)


def test_image_shape_is_not_for_files(simclr, folder):
    with pytest.raises(ValueError, match=r"image_shape=\(16, 16\).*paths of image files.*image_si"):
        simclr(image_shape=(16, 16)).fit(folder)


def test_channel_axis_is_not_for_files(simclr, folder, photos):
    model = simclr(channel_axis=1).fit(folder)
    assert_array_equal(model.transform(folder), simclr().fit(photos[0]).transform(photos[0]))


def test_warm_start_and_partial_fit_keep_the_shape(simclr, folder, photos, tmp_path):
    images, _ = photos
    large = [str(save(tmp_path / f"large{i}.png", SMOOTH)) for i in range(4)]
    model = simclr(warm_start=True).fit(images).fit(large)
    assert model.partial_fit(large).image_shape_ == (16, 16, 3)
    assert model.n_iter_ == 5


@pytest.mark.parametrize("n_jobs", [0, 1.5, "2"])
def test_bad_n_jobs(simclr, folder, n_jobs):
    with pytest.raises(ValueError, match="n_jobs"):
        simclr(n_jobs=n_jobs).fit(folder)
    with pytest.raises(ValueError, match="n_jobs"):
        SimCLRClassifier(simclr(n_jobs=n_jobs)).fit(folder, [0, 1] * 16)


@pytest.mark.parametrize("frozen", [False, True])
def test_classifier_reads_files_once_and_as_arrays(simclr, folder, photos, decoded, frozen):
    images, labels = photos
    partly = np.where(np.arange(32) < 20, labels, -1)

    def fit(X):
        transformer = simclr().fit(images) if frozen else simclr()
        return SimCLRClassifier(transformer, max_iter=4, batch_size=8, random_state=0).fit(
            X, partly
        )

    model = fit(folder)
    assert sorted(decoded) == sorted(Path(path).name for path in folder)
    expected = fit(images)
    assert_array_equal(model.predict_proba(folder), expected.predict_proba(images))
    assert model.n_features_in_ == 768


@pytest.mark.parametrize("frozen", [False, True])
def test_classifier_skips_files_with_their_labels(simclr, folder, photos, frozen):
    images, labels = photos
    names = np.array(["cat", "dog"])[labels]

    def fit(X, y):
        transformer = simclr(on_bad_files="skip")
        if frozen:
            transformer.fit(images)
        return SimCLRClassifier(transformer, max_iter=4, batch_size=8, random_state=0).fit(X, y)

    with pytest.warns(UserWarning, match=r"gone\.png"):
        model = fit(["gone.png", *folder], ["bird", *names])
    assert model.classes_.tolist() == ["cat", "dog"]
    expected = fit(images, names)
    assert_array_equal(model.predict_proba(folder), expected.predict_proba(images))
    with pytest.raises(ValueError, match=r"1 of 33 .*\n  gone\.png"):
        model.predict(["gone.png", *folder])
    for left in (["cat"] * 32, [1] * 16 + [-1] * 16):  # with 0 left out, -1 is no class still
        labels = ["bird" if left[0] == "cat" else 0, *left]
        with pytest.raises(ValueError, match="only one class"), pytest.warns(UserWarning):
            fit(["gone.png", *folder], labels)


def test_classifier_sees_wrong_labels_before_it_reads_files(simclr, folder, decoded):
    with pytest.raises(ValueError, match="y holds 2 labels, but X has 32 rows"):
        SimCLRClassifier(simclr()).fit(folder, [0, 1])
    assert decoded == []


def test_hash_in_a_pass_equals_the_hash_of_the_whole(folder, photos, monkeypatch):
    monkeypatch.setattr(_files, "_KEPT_BYTES", 1000)
    expected = hashlib.blake2b(photos[0].tobytes(), digest_size=20).hexdigest()
    assert read_files(folder).rows.digest == expected
    assert _pixel_cache.content_digest(photos[0].reshape(32, -1)) == expected


def test_default_transformer_takes_files(folder):
    model = SimCLRTransformer(max_epochs=1, batch_size=16, random_state=0)
    assert model.fit_transform(folder).shape == (32, 128)
