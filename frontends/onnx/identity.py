"""What this frontend is: a digest of its sources and the state of the onnx package, told without importing either."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from dlc.ir.provenance import file_state


@lru_cache(maxsize=1)
def frontend_digest() -> str:
    """Return a digest that changes whenever a model might be imported differently."""
    hasher = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        hasher.update(path.name.encode())
        hasher.update(path.read_bytes())
    spec = find_spec("onnx")
    if spec is not None and spec.origin is not None:
        hasher.update(repr(file_state(spec.origin)).encode())
    return hasher.hexdigest()
