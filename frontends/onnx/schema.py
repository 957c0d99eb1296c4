"""What the ONNX standard says of a node: arity, attributes, element types.

Reads the schemas of the onnx package; it emits nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto

from dlc.errors import InvalidModelError, TypeRuleError, UnsupportedOpError
from dlc.frontends.onnx.names import hint, shown
from dlc.frontends.onnx.registry import begins_at
from dlc.frontends.onnx.tensors import CODES
from dlc.frontends.onnx.versions import canonical_domain
from dlc.ir.types import DType

_TYPE_TEXT = {
    "float32": "float",
    "float64": "double",
    "float8_e4m3fn": "float8e4m3fn",
    "float8_e4m3fnuz": "float8e4m3fnuz",
    "float8_e5m2": "float8e5m2",
    "float8_e5m2fnuz": "float8e5m2fnuz",
    "float4_e2m1fn": "float4e2m1",
}


@dataclass(frozen=True)
class Slot:
    """One formal input: its name, the type variable or type it wants, and which types that allows."""

    name: str
    variable: str
    allowed: frozenset[str]
    required: bool
    variadic: bool
    homogeneous: bool


@dataclass(frozen=True)
class Schema:
    """The parts of an onnx OpSchema that checks need."""

    name: str
    since: int
    deprecated: bool
    inputs: tuple[Slot, ...]
    minimum: int
    maximum: int
    maximum_outputs: int
    attributes: Mapping[str, tuple[int, bool]]  # name -> type code, required
    source: onnx.defs.OpSchema


@lru_cache(maxsize=4096)
def find_schema(domain: str, name: str, version: int) -> Schema | None:
    """Return the schema in force at ``version``, or None if ONNX defines no such op."""
    try:
        found = onnx.defs.get_schema(name, version, domain)
    except onnx.defs.SchemaError:
        return None
    option = onnx.defs.OpSchema.FormalParameterOption
    slots = tuple(
        Slot(
            slot.name,
            slot.type_str,
            frozenset(slot.types),
            slot.option == option.Single,
            slot.option == option.Variadic,
            slot.is_homogeneous,
        )
        for slot in found.inputs
    )
    attributes = {key: (int(a.type.value), a.required) for key, a in found.attributes.items()}
    return Schema(
        name,
        found.since_version,
        found.deprecated,
        slots,
        found.min_input,
        found.max_input,
        found.max_output,
        attributes,
        found,
    )


def type_text(dtype: DType) -> str:
    """Return ONNX's name of the tensor type with elements ``dtype``."""
    return f"tensor({_TYPE_TEXT.get(dtype.name, dtype.name.rstrip('_'))})"


def check_form(node: NodeProto, schema: Schema) -> None:
    """Check arity and attributes of a node; InvalidModelError or UnsupportedOpError naming what is wrong."""
    if schema.deprecated and not begins_at(canonical_domain(node.domain), schema.name, schema.since):
        raise UnsupportedOpError(
            f"{node.op_type} was removed from ONNX in opset {schema.since}; export the model again"
        )
    count = len(node.input)
    while count and not node.input[count - 1]:
        count -= 1
    if not schema.minimum <= count <= schema.maximum:
        wanted = f"{schema.minimum}" if schema.minimum == schema.maximum else f"{schema.minimum} to {schema.maximum}"
        raise InvalidModelError(f"has {count} inputs; {node.op_type} takes {wanted}")
    for number, slot in enumerate(schema.inputs):
        if slot.required and number < count and not node.input[number]:
            raise InvalidModelError(f"lacks input {number} ({slot.name}), which {node.op_type} requires")
    if len(node.output) > schema.maximum_outputs:
        raise InvalidModelError(
            f"has {len(node.output)} outputs; {node.op_type} gives at most {schema.maximum_outputs}"
        )
    seen = set()
    for attribute in node.attribute:
        known = schema.attributes.get(attribute.name)
        if known is None:
            near = hint(attribute.name, schema.attributes)
            raise InvalidModelError(
                f"has an attribute {shown(attribute.name)} that {node.op_type} does not define{near}"
            )
        if attribute.type != known[0] and not (attribute.ref_attr_name and not attribute.type):
            raise InvalidModelError(
                f"attribute {attribute.name!r} is {_kind(attribute.type)}; {node.op_type} wants {_kind(known[0])}"
            )
        if attribute.name in seen:
            raise InvalidModelError(f"attribute {attribute.name!r} is given twice")
        seen.add(attribute.name)
    for name, (_, required) in schema.attributes.items():
        if required and name not in seen:
            raise InvalidModelError(f"lacks the attribute {name!r}, which {node.op_type} requires")


def _kind(code: int) -> str:
    return AttributeProto.AttributeType.Name(code) if code in AttributeProto.AttributeType.values() else f"type {code}"


def check_types(schema: Schema, dtypes: Sequence[DType | None]) -> None:
    """Check element types of the inputs against the schema's type variables; TypeRuleError otherwise.

    ``dtypes`` has None for absent inputs and for those that are no tensors.
    """
    bound: dict[str, tuple[DType, str]] = {}
    for number, dtype in enumerate(dtypes):
        slot = schema.inputs[min(number, len(schema.inputs) - 1)]
        if dtype is None:
            continue
        text = type_text(dtype)
        if text not in slot.allowed and not any(t.startswith(("seq(", "optional(")) for t in slot.allowed):
            listed = ", ".join(sorted(t.removeprefix("tensor(").removesuffix(")") for t in slot.allowed))
            raise TypeRuleError(f"input {number} ({slot.name}) is {dtype}; {schema.name} takes {listed}")
        if "(" in slot.variable or (slot.variadic and not slot.homogeneous):
            continue
        first = bound.setdefault(slot.variable, (dtype, f"input {number} ({slot.name})"))
        if first[0] is not dtype:
            raise TypeRuleError(
                f"input {number} ({slot.name}) is {dtype}, but {first[1]} is {first[0]}; they must agree: cast one"
            )


def standard_function(
    schema: Schema, version: int, node: NodeProto, types: Sequence[onnx.TypeProto]
) -> FunctionProto | None:
    """Return the body by which ONNX defines the op, for these input types, or None."""
    source = schema.source
    if source.has_function:
        known = [v for v in source.function_opset_versions if v <= version]
        return FunctionProto.FromString(source.get_function_with_opset_version(max(known)) if known else b"")
    if source.has_context_dependent_function:
        known = [v for v in source.context_dependent_function_opset_versions if v <= version]
        if not known:
            return None
        body = source.get_context_dependent_function_with_opset_version(
            max(known), node.SerializeToString(), [t.SerializeToString() for t in types]
        )
        return FunctionProto.FromString(body) if body else None
    return None


def type_code(dtype: DType) -> int:
    """Return the ONNX element type code of ``dtype``."""
    return CODES[dtype.name]
