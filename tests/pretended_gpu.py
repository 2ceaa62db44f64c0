"""What a training step asks of a GPU makes nobody wait for it; watched without a GPU.

Tensors on the GPU are torch's fakes, which know their shapes only; tensors on the CPU are real, so
that the parameters of views are drawn as ever. Every call that involves the GPU is looked at.
`test_no_waiting.py` runs these tests in a process of their own.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sklearn_simclr import losses
from sklearn_simclr._inference import encode
from sklearn_simclr._network import build_network
from sklearn_simclr._view_parts import ViewPart
from sklearn_simclr._views import two_views
from sklearn_simclr.augmentation import (
    AffineAugmentation,
    Compose,
    FeatureCorruption,
    SimCLRAugmentation,
)
from sklearn_simclr.encoders import ResNetEncoder
from sklearn_simclr.optim import make_optimizer

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
# They hand values or numbers of elements to the processor.
WAITING = ("nonzero", "_local_scalar_dense", "masked_select", "unique", "equal.default")


class WatchedGPU(TorchDispatchMode):
    """Pretends that there is a GPU, and notes what would wait for it.

    Attributes
    ----------
    waits : list of str
        The operations that would wait for all that the GPU has yet to do.
    bytes_sent : list of int
        How large the tensors were that went from the CPU to the GPU.
    """

    def __init__(self):
        super().__init__()
        self.waits, self.bytes_sent = [], []
        self._fakes = FakeTensorMode(allow_non_fake_inputs=True)
        self._pinned = {}  # by address; kept, so that no other tensor comes to lie there

    def __enter__(self):
        self._fakes.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._fakes.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.name().removeprefix("aten::")
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        devices = {x.device for x in tensors} | {torch.device(kwargs.get("device") or CPU)}
        if all(device.type == "cpu" for device in devices):
            with unset_fake_temporarily():
                return self._pin(args[0]) if name == "_pin_memory" else func(*args, **kwargs)
        if name == "copy_":
            self._note_copy(args[1], args[0].device, args[2:])
        elif name == "_to_copy":
            flags = (kwargs.get("non_blocking"),)
            self._note_copy(args[0], torch.device(kwargs.get("device", GPU)), flags)
        elif name.startswith(WAITING) or (
            name.startswith("index") and any(x.dtype == torch.bool for x in tensors[1:])
        ):
            self.waits.append(name)
        return func(*args, **kwargs)

    def _pin(self, tensor):
        pinned = tensor.clone()
        self._pinned[pinned.data_ptr()] = pinned
        return pinned

    def _note_copy(self, source, target, flags):
        if source.device.type == target.type:
            return
        self.bytes_sent.append(source.numel() * source.element_size())
        if not any(flags) or source.data_ptr() not in self._pinned:
            self.waits.append(f"copy from {source.device} to {target}")


@pytest.fixture(scope="session", autouse=True)
def pretending_works():
    try:
        with WatchedGPU():
            torch.rand(2).pin_memory().to(GPU, non_blocking=True)
    except RuntimeError:
        pytest.skip("this release of torch pretends only where there is a GPU")


def on_gpu(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device=GPU)


EVERY_PART = Compose([(part.__name__, part()) for part in ViewPart.__subclasses__()])


@pytest.mark.parametrize(
    "augmentation, shape",
    [
        (SimCLRAugmentation(), (64, 3, 32, 32)),
        (SimCLRAugmentation(size=40), (64, 3, 72, 64)),
        (SimCLRAugmentation(), (64, 1, 48, 48)),
        (AffineAugmentation(), (64, 1, 8, 8)),
        (FeatureCorruption(), (64, 20)),
        (EVERY_PART, (64, 3, 40, 40)),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "apply") else str(value),
)
def test_views_are_made_without_waiting(augmentation, shape):
    with WatchedGPU() as gpu:
        views = two_views(augmentation, on_gpu(*shape), torch.Generator().manual_seed(0))
    assert gpu.waits == []
    assert {view.device for view in views} == {GPU}
    assert gpu.bytes_sent  # the parameters


def test_of_a_photograph_a_few_bytes_of_parameters_are_sent():
    with WatchedGPU() as gpu:
        augmentation = SimCLRAugmentation(size=224)
        two_views(augmentation, on_gpu(64, 3, 256, 256), torch.Generator().manual_seed(0))
    assert len(gpu.bytes_sent) < 20
    assert sum(gpu.bytes_sent) < 64 * 256


def test_waits_would_be_seen():
    with WatchedGPU() as gpu:
        x = on_gpu(4)
        torch.rand(4).pin_memory().to(GPU, non_blocking=True)
        assert gpu.waits == []
        for wait in (
            lambda: torch.rand(4).to(GPU),
            lambda: torch.rand(4).to(GPU, non_blocking=True),
            lambda: torch.rand(4).pin_memory().to(GPU),
            lambda: x.new_tensor([1.0]),
            lambda: x.copy_(torch.rand(4)),
        ):
            before = len(gpu.waits)
            wait()
            assert len(gpu.waits) == before + 1
        with pytest.raises(Exception, match="nonzero"):
            x.nonzero()
        assert len(gpu.waits) == before + 2


def moved(module: nn.Module) -> nn.Module:
    """Put a module on the GPU; its own method would ask CUDA whether it is there."""
    for part in module.modules():
        for name, value in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(torch.empty_like(value, device=GPU)))
        for name, value in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty_like(value, device=GPU))
    return module


@pytest.fixture(scope="module")
def network():
    mean, scale = np.zeros(3, np.float32), np.ones(3, np.float32)
    return build_network(
        ResNetEncoder(width=1 / 16),
        (16, 2),
        (3, 32, 32),
        mean,
        scale,
        n_features=None,
        seed=0,
        device=CPU,
    ).train()


@pytest.mark.parametrize(
    "loss",
    [losses.nt_xent, losses.dcl, losses.nt_logistic, losses.margin_triplet],
    ids=lambda loss: loss.__name__,
)
def test_network_and_loss_do_not_wait(network, loss):
    with WatchedGPU() as gpu:
        x = on_gpu(64, 3, 32, 32)
        z = moved(network).train().head(network(x))
        loss(*z.chunk(2))
    assert gpu.waits == []


# torch has no pretence of its own optimizers' fused kernels.
@pytest.mark.parametrize("name", ["muon", "lars"])
def test_a_step_of_an_optimizer_does_not_wait(network, name):
    with WatchedGPU() as gpu:
        optimizer = make_optimizer(name, moved(network), lr=0.1, weight_decay=0.1)
        for _ in range(2):
            for param in network.parameters():
                param.grad = torch.empty_like(param)
            optimizer.step()
    assert gpu.waits == []


def test_learning_rates_are_what_fused_kernels_read(network):
    torch.set_default_dtype(torch.float64)
    try:
        with WatchedGPU():
            optimizer = make_optimizer("adamw", moved(network), lr=0.1, weight_decay=0.1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {group["lr"].dtype for group in optimizer.param_groups} == {torch.float32}


class Rows:
    """Samples of which only the number counts."""

    device, image_shape = GPU, (32, 32, 3)

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def batches(self, indices):
        return (on_gpu(len(index), 3, 32, 32) for index in indices)


def test_features_are_waited_for_now_and_then(network):
    with WatchedGPU() as gpu:
        features = encode(moved(network), Rows(40 * 256), None, 0, CPU)
    assert features.shape == (40 * 256, network.n_features)
    assert gpu.waits == [f"copy from {GPU} to {CPU}"] * 2
