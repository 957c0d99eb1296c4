"""Optimizer updates: elementwise composites with exactly PyTorch's formulas.

``lr`` and ``step`` are rank-0 operands, so that they change without recompiling;
``step`` counts from 1. Scalars are computed in float64, as PyTorch's are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlc.errors import TypeRuleError
from dlc.ir.attributes import Attributes
from dlc.ir.builder import Builder
from dlc.ir.graph import Value
from dlc.ir.opdef import Attribute, Mode, OpDef, Types, register
from dlc.ir.ops.rules import check_float
from dlc.ir.types import float64


def _number(default: float, doc: str) -> Attribute:
    return Attribute((float,), default=default, required=False, doc=doc)


def update_type(inputs: Types, states: int) -> Types:
    """(parameter T, gradient T, ``states`` states T, lr and step of rank 0) -> parameter, states."""
    if len(inputs) != states + 4:
        raise TypeRuleError(f"takes parameter, gradient, {states} states, lr and step, got {len(inputs)} operands")
    tensors, (lr, step) = inputs[:-2], inputs[-2:]
    check_float(tensors)
    if any(t != tensors[0] for t in tensors):
        raise TypeRuleError("parameter, gradient and states must have one type")
    if lr.rank or step.rank or not lr.dtype.is_float or step.dtype.kind not in ("int", "uint", "float"):
        raise TypeRuleError("lr must be a rank-0 float and step a rank-0 number")
    return (tensors[0], *tensors[2:])


def _narrow(b: Builder, scalar: Value, like: Value) -> Value:
    """Cast a float64 scalar to the parameter's dtype; elementwise ops broadcast it."""
    return b.cast_to(scalar, like.type.dtype)


# -- SGD -----------------------------------------------------------------------------------


def sgd_type(inputs: Types, attributes: Attributes) -> Types:
    """(param, grad, momentum buffer, lr, step) -> (param, momentum buffer)."""
    if attributes["nesterov"] and (attributes["momentum"] <= 0 or attributes["dampening"] != 0):
        raise TypeRuleError("nesterov needs a positive momentum and no dampening")
    return update_type(inputs, 1)


def sgd_expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
    """As torch.optim.SGD; the first step's momentum is the gradient itself."""
    param, grad, buffer, lr, step = inputs
    if a["weight_decay"]:
        grad = b.add(grad, b.mul(param, a["weight_decay"]))
    if a["momentum"]:
        later = b.add(b.mul(buffer, a["momentum"]), b.mul(grad, 1 - a["dampening"]))
        buffer = b.where(b.less_equal(b.cast_to(step, float64), 1.0), grad, later)
        grad = b.add(grad, b.mul(buffer, a["momentum"])) if a["nesterov"] else buffer
    return b.sub(param, b.mul(grad, _narrow(b, lr, param))), buffer


def sgd_evaluate(
    a: Attributes, param: np.ndarray, grad: np.ndarray, buffer: np.ndarray, lr: np.ndarray, step: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The update in float64."""
    dtype, rate = param.dtype, float(lr.astype(param.dtype))
    param, grad, buffer = (v.astype(np.float64) for v in (param, grad, buffer))
    grad = grad + a["weight_decay"] * param
    if a["momentum"]:
        buffer = grad if step <= 1 else a["momentum"] * buffer + (1 - a["dampening"]) * grad
        grad = grad + a["momentum"] * buffer if a["nesterov"] else buffer
    return (param - rate * grad).astype(dtype), buffer.astype(dtype)


register(
    OpDef(
        name="sgd_update",
        arity=5,
        infer=sgd_type,
        evaluate=sgd_evaluate,
        attributes={
            "momentum": _number(0.0, "weight of the momentum buffer; 0 leaves it alone"),
            "dampening": _number(0.0, "what the gradient's weight in the buffer lacks to 1"),
            "weight_decay": _number(0.0, "L2 penalty"),
            "nesterov": Attribute((bool,), default=False, required=False, doc="look ahead along the momentum"),
        },
        expand=sgd_expand,
        doc="Stochastic gradient descent: (param, grad, momentum buffer, lr, step) -> (param, momentum buffer).",
    )
)


# -- Adam, AdamW -----------------------------------------------------------------------------


def adam_type(inputs: Types, attributes: Attributes) -> Types:
    """(param, grad, m, v[, largest v], lr, step) -> (param, m, v[, largest v])."""
    for name in ("beta1", "beta2"):
        if not 0 <= attributes[name] < 1:
            raise TypeRuleError(f"{name} is {attributes[name]}; it must be in [0, 1)")
    return update_type(inputs, 3 if attributes["amsgrad"] else 2)


def _adam(b: Builder, inputs: tuple[Value, ...], a: Attributes, decoupled: bool) -> Sequence[Value]:
    """As torch.optim.Adam and AdamW: epsilon is added after the corrected root of the second moment."""
    param, grad, m, v, *largest, lr, step = inputs
    rate, count = b.cast_to(lr, float64), b.cast_to(step, float64)
    correction1 = b.sub(1.0, b.pow(b.constant(a["beta1"], float64), count))
    correction2 = b.sub(1.0, b.pow(b.constant(a["beta2"], float64), count))
    if a["weight_decay"] and decoupled:
        param = b.mul(param, _narrow(b, b.sub(1.0, b.mul(rate, a["weight_decay"])), param))
    elif a["weight_decay"]:
        grad = b.add(grad, b.mul(param, a["weight_decay"]))
    m = b.add(m, b.mul(b.sub(grad, m), 1 - a["beta1"]))
    v = b.add(b.mul(v, a["beta2"]), b.mul(b.mul(grad, grad), 1 - a["beta2"]))
    largest = [b.maximum(largest[0], v)] if largest else []
    second = largest[0] if largest else v
    root = b.div(b.sqrt(second), _narrow(b, b.sqrt(correction2), param))
    change = b.div(b.mul(m, _narrow(b, b.div(rate, correction1), param)), b.add(root, a["epsilon"]))
    return (b.sub(param, change), m, v, *largest)


def _np_adam(a: Attributes, decoupled: bool, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """The update in float64."""
    dtype = arrays[0].dtype
    param, grad, m, v, *largest, lr, step = (x.astype(np.float64) for x in arrays)
    if decoupled:
        param = param * (1 - lr * a["weight_decay"])
    else:
        grad = grad + a["weight_decay"] * param
    m = a["beta1"] * m + (1 - a["beta1"]) * grad
    v = a["beta2"] * v + (1 - a["beta2"]) * grad**2
    largest = [np.maximum(largest[0], v)] if largest else []
    corrected = (largest[0] if largest else v) / (1 - a["beta2"] ** step)
    param = param - lr * m / (1 - a["beta1"] ** step) / (np.sqrt(corrected) + a["epsilon"])
    return tuple(x.astype(dtype) for x in (param, m, v, *largest))


def _register_adam(name: str, decoupled: bool, decay: float, doc: str) -> None:
    def evaluate(a: Attributes, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return _np_adam(a, decoupled, *arrays)

    def expand(b: Builder, inputs: tuple[Value, ...], a: Attributes, mode: Mode) -> Sequence[Value]:
        return _adam(b, inputs, a, decoupled)

    register(
        OpDef(
            name=name,
            arity=None,
            infer=adam_type,
            evaluate=evaluate,
            attributes={
                "beta1": _number(0.9, "decay of the first moment"),
                "beta2": _number(0.999, "decay of the second moment"),
                "epsilon": _number(1e-8, "added to the root of the second moment"),
                "weight_decay": _number(decay, "decoupled from the gradient" if decoupled else "L2 penalty"),
                "amsgrad": Attribute((bool,), default=False, required=False, doc="divide by the largest second moment"),
            },
            expand=expand,
            doc=f"{doc}: (param, grad, m, v[, largest v], lr, step) -> (param, m, v[, largest v]).",
        )
    )


_register_adam("adam_update", False, 0.0, "Adam (Kingma & Ba, 2014)")
_register_adam("adamw_update", True, 0.01, "Adam with decoupled weight decay (Loshchilov & Hutter, 2017)")
