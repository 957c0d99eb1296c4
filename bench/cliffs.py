"""Looks for cliffs: sizes of a matrix product that are much slower than their neighbours rounded up.

    python bench/cliffs.py [--pairs 100] [--seed 0] [--threads 1] [--most 2000] [--layouts plain,packed,...]

Draws M, N, K log-uniformly and times each product beside the one with every extent rounded up (to a multiple of 16;
small extents by less, since there the rate rises with the extent). Printed are the sizes whose rate is less than
--ratio of the neighbour's, worst first, and those far from both the peak and what memory allows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from contraction_cases import NONE, Case
from contractions import measure, ours, peak_runner

LAYOUTS: dict[str, Callable[[int, int, int], Case]] = {
    "plain": lambda m, n, k: Case("", "m k, k n -> m n", (m, k), (k, n), NONE),
    "packed": lambda m, n, k: Case("", "m k, k n -> m n", (m, k), (k, n)),
    "transposed right": lambda m, n, k: Case("", "m k, n k -> m n", (m, k), (n, k), NONE),
    "transposed left": lambda m, n, k: Case("", "k m, k n -> m n", (k, m), (k, n), NONE),
}
LEAST_FLOPS = 20_000
"""Below this, starting the kernel is what is measured."""
SLOW, FAR = 0.4, 8e9
"""What is under this part of the peak, and moves fewer bytes per second than this and thread, is listed as slow."""


def padded(extent: int) -> int:
    """Return the extent rounded up to where no vector and no tile is ragged."""
    step = 16 if extent > 48 else 8 if extent > 16 else 4 if extent > 8 else 2 if extent > 4 else 1
    return -(-extent // step) * step


def draw(rng: np.random.Generator, most: int) -> tuple[int, int, int]:
    """Return random extents M, N, K, some of them by one off a multiple of 16."""
    sizes = np.exp(rng.uniform(0, np.log(most + 1), 3)).astype(int)
    near = np.clip(sizes // 16 * 16 + rng.integers(-1, 2, 3), 1, most)
    m, n, k = np.where(rng.random(3) < 0.5, near, sizes)
    return int(m), int(n), int(k)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--most", type=int, default=2000)
    parser.add_argument("--ratio", type=float, default=0.6)
    parser.add_argument("--layouts", default=",".join(LAYOUTS))
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    clock = time.thread_time if options.threads == 1 else time.perf_counter
    peak, peak_flops = peak_runner(options.threads)
    found: list[tuple[float, str]] = []
    slow: list[tuple[float, str]] = []
    for _ in range(options.pairs):
        layout = str(rng.choice(options.layouts.split(",")))
        while 2 * np.prod(sizes := draw(rng, options.most)) < LEAST_FLOPS:
            pass
        neighbour = tuple(padded(extent) for extent in sizes)
        runners = [ours(LAYOUTS[layout](*shape), options.threads)[0] for shape in (sizes, neighbour)]
        contenders = {"peak": peak.run, "size": runners[0].run, "neighbour": runners[1].run}
        took = measure(contenders, 3, 0.002, clock=clock)
        rates = [2 * np.prod(s) / took[name] for s, name in ((sizes, "size"), (neighbour, "neighbour"))]
        share = rates[0] * took["peak"] / peak_flops
        m, n, k = sizes
        speed = 4 * (m * k + k * n + m * n) / took["size"]
        line = f"{layout:17s} {m:4d} x {n:4d} x {k:4d} {rates[0] / 1e9:6.1f} GFLOP/s {100 * share:5.1f}%"
        line += f" {speed / 1e9:6.1f} GB/s"
        line += f"   neighbour {' x '.join(map(str, neighbour))} {rates[1] / 1e9:6.1f}"
        if rates[0] < options.ratio * rates[1]:
            found.append((rates[0] / rates[1], line))
        if share < SLOW and speed < FAR * options.threads:
            slow.append((share, line))
    for title, lines in (("slower than the neighbour", found), ("far from peak and memory", slow)):
        print(f"-- {title}: {len(lines)} of {options.pairs}")
        for ratio, line in sorted(lines):
            print(f"{ratio:5.2f}  {line}")


if __name__ == "__main__":
    main()
