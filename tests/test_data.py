"""Every kind of X to the same batches, and its statistics against NumPy."""

import threading
import warnings

import numpy as np
import pytest
import torch

from sklearn_simclr import _data
from sklearn_simclr._data import (
    Samples,
    batch_shape,
    channel_statistics,
    shuffled_batches,
)
from sklearn_simclr._reading import (
    as_array,
    read_extremes,
    read_image_shape,
    read_pixel_range,
)

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 256, (10, 6, 5, 3), dtype=np.uint8)
IMAGES[0, 0, 0, :2] = 0, 255
FIRST = IMAGES.transpose(0, 3, 1, 2)
ROWS = IMAGES.reshape(10, -1)


def read(X, image_shape=None, channel_axis=-1):
    """Samples of an X, by the way that leads from one to the other."""
    X = as_array(X)
    shape = read_image_shape(X.shape, image_shape, channel_axis)
    pixel_range = shape and read_pixel_range(read_extremes(X, "Test"))
    return Samples(X, shape, channel_axis == 1, pixel_range, CPU)


def whole_batch(samples):
    return samples.batch(torch.arange(len(samples)))


@pytest.mark.parametrize(
    "X, image_shape, channel_axis",
    [
        pytest.param(IMAGES, None, -1, id="uint8"),
        pytest.param(IMAGES / np.float32(255), None, -1, id="float32"),
        pytest.param(IMAGES / 255, None, -1, id="float64"),
        pytest.param(IMAGES.astype(float), None, -1, id="float in 0..255"),
        pytest.param(IMAGES.astype(int), None, -1, id="int64"),
        pytest.param(np.asfortranarray(IMAGES), None, -1, id="fortran order"),
        pytest.param(FIRST, None, 1, id="channels first"),
        pytest.param(np.ascontiguousarray(FIRST), None, 1, id="channels first, contiguous"),
        pytest.param(ROWS, (6, 5, 3), -1, id="rows"),
        pytest.param(ROWS, [6, 5, 3], -1, id="rows, shape in a list"),
        pytest.param(FIRST.reshape(10, -1), (6, 5, 3), 1, id="rows, channels first"),
        pytest.param(IMAGES.tolist(), None, -1, id="nested list"),
        pytest.param(list(IMAGES), None, -1, id="list of arrays"),
        pytest.param(tuple(torch.from_numpy(IMAGES.copy())), None, -1, id="tuple of tensors"),
        pytest.param(torch.from_numpy(IMAGES.copy()), None, -1, id="torch uint8"),
        pytest.param(
            torch.tensor(IMAGES / 255, requires_grad=True), None, -1, id="torch with gradient"
        ),
    ],
)
def test_every_form_of_the_images_gives_the_same_batch(X, image_shape, channel_axis):
    samples = read(X, image_shape, channel_axis)
    batch = whole_batch(samples)
    assert len(samples) == 10
    assert samples.image_shape == (6, 5, 3) and samples.input_shape == (3, 6, 5)
    assert batch.dtype == torch.float32
    np.testing.assert_array_equal(batch.numpy(), FIRST.astype(np.float32) / np.float32(255))


def test_gray_images_get_a_channel():
    gray = IMAGES[..., 0]
    expected = gray[:, None].astype(np.float32) / np.float32(255)
    for X, image_shape in [(gray, None), (gray[..., None], None), (gray.reshape(10, -1), (6, 5))]:
        samples = read(X, image_shape)
        assert samples.image_shape == (6, 5, 1)
        np.testing.assert_array_equal(whole_batch(samples).numpy(), expected)


def test_a_read_only_memmap_is_read_without_a_warning(tmp_path):
    path = tmp_path / "images"
    IMAGES.tofile(path)
    X = np.memmap(path, dtype=np.uint8, mode="r", shape=IMAGES.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = whole_batch(read(X))
    np.testing.assert_array_equal(batch.numpy(), FIRST.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("X", [IMAGES, IMAGES / np.float32(255), ROWS.astype(np.float32)])
def test_batches_are_the_chosen_rows_and_never_write_to_the_data(X):
    before = X.copy()
    samples = read(X)
    index = torch.tensor([3, 0, 3])
    whole = whole_batch(samples)
    batch = samples.batch(index)
    assert torch.equal(batch, whole[index])
    batch.fill_(-1)
    assert np.array_equal(X, before)


def test_vectors_are_unchanged():
    vectors = np.random.default_rng(0).normal(50, 100, (7, 4)).astype(np.float32)
    samples = read(vectors)
    assert samples.image_shape is None and samples.input_shape == (4,)
    assert np.array_equal(whole_batch(samples).numpy(), vectors)


# Statistics


@pytest.mark.parametrize("block_values", [1, 200, 2**24])
@pytest.mark.parametrize("channel_axis", [-1, 1])
def test_channel_statistics_equal_numpy(monkeypatch, block_values, channel_axis):
    monkeypatch.setattr(_data, "_BLOCK_VALUES", block_values)
    X = IMAGES if channel_axis == -1 else FIRST
    mean, scale = channel_statistics(read(X, None, channel_axis))
    pixels = IMAGES.astype(np.float64).reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(scale, pixels.std(0), rtol=1e-6)
    assert mean.dtype == scale.dtype == np.float32


@pytest.mark.parametrize("block_values", [8, 2**24])
def test_feature_statistics_equal_numpy(monkeypatch, block_values):
    monkeypatch.setattr(_data, "_BLOCK_VALUES", block_values)
    rng = np.random.default_rng(0)
    vectors = rng.normal([0, 1000, -5, 3], [1, 0.5, 1e-3, 40], (300, 4)).astype(np.float32)
    mean, scale = channel_statistics(read(vectors))
    np.testing.assert_allclose(mean, vectors.astype(np.float64).mean(0), rtol=1e-6)
    np.testing.assert_allclose(scale, vectors.astype(np.float64).std(0), rtol=1e-5)


@pytest.mark.parametrize("X", [np.full((5, 4, 4), 77, np.uint8), np.full((5, 3), 0.1)])
def test_the_scale_of_a_constant_is_one(X):
    mean, scale = channel_statistics(read(X))
    np.testing.assert_allclose(mean, 77 / 255 if X.ndim == 3 else 0.1, rtol=1e-6)
    assert (scale == 1).all()


# Batches of an epoch


def test_batches_of_an_epoch_leave_out_as_little_as_possible():
    for n in range(2, 300):
        for batch_size in (2, 3, 4, 5, 7, 16, 64, 100, 255, 256, 1000):
            n_batches, size = batch_shape(n, batch_size)
            sit_out = n - n_batches * size
            assert n_batches >= 1
            assert 2 <= size <= batch_size
            assert 0 <= sit_out < max(n_batches, 2)


@pytest.mark.parametrize(
    "n, batch_size, expected",
    [
        (2, 2, (1, 2)),
        (3, 2, (1, 2)),
        (5, 2, (2, 2)),
        (7, 3, (3, 2)),
        (256, 256, (1, 256)),
        (257, 256, (2, 128)),
        (100, 256, (1, 100)),
        (1024, 256, (4, 256)),
        (50_000, 512, (98, 510)),
    ],
)
def test_batch_shape(n, batch_size, expected):
    assert batch_shape(n, batch_size) == expected


@pytest.mark.parametrize("n, batch_size", [(2, 2), (3, 2), (100, 256), (257, 256), (1000, 64)])
def test_shuffled_batches_hold_no_index_twice(n, batch_size):
    index = shuffled_batches(n, batch_size, torch.Generator().manual_seed(0))
    assert index.shape == batch_shape(n, batch_size)
    assert len(index.unique()) == index.numel()
    assert index.min() >= 0 and index.max() < n


def test_shuffled_batches_are_shuffled_by_the_generator():
    def draw(seed):
        return shuffled_batches(1000, 64, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert not torch.equal(draw(0).flatten().sort().values, draw(0).flatten())


def test_every_row_gets_its_turn():
    generator = torch.Generator().manual_seed(0)
    seen = torch.cat([shuffled_batches(9, 4, generator).flatten() for _ in range(100)])
    n_turns = torch.bincount(seen, minlength=9)
    assert n_turns.min() > 60


# Arrays larger than memory


@pytest.fixture
def mapped(tmp_path):
    """Return a function that puts an array into a file and maps it."""

    def save(array):
        np.save(tmp_path / "X.npy", array)
        return np.load(tmp_path / "X.npy", mmap_mode="r")

    return save


class CountingRows:
    """Rows that remember what was read of them, and in which threads."""

    def __init__(self, rows, fail_at=None):
        self.rows, self.fail_at = rows, fail_at
        self.dtype, self.shape = rows.dtype, rows.shape
        self.read, self.threads = [], set()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if self.fail_at in index:
            raise OSError("the disk is gone")
        self.read.append(index.tolist())
        self.threads.add(threading.current_thread())
        return self.rows[index]


@pytest.mark.parametrize("dtype", ["u1", "<f8", ">f4", "<i2", ">u2", "<f2", "?"])
@pytest.mark.parametrize("change", [lambda X: X, lambda X: X[::-1], lambda X: X[:, ::2, 1:]])
def test_a_memmap_gives_the_batches_of_the_array(mapped, dtype, change):
    array = (IMAGES // 64).astype(dtype)
    expected, found = read(change(array)), read(change(mapped(array)))
    assert found.pixel_range == expected.pixel_range
    assert isinstance(found.rows, np.memmap)
    assert torch.equal(whole_batch(found), whole_batch(expected))
    assert found.digest() == expected.digest()


def test_batches_are_those_of_batch(mapped):
    indices = torch.randperm(10).split(3)
    for samples in (read(IMAGES), read(mapped(IMAGES))):
        batches = list(samples.batches(indices))
        assert len(batches) == 4
        for index, batch in zip(indices, batches, strict=True):
            assert torch.equal(batch, samples.batch(index))


def test_batches_do_not_share_memory_with_the_rows():
    rows = np.ones((4, 3), np.float32)
    for batch in Samples(rows, None, False, None, CPU).batches(torch.arange(4).split(2)):
        batch.zero_()
    assert (rows == 1).all()


def test_only_a_few_batches_are_read_ahead():
    rows = CountingRows(ROWS)
    batches = Samples(rows, (6, 5, 3), False, (0.0, 255.0), CPU).batches(torch.arange(10).split(1))
    for number in range(3):
        next(batches)
        assert len(rows.read) <= number + 1 + 2
    del batches  # whoever no longer wants them lets the reading end
    assert len(rows.read) <= 5
    assert threading.current_thread() not in rows.threads
    assert not any(thread.is_alive() for thread in rows.threads)


def test_an_error_of_reading_ahead_arrives_with_its_batch():
    rows = CountingRows(ROWS, fail_at=4)
    batches = Samples(rows, (6, 5, 3), False, (0.0, 255.0), CPU).batches(torch.arange(10).split(2))
    assert [len(next(batches)) for _ in range(2)] == [2, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert not any(thread.is_alive() for thread in rows.threads)


def test_the_digest_tells_what_the_samples_are():
    changed = IMAGES.copy()
    changed[3, 2, 1, 0] ^= 1
    digests = {
        read(X, channel_axis=axis).digest()
        for X, axis in [
            (IMAGES, -1),
            (changed, -1),
            (IMAGES[::-1], -1),
            (IMAGES[:9], -1),
            (IMAGES.astype(float), -1),
            (FIRST, 1),
            (ROWS, -1),
            (IMAGES.reshape(10, 5, 6, 3), -1),
        ]
    }
    assert len(digests) == 8
    assert read(IMAGES.copy()).digest() == read(IMAGES).digest() == read(ROWS, (6, 5, 3)).digest()


def test_batches_of_bytes_stay_bytes_where_that_is_asked_for():
    samples = read(IMAGES).in_bytes()
    assert whole_batch(samples).dtype == torch.uint8
    torch.testing.assert_close(whole_batch(samples), torch.from_numpy(FIRST))


@pytest.mark.parametrize("X", [IMAGES / 255, IMAGES.astype(float)])
def test_batches_of_floats_are_the_same_where_bytes_are_asked_for(X):
    samples = read(X)
    assert samples.in_bytes() is samples
