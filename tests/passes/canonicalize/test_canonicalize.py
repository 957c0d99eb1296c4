"""Every canonicalisation rule by before-text and after-text, and what must not change."""

from __future__ import annotations

import numpy as np
import pytest

from dlc.ir.builder import Builder
from dlc.ir.graph import Role
from dlc.ir.types import tensor_type
from dlc.passes.canonicalize.canonicalize import canonicalize
from dlc.passes.cleanup import cleanup
from dlc.passes.fold import fold
from tests.passes.pass_text import assert_becomes, assert_same_values, graph_of

X = "input %x: float32[2, 6] data\n"


def tidy(graph):
    return cleanup(canonicalize(graph))


def with_constant(number, line):
    constant = f"%90 = constant() {{value=float32[]{{{number}}}}}\n%91 = broadcast(%90) {{shape=(2, 6), dims=()}}\n"
    return f'{X}{constant}%92 = {line}\noutput "y" = %92'


IDENTITY = [
    ("1.0", "mul(%x, %91)"),
    ("1.0", "mul(%91, %x)"),
    ("-0.0", "add(%x, %91)"),
    ("-0.0", "add(%91, %x)"),
    ("0.0", "sub(%x, %91)"),
    ("1.0", "div(%x, %91)"),
    ("1.0", "pow(%x, %91)"),
]


@pytest.mark.parametrize(("number", "line"), IDENTITY)
def test_identities_go(number, line):
    assert_becomes(tidy, with_constant(number, line), X + 'output "y" = %x')


@pytest.mark.parametrize(
    ("number", "line"),
    [("0.0", "add(%x, %91)"), ("-0.0", "sub(%x, %91)"), ("3.0", "div(%x, %91)"), ("0.0", "mul(%x, %91)")],
)
def test_what_is_not_exact_stays(number, line):
    before = graph_of(with_constant(number, line))
    assert [n.op.name for n in tidy(before).nodes] == [n.op.name for n in before.nodes]


@pytest.mark.parametrize(
    ("number", "line", "ops"),
    [
        ("-1.0", "mul(%x, %91)", ["neg"]),
        ("4.0", "div(%x, %91)", ["constant", "broadcast", "mul"]),
        ("0.125", "div(%x, %91)", ["constant", "broadcast", "mul"]),
        ("2.0", "pow(%x, %91)", ["mul"]),
        ("-1.0", "pow(%x, %91)", ["reciprocal"]),
        ("0.5", "pow(%x, %91)", ["sqrt"]),
    ],
)
def test_cheaper_ops(number, line, ops):
    before = graph_of(with_constant(number, line))
    after = tidy(before)
    names = [n.op.name for n in after.nodes]
    assert all(op in names for op in ops) and line.split("(")[0] not in set(names) - set(ops)
    assert_same_values(before, after)


@pytest.mark.parametrize("number", ["3.0", "4.0"])
def test_small_powers_are_products(number):
    before = graph_of(with_constant(number, "pow(%x, %91)"))
    after = tidy(before)
    assert {n.op.name for n in after.nodes} == {"mul"}
    assert_same_values(before, after, exact=False)


MOVEMENTS = {
    "reshape of reshape": (
        X + '%1 = reshape(%x) {shape=(3, 4)}\n%2 = reshape(%1) {shape=(12,)}\noutput "y" = %2',
        X + '%1 = reshape(%x) {shape=(12,)}\noutput "y" = %1',
    ),
    "reshape back": (
        X + '%1 = reshape(%x) {shape=(12,)}\n%2 = reshape(%1) {shape=(2, 6)}\noutput "y" = %2',
        X + 'output "y" = %x',
    ),
    "transposes cancel": (
        X + '%1 = transpose(%x) {permutation=(1, 0)}\n%2 = transpose(%1) {permutation=(1, 0)}\noutput "y" = %2',
        X + 'output "y" = %x',
    ),
    "transposes merge": (
        "input %x: float32[2, 3, 4] data\n%1 = transpose(%x) {permutation=(1, 2, 0)}\n"
        '%2 = transpose(%1) {permutation=(1, 0, 2)}\noutput "y" = %2',
        'input %x: float32[2, 3, 4] data\n%1 = transpose(%x) {permutation=(2, 1, 0)}\noutput "y" = %1',
    ),
    "transpose of extents of 1": (
        'input %x: float32[1, 3, 1] data\n%1 = transpose(%x) {permutation=(1, 0, 2)}\noutput "y" = %1',
        'input %x: float32[1, 3, 1] data\n%1 = reshape(%x) {shape=(3, 1, 1)}\noutput "y" = %1',
    ),
    "transpose of a broadcast": (
        "input %x: float32[3] data\n%1 = broadcast(%x) {shape=(2, 3), dims=(1,)}\n"
        '%2 = transpose(%1) {permutation=(1, 0)}\noutput "y" = %2',
        'input %x: float32[3] data\n%1 = broadcast(%x) {shape=(3, 2), dims=(0,)}\noutput "y" = %1',
    ),
    "transpose of a pad": (
        X + "%1 = constant() {value=float32[]{0.0}}\n%2 = pad(%x, %1) {low=(1, 0), high=(0, 2), interior=(0, 0)}\n"
        '%3 = transpose(%2) {permutation=(1, 0)}\noutput "y" = %3',
        X + "%1 = constant() {value=float32[]{0.0}}\n%2 = transpose(%x) {permutation=(1, 0)}\n"
        '%3 = pad(%2, %1) {low=(0, 1), high=(2, 0), interior=(0, 0)}\noutput "y" = %3',
    ),
    "transposes sink and cancel": (
        "input %x: float32[2, 3] data\ninput %z: float32[2] data\n%1 = transpose(%x) {permutation=(1, 0)}\n"
        "%2 = exp(%1)\n"
        "%3 = broadcast(%z) {shape=(3, 2), dims=(1,)}\n%4 = mul(%3, %2)\n%5 = transpose(%4) {permutation=(1, 0)}\n"
        'output "y" = %5',
        "input %x: float32[2, 3] data\ninput %z: float32[2] data\n%1 = exp(%x)\n"
        '%2 = broadcast(%z) {shape=(2, 3), dims=(0,)}\n%3 = mul(%2, %1)\noutput "y" = %3',
    ),
    "a shared transpose stays": (
        X + '%1 = transpose(%x) {permutation=(1, 0)}\n%2 = exp(%1)\noutput "y" = %2\noutput "z" = %1',
        X + '%1 = transpose(%x) {permutation=(1, 0)}\n%2 = exp(%1)\noutput "y" = %2\noutput "z" = %1',
    ),
    "reduction of a transpose": (
        "input %x: float32[2, 3, 4] data\n%1 = transpose(%x) {permutation=(2, 0, 1)}\n"
        '%2 = reduce_max(%1) {axes=(1,)}\noutput "y" = %2',
        "input %x: float32[2, 3, 4] data\n%1 = reduce_max(%x) {axes=(0,)}\n"
        '%2 = transpose(%1) {permutation=(1, 0)}\noutput "y" = %2',
    ),
    "broadcast of a broadcast": (
        "input %x: float32[3] data\n%1 = broadcast(%x) {shape=(2, 3), dims=(1,)}\n"
        '%2 = broadcast(%1) {shape=(2, 4, 3), dims=(0, 2)}\noutput "y" = %2',
        'input %x: float32[3] data\n%1 = broadcast(%x) {shape=(2, 4, 3), dims=(2,)}\noutput "y" = %1',
    ),
    "slice of a slice": (
        "input %x: float32[20] data\n%1 = slice(%x) {starts=(2,), limits=(18,), strides=(3,)}\n"
        '%2 = slice(%1) {starts=(1,), limits=(5,), strides=(2,)}\noutput "y" = %2',
        'input %x: float32[20] data\n%1 = slice(%x) {starts=(5,), limits=(12,), strides=(6,)}\noutput "y" = %1',
    ),
    "slice of everything": (
        X + '%1 = slice(%x) {starts=(0, 0), limits=(2, 6)}\noutput "y" = %1',
        X + 'output "y" = %x',
    ),
    "slice of a transpose": (
        "input %x: float32[2, 3, 4] data\n%1 = transpose(%x) {permutation=(2, 0, 1)}\n"
        '%2 = slice(%1) {starts=(1, 0, 0), limits=(4, 2, 2), strides=(2, 1, 1)}\noutput "y" = %2',
        "input %x: float32[2, 3, 4] data\n%1 = slice(%x) {starts=(0, 0, 1), limits=(2, 2, 4), strides=(1, 1, 2)}\n"
        '%2 = transpose(%1) {permutation=(2, 0, 1)}\noutput "y" = %2',
    ),
    "one step of a transposed sequence": (
        "input %x: float32[5, 2, 3] data\n%1 = transpose(%x) {permutation=(1, 0, 2)}\n"
        '%2 = slice(%1) {starts=(0, 4, 0), limits=(2, 5, 3)}\noutput "y" = %2',
        "input %x: float32[5, 2, 3] data\n%1 = slice(%x) {starts=(4, 0, 0), limits=(5, 2, 3)}\n"
        '%2 = reshape(%1) {shape=(2, 1, 3)}\noutput "y" = %2',
    ),
    "slices of a shared transpose stay": (
        X + "%1 = transpose(%x) {permutation=(1, 0)}\n%2 = slice(%1) {starts=(0, 0), limits=(3, 2)}\n"
        '%3 = slice(%1) {starts=(3, 0), limits=(6, 2)}\noutput "y" = %2\noutput "z" = %3',
        X + "%1 = transpose(%x) {permutation=(1, 0)}\n%2 = slice(%1) {starts=(0, 0), limits=(3, 2)}\n"
        '%3 = slice(%1) {starts=(3, 0), limits=(6, 2)}\noutput "y" = %2\noutput "z" = %3',
    ),
    "reverse twice": (
        X + '%1 = reverse(%x) {axes=(0, 1)}\n%2 = reverse(%1) {axes=(1,)}\noutput "y" = %2',
        X + '%1 = reverse(%x) {axes=(0,)}\noutput "y" = %1',
    ),
    "pad of a pad": (
        X + "%1 = constant() {value=float32[]{0.0}}\n%2 = pad(%x, %1) {low=(1, 0), high=(0, 2), interior=(0, 0)}\n"
        '%3 = pad(%2, %1) {low=(0, 3), high=(-1, 0), interior=(0, 0)}\noutput "y" = %3',
        X + "%1 = constant() {value=float32[]{0.0}}\n%2 = pad(%x, %1) {low=(1, 3), high=(-1, 2), interior=(0, 0)}\n"
        'output "y" = %2',
    ),
    "concat of one": (X + '%1 = concat(%x) {axis=0}\noutput "y" = %1', X + 'output "y" = %x'),
    "concat of a concat": (
        X + '%1 = neg(%x)\n%2 = concat(%x, %1) {axis=1}\n%3 = concat(%2, %x) {axis=1}\noutput "y" = %3',
        X + '%1 = neg(%x)\n%2 = concat(%x, %1, %x) {axis=1}\noutput "y" = %2',
    ),
    "reduction of extents of 1": (
        'input %x: float32[1, 3] data\n%1 = reduce_sum(%x) {axes=(0,)}\noutput "y" = %1',
        'input %x: float32[1, 3] data\n%1 = reshape(%x) {shape=(3,)}\noutput "y" = %1',
    ),
    "gather of one element": (
        X + '%1 = constant() {value=int64[]{-2}}\n%2 = gather(%x, %1) {axis=1}\noutput "y" = %2',
        X + '%1 = slice(%x) {starts=(0, 4), limits=(2, 5)}\n%2 = reshape(%1) {shape=(2,)}\noutput "y" = %2',
    ),
    "sum of pads": (
        "input %x: float32[2, 2] data\ninput %z: float32[2, 3] data\n%1 = constant() {value=float32[]{0.0}}\n"
        "%2 = pad(%x, %1) {low=(0, 3), high=(0, 0), interior=(0, 0)}\n"
        '%3 = pad(%z, %1) {low=(0, 0), high=(0, 2), interior=(0, 0)}\n%4 = add(%2, %3)\noutput "y" = %4',
        'input %x: float32[2, 2] data\ninput %z: float32[2, 3] data\n%1 = concat(%z, %x) {axis=1}\noutput "y" = %1',
    ),
    "negation twice": (X + '%1 = neg(%x)\n%2 = neg(%1)\noutput "y" = %2', X + 'output "y" = %x'),
    "cast there and back": (
        X + '%1 = cast(%x) {dtype=float64}\n%2 = cast(%1) {dtype=float32}\noutput "y" = %2',
        X + 'output "y" = %x',
    ),
    "cast through a wider type": (
        'input %x: int8[4] data\n%1 = cast(%x) {dtype=int64}\n%2 = cast(%1) {dtype=float32}\noutput "y" = %2',
        'input %x: int8[4] data\n%1 = cast(%x) {dtype=float32}\noutput "y" = %1',
    ),
    "where of one value": (
        X + 'input %c: bool[2, 6] data\n%1 = where(%c, %x, %x)\noutput "y" = %1',
        X + 'input %c: bool[2, 6] data\noutput "y" = %x',
    ),
    "where decided": (
        X + "%1 = constant() {value=bool[]{false}}\n%2 = broadcast(%1) {shape=(2, 6), dims=()}\n%3 = neg(%x)\n"
        '%4 = where(%2, %x, %3)\noutput "y" = %4',
        X + '%1 = neg(%x)\noutput "y" = %1',
    ),
    "mask of true": (
        "input %x: bool[4] data\n%1 = constant() {value=bool[]{true}}\n%2 = broadcast(%1) {shape=(4,), dims=()}\n"
        '%3 = bit_and(%2, %x)\noutput "y" = %3',
        'input %x: bool[4] data\noutput "y" = %x',
    ),
    "elementwise before broadcast": (
        "input %x: float32[3] data\ninput %z: float32[3] data\n%1 = broadcast(%x) {shape=(2, 3), dims=(1,)}\n"
        '%2 = broadcast(%z) {shape=(2, 3), dims=(1,)}\n%3 = add(%1, %2)\noutput "y" = %3',
        "input %x: float32[3] data\ninput %z: float32[3] data\n%1 = add(%x, %z)\n"
        '%2 = broadcast(%1) {shape=(2, 3), dims=(1,)}\noutput "y" = %2',
    ),
    "if decided": (
        X + "%1 = constant() {value=bool[]{true}}\n"
        '%2 = if_(%1, %x) {then_graph=graph "a" { input %i: float32[2, 6] data %0 = neg(%i) output "o" = %0 }, '
        'else_graph=graph "b" { input %i: float32[2, 6] data output "o" = %i }}\noutput "y" = %2',
        X + '%1 = neg(%x)\noutput "y" = %1',
    ),
}


@pytest.mark.parametrize("case", MOVEMENTS)
def test_rules(case):
    assert_becomes(tidy, *MOVEMENTS[case], exact=case != "sum of pads")


def test_lossy_casts_stay():
    text = X + '%1 = cast(%x) {dtype=float16}\n%2 = cast(%1) {dtype=float32}\noutput "y" = %2'
    assert_becomes(tidy, text, text)


def test_overlapping_pads_stay_a_sum():
    text = (
        "input %x: float32[4] data\n%1 = constant() {value=float32[]{0.0}}\n"
        "%2 = pad(%x, %1) {low=(1,), high=(0,), interior=(0,)}\n"
        '%3 = pad(%x, %1) {low=(0,), high=(1,), interior=(0,)}\n%4 = add(%2, %3)\noutput "y" = %4'
    )
    assert_becomes(tidy, text, text)


CONTRACTIONS = {
    "transposed operand": (
        "input %x: float32[4, 3] data\ninput %w: float32[4, 5] data\n%1 = transpose(%x) {permutation=(1, 0)}\n"
        '%2 = contract(%1, %w) {spec="m k, k n -> m n"}\noutput "y" = %2',
        "input %x: float32[4, 3] data\ninput %w: float32[4, 5] data\n"
        '%1 = contract(%x, %w) {spec="k m, k n -> m n"}\noutput "y" = %1',
    ),
    "transposed result": (
        'input %x: float32[3, 4] data\ninput %w: float32[4, 5] data\n%1 = contract(%x, %w) {spec="m k, k n -> m n"}\n'
        '%2 = transpose(%1) {permutation=(1, 0)}\noutput "y" = %2',
        "input %x: float32[3, 4] data\ninput %w: float32[4, 5] data\n"
        '%1 = contract(%x, %w) {spec="m k, k n -> n m"}\noutput "y" = %1',
    ),
    "merged heads": (  # attention's last product: (b s h d) -> (b s (h d)) read without a copy
        "input %x: float32[2, 3, 5, 4] data\ninput %w: float32[12, 6] data\n"
        "%1 = transpose(%x) {permutation=(0, 2, 1, 3)}\n%2 = reshape(%1) {shape=(2, 5, 12)}\n"
        '%3 = contract(%2, %w) {spec="b s k, k n -> b s n"}\noutput "y" = %3',
        "input %x: float32[2, 3, 5, 4] data\ninput %w: float32[12, 6] data\n"
        '%1 = contract(%x, %w) {spec="b k0 s k1, (k0 k1) n -> b s n", sizes=(("k0", 3), ("k1", 4))}\noutput "y" = %1',
    ),
    "split heads": (
        "input %x: float32[2, 5, 6] data\ninput %w: float32[6, 12] data\n"
        '%1 = contract(%x, %w) {spec="b s k, k n -> b s n"}\n'
        '%2 = reshape(%1) {shape=(2, 5, 3, 4)}\n%3 = transpose(%2) {permutation=(0, 2, 1, 3)}\noutput "y" = %3',
        "input %x: float32[2, 5, 6] data\ninput %w: float32[6, 12] data\n"
        '%1 = contract(%x, %w) {spec="b s k, k (n0 n1) -> b n0 s n1", sizes=(("n0", 3), ("n1", 4))}\noutput "y" = %1',
    ),
}


CROPS = {
    "padded by as much": (
        "input %x: float32[2, 4, 3] data\ninput %w: float32[3, 3, 5] data\n%0 = constant() {value=float32[]{0.0}}\n"
        "%1 = pad(%x, %0) {low=(0, 2, 0), high=(0, 3, 0), interior=(0, 0, 0)}\n"
        '%2 = contract(%1, %w) {spec="n p+r c, r c k -> n p k", sizes=(("p", 7), ("r", 3))}\n'
        '%3 = pad(%2, %0) {low=(0, -1, 0), high=(0, -2, 0), interior=(0, 0, 0)}\noutput "y" = %3',
        "n p+r c, r c k -> n p k",
        (2, 6, 3),
    ),
    "strided": (
        "input %x: float32[2, 9, 3] data\ninput %w: float32[3, 3, 5] data\n%0 = constant() {value=float32[]{0.0}}\n"
        "%1 = pad(%x, %0) {low=(0, 2, 0), high=(0, 2, 0), interior=(0, 0, 0)}\n"
        '%2 = contract(%1, %w) {spec="n p*2+r c, r c k -> n p k", sizes=(("p", 6), ("r", 3))}\n'
        '%3 = pad(%2, %0) {low=(0, -1, 0), high=(0, 0, 0), interior=(0, 0, 0)}\noutput "y" = %3',
        "n p*2+r c, r c k -> n p k",
        (2, 11, 3),
    ),
}


@pytest.mark.parametrize("case", CROPS)
def test_what_is_cropped_is_not_computed(case):
    text, spec, shape = CROPS[case]
    graph = graph_of(text)
    after = tidy(graph)
    (contract,) = (n for n in after.nodes if n.op.name == "contract")
    assert contract.attributes["spec"] == spec
    assert contract.inputs[0].type.shape == shape
    assert contract.outputs[0] is after.outputs[0]
    assert_same_values(graph, after, exact=False)


def test_crops_stay_where_an_operand_would_be_copied():
    text = (
        "input %x: float32[2, 8, 3] data\ninput %w: float32[3, 3, 5] data\n%0 = constant() {value=float32[]{0.0}}\n"
        '%1 = contract(%x, %w) {spec="n p+r c, r c k -> n p k", sizes=(("p", 6), ("r", 3))}\n'
        '%2 = pad(%1, %0) {low=(0, -1, 0), high=(0, 0, 0), interior=(0, 0, 0)}\noutput "y" = %2'
    )
    assert [n.op.name for n in tidy(graph_of(text)).nodes if n.op.name != "constant"] == ["contract", "pad"]


def test_crops_of_an_axis_within_a_group_stay():
    """The gradient of a transposed convolution's kernel that is shorter than its stride."""
    text = (
        "input %x: float32[2, 7, 3] data\ninput %dy: float32[2, 13, 5] data\n%0 = constant() {value=float32[]{0.0}}\n"
        "%1 = pad(%dy, %0) {low=(0, 0, 0), high=(0, 1, 0), interior=(0, 0, 0)}\n"
        '%2 = contract(%x, %1) {spec="n w c, n (w p) o -> c o p", sizes=(("p", 2), ("w", 7))}\n'
        '%3 = pad(%2, %0) {low=(0, 0, 0), high=(0, 0, -1), interior=(0, 0, 0)}\noutput "y" = %3'
    )
    graph = graph_of(text)
    after = tidy(graph)
    assert [n.op.name for n in after.nodes if n.op.name != "constant"] == ["pad", "contract", "pad"]
    assert_same_values(graph, after, exact=False)


@pytest.mark.parametrize("case", CONTRACTIONS)
def test_contraction_rules(case):
    assert_becomes(tidy, *CONTRACTIONS[case], exact=False)


def test_a_reshape_that_cuts_the_axes_of_a_contraction_unevenly_stays():
    text = (
        "input %x: float32[24, 64] data\ninput %w: float32[64, 64] data\n"
        '%1 = contract(%x, %w) {spec="n h, g h -> n g"}\n%2 = reshape(%1) {shape=(64, 24)}\n'
        '%3 = transpose(%2) {permutation=(1, 0)}\noutput "y" = %3'
    )
    assert_becomes(tidy, text, text, exact=False)


def test_a_shared_contraction_keeps_its_result_order():
    text = (
        'input %x: float32[3, 4] data\ninput %w: float32[4, 5] data\n%1 = contract(%x, %w) {spec="m k, k n -> m n"}\n'
        '%2 = transpose(%1) {permutation=(1, 0)}\noutput "y" = %2\noutput "z" = %1'
    )
    assert_becomes(tidy, text, text, exact=False)


def affine(trainable_mode_roles):
    b = Builder("affine")
    rng = np.random.default_rng(0)
    x = b.input("x", tensor_type("float32", (2, 3, 5, 5)))

    def weight(name, shape):
        return b.input(
            name, tensor_type("float32", shape), trainable_mode_roles, rng.normal(size=shape).astype(np.float32)
        )

    y = b.conv(x, weight("w", (4, 3, 3, 3)))
    y = b.add(y, b.broadcast(weight("b", (4,)), shape=y.type.shape, dims=(1,)))
    y = b.mul(
        b.sub(y, b.broadcast(weight("m", (4,)), shape=y.type.shape, dims=(1,))),
        b.broadcast(weight("s", (4,)), shape=y.type.shape, dims=(1,)),
    )
    y = b.add(y, b.broadcast(weight("o", (4,)), shape=y.type.shape, dims=(1,)))
    b.output("y", y)
    return b.finish()


def test_scales_and_shifts_move_into_fixed_weights():
    from dlc.passes.expand import expand
    from dlc.passes.hoist import split

    graph = expand(affine(Role.PARAMETER))
    after = tidy(graph)
    assert_same_values(graph, after, exact=False)
    main = split(after).main
    assert [n.op.name for n in main.nodes] == ["contract", "broadcast", "add"]


def test_weights_that_are_fed_keep_their_scale():
    from dlc.passes.expand import expand

    graph = expand(affine(Role.DATA))
    assert [n.op.name for n in tidy(graph).nodes].count("mul") == 1


def gated(gate, pixels=12, batch=1):
    """A 1x1 convolution of an image whose channels are scaled by gates that are computed in every run."""
    from dlc.passes.expand import expand

    b = Builder("gated")
    x = b.input("x", tensor_type("float32", (batch, 8, pixels, pixels)))
    s = b.input("s", tensor_type("float32", (batch, 8)))
    w = np.random.default_rng(0).normal(size=(16, 8, 1, 1)).astype(np.float32)
    w = b.input("w", tensor_type("float32", w.shape), Role.PARAMETER, w)
    s = b.reshape(gate(b, s), shape=(batch, 8, 1, 1))
    b.output("y", b.conv(b.mul(x, b.broadcast_to(s, x.type.shape)), w))
    return expand(b.finish())


def clamped(b, s):
    return b.maximum(b.minimum(b.add(s, 0.5), 1.0), 0.0)


@pytest.mark.parametrize("gate", [lambda b, s: b.sigmoid(s), lambda b, s: b.tanh(s), clamped])
def test_gates_of_channels_move_into_smaller_weights(gate):
    graph = gated(gate)
    after = tidy(graph)
    assert_same_values(graph, after, exact=False)
    (product,) = (n for n in after.nodes if n.op.name == "mul")
    assert product.outputs[0].type.size == 16 * 8


@pytest.mark.parametrize(
    "graph",
    [
        gated(lambda b, s: b.sigmoid(s), pixels=4),  # weights are as large as the image
        gated(lambda b, s: b.sigmoid(s), batch=2),  # the weights would differ between images
        gated(lambda b, s: b.exp(s)),  # weights times gates may overflow
        gated(lambda b, s: b.maximum(s, 0.0)),
    ],
    ids=["small", "batch", "exp", "relu"],
)
def test_gates_that_do_not_fit_weights_stay(graph):
    (product,) = (n for n in tidy(graph).nodes if n.op.name == "mul")
    assert product.outputs[0].type.shape[0] in (1, 2), "an image, not the 16 filters"


def test_a_gated_image_that_is_read_again_is_computed_once():
    b = Builder("shared")
    x, s = b.input("x", tensor_type("float32", (64, 8))), b.input("s", tensor_type("float32", (8,)))
    w = b.input("w", tensor_type("float32", (8, 4)), Role.PARAMETER, np.ones((8, 4), np.float32))
    scaled = b.mul(x, b.broadcast(b.sigmoid(s), shape=(64, 8), dims=(1,)))
    b.output("y", b.contract(scaled, w, spec="m k, k n -> m n"))
    b.output("z", scaled)
    assert [n.outputs[0].type.shape for n in tidy(b.finish()).nodes if n.op.name == "mul"] == [(64, 8)]


def test_rules_reach_into_regions():
    text = X + (
        '%1 = scan(%x) {body=graph "b" { input %i: float32[2, 6] data %0 = neg(%i) %1 = neg(%0) output "o" = %1 }, '
        'carries=1, sequences=0, length=3}\noutput "y" = %1'
    )
    after = tidy(graph_of(text))
    assert not after.nodes[0].attributes["body"].nodes


def test_folds_meet_rules():
    text = with_constant("1.0", "mul(%x, %91)").replace(
        "%90 = constant() {value=float32[]{1.0}}",
        "%80 = constant() {value=float32[]{0.25}}\n%81 = constant() {value=float32[]{4.0}}\n%90 = mul(%80, %81)",
    )
    assert_becomes(lambda g: tidy(fold(g)), text, X + 'output "y" = %x')
