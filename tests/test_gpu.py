"""The same promises on a GPU; skipped where there is none."""

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sklearn_simclr import SimCLRClassifier, _progress, _training
from sklearn_simclr._graphs import Replayed
from sklearn_simclr._views import Views
from sklearn_simclr.augmentation import (
    AffineAugmentation,
    ColorDrop,
    ColorJitter,
    Compose,
    Crop,
    Cutout,
    FeatureCorruption,
    Flip,
    GaussianBlur,
    GaussianNoise,
    QuarterTurns,
    Rotation,
    SimCLRAugmentation,
    Sobel,
    Solarize,
)
from sklearn_simclr.callbacks import MeasureHistory
from sklearn_simclr.encoders import MLPEncoder, ResNetEncoder
from sklearn_simclr.losses import resolve_loss

pytestmark = pytest.mark.gpu

_PARTS = (Crop, Flip, QuarterTurns, Rotation, ColorJitter, ColorDrop, GaussianBlur, GaussianNoise)
ALL_PARTS = Compose([(part.__name__, part()) for part in (*_PARTS, Sobel, Solarize, Cutout)])


def dropout_factory():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), nn.Dropout(0.5))


@pytest.fixture
def resnet(simclr):
    def make(**params):
        defaults = {"encoder": ResNetEncoder(width=0.125), "device": "cuda", "max_epochs": 3}
        return simclr(**defaults | params)

    return make


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_fit_and_transform(resnet, photos, precision):
    images, _ = photos
    model = resnet(precision=precision, max_epochs=20).fit(images)
    features = model.transform(images)
    assert features.dtype == np.float32 and np.isfinite(features).all()
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    assert 0 <= model.score(images) <= 1
    model.partial_fit(images)
    assert model.n_iter_ == 21


def test_auto_is_the_gpu(resnet, photos):
    images, _ = photos
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    resnet(device="auto").fit(images)
    assert torch.cuda.max_memory_allocated() > before


def test_pickle_of_a_gpu_model_gives_the_same_features_on_a_cpu(resnet, photos):
    images, _ = photos
    model = resnet(device="auto").fit(images)
    data = pickle.dumps(model)
    assert b"cuda" not in data
    on_cpu = pickle.loads(data).set_params(device="cpu")
    assert_allclose(on_cpu.transform(images), model.transform(images), rtol=1e-2, atol=1e-2)
    assert on_cpu.partial_fit(images).n_iter_ == 4


def test_pickle_of_a_cpu_model_gives_the_same_features_on_a_gpu(resnet, photos):
    images, _ = photos
    model = resnet(device="cpu").partial_fit(images)
    on_gpu = pickle.loads(pickle.dumps(model)).set_params(device="cuda")
    assert_allclose(on_gpu.transform(images), model.transform(images), rtol=1e-2, atol=1e-2)
    assert on_gpu.partial_fit(images).n_iter_ == 2


def test_nothing_stays_on_the_gpu(resnet, photos):
    images, _ = photos
    model = resnet(max_epochs=15)  # enough steps for a recording
    model.fit(images)  # what libraries keep for themselves
    before = torch.cuda.memory_allocated()
    model.fit(images)
    model.transform(images)
    model.score(images)
    model.partial_fit(images)
    assert torch.cuda.memory_allocated() <= before
    moved = pickle.dumps(model.set_params(device="auto"))
    assert b"cuda" not in moved


@pytest.mark.parametrize(
    "params",
    [{}, {"encoder": dropout_factory, "augmentation": torch.rand_like}],
    ids=["ours", "global draws"],
)
def test_process_is_left_as_it_was(resnet, photos, params):
    images, _ = photos

    def state():
        flags = ("enabled", "benchmark", "deterministic", "allow_tf32")
        return (
            [value.tolist() for value in torch.cuda.get_rng_state_all()],
            torch.get_rng_state().tolist(),
            torch.cuda.current_device(),
            [getattr(torch.backends.cudnn, flag) for flag in flags],
            torch.backends.cuda.matmul.allow_tf32,
            torch.get_float32_matmul_precision(),
        )

    before = state()
    model = resnet(**params).fit(images)
    model.transform(images)
    model.score(images)
    assert state() == before


def test_global_draws_are_seeded(resnet, photos):
    images, _ = photos
    params = {"encoder": dropout_factory, "precision": "float32"}
    first, second = (resnet(**params).fit(images).transform(images) for _ in range(2))
    assert_allclose(first, second, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "augmentation",
    [
        SimCLRAugmentation(),
        SimCLRAugmentation(size=48, blur_p=1.0),
        AffineAugmentation(),
        ALL_PARTS,
        FeatureCorruption(),
    ],
    ids=lambda augmentation: type(augmentation).__name__,
)
def test_one_seed_gives_one_pair_of_views_on_every_device(augmentation):
    shape = (16, 12) if isinstance(augmentation, FeatureCorruption) else (16, 3, 40, 40)
    batch = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    views = Views(augmentation, None, False)
    on_cpu, on_gpu = (
        views(batch.to(device), torch.Generator().manual_seed(0)) for device in ("cpu", "cuda")
    )
    for one, other in zip(on_cpu, on_gpu, strict=True):
        assert other.device.type == "cuda"
        assert_allclose(one, other.cpu(), atol=1e-3)


@pytest.fixture
def recordings(monkeypatch):
    """Whether each attempt to record a CUDA graph has come off."""
    record, done = Replayed._record, []
    monkeypatch.setattr(Replayed, "_record", lambda *args: done.append(record(*args)) or done[-1])
    return done


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd", "lars"])
@pytest.mark.parametrize(
    "augmentation",
    [SimCLRAugmentation(), AffineAugmentation(), ALL_PARTS],
    ids=lambda augmentation: type(augmentation).__name__,
)
def test_a_recorded_training_is_the_same(
    resnet, photos, recordings, monkeypatch, optimizer, augmentation
):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    params = {"augmentation": augmentation, "optimizer": optimizer, "learning_rate": 1e-3}
    model = resnet(precision="float32", max_epochs=15, **params)
    plain = model.set_params(compile=False).fit(photos[0]).loss_curve_
    assert not recordings
    recorded = model.set_params(compile="auto").fit(photos[0]).loss_curve_
    assert recordings == [True, True]  # views and the rest of a step
    assert recorded == pytest.approx(plain, rel=1e-2)


@pytest.mark.filterwarnings("ignore:Several threads")
def test_two_threads_record_their_steps_at_once(resnet, photos, recordings):
    expected = resnet(max_epochs=15).fit(photos[0]).loss_curve_
    with ThreadPoolExecutor(2) as pool:
        models = pool.map(lambda _: resnet(max_epochs=15).fit(photos[0]), range(2))
        curves = [model.loss_curve_ for model in models]
    assert recordings == 6 * [True]
    assert curves == [pytest.approx(expected, rel=1e-2)] * 2


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_fused_optimizers_work_with_another_default_dtype(resnet, photos, optimizer):
    torch.set_default_dtype(torch.float64)
    try:
        model = resnet(optimizer=optimizer, learning_rate=1e-3).fit(photos[0])
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.loss_curve_[-1] < model.loss_curve_[0]


def test_looking_for_anomalies_nothing_is_recorded(resnet, photos, recordings):
    with torch.autograd.detect_anomaly():
        resnet(max_epochs=15).fit(photos[0])
    assert not recordings


def test_a_training_on_vectors_is_recorded(simclr, vectors, recordings):
    model = simclr(encoder=MLPEncoder(16), batch_size=12, max_epochs=8, device="cuda")
    plain = model.set_params(compile=False, precision="float32").fit(vectors).loss_curve_
    recorded = model.set_params(compile="auto").fit(vectors).loss_curve_
    assert recordings == [True, True]
    assert recorded == pytest.approx(plain, rel=1e-2)


def test_streamed_batches_and_callbacks_go_with_recorded_steps(
    resnet, photos, recordings, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (1, 1))
    history = MeasureHistory(photos[0])
    model = resnet(max_epochs=12).set_callbacks(history).fit(photos[0])
    assert recordings == [True, True]
    assert model.loss_curve_[-1] < model.loss_curve_[0]


@pytest.mark.parametrize("augmentation", ["auto", torch.clone])
def test_a_compiled_training_is_the_same(resnet, photos, augmentation):
    params = {"augmentation": augmentation, "precision": "float32", "learning_rate": 1e-4}
    curves = [
        resnet(compile=compile, **params).fit(photos[0]).loss_curve_ for compile in (True, False)
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-2)


def test_a_long_training_is_compiled_on_its_way(resnet, photos, recordings, monkeypatch):
    monkeypatch.setattr(_training, "_WORTH_COMPILING", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = resnet(max_epochs=25).fit(photos[0])
    assert recordings == [True, True]  # the first epoch is too short for one of its own
    assert model.loss_curve_[-1] < model.loss_curve_[0]


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd", "lars"])
def test_a_step_does_not_wait_for_the_gpu(resnet, photos, optimizer):
    run = resnet(optimizer=optimizer)._prepare(photos[0], None, continuing=False)
    generator, index = torch.Generator().manual_seed(0), torch.arange(16)
    run.network.train()
    for is_watched in (False, True):  # the first step loads and allocates
        torch.cuda.set_sync_debug_mode("error" if is_watched else "default")
        try:
            x = torch.cat(run.views(run.samples.batch(index), generator))
            z = run.network.head(run.network(x))
            run.optimizer.zero_grad()
            run.objective(*z.chunk(2), index).backward()
            run.optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("loss", ["nt_xent", "nt_logistic", "margin_triplet", "dcl", "supcon"])
def test_losses_are_those_of_the_cpu(loss):
    z = torch.randn(2, 32, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(32) % 5 - 1
    values, gradients = [], []
    for device in ("cpu", "cuda"):
        projections = z.to(device).requires_grad_()
        value = resolve_loss(loss, 0.2)(*projections, labels.to(device))
        values.append(value.item())
        gradients.append(torch.autograd.grad(value, projections)[0].cpu())
    assert values[1] == pytest.approx(values[0], rel=1e-3)
    assert_allclose(gradients[1], gradients[0], atol=1e-4)


def test_supervised_loss_trains(resnet, photos):
    model = resnet(loss="supcon", max_epochs=20).fit(*photos)
    assert model.loss_curve_[-1] < model.loss_curve_[0]


@pytest.mark.parametrize("method", ["linear", "fine_tuning"])
def test_classifier(resnet, photos, method):
    images, labels = photos
    few = np.where(np.arange(32) < 8, labels, -1)
    model = SimCLRClassifier(resnet(), method=method, max_iter=20, random_state=0).fit(images, few)
    assert model.predict_proba(images).shape == (32, 2)
    on_cpu = pickle.loads(pickle.dumps(model))
    on_cpu.transformer_.set_params(device="cpu")
    assert_allclose(on_cpu.predict_proba(images), model.predict_proba(images), atol=2e-2)


def test_training_is_close_to_that_of_the_cpu(resnet, photos):
    images, _ = photos
    on_cpu, on_gpu = (
        resnet(device=device, precision="float32", max_epochs=1).fit(images)
        for device in ("cpu", "cuda")
    )
    assert on_gpu.loss_ == pytest.approx(on_cpu.loss_, rel=0.02)
    assert_allclose(on_gpu.mean_, on_cpu.mean_, rtol=1e-5)


def test_data_beyond_the_memory_of_the_gpu_is_sent_batch_by_batch(resnet, photos, monkeypatch):
    images, _ = photos
    model, index = resnet(precision="float32", learning_rate=1e-4), torch.tensor([31, 0, 7])
    curve, samples = model.fit(images).loss_curve_, model._restore(images, min_samples=1)[1]
    assert samples._resident is not None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (1, 1))
    streamed = model._restore(images, min_samples=1)[1]
    assert streamed._resident is None
    assert torch.equal(streamed.batch(index), samples.batch(index))
    assert model.fit(images).loss_curve_ == pytest.approx(curve, rel=1e-2)


@pytest.mark.parametrize("dtype", [np.uint8, ">f8"])
def test_a_memmap_goes_to_the_gpu_in_blocks(resnet, photos, monkeypatch, tmp_path, dtype):
    monkeypatch.setattr("sklearn_simclr._data._BLOCK_VALUES", 5 * photos[0][0].size)
    images = photos[0].astype(dtype)
    np.save(tmp_path / "images.npy", images)
    on_disk = np.load(tmp_path / "images.npy", mmap_mode="r")
    samples = resnet().fit(images)._restore(on_disk, min_samples=1)[1]
    assert samples._resident.device.type == "cuda"
    in_memory = resnet().fit(images)._restore(images, min_samples=1)[1]
    index = torch.tensor([31, 0, 7])
    assert torch.equal(samples.batch(index), in_memory.batch(index))


def test_a_step_beyond_the_memory_of_the_gpu_is_taken_in_micro_batches(resnet):
    images = np.random.default_rng(0).integers(0, 256, (256, 32, 32, 3), dtype=np.uint8)
    model = resnet(encoder=ResNetEncoder(), batch_size=256, max_epochs=1)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model.fit(images)
    peak, total = torch.cuda.max_memory_reserved(), torch.cuda.mem_get_info()[1]
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction(0.6 * peak / total)
    try:
        with pytest.warns(UserWarning, match=r"\(batch_size=256\)\. From now on it gets"):
            model.fit(images)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert np.isfinite(model.loss_)
    assert torch.cuda.memory_allocated() <= before


def test_tensors_on_the_gpu_are_taken(resnet, photos):
    images, _ = photos
    model = resnet().fit(images)
    on_gpu = torch.tensor(images, device="cuda")
    assert_array_equal(model.transform(on_gpu), model.transform(images))


def test_unavailable_device(resnet, photos):
    index = torch.cuda.device_count()
    with pytest.raises(ValueError, match=f"device='cuda:{index}' cannot be used"):
        resnet(device=f"cuda:{index}").fit(photos[0])


def test_hash_does_not_depend_on_where_the_model_was_used(resnet, photos):
    images, _ = photos
    model = resnet().fit(images)
    before = joblib.hash(model)
    model.transform(images)
    assert joblib.hash(pickle.loads(pickle.dumps(model))) == before


class LeavesTheGpu(TorchDispatchMode):
    """Note the largest tensor of numbers that is copied from the GPU to the CPU."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        sources = [arg for arg in args if isinstance(arg, torch.Tensor) and arg.is_cuda]
        if sources and isinstance(result, torch.Tensor) and result.device.type == "cpu":
            self.largest = max(self.largest, *(source.numel() for source in sources))
        return result


@pytest.mark.parametrize("method", ["transform", "fit_transform"])
def test_dispatched_tensors_stay_on_the_gpu(resnet, photos, monkeypatch, method):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # without which scikit-learn refuses
    images = torch.tensor(photos[0], device="cuda")
    model = resnet(precision="float32", max_epochs=1, learning_rate=1e-4)
    expected = model.fit(photos[0]).transform(photos[0])
    with config_context(array_api_dispatch=True), LeavesTheGpu() as copies:
        features = getattr(model, method)(images)
    assert features.device == images.device and features.dtype == torch.float32
    assert not features.is_inference()
    assert_allclose(features.cpu().numpy(), expected, rtol=1e-2, atol=1e-2)
    if method == "transform":  # in fit the weights come down to be kept
        assert copies.largest <= 16
    with config_context(array_api_dispatch=True):
        on_cpu = model.transform(torch.tensor(photos[0]))
        assert model.set_params(device="cpu").transform(images).device == images.device
    assert on_cpu.device.type == "cpu"


def test_dispatched_classifier_answers_on_the_gpu(resnet, photos, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    images, labels = (torch.tensor(part, device="cuda") for part in photos)
    with config_context(array_api_dispatch=True):
        model = SimCLRClassifier(resnet(), method="linear", random_state=0).fit(images, labels)
        for name in ("predict", "predict_proba", "decision_function"):
            assert getattr(model, name)(images).device == images.device
        texts = np.array(["cat", "dog"])[photos[1]]
        model = SimCLRClassifier(resnet(), method="linear", random_state=0).fit(images, texts)
        assert set(model.predict(images)) <= {"cat", "dog"}


def test_exported_module_moves_to_the_gpu(resnet, photos):
    model = resnet(image_size=12).fit(photos[0])
    module = model.to_torch().cuda()
    with torch.no_grad():
        features = module(torch.tensor(photos[0], device="cuda"))
    assert features.is_cuda
    assert_allclose(features.cpu().numpy(), model.transform(photos[0]), rtol=1e-2, atol=1e-2)


def test_verbose_names_the_gpu_and_waits_for_it(resnet, photos, capsys, monkeypatch):
    monkeypatch.setattr(_progress, "_TOLD_AFTER", 0.0)
    resnet(verbose=1, batch_size=4).fit(photos[0])
    first, estimate, *_ = capsys.readouterr().out.splitlines()
    assert f"cuda ({torch.cuda.get_device_name()}) in " in first
    assert " images/s: about " in estimate
