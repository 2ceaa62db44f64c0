"""Which device, and which precision."""

import pytest
import torch

from sklearn_simclr._device import (
    multiplies_bfloat16,
    plain_torch,
    resolve_device,
    resolve_precision,
)

CPU = torch.device("cpu")
CPU_CHECKS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


@pytest.mark.parametrize(
    "cuda, mps, expected",
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_cuda_then_mps_then_the_cpu(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: torch.ones(*shape))
    assert resolve_device("auto") == torch.device(expected)


def test_a_device_that_holds_no_values_is_refused():
    with pytest.raises(ValueError, match="device='meta' cannot be used"):
        resolve_device("meta")


@pytest.mark.parametrize("device", ["cpu", CPU])
def test_a_named_device_is_taken(device):
    assert resolve_device(device) == CPU


@pytest.mark.parametrize("device", ["cuda", torch.device("cuda:1"), "mps"])
def test_an_unavailable_device_is_refused_with_the_mend(monkeypatch, device):
    def fail(*args, **kwargs):
        raise RuntimeError("Found no driver.\nA long tail.")

    monkeypatch.setattr(torch, "zeros", fail)
    with pytest.raises(ValueError) as error:
        resolve_device(device)
    message = str(error.value)
    assert f"device={device!r}" in message
    assert "Found no driver." in message and "A long tail" not in message
    assert "device='auto'" in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is available")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="device='cuda' cannot be used on this machine"):
        resolve_device("cuda")


@pytest.mark.parametrize("device", ["gpu", "", "cpu:x"])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(ValueError, match=f"device={device!r} cannot be used"):
        resolve_device(device)


@pytest.mark.parametrize(
    "capability, dtype",
    [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_auto_precision_on_cuda_asks_the_hardware(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", torch.device("cuda")) is dtype


@pytest.mark.parametrize("avx512", [True, False])
@pytest.mark.parametrize("amx", [True, False])
def test_auto_precision_on_a_cpu_asks_the_hardware(monkeypatch, avx512, amx):
    for check, answer in zip(CPU_CHECKS, (avx512, amx), strict=True):
        monkeypatch.setattr(torch.cpu, check, lambda answer=answer: answer, raising=False)
    expected = torch.bfloat16 if avx512 or amx else torch.float32
    assert resolve_precision("auto", CPU) is expected


def test_auto_precision_is_float32_where_torch_cannot_tell(monkeypatch):
    for check in CPU_CHECKS:
        monkeypatch.delattr(torch.cpu, check, raising=False)
    assert resolve_precision("auto", CPU) is torch.float32


def test_auto_precision_on_mps_is_float32():
    assert not multiplies_bfloat16(torch.device("mps"))


def test_a_named_precision_is_taken():
    assert resolve_precision("float32", torch.device("cuda")) is torch.float32
    assert resolve_precision("bfloat16", CPU) is torch.bfloat16


@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_plain_torch_has_no_autocast(kind):
    torch.set_autocast_enabled(kind, True)
    try:
        with plain_torch():
            assert not torch.is_autocast_enabled(kind)
        assert torch.is_autocast_enabled(kind)
    finally:
        torch.set_autocast_enabled(kind, False)
