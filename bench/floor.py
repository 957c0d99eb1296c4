"""What the machine can do at most: arithmetic and reading from memory, on all used cores together.

    python -m bench.floor --threads 2

Run in a process of its own by ``bench.run``; prints JSON. The floor of a model is the larger of its FLOPs over the
peak and its bytes over the bandwidth of reading a working set of that size. ``dlc profile`` uses the same probes.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from typing import Any

from dlc.driver.machine_probe import measure_roofline
from dlc.runtime.roofline import Roofline

SIZES = (16 << 20, 128 << 20, 512 << 20)  # bytes read, by all threads together
SECONDS = 0.5


def floor_ms(flops: float, size: float, machine: Mapping[str, Any]) -> float:
    """Return the least milliseconds for ``flops`` operations and ``size`` bytes."""
    bandwidth = tuple(sorted((int(measured), rate) for measured, rate in machine["bandwidth"].items()))
    roof = Roofline("", machine["threads"], machine["peak_flops"], bandwidth)
    return 1e3 * max(roof.arithmetic_seconds(flops), roof.memory_seconds(size))


def measure(threads: int) -> dict[str, Any]:
    """Return the peak of float32 multiply-adds and the bandwidth of reading, by bytes of the working set."""
    roof = measure_roofline(threads, SIZES, SECONDS)
    bandwidth = {str(size): rate for size, rate in roof.bandwidth}
    return {"threads": threads, "peak_flops": roof.peak_flops, "bandwidth": bandwidth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    print(json.dumps(measure(parser.parse_args().threads)))


if __name__ == "__main__":
    main()
