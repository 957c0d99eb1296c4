"""The garbage collector rests while blocks are open, and is left as it was found."""

import gc
import os
import threading
from contextlib import ExitStack, contextmanager

import pytest

from dlc.driver.collector import collector_at_rest


@pytest.fixture(autouse=True)
def collector():
    before = gc.isenabled()
    yield
    (gc.enable if before else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was(enabled):
    (gc.enable if enabled else gc.disable)()
    with collector_at_rest():
        assert not gc.isenabled()
        with collector_at_rest():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled() is enabled


def test_an_error_ends_the_rest():
    gc.enable()
    with pytest.raises(ValueError), collector_at_rest():
        raise ValueError
    assert gc.isenabled()


@contextmanager
def block_on_another_thread():
    """Hold a block open on a thread of its own."""
    begun, end = threading.Event(), threading.Event()

    def other():
        with collector_at_rest():
            begun.set()
            end.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert begun.wait(10)
    try:
        yield
    finally:
        end.set()
        thread.join()


def test_blocks_of_two_threads_may_overlap():
    gc.enable()
    with ExitStack() as stack:
        with collector_at_rest():
            stack.enter_context(block_on_another_thread())
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_forked_child_is_not_held_by_blocks_of_other_threads():
    gc.enable()
    with block_on_another_thread():
        assert not gc.isenabled()
        child = os.fork()
        if child == 0:
            with collector_at_rest():
                rests = not gc.isenabled()
            os._exit(0 if rests and gc.isenabled() else 1)
        assert os.waitpid(child, 0)[1] == 0
