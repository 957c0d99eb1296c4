"""Indexing agrees with NumPy; what has no static meaning is refused."""

import numpy as np
import pytest

import dlc.frontends.graph as dlc
from dlc.errors import TypeRuleError
from tests.frontends.graph.graphs import random, run

X = random(4, 5, 6)
ROWS = np.array([[0, -1], [2, 2]])
ROW = np.array([3, 0, -2])

KEYS = [
    np.s_[0],
    np.s_[-1],
    np.s_[1, 2],
    np.s_[1, 2, -3],
    np.s_[...],
    np.s_[..., 0],
    np.s_[:, None],
    np.s_[None, ..., None],
    np.s_[1:3],
    np.s_[:, ::2],
    np.s_[:, ::-1],
    np.s_[:, 4:1:-2],
    np.s_[..., -3:],
    np.s_[:-1, 1:],
    np.s_[2:2],
    np.s_[100:],
    np.s_[3:1:-1],
    np.s_[0, :, None, 1:2],
    np.s_[ROW],
    np.s_[:, ROW],
    np.s_[..., ROW],
    np.s_[ROWS],
    np.s_[:, ROWS],
    np.s_[ROW, ROW],
    np.s_[:, ROW, ROW],
    np.s_[ROW, :, ROW],
    np.s_[0, ROW],
    np.s_[ROW, 1],
    np.s_[:, 1, ROW],
    np.s_[1, :, ROW],
    np.s_[ROWS, ROW[:2]],
    np.s_[None, ROW, 1:3],
    np.s_[ROW, None, :, 2:],
    np.s_[[1, 2]],
    np.s_[ROW, ..., ::2],
    np.s_[:, None, ROW],
]


@pytest.mark.parametrize("key", KEYS, ids=lambda k: str(k).replace("\n", ""))
def test_index(key):
    got, wanted = run(lambda t: t[key], X), X[key]
    assert got.shape == wanted.shape
    np.testing.assert_array_equal(got, wanted)


def test_index_by_a_tensor():
    np.testing.assert_array_equal(run(lambda t, i: t[i], X, ROW), X[ROW])
    np.testing.assert_array_equal(run(lambda t, i: t[:, i, 0], X, ROW), X[:, ROW, 0])


def test_symbolic_dimensions():
    with dlc.Graph("symbolic"):
        x = dlc.input("x", ("batch", 5))
        batch = x.shape[0]
        assert x[:-1].shape == (batch - 1, 5)
        assert x[1:].shape == (batch - 1, 5)
        assert x[-1].shape == (5,)
        assert x[:, 0].shape == (batch,)
        assert x[::-1].shape == x.shape
        assert x.reshape(-1).shape == (batch * 5,)
        assert x.reshape(batch, 5, 1).shape == (batch, 5, 1)
        assert (x * x.shape[0]).shape == x.shape


@pytest.mark.parametrize(
    "key, words",
    [
        (np.s_[4], "out of range"),
        (np.s_[0, 0, 0, 0], "too many"),
        (X > 0, "boolean mask"),
        (True, "bool"),
        (np.s_[..., 0, ...], "one ellipsis"),
        (np.s_[::0], "step"),
        (1.5, "not an int"),
        (np.array([0.5]), "integers"),
    ],
)
def test_refused(key, words):
    with pytest.raises(TypeRuleError, match=words):
        run(lambda t: t[key], X)
