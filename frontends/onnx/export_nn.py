"""Export rules of contractions, convolutions, pooling, norms, recurrent layers and regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dlc.errors import UnsupportedOpError
from dlc.frontends.onnx.export_rules import NotExpressible, exports
from dlc.frontends.onnx.export_writer import Writer
from dlc.ir.contraction import Group, WindowTerm, group_shape, infer_extents, parse_spec
from dlc.ir.dims import Dim
from dlc.ir.graph import Node
from dlc.ir.types import float32, float64

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


# -- products ---------------------------------------------------------------------------


@exports("matmul")
def export_matmul(w: Writer, node: Node) -> str:
    """Matrix product."""
    return w.node("MatMul", [w.name(v) for v in node.inputs])


@exports("einsum")
def export_einsum(w: Writer, node: Node) -> str:
    """Sum of products by an equation."""
    return w.node("Einsum", [w.name(v) for v in node.inputs], equation=node.attributes["equation"])


@exports("contract")
def export_contract(w: Writer, node: Node) -> str:
    """Any contraction: groups are split and merged by reshapes, windows read by gathers, the rest is an Einsum."""
    spec = parse_spec(node.attributes["spec"])
    lhs, rhs = node.inputs
    extents = infer_extents(spec, lhs.type.shape, rhs.type.shape, dict(node.attributes["sizes"]))
    letters = dict(zip(spec.axes, _LETTERS))
    names, terms = [], []
    for value, side in ((lhs, spec.lhs), (rhs, spec.rhs)):
        name, labels = _unfolded(w, w.name(value), side, value.type.shape, extents, letters)
        names.append(name)
        terms.append(labels)
    output = "".join(letters[a] for a in spec.output_axes)
    y = w.node("Einsum", names, equation=f"{terms[0]},{terms[1]}->{output}")
    if any(isinstance(d, Group) and len(d.axes) > 1 for d in spec.output):
        y = w.reshape(y, group_shape(spec.output, extents))
    return y


def _unfolded(
    w: Writer, name: str, side: Sequence[Any], stored: Sequence[Dim], extents: dict[str, Dim], letters: dict[str, str]
) -> tuple[str, str]:
    """Give every axis of one operand, of shape ``stored``, a dimension of its own."""
    labels: list[str] = []
    shape: list[Dim] = []
    for number, index in enumerate(side):
        if isinstance(index, WindowTerm):
            table = np.zeros((1,) * len(index.terms), np.int64)
            for position, (axis, step) in enumerate(index.terms):
                extent = extents[axis]
                if not isinstance(extent, int):
                    raise UnsupportedOpError(
                        f"a window over the symbolic dimension {extent} cannot be exported; bind it"
                    )
                line = np.arange(extent).reshape([-1 if k == position else 1 for k in range(len(index.terms))])
                table = table + line * step
            name = w.node("Gather", [name, w.constant(table)], axis=len(shape))
        labels += [letters[a] for a in index.axes]
        shape += [extents[a] for a in index.axes]
        if isinstance(index, Group) and len(index.axes) > 1:
            name = w.reshape(name, (*shape, *stored[number + 1 :]))
    return name, "".join(labels)


# -- convolution and pooling --------------------------------------------------------------


def _moved(w: Writer, name: str, layout: str, wanted: str) -> str:
    return w.transpose(name, [layout.index(c) for c in wanted])


@exports("conv", "conv_transpose")
def export_conv(w: Writer, node: Node) -> str:
    """Convolution; other layouts are transposed around it."""
    a = node.attributes
    spatial = "".join(c for c in a["input"] if c not in "nc")
    transposed = node.op.name == "conv_transpose"
    x = _moved(w, w.name(node.inputs[0]), a["input"], "nc" + spatial)
    kernel = _moved(w, w.name(node.inputs[1]), a["kernel"], ("io" if transposed else "oi") + spatial)
    extents = dict(zip(a["kernel"], node.inputs[1].type.shape, strict=True))
    y = w.node(
        "ConvTranspose" if transposed else "Conv",
        [x, kernel],
        strides=list(a["strides"]),
        dilations=list(a["dilations"]),
        group=a["groups"],
        pads=[p[k] for k in range(2) for p in a["padding"]],
        kernel_shape=[extents[c] for c in spatial],
        output_padding=list(a["output_padding"]) if transposed and any(a["output_padding"]) else None,
    )
    return _moved(w, y, "nc" + spatial, a["output"])


@exports("max_pool", "avg_pool")
def export_pool(w: Writer, node: Node) -> str:
    """Pooling over the last dimensions of batch, channels, space."""
    a, x = node.attributes, node.inputs[0].type
    axes = a["axes"]
    if not 3 <= x.rank <= 5 or len(axes) != x.rank - 2 or a["ceil_mode"] or not x.dtype.is_float:
        raise NotExpressible
    rest = [k for k in range(x.rank) if k not in axes]
    order = [*rest, *axes]
    name = w.transpose(w.name(node.inputs[0]), order)
    options: dict[str, Any] = {
        "kernel_shape": list(a["window"]),
        "strides": list(a["strides"]),
        "pads": [p[k] for k in range(2) for p in a["padding"]],
    }
    if any(d != 1 for d in a["dilations"]):
        if node.op.name == "avg_pool":
            raise NotExpressible
        options["dilations"] = list(a["dilations"])
    if node.op.name == "avg_pool":
        options["count_include_pad"] = int(a["count_include_pad"])
    y = w.node("MaxPool" if node.op.name == "max_pool" else "AveragePool", [name], **options)
    return w.transpose(y, [order.index(k) for k in range(x.rank)])


# -- norms ------------------------------------------------------------------------------


@exports("layer_norm")
def export_layer_norm(w: Writer, node: Node) -> str:
    """Layer normalisation over the last dimensions."""
    rank, axes = node.inputs[0].type.rank, node.attributes["axes"]
    if tuple(axes) != tuple(range(rank - len(axes), rank)) or node.inputs[0].type.dtype not in (float32, float64):
        raise NotExpressible
    names = [w.name(v) for v in node.inputs]
    return w.node("LayerNormalization", names, axis=rank - len(axes), epsilon=float(node.attributes["epsilon"]))


@exports("batch_norm")
def export_batch_norm(w: Writer, node: Node) -> list[Any]:
    """Batch normalisation with running statistics, which stay as they are."""
    if node.attributes["axis"] != 1:
        raise NotExpressible
    names = [w.name(v) for v in node.inputs]
    y = w.node("BatchNormalization", names, epsilon=float(node.attributes["epsilon"]))
    return [y, ("alias", names[3]), ("alias", names[4])]


@exports("group_norm")
def export_group_norm(w: Writer, node: Node) -> str:
    """Group normalisation, with a scale per channel from opset 21 on."""
    a = node.attributes
    if w.opset < 21 or a["channel_axis"] != 1:
        raise NotExpressible
    names = [w.name(v) for v in node.inputs]
    return w.node("GroupNormalization", names, num_groups=a["groups"], epsilon=float(a["epsilon"]))


@exports("local_response_norm")
def export_local_response_norm(w: Writer, node: Node) -> str:
    """Local response normalisation over channels."""
    a = node.attributes
    if a["axis"] != 1 or node.inputs[0].type.rank != 4 or node.inputs[0].type.dtype is not float32:
        raise NotExpressible
    options = {name: float(a[name]) for name in ("alpha", "beta", "bias")}
    return w.node("LRN", [w.name(node.inputs[0])], size=a["size"], **options)


# -- recurrent layers ---------------------------------------------------------------------

_ORDERS = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}


@exports("lstm", "gru", "rnn")
def export_recurrent(w: Writer, node: Node) -> list[str]:
    """A recurrent layer of one direction; gates in ONNX's order."""
    kind, a = node.op.name, node.attributes
    biases = 2 if kind == "gru" else 1
    x, w_ih, w_hh = (w.name(v) for v in node.inputs[:3])
    hidden = node.inputs[2].type.shape[1]
    if not isinstance(hidden, int):
        raise NotExpressible
    order, rows = _ORDERS[kind], len(_ORDERS[kind]) * hidden
    place = np.concatenate([np.arange(g * hidden, (g + 1) * hidden) for g in order])

    def ordered(name: str) -> str:
        return name if kind == "rnn" else w.node("Gather", [name, w.constant(place)], axis=0)

    def front(name: str, shape: Sequence[Dim]) -> str:
        return w.reshape(name, (1, *shape))

    given = [ordered(w.name(v)) for v in node.inputs[3 : 3 + biases]]
    if biases == 1:
        given.append(w.constant(np.zeros(rows, node.inputs[0].type.dtype.numpy)))
    bias = front(w.node("Concat", given, axis=0), (2 * rows,))
    weights = [front(ordered(n), v.type.shape) for n, v in ((w_ih, node.inputs[1]), (w_hh, node.inputs[2]))]
    states = [front(w.name(v), v.type.shape) for v in node.inputs[3 + biases :]]
    options: dict[str, Any] = {"hidden_size": hidden, "direction": "reverse" if a["reverse"] else "forward"}
    if kind == "gru":
        options["linear_before_reset"] = int(a["linear_before_reset"])
    if kind == "rnn":
        options["activations"] = [a["activation"].capitalize()]
    found = w.nodes_out(kind.upper(), [x, *weights, bias, "", *states], len(node.outputs), **options)
    return [w.reshape(name, value.type.shape) for name, value in zip(found, node.outputs, strict=True)]
