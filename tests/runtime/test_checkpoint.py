"""Checkpoints: exact, atomic, checked."""

import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from dlc.errors import CheckpointError
from dlc.ir.types import DTYPES, tensor_type
from dlc.runtime.checkpoint import check_fit, load, save

SCALARS = {"step": 12, "rate": 0.1, "name": "naïve", "on": True, "losses": [1.5, None, 2], "big": 1 << 62, "inf": 1e400}


def tensors():
    rng = np.random.default_rng(3)
    made = {
        dtype.name: rng.integers(0, 2, (3, 4)).astype(dtype.numpy)
        for dtype in DTYPES.values()
        if dtype.kind != "string"
    }
    made |= {
        "scalar": np.array(0.1),
        "empty": np.zeros((0, 5), np.float32),
        "strided": np.arange(12).reshape(3, 4).T,
        "big endian": np.arange(5, dtype=">f8"),
        "layer/0.weight": rng.standard_normal((7, 5)).astype(np.float32),
        "nan": np.array([np.nan, -0.0, np.inf], np.float32),
    }
    return made


def same(left, right):
    assert sorted(left) == sorted(right)
    for name, array in left.items():
        other = right[name]
        assert other.shape == array.shape and other.dtype == array.dtype.newbyteorder("=")
        native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        assert native.tobytes() == np.ascontiguousarray(other).tobytes(), name


def test_everything_comes_back_exactly(tmp_path):
    path = save(tmp_path / "new" / "ckpt", tensors(), SCALARS)
    assert path == tmp_path / "new" / "ckpt"
    back = load(path)
    same(tensors(), back.tensors)
    assert back.scalars == SCALARS
    assert all(array.flags.writeable for array in back.tensors.values())
    assert os.listdir(path.parent) == ["ckpt"]


def test_nothing_at_all(tmp_path):
    back = load(save(tmp_path / "c", {}))
    assert back.tensors == {} and back.scalars == {}


def test_other_readers_open_it(tmp_path):
    some = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.int64), "c": np.ones(1, np.uint8)}
    path = save(tmp_path / "c.safetensors", some, {"x": 1})
    same(some, safetensors.numpy.load_file(path))


def test_files_of_other_writers_load(tmp_path):
    some = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((), np.float16)}
    path = tmp_path / "theirs.safetensors"
    safetensors.numpy.save_file(some, path, metadata={"format": "pt"})
    back = load(path)
    same(some, back.tensors)
    assert back.scalars == {}


def test_in_a_folder(tmp_path):
    path = save(tmp_path, {"a": np.ones(2)})
    assert path == tmp_path / "checkpoint.safetensors"
    assert load(tmp_path).tensors["a"].tolist() == [1, 1]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    save(tmp_path / "link", {"a": np.ones(2)})
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").is_file()


def test_keep(tmp_path):
    for turn in range(5):
        save(tmp_path / "c", {"a": np.full(2, turn)}, {"turn": turn}, keep=3)
    assert sorted(os.listdir(tmp_path)) == ["c", "c.1", "c.2"]
    assert [load(tmp_path / name).scalars["turn"] for name in ("c", "c.1", "c.2")] == [4, 3, 2]


@pytest.mark.parametrize("bad", [np.array(["a"]), np.array([None]), np.zeros(2, [("x", int)])])
def test_dtypes_that_cannot_be_stored(tmp_path, bad):
    save(tmp_path / "c", {"a": np.ones(2)})
    with pytest.raises(Exception, match=r"stored|dtype"):
        save(tmp_path / "c", {"a": bad})
    assert load(tmp_path / "c").tensors["a"].tolist() == [1, 1]


def test_what_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    save(tmp_path / "c", {"a": np.ones(2)})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left.*untouched"):
        save(tmp_path / "c", {"a": np.zeros(2)})
    assert load(tmp_path / "c").tensors["a"].tolist() == [1, 1]
    assert os.listdir(tmp_path) == ["c"]


def test_missing(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_damage_is_a_typed_error(tmp_path):
    path = save(tmp_path / "c", {"a": np.arange(50.0), "b": np.arange(7)}, SCALARS)
    whole = path.read_bytes()
    rng = random.Random(2)
    damages = [b"", b"\0" * 7, whole[:8], whole[:100], whole[:-1], whole + b"\0", rng.randbytes(500)]
    damages += [whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :] for at in range(len(whole))]
    for damage in damages:
        path.write_bytes(damage)
        with pytest.raises(CheckpointError):
            load(path)


def header(entries, data=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 1 << 63) + b"{}",
        struct.pack("<Q", 1 << 40) + b"{}",
        header({"a": entry()}, bytes(7)),
        header({"a": entry()}, bytes(9)),
        header({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
        header({"a": entry(), "b": entry(offsets=(0, 8))}, bytes(8)),
        header({"a": entry(offsets=(8, 16))}, bytes(16)),
        header({"a": entry(offsets=(8, 0))}, bytes(8)),
        header({"a": entry(shape=(1 << 40, 1 << 40))}, bytes(8)),
        header({"a": entry(shape=(-2,), offsets=(0, -8))}, b""),
        header({"a": entry(shape=(True, 2))}, bytes(8)),
        header({"a": entry(shape=("2",))}, bytes(8)),
        header({"a": entry(dtype="F33")}, bytes(8)),
        header({"a": entry(dtype=["F32"])}, bytes(8)),
        header({"a": {"dtype": "F32"}}, bytes(8)),
        header({"a": 5}, bytes(8)),
        header([1, 2]),
        header({"__metadata__": 5}),
        header({"__metadata__": {"dlc.format": "1"}}),
        header({"__metadata__": {"dlc.format": "1", "dlc.sha256": ""}}),
        header({"__metadata__": {"dlc.format": "99", "dlc.sha256": "0" * 64, "dlc.scalars": "", "dlc.dtypes": ""}}),
        header({"__metadata__": {"dlc.format": "1", "dlc.sha256": "", "dlc.scalars": "", "dlc.dtypes": ""}}),
        b"[" * 100_000,
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ],
)
def test_hostile_files(tmp_path, content):
    path = tmp_path / "c"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        load(path)


def test_check_fit_lists_everything():
    given = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(3), "x": np.zeros(1)}
    expected = {name: tensor_type("float32", shape) for name, shape in {"a": (2, 3), "b": (3,), "c": (1,)}.items()}
    with pytest.raises(CheckpointError) as caught:
        check_fit(given, expected)
    text = str(caught.value)
    assert "missing c: float32[1]" in text and "unknown x" in text and "b is float64[3], expected float32[3]" in text
    assert "\n  a" not in text
    check_fit({"a": given["a"]}, {"a": expected["a"]})
    check_fit({"h": np.zeros(2, ml_dtypes.bfloat16)}, {"h": tensor_type("bfloat16", (2,))})


WRITER = """
import sys
import numpy as np
from dlc.runtime.checkpoint import save
turn = int(sys.argv[2])
while True:
    turn += 1
    save(sys.argv[1], {"a": np.full(200_000, turn), "b": np.full(3, turn)}, {"turn": turn}, keep=2)
    print(turn, flush=True)
"""


def test_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path):
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    path, last = tmp_path / "ckpt", 0
    for _ in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(last)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
        )
        reported = int(writer.stdout.readline())
        time.sleep(rng.random() * 0.1)
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().split()
        writer.wait()
        writer.stdout.close()
        reported = int(rest[-1]) if rest else reported
        back = load(path)
        turn = back.scalars["turn"]
        assert turn in (reported, reported + 1)
        assert (back.tensors["a"] == turn).all() and (back.tensors["b"] == turn).all()
        last = turn
    save(path, {"a": np.zeros(1)})
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")] == []
