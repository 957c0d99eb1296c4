"""Mutations of the standard's cases: wrong shapes, dtypes and attributes give typed errors that name the node."""

from __future__ import annotations

import random
from collections.abc import Iterator

import onnx
import pytest
from node_cases import cases
from onnx import AttributeProto

from dlc.errors import DlcError
from dlc.frontends.onnx import check, load

SEED = 20
NUMBERS = [0, -1, 1, 2, 7, -9, 2**31, 2**62, -(2**63)]


def mutations(model: onnx.ModelProto, generator: random.Random) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield copies of ``model`` with one thing changed, and what was."""
    for number in range(len(model.graph.input)):
        for change in ("larger", "smaller", "rank", "scalar", "dtype", "huge", "zero", "symbol", "unknown"):
            made = onnx.ModelProto()
            made.CopyFrom(model)
            tensor = made.graph.input[number].type.tensor_type
            dims = tensor.shape.dim
            if change == "dtype":
                tensor.elem_type = generator.choice([1, 2, 3, 6, 7, 8, 9, 10, 11, 16, 17, 22])
            elif change == "rank":
                dims.add(dim_value=2)
            elif change == "scalar":
                del dims[:]
            elif change == "unknown":
                tensor.ClearField("shape")
            elif len(dims):
                dim = generator.choice(list(dims))
                value = dim.dim_value
                dim.dim_param = "n"
                if change != "symbol":
                    dim.dim_value = {"larger": value + 1, "smaller": max(value - 1, 0), "huge": 2**40, "zero": 0}[
                        change
                    ]
            else:
                continue
            yield f"input {number} {change}", made
    for number, node in enumerate(model.graph.node):
        for position, attribute in enumerate(node.attribute):
            made = onnx.ModelProto()
            made.CopyFrom(model)
            changed = made.graph.node[number].attribute[position]
            if attribute.type == AttributeProto.INT:
                changed.i = generator.choice(NUMBERS)
            elif attribute.type == AttributeProto.INTS and attribute.ints:
                changed.ints[generator.randrange(len(changed.ints))] = generator.choice(NUMBERS)
            elif attribute.type == AttributeProto.FLOAT:
                changed.f = generator.choice([0.0, -1.0, float("nan"), float("inf")])
            elif attribute.type == AttributeProto.STRING:
                changed.s = b"nonsense"
            else:
                changed.type = AttributeProto.FLOAT
            yield f"attribute {attribute.name}", made
            made = onnx.ModelProto()
            made.CopyFrom(model)
            if generator.random() < 0.5:
                del made.graph.node[number].attribute[position]
            elif attribute.type == AttributeProto.INTS:
                made.graph.node[number].attribute[position].ints.append(1)
            yield f"attribute {attribute.name} gone or longer", made
        if len(node.input) > 1:
            made = onnx.ModelProto()
            made.CopyFrom(model)
            names = list(node.input)
            generator.shuffle(names)
            made.graph.node[number].input[:] = names
            yield "inputs swapped", made


def run(every: int, first: int) -> None:
    generator = random.Random(SEED)
    for case in cases()[first::every]:
        for what, model in mutations(case.model, generator):
            try:
                load(model)
            except DlcError as error:
                assert str(error), f"{case.name}, {what} (seed {SEED})"
            except Exception as error:
                raise AssertionError(f"{case.name}, {what} (seed {SEED}): {type(error).__name__}: {error}") from error
            check(model)


def test_some_mutations() -> None:
    run(every=80, first=3)


@pytest.mark.timeout(1800)
@pytest.mark.slow
@pytest.mark.parametrize("first", range(8))
def test_many_mutations(first: int) -> None:
    run(every=8, first=first)
