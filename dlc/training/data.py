"""Batches of training data: dicts of arrays cut into batches, or any iterable of batches.

It must not know graphs or compilation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dlc.errors import InputError

Batch = Mapping[str, np.ndarray]


class ArrayBatches:
    """Arrays of one length cut into batches, in an order that depends on a seed and the epoch only.

    ``batches(epoch, first)`` yields those from number ``first`` on, so that an epoch can be resumed. The last batch
    is smaller where the length does not divide, unless ``drop_last``.
    """

    def __init__(self, arrays: Batch, batch_size: int, shuffle: bool, seed: int, drop_last: bool) -> None:
        arrays = {name: _as_rows(name, array) for name, array in arrays.items()}
        lengths = {name: len(array) for name, array in arrays.items()}
        if not arrays or len(set(lengths.values())) != 1:
            raise InputError(f"data must be arrays of one length along dimension 0, got {lengths or 'none'}")
        if batch_size <= 0:
            raise InputError(f"batch_size is {batch_size}; it must be positive")
        self.arrays = arrays
        self.rows = next(iter(lengths.values()))
        self.batch_size, self.shuffle, self.seed, self.drop_last = batch_size, shuffle, seed, drop_last
        if len(self) == 0:
            raise InputError(f"the data have {self.rows} rows, which make no batch of {batch_size}")

    def __len__(self) -> int:
        return self.rows // self.batch_size if self.drop_last else -(-self.rows // self.batch_size)

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        """Yield (batch, rows)."""
        order = None
        if self.shuffle:
            order = np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(self.rows)
        for number in range(first, len(self)):
            begin = number * self.batch_size
            end = min(begin + self.batch_size, self.rows)
            rows = order[begin:end] if order is not None else slice(begin, end)
            yield {name: array[rows] for name, array in self.arrays.items()}, end - begin


class IterableBatches:
    """An iterable of batches made elsewhere (a list, a loader); it is iterated anew for every epoch."""

    def __init__(self, source: Iterable[Any], names: Sequence[str]) -> None:
        self.source = source
        self.names = names

    def __len__(self) -> int:
        try:
            return len(self.source)  # type: ignore[arg-type]
        except TypeError:
            return 0

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        """Yield (batch, rows)."""
        for number, item in enumerate(self.source):
            if number >= first:
                batch = named(item, self.names)
                yield batch, max((len(a) for a in batch.values() if np.ndim(a)), default=1)


def _as_rows(name: str, value: Any) -> np.ndarray:
    """Return ``value`` as an array of rows; InputError naming it if it is none."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the data for {name!r} are no array: {error}") from error
    if array.ndim == 0:
        raise InputError(f"the data for {name!r} are a {type(value).__name__}; they must be an array of rows")
    return array


def named(item: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return a batch by input name: a mapping as it is, a tuple or list in the order of ``names``."""
    if isinstance(item, Mapping):
        return dict(item)
    if isinstance(item, tuple | list) and len(item) == len(names):
        return dict(zip(names, item))
    raise InputError(f"a batch must be a dict of arrays or a tuple of {', '.join(names)}, not {type(item).__name__}")


def as_batches(
    data: Any, names: Sequence[str], batch_size: int, shuffle: bool = False, seed: int = 0, drop_last: bool = False
) -> ArrayBatches | IterableBatches:
    """Return batches of ``data``: a dict of arrays, a tuple of arrays in the order of ``names``, something with an
    ``arrays`` dict, or an iterable of batches. Raises InputError for anything else.
    """
    data = getattr(data, "arrays", data)
    if isinstance(data, tuple) and len(data) == len(names) and all(hasattr(a, "shape") for a in data):
        data = dict(zip(names, data))
    if isinstance(data, Mapping):
        return ArrayBatches(data, batch_size, shuffle, seed, drop_last)
    if isinstance(data, Iterator):
        raise InputError("an iterator is empty after one epoch; pass a list, arrays, or an object that iterates anew")
    if isinstance(data, Iterable):
        return IterableBatches(data, names)
    raise InputError(f"data must be a dict of arrays or an iterable of batches, not {type(data).__name__}")
