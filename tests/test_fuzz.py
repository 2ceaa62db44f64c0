"""Hostile files and arrays: documented exceptions only; no crash, no hang, no memory beyond bounds.

Every case is a function of its seed, which a failure names. `python tests/test_fuzz.py FIRST END
FOLDER` runs the files of these seeds, as the tests do in a process of its own.
"""

import faulthandler
import io
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from PIL import Image
from scipy import sparse
from torch import nn

from sklearn_simclr import SimCLRTransformer, _decoding
from sklearn_simclr._files import read_files

SECONDS_A_CASE = 20
PIXELS = 2**20  # the bound while files are fuzzed
GROWTH = 200 * 2**20  # bytes that decoding files of so many pixels may take


# ------------------------------------------------------------------------------------------------
# Files


def sound_files():
    """Small files of all formats and modes, in bytes."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (24, 17, 3), dtype=np.uint8))
    modes = {mode: colour.convert(mode) for mode in ("1", "L", "RGB", "RGBA", "LA", "CMYK", "P")}
    modes["I;16"] = Image.fromarray(rng.integers(0, 2**16, (24, 17), dtype=np.uint16))
    modes["F"] = Image.fromarray(rng.random((24, 17), dtype=np.float32))
    tags = Image.Exif()
    tags[0x0112] = 6
    recipes = [
        *(("JPEG", mode, {}) for mode in ("L", "RGB", "CMYK")),
        ("JPEG", "RGB", {"progressive": True, "exif": tags}),
        *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
        ("PNG", "P", {"transparency": 3, "exif": tags}),
        ("PNG", "RGB", {"save_all": True, "append_images": [colour.rotate(90)] * 2}),
        ("WEBP", "RGB", {"exif": tags}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGB", {"save_all": True, "append_images": [colour.rotate(90)] * 2}),
        *(("BMP", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
        *(("TIFF", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "F")),
        *(("TIFF", "RGB", {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "jpeg")),
        ("TIFF", "1", {"compression": "group4"}),
        ("TIFF", "RGB", {"exif": tags, "compression": "packbits"}),
        *(("PPM", mode, {}) for mode in ("1", "L", "RGB", "I;16")),
        ("GIF", "P", {}),
        ("GIF", "L", {"interlace": 1}),
        ("GIF", "P", {"save_all": True, "append_images": [colour.rotate(90)] * 2}),
    ]
    files = []
    for file_format, mode, options in recipes:
        file = io.BytesIO()
        modes[mode].save(file, file_format, **options)
        files.append(file.getvalue())
    files.append(b"P3 3 2 255 " + b"1 2 3 " * 6)
    files.append(b"P2 3 2 1000 " + b"100 " * 6)
    files.append(b"Pf 3 2 -1.0\n" + bytes(24))
    return files


NUMBERS = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 2**24, 2**31 - 1, 2**31, 2**32 - 1]


def mutate(data, rng, others):
    """Damage a file in one to four ways, in its first bytes more often than elsewhere."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if not data:
            break
        end = len(data) if rng.random() < 0.5 else min(64, len(data))
        at, kind = int(rng.integers(end)), rng.integers(8)
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at : at + 8] = rng.bytes(int(rng.integers(9)))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 32))]
        elif kind == 4:
            data[at:at] = rng.bytes(int(rng.integers(1, 32)))
        elif kind == 5:
            size, order = int(rng.choice([1, 2, 4])), str(rng.choice(["big", "little"]))
            number = int(rng.choice(NUMBERS)) % 256**size
            data[at : at + size] = number.to_bytes(size, order)
        elif kind == 6:
            other = others[rng.integers(len(others))]
            data[at:] = other[min(at, len(other)) :]
        else:
            data[at:at] = data[at : at + int(rng.integers(1, 64))] * int(rng.integers(1, 20))
    return bytes(data)


def try_file(seed, files, folder):
    """Read a mutated file; return whether that worked. Anything undocumented is an error."""
    rng = np.random.default_rng(seed)
    path = folder / f"{seed}.img"
    path.write_bytes(mutate(files[seed % len(files)], rng, files))
    try:
        read = read_files([str(path)], image_size=8)
    except ValueError as error:
        lines = str(error).split("\n")
        assert lines[0] == "1 of 1 image files in X cannot be read:", error
        assert lines[1].startswith(f"  {path}: ") and len(lines) == 3, error
        return False
    finally:
        path.unlink()
    assert read.rows.shape == (1, np.prod(read.image_shape)) and read.rows.dtype == np.uint8
    return True


def fuzz_files(first, end, folder):
    """Read the mutated files of the seeds from `first` up to `end`, within bounds of memory."""
    import resource

    def peak():
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    _decoding.LARGEST_PIXELS = PIXELS
    files = sound_files()
    n_read, before = 0, peak()
    warnings.simplefilter("error")
    for seed in range(first, end):
        print("seed", seed, flush=True)  # the last one printed is where a crash was
        faulthandler.dump_traceback_later(SECONDS_A_CASE, exit=True)
        n_read += try_file(seed, files, folder)
        assert peak() - before < GROWTH, f"seed {seed}: {(peak() - before) / 2**20:.0f} MiB"
    faulthandler.cancel_dump_traceback_later()
    print(f"read {n_read} of {end - first}, {(peak() - before) / 2**20:.0f} MiB")


def in_a_process(first, end, folder):
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, __file__, str(first), str(end), str(folder)],
        capture_output=True,
        text=True,
        timeout=60 + (end - first),
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{lines[-1:]}\n{done.stderr[-3000:]}"
    assert lines[-1].startswith("read ")
    return int(lines[-1].split()[1])


def test_sound_files_are_read(tmp_path):
    refused = []
    for number, data in enumerate(sound_files()):
        path = tmp_path / str(number)
        path.write_bytes(data)
        try:
            read_files([str(path)])
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) == 2 and all("32 bits" in message for message in refused)


def test_mutated_files(tmp_path):
    assert 30 < in_a_process(0, 400, tmp_path) < 350  # a good part of them is damaged only a little


@pytest.mark.slow
@pytest.mark.parametrize("first", range(10_000, 30_000, 4000))
def test_many_mutated_files(tmp_path, first):
    in_a_process(first, first + 4000, tmp_path)


# ------------------------------------------------------------------------------------------------
# Arrays

DTYPES = [
    *("?", "i1", "u1", "<i2", ">i2", "<u2", "i4", ">u4", "i8", "u8"),
    *("f2", "<f4", ">f4", "f8", ">f8", "g", "c8", "c16"),
    *("M8[s]", "m8[s]", "U3", "S3", "V4", "O"),
]


def hostile_values(shape, dtype, rng):
    """Fill an array of any type with values that are harmless, odd or impossible."""
    dtype = np.dtype(dtype)
    values = rng.normal(0, 10.0 ** rng.integers(-3, 4), shape)
    if rng.random() < 0.3:
        values = np.abs(values) % 1
    if values.size and rng.random() < 0.25:
        odd = [np.nan, np.inf, -np.inf, 1e38, 1e39, -1e300, 1e-45, 5e-324, 0.0, 2**31, 2.0**64]
        values.flat[rng.integers(values.size, size=rng.integers(1, 4))] = rng.choice(odd)
    if rng.random() < 0.15:
        values = np.full(shape, float(rng.choice([0, 1, 255, -1, np.nan, 1e39])))
    if dtype.kind in "USV":
        return np.zeros(shape, dtype) if dtype.kind == "V" else values.astype(dtype)
    if dtype.kind == "O":
        values = values.astype(object)
        if values.size and rng.random() < 0.5:
            strange = [None, "text", b"x", 3, 2**200, 1j, [1], {"a": 1}, np.zeros(2), object, pd.NA]
            values.flat[rng.integers(values.size)] = strange[rng.integers(len(strange))]
        return values
    with np.errstate(all="ignore"):
        return values.astype(dtype)


def hostile_layout(array, rng):
    """Turn an array into a view or a subclass of itself."""
    kind = rng.integers(9)
    if kind == 0 and array.ndim:
        return array[tuple(slice(None, None, -1) for _ in range(array.ndim))]
    if kind == 1 and array.ndim:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if kind == 2:
        return np.asfortranarray(array)
    if kind == 3:
        return np.ma.masked_array(array, mask=rng.random(array.shape) < 0.2)
    if kind == 4 and array.ndim:
        return np.broadcast_to(array[:1], array.shape)
    if kind == 5:
        array.flags.writeable = False
    if kind == 6 and array.ndim == 2:
        return np.asmatrix(array)
    if kind == 7 and array.dtype.kind in "fiu":
        return np.rec.fromarrays([array, array], names="a,b")
    return array


def hostile_container(array, rng):
    """Put an array into something else."""
    kind = rng.integers(16)
    if kind == 0:
        return array.tolist()
    if kind == 1 and array.ndim:
        return [*array]
    if kind == 2 and array.ndim:
        rows = [*array.tolist()]
        return [*rows, rows[0][:1] if rows and isinstance(rows[0], list) else [1, 2]]
    if kind == 3 and array.ndim == 2:
        return pd.DataFrame(array)
    if kind == 4 and array.ndim == 2:
        frame = pd.DataFrame(array)
        frame["last"] = rng.choice(["a", "b"], len(frame))
        return frame
    if kind == 5 and array.ndim == 2:
        return pl.DataFrame(np.ascontiguousarray(array))
    if kind == 6 and array.ndim == 2:
        return sparse.csr_array(array)
    if kind == 7:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        return tensor.to(torch.bfloat16) if rng.random() < 0.5 else tensor.requires_grad_()
    if kind == 8:
        return torch.from_numpy(np.ascontiguousarray(array)).to("meta")
    if kind == 9:
        return torch.from_numpy(np.ascontiguousarray(array)).to_sparse()
    if kind == 10 and array.ndim:
        return pd.Series([*array])
    if kind == 11:
        return (value for value in array.ravel())
    if kind == 12:
        return {"X": array}
    if kind == 13 and array.ndim:
        return [torch.from_numpy(np.ascontiguousarray(row)) for row in array]
    if kind == 14 and array.ndim == 2:
        return pd.DataFrame(array).astype("category")
    if kind == 15 and array.ndim == 2:
        return pd.DataFrame(array).convert_dtypes()
    return array


def hostile_x(rng):
    """Return an X, or None where the libraries that make it do not admit the combination."""
    ndim = int(rng.choice([0, 1, 2, 2, 2, 3, 3, 4, 4, 5, 6]))
    shape = tuple(int(side) for side in rng.choice([0, 1, 2, 3, 4, 5, 7, 9], ndim))
    if ndim and rng.random() < 0.7:
        shape = (int(rng.integers(2, 9)), *(max(side, 1) for side in shape[1:]))
    try:
        dtypes = DTYPES if rng.random() < 0.6 else ["u1", "i8", "f4", "f8"]
        array = hostile_values(shape, str(rng.choice(dtypes)), rng)
        array = hostile_layout(array, rng)
        return hostile_container(array, rng) if rng.random() < 0.5 else array
    except Exception:
        return None


def flat():
    """Encoder of whatever there is."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))


def try_array(seed):
    """Fit a hostile X; return whether that worked. Anything undocumented is an error."""
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        X = hostile_x(rng)
    if X is None:
        return None
    params = {
        "image_shape": [None, None, None, (1, 3), (3, 3, 1), (1, 1, 2)][rng.integers(6)],
        "channel_axis": int(rng.choice([-1, -1, 1])),
        "image_size": [None, None, None, 5][rng.integers(4)],
    }
    model = SimCLRTransformer(flat, max_epochs=1, batch_size=4, random_state=0, **params)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            features = model.fit(X).transform(X)
    except (ValueError, TypeError) as error:
        assert str(error)
        return False
    except FloatingPointError:
        return False
    finally:
        assert time.perf_counter() - start < SECONDS_A_CASE
    assert features.dtype == np.float32 and features.shape[1] == 4
    assert np.isfinite(features).all()
    return True


def fuzz_arrays(seeds):
    done = []
    for seed in seeds:
        try:
            done.append(try_array(seed))
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    return done


def test_hostile_arrays():
    done = fuzz_arrays(range(600))
    assert done.count(True) > 60 and done.count(False) > 200


@pytest.mark.slow
@pytest.mark.parametrize("first", range(10_000, 20_000, 2000))
def test_many_hostile_arrays(first):
    fuzz_arrays(range(first, first + 2000))


if __name__ == "__main__":
    fuzz_files(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
