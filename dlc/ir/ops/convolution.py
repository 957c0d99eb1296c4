"""Convolution and its transpose over any layout: composites of ``pad`` and one contraction.

Layouts are strings of dimension letters: ``n`` batch, ``c`` channels, ``o`` and
``i`` the kernel's output and input channels, any other letter a spatial axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dlc.errors import TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.dims import Dim, exact_quotient
from dlc.ir.graph import Value
from dlc.ir.opdef import Attribute, Mode, OpDef, Types, register
from dlc.ir.ops.linear import check_numbers
from dlc.ir.ops.rules import BOUND, check_ints, spread
from dlc.ir.types import TensorType

_SPATIAL = {1: "w", 2: "hw", 3: "dhw"}


def pair_padding(padding: Any, count: int) -> tuple:
    """Return ((low, high), ...) from an int, one int per axis, or pairs."""
    return tuple(p if isinstance(p, tuple) else (p, p) for p in spread(padding, count))


def check_padding(padding: tuple, count: int) -> None:
    """Raise TypeRuleError unless ``padding`` is ``count`` pairs of ints in [0, 2**31)."""
    if len(padding) != count or any(not isinstance(p, tuple) or len(p) != 2 for p in padding):
        raise TypeRuleError(f"padding {padding} must give (low, high) for each of {count} axes")
    check_ints(tuple(v for pair in padding for v in pair), 2 * count, "padding", low=0)


def _normalize(kernel_prefix: str) -> Callable[[Types, Attributes], Attributes]:
    def normalize(types: Types, a: Attributes) -> Attributes:
        count = types[0].rank - 2
        letters = _SPATIAL.get(count, "")
        if a["input"] is None and not letters:
            raise TypeRuleError(f"has no default layout for an operand of rank {types[0].rank}; give input and kernel")
        layout = a["input"] or "nc" + letters
        spatial = "".join(c for c in layout if c not in "nc")
        changes = {
            "input": layout,
            "kernel": a["kernel"] or kernel_prefix + spatial,
            "output": a["output"] or layout,
            "strides": spread(a["strides"], count),
            "dilations": spread(a["dilations"], count),
            "padding": pair_padding(a["padding"], count),
        }
        if "output_padding" in a:
            changes["output_padding"] = spread(a["output_padding"], count)
        return a.updated(**changes)

    return normalize


def _plain(spatial: str) -> bool:
    """Tell whether ``spatial`` are lower-case letters that the contraction's other axes leave free."""
    return spatial.isascii() and spatial.islower() and spatial.isalpha() and not set(spatial) & set("ncoig")


def _check(inputs: Types, a: Attributes) -> tuple[dict[str, Dim], dict[str, Dim], str]:
    """Check layouts and attributes; return the extents of input and kernel by letter, and the spatial letters."""
    check_numbers(inputs)
    x, w = inputs
    spatial = "".join(c for c in a["input"] if c not in "nc")
    wanted = {"input": "nc" + spatial, "kernel": "oi" + spatial, "output": "nc" + spatial}
    for name, letters in wanted.items():
        if sorted(a[name]) != sorted(letters) or len(set(letters)) != len(letters) or not _plain(spatial):
            raise TypeRuleError(f"layout {name}={a[name]!r} must be an arrangement of {letters!r}")
    for name, t, layout in (("operand", x, a["input"]), ("kernel", w, a["kernel"])):
        if t.rank != len(layout):
            raise TypeRuleError(f"{name} has rank {t.rank} but its layout {layout!r} has {len(layout)} dimensions")
    count = len(spatial)
    check_ints(a["strides"], count, "strides", low=1)
    check_ints(a["dilations"], count, "dilations", low=1)
    check_padding(a["padding"], count)
    if not 1 <= a["groups"] < BOUND:
        raise TypeRuleError(f"groups is {a['groups']}; it must be at least 1")
    return dict(zip(a["input"], x.shape, strict=True)), dict(zip(a["kernel"], w.shape, strict=True)), spatial


def window_extent(extent: Dim, window: Dim, stride: int, dilation: int, pads: tuple[int, int], axis: object) -> Dim:
    """Return the number of window positions; TypeRuleError if the window is larger than the padded extent."""
    span = extent + (pads[0] + pads[1] - 1) - (window - 1) * dilation
    if isinstance(window, int) and window < 1:
        raise TypeRuleError(f"the window along {axis} is empty")
    if isinstance(span, int) and span < 0:
        raise TypeRuleError(
            f"a window of {window} with dilation {dilation} along {axis} is larger than {extent} padded by {pads}"
        )
    return span // stride + 1


def conv_type(inputs: Types, attributes: Attributes) -> Types:
    """(operand, kernel) -> one output position per placement of the kernel."""
    x, w, spatial = _check(inputs, attributes)
    groups = attributes["groups"]
    if exact_quotient(x["c"], groups) != w["i"]:
        raise TypeRuleError(f"{x['c']} channels in {groups} groups do not fit a kernel with {w['i']} input channels")
    if exact_quotient(w["o"], groups) is None:
        raise TypeRuleError(f"{w['o']} output channels do not divide into {groups} groups")
    extents: dict[str, Dim] = {"n": x["n"], "c": w["o"]}
    for letter, stride, dilation, pads in zip(
        spatial, attributes["strides"], attributes["dilations"], attributes["padding"], strict=True
    ):
        extents[letter] = window_extent(x[letter], w[letter], stride, dilation, pads, letter)
    return (TensorType(inputs[0].dtype, tuple(extents[c] for c in attributes["output"])),)


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.itemsize < 4 and array.dtype.kind not in "iu" else array


def _canonical(array: np.ndarray, layout: str, wanted: str) -> np.ndarray:
    return np.transpose(array, [layout.index(c) for c in wanted])


def conv_evaluate(a: Attributes, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Sliding windows of the padded operand times the kernel, summed."""
    spatial = "".join(c for c in a["input"] if c not in "nc")
    dtype, groups, count = x.dtype, a["groups"], len(spatial)
    x = np.pad(_canonical(_wide(x), a["input"], "nc" + spatial), ((0, 0), (0, 0), *a["padding"]))
    w = _canonical(_wide(w), a["kernel"], "oi" + spatial)
    window = tuple((k - 1) * d + 1 for k, d in zip(w.shape[2:], a["dilations"], strict=True))
    views = np.lib.stride_tricks.sliding_window_view(x, window, tuple(range(2, 2 + count)))
    steps: tuple[Any, ...] = (
        ...,
        *(slice(None, None, s) for s in a["strides"]),
        *(slice(None, None, d) for d in a["dilations"]),
    )
    views = views[steps]
    views = views.reshape(views.shape[0], groups, views.shape[1] // groups, *views.shape[2:])
    w = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    n, g, c, o = range(4)
    places, taps = list(range(4, 4 + count)), list(range(4 + count, 4 + 2 * count))
    y = np.einsum(views, [n, g, c, *places, *taps], w, [g, o, c, *taps], [n, g, o, *places], optimize=True)
    y = (
        y.reshape(y.shape[0], -1, *y.shape[3:])
        if y.size
        else np.zeros((y.shape[0], g and w.shape[1] * groups, *y.shape[3:]))
    )
    return _canonical(y, "nc" + spatial, a["output"]).astype(dtype)


def _channel_terms(
    b: Builder, kernel: Value, layout: str, groups: int, per_group: str, whole: str
) -> tuple[Value, dict[str, str], str, str]:
    """Choose the axes of channels: return the kernel without unit dimensions that grouping leaves, its terms by
    letter, the operand's channel term and the output's.

    ``per_group`` is the kernel letter that counts channels inside a group, ``whole`` the one over all groups.
    """
    shape = dict(zip(layout, kernel.type.shape, strict=True))
    names = {"i": "c", "o": "o"}
    if groups == 1:
        return kernel, names, "c", "o"
    drop = [per_group] if shape[per_group] == 1 else []
    inner = [names[per_group]] if not drop else []
    multiple = exact_quotient(shape[whole], groups)
    outer = ["g"] if multiple == 1 else ["g", names[whole]]
    terms = {whole: _group(outer), **({per_group: names[per_group]} if inner else {})}
    kernel = b.reshape_to(kernel, tuple(shape[c] for c in layout if c not in drop))
    sides = {names[whole]: _group(outer), names[per_group]: _group(["g", *inner])}
    return kernel, terms, sides["c"], sides["o"]


def _group(axes: list[str]) -> str:
    return axes[0] if len(axes) == 1 else f"({' '.join(axes)})"


def _emit(
    b: Builder,
    x: Value,
    w: Value,
    layout: str,
    a: Attributes,
    spatial: str,
    strides: Sequence[int],
    per_group: str,
    whole: str,
) -> Value:
    """Contract a padded operand with the kernel, of ``layout``, at every placement.

    A kernel dimension of the upper-case letter of a spatial axis counts results next to each other at one placement.
    """
    extents = dict(zip(layout, w.type.shape, strict=True))
    steps = dict(zip(spatial, strides, strict=True))
    # A kernel of extent 1 that moves by single steps reads its axis directly: the contraction is a matrix product.
    direct = [c for c in spatial if extents[c] == 1 and steps[c] == 1]
    w = b.reshape_to(w, tuple(extents[c] for c in layout if c not in direct))
    layout = "".join(c for c in layout if c not in direct)
    w, kernel_terms, input_channels, output_channels = _channel_terms(b, w, layout, a["groups"], per_group, whole)
    kernel_terms.update((c.upper(), "p" + c) for c in spatial if c.upper() in layout)
    dilation = dict(zip(spatial, a["dilations"], strict=True))
    operand_terms = {"n": "n", "c": input_channels}
    for c in spatial:
        operand_terms[c] = c if c in direct else f"{_scaled(c, steps[c])}+{_scaled('k' + c, dilation[c])}"
        if c not in direct:
            kernel_terms[c] = "k" + c
    places = {c: _group([c, "p" + c] if c.upper() in layout else [c]) for c in spatial}
    output_terms = {"n": "n", "c": output_channels, **places}
    sides = (
        " ".join(operand_terms[c] for c in a["input"]),
        " ".join(kernel_terms[c] for c in layout if c in kernel_terms),
        " ".join(output_terms[c] for c in a["output"]),
    )
    sizes = (("g", a["groups"]),) if a["groups"] > 1 else ()
    return b.contract(x, w, spec=f"{sides[0]}, {sides[1]} -> {sides[2]}", sizes=sizes)


def _scaled(axis: str, factor: int) -> str:
    return axis if factor == 1 else f"{axis}*{factor}"


def _padded(b: Builder, x: Value, layout: str, spatial: str, pads: Sequence[tuple[Dim, Dim, int]]) -> Value:
    """Pad the spatial axes of ``x`` by (low, high, interior) with zeros."""
    if all(p == (0, 0, 0) for p in pads):
        return x
    table = dict(zip(spatial, pads, strict=True))
    low, high, interior = (tuple(table.get(c, (0, 0, 0))[k] for c in layout) for k in range(3))
    return b.pad(x, b.constant(0, x.type.dtype), low=low, high=high, interior=interior)


def conv_expand(b: Builder, inputs: tuple[Value, ...], attributes: Attributes, mode: Mode) -> Sequence[Value]:
    """Pad, then contract over windows."""
    x, w = inputs
    spatial = "".join(c for c in attributes["input"] if c not in "nc")
    x = _padded(b, x, attributes["input"], spatial, [(low, high, 0) for low, high in attributes["padding"]])
    return (_emit(b, x, w, attributes["kernel"], attributes, spatial, attributes["strides"], "i", "o"),)


_ATTRIBUTES = {
    "input": Attribute((str, type(None)), default=None, required=False, doc="operand layout; default ncw, nchw, ncdhw"),
    "kernel": Attribute((str, type(None)), default=None, required=False, doc="kernel layout"),
    "output": Attribute((str, type(None)), default=None, required=False, doc="result layout; default the operand's"),
    "strides": Attribute((int,), many=True, default=1, required=False, doc="steps per spatial axis"),
    "dilations": Attribute(
        (int,), many=True, default=1, required=False, doc="distance of kernel taps per spatial axis"
    ),
    "padding": Attribute((tuple, int), default=0, required=False, doc="(low, high) per spatial axis"),
    "groups": Attribute((int,), default=1, required=False, doc="number of channel groups convolved apart"),
}

register(
    OpDef(
        name="conv",
        arity=2,
        infer=conv_type,
        evaluate=conv_evaluate,
        attributes=_ATTRIBUTES,
        expand=conv_expand,
        normalize=_normalize("oi"),
        doc="Convolution (cross-correlation, as in deep learning) with strides, dilations, padding and groups. "
        "The kernel's layout is an arrangement of output channels, input channels of one group, spatial axes.",
    )
)


# -- transposed convolution ----------------------------------------------------------------


def conv_transpose_type(inputs: Types, attributes: Attributes) -> Types:
    """(operand, kernel) -> the operand's positions spread by the strides and smeared by the kernel."""
    x, w, spatial = _check(inputs, attributes)
    groups = attributes["groups"]
    check_ints(attributes["output_padding"], len(spatial), "output_padding", low=0)
    if x["c"] != w["i"]:
        raise TypeRuleError(f"{x['c']} channels do not fit a kernel with {w['i']} input channels")
    if exact_quotient(w["i"], groups) is None:
        raise TypeRuleError(f"{w['i']} input channels do not divide into {groups} groups")
    extents: dict[str, Dim] = {"n": x["n"], "c": w["o"] * groups}
    for k, letter in enumerate(spatial):
        stride, dilation = attributes["strides"][k], attributes["dilations"][k]
        low, high = attributes["padding"][k]
        extra = attributes["output_padding"][k]
        if extra >= max(stride, dilation):
            raise TypeRuleError(f"output_padding {extra} must be smaller than stride {stride} or dilation {dilation}")
        reach = (w[letter] - 1) * dilation + 1
        extent = (x[letter] - 1) * stride + reach + (extra - low - high)
        if isinstance(extent, int) and extent < 1:
            raise TypeRuleError(f"padding ({low}, {high}) along {letter} leaves nothing of the result")
        extents[letter] = extent
    return (TensorType(inputs[0].dtype, tuple(extents[c] for c in attributes["output"])),)


def _trailing(index: tuple[Any, ...]) -> tuple[Any, ...]:
    return (..., *index)


def conv_transpose_evaluate(a: Attributes, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Every operand position adds its multiple of the kernel."""
    spatial = "".join(c for c in a["input"] if c not in "nc")
    dtype, groups = x.dtype, a["groups"]
    x = _canonical(_wide(x), a["input"], "nc" + spatial)
    w = _canonical(_wide(w), a["kernel"], "io" + spatial)
    x = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    w = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
    steps = list(
        zip(x.shape[3:], w.shape[3:], a["strides"], a["dilations"], a["padding"], a["output_padding"], strict=True)
    )
    full = [(n - 1) * s + (k - 1) * d + 1 + max(extra, 0) for n, k, s, d, _, extra in steps]
    y = np.zeros((x.shape[0], groups, w.shape[2], *full), x.dtype)
    for tap in np.ndindex(*w.shape[3:]):
        places: tuple[Any, ...] = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s) for t, (n, _, s, d, _, _) in zip(tap, steps, strict=True)
        )
        y[_trailing(places)] += np.einsum("ngc...,gco->ngo...", x, w[_trailing(tap)])
    cropped = tuple(slice(low, size - high) for size, (*_, (low, high), _) in zip(full, steps, strict=True))
    y = y[_trailing(cropped)].reshape(x.shape[0], -1, *(s.stop - s.start for s in cropped))
    return _canonical(y, "nc" + spatial, a["output"]).astype(dtype)


def conv_transpose_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """Compute the results between two operand positions together, or spread the operand with zeros."""
    x, w = inputs
    spatial = "".join(c for c in a["input"] if c not in "nc")
    extents = dict(zip(a["kernel"], w.type.shape, strict=True))
    static = all(isinstance(extents[c], int) for c in spatial)
    if static and any(s > 1 for s in a["strides"]) and all(d == 1 for d in a["dilations"]):
        return (_by_phases(b, x, w, a, spatial),)
    pads: list[tuple[Dim, Dim, int]] = []
    for k, letter in enumerate(spatial):
        reach = (extents[letter] - 1) * a["dilations"][k]
        low, high = a["padding"][k]
        pads.append((reach - low, reach - high + a["output_padding"][k], a["strides"][k] - 1))
    x = _padded(b, x, a["input"], spatial, pads)
    flipped = tuple(a["kernel"].index(c) for c in spatial if extents[c] != 1)
    w = b.reverse(w, axes=flipped) if flipped else w
    return (_emit(b, x, w, a["kernel"], a, spatial, (1,) * len(spatial), "o", "i"),)


def _by_phases(b: Builder, x: Value, w: Value, a: Attributes, spatial: str) -> Value:
    """Multiply no zeros: result ``s*i + p`` along an axis of stride s sums x[i - u] * w[s*u + p] over u.

    So the kernel, filled up to a multiple of s, splits into taps u and phases p, and the phases are results side by
    side of one convolution by single steps.
    """
    layout, shape = a["kernel"], dict(zip(a["kernel"], w.type.shape, strict=True))
    stride = dict(zip(spatial, a["strides"], strict=True))
    taps = {c: -(-int(shape[c]) // stride[c]) for c in spatial}  # type: ignore[call-overload]
    fill = {c: taps[c] * stride[c] - int(shape[c]) for c in spatial}  # type: ignore[call-overload]
    w = _padded(b, w, layout, spatial, [(0, fill[c], 0) for c in spatial])
    split = "".join(c + c.upper() if c in spatial and stride[c] > 1 else c for c in layout)
    parts = {**shape, **taps, **{c.upper(): stride[c] for c in spatial}}
    w = b.reshape_to(w, tuple(parts[c] for c in split))
    flipped = tuple(split.index(c) for c in spatial if taps[c] > 1)
    w = b.reverse(w, axes=flipped) if flipped else w
    x = _padded(b, x, a["input"], spatial, [(taps[c] - 1, taps[c] - 1, 0) for c in spatial])
    y = _emit(b, x, w, split, a, spatial, (1,) * len(spatial), "o", "i")
    crop: list[tuple[Dim, Dim, int]] = []
    for c, (low, high), extra in zip(spatial, a["padding"], a["output_padding"], strict=True):
        crop.append((-low, extra - high - fill[c], 0))
    return _padded(b, y, a["output"], spatial, crop)


register(
    OpDef(
        name="conv_transpose",
        arity=2,
        infer=conv_transpose_type,
        evaluate=conv_transpose_evaluate,
        attributes={
            **_ATTRIBUTES,
            "output_padding": Attribute(
                (int,), many=True, default=0, required=False, doc="positions added after each axis"
            ),
        },
        expand=conv_transpose_expand,
        normalize=_normalize("io"),
        doc="The transpose (gradient with respect to the operand) of conv. The kernel's layout is an arrangement of "
        "input channels, output channels of one group, spatial axes.",
    )
)
