"""Which device, which precision, and generators that leave the process as it was."""

import threading

import pytest
import torch

from sklearn_simclr._device import (
    cpu_generator,
    derived_seed,
    multiplies_bfloat16,
    resolve_device,
    resolve_precision,
    seeded_global_generator,
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


def test_derived_seeds_depend_on_the_seed_and_on_each_part_of_the_path():
    paths = [(seed, *path) for seed in range(20) for path in [(), (1,), (1, 1), (2, 1), (1, 2)]]
    seeds = [derived_seed(*path) for path in paths]
    assert len(set(seeds)) == len(paths)
    assert seeds == [derived_seed(*path) for path in paths]
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_cpu_generator_is_a_function_of_its_seed():
    draws = [torch.rand(3, generator=cpu_generator(*path)) for path in [(0, 1), (0, 1), (0, 2)]]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_seeded_global_generator_puts_the_state_back():
    before = torch.get_rng_state()
    with seeded_global_generator(7, CPU):
        first = torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    with seeded_global_generator(7, CPU):
        assert torch.equal(torch.rand(5), first)


def test_seeded_global_generator_puts_the_state_back_after_an_exception():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded_global_generator(9, CPU):
        torch.rand(5)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_global_generators_nest_within_a_thread():
    with seeded_global_generator(7, CPU):
        expected = torch.rand(2), torch.rand(2)
    with seeded_global_generator(7, CPU):
        first = torch.rand(2)
        with seeded_global_generator(8, CPU):
            torch.rand(9)
        assert torch.equal(torch.rand(2), expected[1])
    assert torch.equal(first, expected[0])


def test_threads_take_turns_at_the_global_generator():
    with seeded_global_generator(1, CPU):
        expected = torch.rand(2), torch.rand(2)
    inside, intruded = threading.Event(), threading.Event()

    def intrude():
        inside.wait()
        with seeded_global_generator(2, CPU):
            intruded.set()

    thread = threading.Thread(target=intrude)
    thread.start()
    with seeded_global_generator(1, CPU):
        first = torch.rand(2)
        inside.set()
        assert not intruded.wait(0.2)
        second = torch.rand(2)
    thread.join(60)
    assert intruded.is_set()
    assert torch.equal(first, expected[0]) and torch.equal(second, expected[1])


@pytest.mark.gpu
def test_seeded_global_generator_seeds_and_restores_cuda():
    device = torch.device("cuda")
    before = torch.cuda.get_rng_state()
    draws = []
    for _ in range(2):
        with seeded_global_generator(7, device):
            draws.append(torch.rand(5, device=device))
        assert torch.equal(torch.cuda.get_rng_state(), before)
    assert torch.equal(*draws)
