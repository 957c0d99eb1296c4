"""Attributes of a node: an immutable, hashable mapping from names to plain values.

Values are None, bool, int, float, str, DType, dimensions, ``Literal`` arrays,
graphs (regions), and tuples of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


class Literal:
    """A small constant array with value equality (dtype, shape and bytes)."""

    __slots__ = ("_hash", "array")

    def __init__(self, array: np.ndarray) -> None:
        array = np.array(array, order="C", copy=True)
        array.setflags(write=False)
        self.array = array
        self._hash = hash((str(array.dtype), array.shape, _content(array)))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Literal):
            return NotImplemented
        a, b = self.array, other.array
        return self._hash == other._hash and a.dtype == b.dtype and a.shape == b.shape and _content(a) == _content(b)

    def __repr__(self) -> str:
        return f"Literal({self.array.dtype}{list(self.array.shape)})"

    def run_starts(self) -> list[int]:
        """Return the row-major positions of elements that differ, in any bit, from the one before; the first is one."""
        flat = self.array.reshape(-1)
        if not flat.size:
            return []
        if flat.dtype == object:
            changes = flat[1:] != flat[:-1]
        else:
            content = flat.view(np.uint8).reshape(flat.size, flat.itemsize)
            changes = (content[1:] != content[:-1]).any(axis=1)
        return [0, *(np.flatnonzero(changes) + 1).tolist()]


def _content(array: np.ndarray) -> bytes | tuple:
    """Return what makes two arrays equal: the bytes, or the elements of an array of strings."""
    return tuple(array.ravel().tolist()) if array.dtype == object else array.tobytes()


class Attributes(Mapping[str, Any]):
    """An immutable mapping with names in sorted order; reads as ``attributes["axis"]``."""

    __slots__ = ("_hash", "_items")

    def __init__(self, values: Mapping[str, Any] | None = None, **more: Any) -> None:
        self._items: dict[str, Any] = dict(sorted({**(values or {}), **more}.items()))
        self._hash: int | None = None

    def __getitem__(self, name: str) -> Any:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(tuple(self._items.items()))
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Attributes) and repr_key(self) == repr_key(other)

    def __repr__(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self._items.items())

    def updated(self, **changes: Any) -> Attributes:
        """Return a copy with ``changes`` made."""
        return Attributes({**self._items, **changes})


def repr_key(attributes: Attributes) -> tuple:
    """Return a key that tells 1, 1.0 and True apart and holds nan equal to itself."""

    def key(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(key(v) for v in value)
        if isinstance(value, float):
            return ("float", repr(value))
        return (type(value).__name__, value)

    return tuple((name, key(value)) for name, value in attributes.items())
