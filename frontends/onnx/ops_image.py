"""Importers of Resize and Upsample: each axis is resampled by an index table or a matrix of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlc.frontends.onnx.call import Call
from dlc.frontends.onnx.ops_shape import indices_value
from dlc.frontends.onnx.registry import onnx_op
from dlc.frontends.onnx.values import known_tensor
from dlc.ir.dims import Dim
from dlc.ir.graph import Value
from dlc.ir.types import float32

_LARGEST_MATRIX = 1 << 24


@dataclass(frozen=True)
class Resampling:
    """How a node maps output positions to input positions, and weighs neighbours."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude_outside: bool
    antialias: bool
    extrapolation: float


def _positions(how: Resampling, extent: int, size: int, scale: float, roi: tuple[float, float]) -> np.ndarray:
    """Return the input coordinate of every output position along one axis."""
    x = np.arange(size, dtype=np.float64)
    length = scale * extent
    match how.coordinates:
        case "half_pixel":
            return (x + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (x + 0.5) / scale - 0.5 if length > 1 else x * 0.0
        case "half_pixel_symmetric":
            offset = extent / 2 * (1 - size / length)
            return offset + (x + 0.5) / scale - 0.5
        case "align_corners":
            return x * 0.0 if length == 1 else x * (extent - 1) / (length - 1)
        case "asymmetric":
            return x / scale
        case "tf_half_pixel_for_nn":
            return (x + 0.5) / scale
        case "tf_crop_and_resize":
            first, last = roi
            if length == 1:
                return x * 0.0 + (first + last) * (extent - 1) / 2
            return first * (extent - 1) + x * (last - first) * (extent - 1) / (length - 1)
    raise ValueError(f"coordinate_transformation_mode {how.coordinates!r} is not known")


_ROUNDING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _matrix(how: Resampling, where: np.ndarray, extent: int, scale: float) -> np.ndarray:
    """Return the weights (output, input) of linear or cubic resampling."""
    shrink = min(scale, 1.0) if how.antialias else 1.0
    support = (1.0 if how.mode == "linear" else 2.0) / shrink
    base = np.floor(where)
    first = math.floor(-support) + 1
    taps = np.arange(first, 2 - first) if how.antialias else np.arange(first, first + int(2 * support))
    places = base[:, None] + taps
    distance = (places - where[:, None]) * shrink
    weights = np.clip(1 - np.abs(distance), 0, 1) if how.mode == "linear" else _cubic(distance, how.cubic)
    if how.antialias:
        weights = weights / weights.sum(1, keepdims=True)
    if how.exclude_outside:
        weights = np.where((places < 0) | (places >= extent), 0.0, weights)
        weights = weights / weights.sum(1, keepdims=True)
    matrix = np.zeros((len(where), extent))
    rows = np.broadcast_to(np.arange(len(where))[:, None], places.shape)
    np.add.at(matrix, (rows, np.clip(places, 0, extent - 1).astype(np.int64)), weights)
    return matrix


def resample(
    call: Call,
    x: Value,
    sizes: Sequence[Dim],
    scales: Sequence[float],
    rois: Sequence[tuple[float, float]],
    how: Resampling,
) -> Value:
    """Emit the resampling of every axis whose size or scale changes."""
    b, dtype = call.b, x.type.dtype
    outside: list[tuple[int, np.ndarray]] = []
    linear = how.mode != "nearest"
    wide = b.cast_to(x, float32) if linear and (not dtype.is_float or dtype.bits < 32) else x
    for axis, (size, scale) in enumerate(zip(sizes, scales, strict=True)):
        extent = wide.type.shape[axis]
        crop = how.coordinates == "tf_crop_and_resize" and rois[axis] != (0.0, 1.0)
        if size == extent and scale == 1.0 and not crop:
            continue
        if not isinstance(extent, int) or not isinstance(size, int):
            call.fail(f"resizes dimension {extent} to {size}; give shapes=")
        if extent == 0 or size * extent > _LARGEST_MATRIX:
            call.fail(f"cannot resize an axis of {extent} to {size}")
        where = _positions(how, extent, size, scale, rois[axis])
        if how.coordinates == "tf_crop_and_resize":
            outside.append((axis, (where < 0) | (where > extent - 1)))
        if linear:
            wide = _apply(call, wide, axis, _matrix(how, where, extent, scale))
        else:
            places = np.clip(_ROUNDING[how.nearest](where), 0, extent - 1)
            wide = b.gather(wide, indices_value(call, places), axis=axis)
    for axis, mask in outside:
        if mask.any():
            chosen = b.broadcast(b.constant(mask), shape=wide.type.shape, dims=(axis,))
            wide = b.where(chosen, b.full(wide.type.shape, how.extrapolation, wide.type.dtype), wide)
    if not dtype.is_float and linear:
        wide = b.round(wide)
    return b.cast_to(wide, dtype)


def _apply(call: Call, x: Value, axis: int, matrix: np.ndarray) -> Value:
    """Contract one axis with a matrix of weights."""
    weights = known_tensor(matrix, x.type.dtype, name=f"{call.label}_weights_{axis}")
    letters = [f"d{k}" for k in range(x.type.rank)]
    result = ["o" if k == axis else letter for k, letter in enumerate(letters)]
    spec = f"{' '.join(letters)}, o d{axis} -> {' '.join(result)}"
    return call.b.contract(x, call.frame.region.value(weights), spec=spec)


def _check(call: Call, how: Resampling) -> None:
    coordinates = {
        "half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners", "asymmetric",
        "tf_half_pixel_for_nn", "tf_crop_and_resize",
    }  # fmt: skip
    if how.mode not in ("nearest", "linear", "cubic"):
        call.fail(f"mode {how.mode!r} is none of nearest, linear, cubic")
    if how.coordinates not in coordinates:
        call.fail(f"coordinate_transformation_mode {how.coordinates!r} is none of {', '.join(sorted(coordinates))}")
    if how.nearest not in _ROUNDING:
        call.fail(f"nearest_mode {how.nearest!r} is none of {', '.join(_ROUNDING)}")


def _scaled_sizes(call: Call, shape: Sequence[Dim], scales: Sequence[float]) -> list[Dim]:
    sizes: list[Dim] = []
    for dim, scale in zip(shape, scales, strict=True):
        if scale <= 0 or not math.isfinite(scale):
            call.fail(f"scale {scale} must be above 0")
        sizes.append(dim if scale == 1.0 else math.floor(dim * scale) if isinstance(dim, int) else _refuse(call, dim))
    return sizes


def _refuse(call: Call, dim: Dim) -> Any:
    return call.fail(f"scales dimension {dim}; give shapes=")


@onnx_op("Upsample", since=7)
def import_upsample(call: Call) -> Value:
    """Enlarge by scales: nearest below, or linear."""
    scales = call.float_list("scales") if call.version < 9 else tuple(float(v) for v in call.constant(1, "scales"))
    return _by_scales(call, scales)


@onnx_op("Resize", since=10)
def import_resize_old(call: Call) -> Value:
    """Resize by scales: nearest below, or linear."""
    return _by_scales(call, tuple(float(v) for v in call.constant(1, "scales")))


def _by_scales(call: Call, scales: Sequence[float]) -> Value:
    x = call.value(0)
    if len(scales) != x.type.rank:
        call.fail(f"has {len(scales)} scales for rank {x.type.rank}")
    how = Resampling(call.string("mode", "nearest"), "asymmetric", "floor", -0.75, False, False, 0.0)
    _check(call, how)
    return resample(call, x, _scaled_sizes(call, x.type.shape, scales), scales, [(0.0, 1.0)] * x.type.rank, how)


@onnx_op("Resize", since=11)
def import_resize(call: Call) -> Value:
    """Resize to sizes or by scales."""
    x, rank = call.value(0), call.rank()
    axes = call.axes(call.int_list("axes", None) or range(rank), rank)
    how = Resampling(
        call.string("mode", "nearest"),
        call.string("coordinate_transformation_mode", "half_pixel"),
        call.string("nearest_mode", "round_prefer_floor"),
        call.real("cubic_coeff_a", -0.75),
        call.flag("exclude_outside"),
        call.flag("antialias"),
        call.real("extrapolation_value", 0.0),
    )
    _check(call, how)
    sizes: list[Dim] = list(x.type.shape)
    scales = [1.0] * rank
    rois = [(0.0, 1.0)] * rank
    if call.has(1) and call.tensor(1).type.size != 0:
        roi = call.constant(1, "roi").astype(np.float64).reshape(2, -1)
        for position, axis in enumerate(axes):
            rois[axis] = (float(roi[0, position]), float(roi[1, position]))
    if call.has(2) and call.tensor(2).type.size != 0:
        given = [float(v) for v in call.constant(2, "scales").reshape(-1)]
        if len(given) != len(axes):
            call.fail(f"has {len(given)} scales for {len(axes)} axes")
        for axis, scale in zip(axes, given, strict=True):
            scales[axis] = scale
        sizes = _scaled_sizes(call, x.type.shape, scales)
    else:
        _by_sizes(call, x.type.shape, axes, call.dims(3, "sizes"), sizes, scales)
    return resample(call, x, sizes, scales, rois, how)


def _by_sizes(
    call: Call, shape: Sequence[Dim], axes: Sequence[int], wanted: Sequence[Dim], sizes: list[Dim], scales: list[float]
) -> None:
    if len(wanted) != len(axes):
        call.fail(f"has {len(wanted)} sizes for {len(axes)} axes")
    policy = call.string("keep_aspect_ratio_policy", "stretch")
    for axis, size in zip(axes, wanted, strict=True):
        if size == shape[axis]:
            continue
        if not isinstance(size, int) or not isinstance(shape[axis], int) or size < 1:
            call.fail(f"resizes dimension {shape[axis]} to {size}; give shapes=")
        sizes[axis], scales[axis] = size, size / shape[axis]  # type: ignore[operator]
    if policy != "stretch":
        choose = min if policy == "not_larger" else max
        scale = choose(scales[axis] for axis in axes)
        for axis in axes:
            scales[axis] = scale
            sizes[axis] = int(scale * shape[axis] + 0.5)  # type: ignore[operator]
