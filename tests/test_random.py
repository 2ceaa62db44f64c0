"""Seeds and generators."""

import threading

import pytest
import torch

from sklearn_simclr._random import cpu_generator, derived_seed, seeded_global_generator

CPU = torch.device("cpu")


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
