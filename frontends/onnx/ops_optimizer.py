"""Importers of the training ops of ai.onnx.preview.training: optimizer updates of any number of tensors."""

from __future__ import annotations

from collections.abc import Callable

from dlc.frontends.onnx.call import Call
from dlc.frontends.onnx.registry import onnx_op
from dlc.frontends.onnx.versions import TRAINING_DOMAIN
from dlc.ir.graph import Value
from dlc.ir.types import int64

Update = Callable[[list[Value]], list[Value]]


def _each(call: Call, groups: int, update: Update) -> list[Value]:
    """Apply ``update`` to the k-th tensors of all groups after R and T; results are grouped again."""
    count, rest = divmod(len(call.inputs) - 2, groups)
    if rest or count < 1:
        call.fail(f"takes R, T and {groups} tensors for each one that is optimised, not {len(call.inputs)} inputs")
    rows = []
    for k in range(count):
        tensors = [call.value(2 + g * count + k) for g in range(groups)]
        if any(t.type.shape != tensors[0].type.shape for t in tensors):
            call.fail(f"the tensors of number {k} have different shapes")
        rows.append(update(tensors))
    return [row[g] for g in range(len(rows[0])) for row in rows]


def _scalar(call: Call, index: int, like: Value) -> Value:
    return call.b.cast_to(call.b.reshape_to(call.value(index), ()), like.type.dtype)


@onnx_op("Adagrad", domain=TRAINING_DOMAIN)
def import_adagrad(call: Call) -> list[Value]:
    """Adaptive subgradient step."""
    b = call.b
    decay, epsilon, norm = (
        call.real("decay_factor", 0.0),
        call.real("epsilon", 0.0),
        call.real("norm_coefficient", 0.0),
    )

    def update(tensors: list[Value]) -> list[Value]:
        x, gradient, square = tensors
        steps = _scalar(call, 1, x)
        rate = b.div(_scalar(call, 0, x), b.add(b.mul(steps, decay), 1.0))
        gradient = b.add(b.mul(x, norm), gradient)
        square = b.add(square, b.mul(gradient, gradient))
        return [b.sub(x, b.div(b.mul(rate, gradient), b.add(b.sqrt(square), epsilon))), square]

    return _each(call, 3, update)


@onnx_op("Adam", domain=TRAINING_DOMAIN)
def import_adam(call: Call) -> list[Value]:
    """Adam step; bias correction from the second step on."""
    b = call.b
    alpha, beta = call.real("alpha", 0.9), call.real("beta", 0.999)
    epsilon = call.real("epsilon", 0.0)
    norm, after = call.real("norm_coefficient", 0.0), call.real("norm_coefficient_post", 0.0)

    def update(tensors: list[Value]) -> list[Value]:
        x, gradient, first, second = tensors
        steps = _scalar(call, 1, x)
        gradient = b.add(b.mul(x, norm), gradient)
        first = b.add(b.mul(first, alpha), b.mul(gradient, 1 - alpha))
        second = b.add(b.mul(second, beta), b.mul(b.mul(gradient, gradient), 1 - beta))
        corrected = b.div(b.sqrt(b.sub(1.0, b.pow(b.constant(beta, x.type.dtype), steps))),
                          b.sub(1.0, b.pow(b.constant(alpha, x.type.dtype), steps)))  # fmt: skip
        rate = _scalar(call, 0, x)
        begun = b.greater(b.reshape_to(b.cast_to(call.value(1), int64), ()), 0)
        rate = b.where(begun, b.mul(rate, corrected), rate)
        new = b.sub(x, b.div(b.mul(rate, first), b.add(b.sqrt(second), epsilon)))
        return [b.mul(new, 1 - after), first, second]

    return _each(call, 4, update)


@onnx_op("Momentum", domain=TRAINING_DOMAIN)
def import_momentum(call: Call) -> list[Value]:
    """Gradient step with momentum, standard or Nesterov's."""
    b = call.b
    alpha, beta, norm = call.real("alpha"), call.real("beta"), call.real("norm_coefficient")
    mode = call.string("mode")
    if mode not in ("standard", "nesterov"):
        call.fail(f"mode {mode!r} is neither standard nor nesterov")

    def update(tensors: list[Value]) -> list[Value]:
        x, gradient, momentum = tensors
        rate = _scalar(call, 0, x)
        gradient = b.add(b.mul(x, norm), gradient)
        first = b.equal(b.reshape_to(b.cast_to(call.value(1), int64), ()), 0)
        weight = b.where(first, b.constant(1.0, x.type.dtype), b.constant(beta, x.type.dtype))
        momentum = b.add(b.mul(momentum, alpha), b.mul(weight, gradient))
        step = b.add(gradient, b.mul(momentum, alpha)) if mode == "nesterov" else momentum
        return [b.sub(x, b.mul(rate, step)), momentum]

    return _each(call, 3, update)
