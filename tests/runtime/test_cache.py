"""The code cache: hits, misses, damage, limits, hostile folders."""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from dlc import config
from dlc.runtime import cache as cache_module
from dlc.runtime.cache import CodeCache, make_key
from dlc.runtime.cache_file import DamagedEntryError, Entry, read_entry, write_entry

KEY = make_key("executable", {"graph": "text of a graph " * 50, "threads": "2", "sources": b"\x01\x02"})
ARRAYS = {
    "w": np.random.default_rng(0).standard_normal((33, 17)).astype(np.float32),
    "half": np.arange(5).astype(ml_dtypes.bfloat16),
    "none": np.zeros((0, 3)),
    "one": np.array(7, np.int64),
    "big endian": np.arange(4, dtype=">i4"),
    "strided": np.arange(20).reshape(4, 5)[:, ::2],
}


@pytest.fixture
def cache(tmp_path):
    return CodeCache(tmp_path / "cache", limit=1 << 30)


def stored(cache, key=KEY):
    assert cache.store(key, {"symbols": ["a"], "n": 1}, {"object": b"\x7fELF", "empty": b""}, ARRAYS)
    return cache.entries()[0].path


def test_what_is_stored_comes_back(cache):
    assert cache.load(KEY) is None
    path = stored(cache)
    entry = cache.load(KEY)
    assert entry.metadata == {"symbols": ["a"], "n": 1}
    assert entry.blobs == {"object": b"\x7fELF", "empty": b""}
    assert list(entry.arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        back = entry.arrays[name]
        assert np.array_equal(back, array) and back.shape == array.shape
        assert back.dtype == array.dtype.newbyteorder("=")
        assert not back.flags.writeable
        assert back.size == 0 or back.__array_interface__["data"][0] % 64 == 0
    path.unlink()
    assert np.array_equal(entry.arrays["w"], ARRAYS["w"])  # mapped memory outlives the name


def test_another_process_reads_it(cache):
    stored(cache)
    code = (
        "from dlc.runtime.cache import CodeCache, make_key; import sys;"
        "key = make_key('executable', {'graph': 'text of a graph ' * 50, 'threads': '2', 'sources': bytes([1, 2])});"
        "print(float(CodeCache(sys.argv[1]).load(key).arrays['w'].sum()))"
    )
    out = subprocess.run([sys.executable, "-c", code, str(cache.folder)], capture_output=True, text=True, check=True)
    assert float(out.stdout) == float(ARRAYS["w"].sum())


@pytest.mark.parametrize(
    "parts",
    [{"graph": "x", "threads": "2"}, {"threads": "2"}, {"graph": "x", "threads": "3"}, {"graph": "x2", "threads": ""}],
)
def test_keys_differ_in_any_part(parts):
    assert make_key("executable", parts).digest != KEY.digest
    assert make_key("kernel", parts).digest != make_key("executable", parts).digest
    assert make_key("executable", dict(reversed(parts.items()))).digest == make_key("executable", parts).digest


def test_every_kind_of_damage_is_a_miss(cache, caplog):
    path = stored(cache)
    whole = path.read_bytes()
    rng = random.Random(5)
    damages = [b"", b"x", whole[:7], whole[:63], whole[:64], whole[:-1], whole + b"\0", whole[: len(whole) // 2]]
    damages += [bytes(len(whole)), rng.randbytes(len(whole)), b"ELF" + whole[3:]]
    for _ in range(60):
        position = rng.randrange(len(whole))
        damages.append(whole[:position] + bytes([whole[position] ^ 1 << rng.randrange(8)]) + whole[position + 1 :])
    for damage in damages:
        path.write_bytes(damage)
        entry = CodeCache(cache.folder).load(KEY)
        # A flipped bit between sections (padding) may go unnoticed: then everything in them is right.
        assert entry is None or all(np.array_equal(entry.arrays[n], a) for n, a in ARRAYS.items())
        if entry is not None:
            assert entry.blobs["object"] == b"\x7fELF"
    assert "is not used" in caplog.text
    path.write_bytes(whole[:-70])
    (faulty,) = cache.verify()
    assert "were written" in faulty.fault
    assert stored(cache) and cache.load(KEY) is not None


def test_damage_to_a_big_array_is_found(cache):
    big = np.zeros(20 << 20, np.uint8)
    assert cache.store(KEY, {}, {}, {"big": big})
    path = cache.entries()[0].path
    assert np.array_equal(cache.load(KEY).arrays["big"], big)
    with open(path, "r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"\1")
    assert cache.load(KEY) is None
    with config.override(verify=0):
        assert cache.load(KEY) is not None


def test_absurd_header_fields_take_no_memory(cache, tmp_path):
    path = stored(cache)
    whole = bytearray(path.read_bytes())
    whole[16:24] = (1 << 62).to_bytes(8, "little")
    path.write_bytes(whole)
    with pytest.raises(DamagedEntryError):
        read_entry(path)


def test_an_entry_of_another_key_is_a_miss(cache):
    other = make_key("executable", {"graph": "another"})
    path = stored(cache)
    shutil.copy(path, path.with_name(other.digest + ".dlc"))
    assert cache.load(other) is None


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "writable"])
def test_strange_files_are_misses(cache, kind):
    path = stored(cache)
    if kind == "writable":
        path.chmod(0o666)
    else:
        moved = path.rename(path.with_suffix(".moved"))
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "link":
            path.symlink_to(moved)
        else:
            path.mkdir()
    assert cache.load(KEY) is None
    assert cache.verify()


def test_folders_that_others_may_write_are_not_used(cache, caplog):
    stored(cache)
    cache.folder.chmod(0o777)
    assert cache.load(KEY) is None
    assert not cache.store(KEY, {})
    assert "others may write" in caplog.text


def test_a_folder_of_another_user_is_not_used(cache, monkeypatch):
    stored(cache)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert cache.load(KEY) is None
    assert not cache.store(KEY, {})


def test_new_folders_and_files_are_private(cache):
    path = stored(cache)
    assert [p.stat().st_mode & 0o777 for p in (cache.folder, path.parent, path)] == [0o700, 0o700, 0o600]


def test_what_cannot_be_written_is_left_out(tmp_path, caplog):
    blocker = tmp_path / "file"
    blocker.write_text("")
    cache = CodeCache(blocker / "cache")
    assert not cache.store(KEY, {})
    assert cache.load(KEY) is None
    assert cache.entries() == [] and cache.verify() == [] and cache.clear() == 0
    assert "not written" in caplog.text
    assert not CodeCache("/proc/no/cache").store(KEY, {})


def test_a_full_disk_leaves_nothing_behind(cache, monkeypatch, caplog):
    stored(cache)

    def full(file, entry):
        file.write(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "write_entry", full)
    other = make_key("executable", {"a": "b"})
    assert not cache.store(other, {})
    assert "No space left" in caplog.text
    assert len(list(cache.folder.rglob("*.*"))) == 1
    assert cache.load(KEY) is not None


def test_the_oldest_entries_go_first(tmp_path):
    cache = CodeCache(tmp_path / "cache", limit=50_000)
    keys = [make_key("kernel", {"n": str(n)}) for n in range(10)]
    for age, key in enumerate(keys):
        assert cache.store(key, {}, {"object": bytes(10_000)})
        path = next(info.path for info in cache.entries() if info.digest == key.digest)
        os.utime(path, (time.time() - 1000 + age,) * 2)
        cache.load(keys[0])  # used all the time
    kept = [n for n, key in enumerate(keys) if cache.load(key) is not None]
    assert 0 in kept and 9 in kept and 1 not in kept
    assert sum(info.nbytes for info in cache.entries()) <= 50_000
    assert cache.clear() > 0 and cache.entries() == []


def test_an_entry_larger_than_the_limit_is_kept_alone(tmp_path):
    cache = CodeCache(tmp_path / "cache", limit=1000)
    assert cache.store(KEY, {}, {"object": bytes(5000)})
    assert cache.load(KEY) is not None


def test_why(cache):
    assert "no entry of kind 'executable'" in cache.why(KEY)
    stored(cache)
    assert cache.why(KEY).startswith("hit")
    asked = make_key("executable", {"graph": "text of a graph " * 50, "threads": "4", "sources": b"other", "new": "1"})
    text = cache.why(asked)
    assert "threads: '2' stored, '4' asked" in text
    assert "sources: " in text and "new: nothing stored" in text
    assert "graph" not in text.replace("graphs", "")
    with config.override(cache=False):
        assert "DLC_CACHE=0" in CodeCache(cache.folder).why(KEY)


def test_switched_off(tmp_path):
    with config.override(cache=False, cache_dir=tmp_path / "off"):
        cache = CodeCache()
        assert not cache.store(KEY, {}) and cache.load(KEY) is None
    assert not (tmp_path / "off").exists()


def test_verify_and_remove(cache):
    path = stored(cache)
    assert cache.verify() == []
    path.write_bytes(b"junk")
    assert [info.path for info in cache.verify(remove=True)] == [path]
    assert cache.entries() == []


def test_stale_temporaries_are_removed(cache):
    path = stored(cache)
    old, new = path.parent / ".tmp-1-a", path.parent / ".tmp-1-b"
    for temporary in (old, new):
        temporary.write_bytes(b"x")
    os.utime(old, (0, 0))
    cache.prune()
    assert not old.exists() and new.exists()


def test_concurrent_writers_and_readers(cache):
    def work(number):
        for turn in range(15):
            value = bytes([number]) * (1000 + 100 * turn)
            assert cache.store(KEY, {"number": number}, {"object": value})
            entry = cache.load(KEY)
            assert entry is not None
            assert set(entry.blobs["object"]) == {entry.metadata["number"]}

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(work, range(4)))
    assert len(list((cache.folder / "executable").iterdir())) == 1


WRITER = """
import sys
from dlc.runtime.cache import CodeCache, make_key
import numpy as np
cache, key = CodeCache(sys.argv[1]), make_key("executable", {"a": "b"})
turn = 0
while True:
    turn += 1
    cache.store(key, {"turn": turn}, {}, {"w": np.full(300_000, turn, np.int64)})
    print(turn, flush=True)
"""


def test_kill_while_writing_loses_nothing(cache):
    key = make_key("executable", {"a": "b"})
    rng = random.Random(1)
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(cache.folder)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
        )
        writer.stdout.readline()
        time.sleep(rng.random() * 0.1)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        entry = cache.load(key)
        assert entry is not None
        assert (entry.arrays["w"] == entry.metadata["turn"]).all()
        writer.stdout.close()


def test_a_file_is_json_and_sections(tmp_path):
    path = tmp_path / "entry"
    with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        size = write_entry(file, Entry("kind", {"p": "d"}, {}, {"b": b"data"}, {}))
    raw = path.read_bytes()
    assert len(raw) == size and raw[:8] == b"dlccache"
    length = int.from_bytes(raw[16:24], "little")
    assert json.loads(raw[64 : 64 + length])["kind"] == "kind"


def test_messages_are_logged_once(cache, caplog):
    path = stored(cache)
    path.write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            cache.load(KEY)
    assert len(caplog.records) == 1
