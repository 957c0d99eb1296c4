"""Arrays that stay in their files: what is read, and what is refused."""

import numpy as np
import pytest

from dlc.errors import DlcError
from dlc.ir import provenance
from dlc.ir.provenance import Place, Region, file_state, find_place
from dlc.ir.types import tensor_type
from dlc.runtime.file_arrays import FileArrays, fetch


@pytest.fixture
def numbers():
    return np.random.default_rng(0).normal(size=(300, 70)).astype("f")


@pytest.fixture
def stored(tmp_path, numbers):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"abc" + numbers.tobytes())
    return path


def arrays_of(path, numbers, **held):
    places = {
        "w": Place(0, 3, tensor_type("float32", numbers.shape)),
        "row": Place(0, 3, tensor_type("float32", (70,))),
    }
    return FileArrays([file_state(str(path))], places, held)


@pytest.mark.parametrize("piece", [1 << 30, 1000])
def test_places_are_read_into_aligned_memory(stored, numbers, monkeypatch, piece):
    monkeypatch.setattr(provenance, "_PIECE", piece)
    arrays = arrays_of(stored, numbers, scale=np.float32(2).reshape(()))
    assert sorted(arrays) == ["row", "scale", "w"] and len(arrays) == 3
    found = fetch(arrays, ["w", "scale"])
    assert found["w"].tobytes() == numbers.tobytes() and float(found["scale"]) == 2
    assert found["w"].__array_interface__["data"][0] % 64 == 0 and not found["w"].flags.writeable
    assert arrays["row"].tobytes() == numbers[0].tobytes()
    whole = fetch(arrays, ["row", "w", "scale"], together=True)
    assert whole["row"].base is whole["w"].base and whole["row"].tobytes() == numbers[0].tobytes()
    assert whole["w"].tobytes() == numbers.tobytes() and whole["w"].__array_interface__["data"][0] % 64 == 0
    assert fetch({"a": numbers, "b": numbers}, ["b"]) == {"b": numbers}


def test_a_file_that_changed_is_refused(stored, numbers):
    arrays = arrays_of(stored, numbers)
    state = file_state(str(stored))
    with open(stored, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(DlcError, match="load it again"):
        arrays.fetch(["w"])
    with pytest.raises(OSError, match="changed"):
        FileArrays([state], {}, {})
    with pytest.raises(DlcError, match="shorter"):
        arrays_of(stored, numbers).fetch(["w"])


def test_a_place_is_found_only_for_views_of_what_was_read(stored, numbers):
    state = file_state(str(stored))
    region = Region(numbers.__array_interface__["data"][0], numbers.nbytes, state, 3)
    type_ = tensor_type("float32", (300, 70))
    assert find_place(numbers, type_, [region], [state]) == Place(0, 3, type_)
    part = tensor_type("float32", (10, 70))
    assert find_place(numbers[20:30], part, [region], [state]) == Place(0, 3 + 20 * 70 * 4, part)
    assert find_place(numbers.copy(), type_, [region], [state]) is None
    assert find_place(numbers[:, :10], tensor_type("float32", (300, 10)), [region], [state]) is None
    assert find_place(numbers.view("i4"), type_, [region], [state]) is None
