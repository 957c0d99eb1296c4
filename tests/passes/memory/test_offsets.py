"""Offsets: nothing that is alive together overlaps, and the tight way never needs more."""

import random

import pytest

from dlc.passes.memory.offsets import ALIGNMENT, MOST_LEFT_OVER, assign_offsets


def random_case(seed, count=60):
    rng = random.Random(seed)
    sizes = {b: rng.choice((0, 1, 64, 1000, rng.randrange(1, 1 << 16))) for b in range(count)}
    live = {}
    for buffer in range(count):
        first = rng.randrange(40)
        live[buffer] = (first, first + rng.randrange(rng.choice((2, 30))))
    return sizes, live


def check(sizes, live, offsets):
    spans = {b: (offsets.places[b], offsets.places[b] + max(sizes[b], 1)) for b in live}
    for b, (low, high) in spans.items():
        assert low % ALIGNMENT == 0 and 0 <= low and high <= offsets.arena_bytes
        for c, (other_low, other_high) in spans.items():
            together = b != c and live[b][0] <= live[c][1] and live[c][0] <= live[b][1]
            assert not together or high <= other_low or other_high <= low


@pytest.mark.parametrize("seed", range(25))
def test_buffers_alive_together_do_not_overlap(seed):
    sizes, live = random_case(seed)
    swept, tight = assign_offsets(sizes, live), assign_offsets(sizes, live, tight=True)
    for offsets in (swept, tight):
        check(sizes, live, offsets)
        assert offsets.arena_bytes >= offsets.peak_bytes
    assert tight.arena_bytes <= swept.arena_bytes


def test_the_tight_way_fills_what_a_sweep_leaves_open():
    sizes = {0: 64, 1: 128, 2: 64, 3: 192}
    live = {0: (0, 1), 1: (0, 3), 2: (2, 3), 3: (4, 5)}
    assert assign_offsets(sizes, live).arena_bytes == 192
    sizes, live = {0: 128, 1: 64, 2: 192}, {0: (0, 1), 1: (1, 3), 2: (2, 3)}
    assert assign_offsets(sizes, live).arena_bytes == 384
    assert assign_offsets(sizes, live, tight=True).arena_bytes == 256


def test_a_sweep_that_leaves_very_much_gives_way():
    size = MOST_LEFT_OVER
    sizes, live = {0: 2 * size, 1: size, 2: 3 * size}, {0: (0, 1), 1: (1, 3), 2: (2, 3)}
    assert assign_offsets(sizes, live).arena_bytes == assign_offsets(sizes, live, tight=True).arena_bytes == 4 * size
    assert assign_offsets({b: n // 2 for b, n in sizes.items()}, live).arena_bytes == 3 * size


def test_the_peak_lists_what_is_alive_then():
    offsets = assign_offsets({0: 64, 1: 640, 2: 64}, {0: (0, 2), 1: (1, 2), 2: (3, 4)})
    assert offsets.peak == (0, 1) and offsets.peak_bytes == 704


def test_no_buffers_need_no_arena():
    assert assign_offsets({}, {}).arena_bytes == 0 == assign_offsets({}, {}, tight=True).arena_bytes
