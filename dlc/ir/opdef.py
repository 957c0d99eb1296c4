"""OpDef: everything the compiler knows of one op, and the registry of all ops.

An op is one paragraph in its family's file under ``ir/ops``. It has exactly one
executable lowering: ``compute`` (index form), ``kernel`` (loops, where no index
form exists), ``expand`` (a composite of other ops) or ``region`` (control flow).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from dlc.errors import DlcError
from dlc.ir.attributes import Attributes
from dlc.ir.compute import Compute
from dlc.ir.kernel import Kernel
from dlc.ir.mode import Mode
from dlc.ir.types import TensorType

if TYPE_CHECKING:
    from dlc.ir.builder import Builder
    from dlc.ir.graph import Node, Value

Types = tuple[TensorType, ...]
InferRule = Callable[[Types, Attributes], Types]
NormalizeRule = Callable[[Types, Attributes], Attributes]
EvaluateRule = Callable[..., Any]  # (attributes, *arrays) -> array or tuple of arrays
ComputeRule = Callable[[Types, Types, Attributes], Compute]
KernelRule = Callable[[Types, Types, Attributes], Kernel]
ExpandRule = Callable[["Builder", tuple["Value", ...], Attributes, "Mode"], Sequence["Value"]]
VjpRule = Callable[["Builder", "Node", "tuple[Value | None, ...]"], "Sequence[Value | None]"]


class Trait(StrEnum):
    """Facts that passes may use; never an op's name."""

    ELEMENTWISE = "elementwise"  # equal operand shapes; the builder broadcasts and casts
    COMMUTATIVE = "commutative"
    IDEMPOTENT = "idempotent"
    MOVEMENT = "movement"  # only moves elements (reshape, transpose, slice, ...)
    REDUCTION = "reduction"
    CONTRACTION = "contraction"
    MODAL = "modal"  # expansion depends on Mode
    STATEFUL_KEY = "stateful_key"  # reads a random key (uint32[2]), so no two runs need agree
    HOST = "host"  # runs in the interpreter only; compile refuses it


class NotDifferentiable:
    """Declares that an op has no gradient: its operands get none."""


NOT_DIFFERENTIABLE = NotDifferentiable()


@dataclass(frozen=True)
class Attribute:
    """Schema of one attribute: accepted Python types and the default, unless it is required.

    ``many`` admits tuples of such elements as well, ``symbolic`` symbolic dimensions as well.
    """

    kinds: tuple[type, ...]
    default: Any = None
    required: bool = True
    doc: str = ""
    many: bool = False
    symbolic: bool = False


@dataclass(frozen=True, eq=False)
class OpDef:
    """One op. ``arity`` is the number of operands, or None for any number.

    ``vjp`` is a rule, NOT_DIFFERENTIABLE, or None: composites then differentiate their expansion, and region
    ops are differentiated by the autodiff pass itself, which alone can differentiate their bodies.
    ``infer`` raises TypeRuleError with shapes and the reason; the builder adds op and origin.
    ``normalize`` brings attributes to the one form that nodes carry (non-negative sorted axes, resolved -1);
    the builder applies it before ``infer``, which refuses anything else.
    """

    name: str
    arity: int | None
    infer: InferRule
    evaluate: EvaluateRule
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    compute: ComputeRule | None = None
    kernel: KernelRule | None = None
    expand: ExpandRule | None = None
    region: bool = False
    vjp: VjpRule | NotDifferentiable | None = None
    normalize: NormalizeRule | None = None
    traits: frozenset[Trait] = frozenset()
    doc: str = ""

    def __post_init__(self) -> None:
        forms = [self.compute is not None, self.kernel is not None, self.expand is not None, self.region]
        if sum(forms) != 1:
            raise DlcError(f"op {self.name!r} must have exactly one of compute, kernel, expand, region")
        if self.vjp is None and self.expand is None and not self.region:
            raise DlcError(f"op {self.name!r} must declare a vjp or NOT_DIFFERENTIABLE")

    def has(self, trait: Trait) -> bool:
        """Tell whether the op has ``trait``."""
        return trait in self.traits

    @property
    def is_composite(self) -> bool:
        return self.expand is not None

    def __repr__(self) -> str:
        return f"OpDef({self.name})"


_REGISTRY: dict[str, OpDef] = {}


def register(op: OpDef) -> OpDef:
    """Add ``op`` to the registry; a name may be taken once."""
    if op.name in _REGISTRY:
        raise DlcError(f"op {op.name!r} is registered twice")
    _REGISTRY[op.name] = op
    return op


def find_op(name: str) -> OpDef:
    """Return the op called ``name``; DlcError with the nearest names otherwise."""
    try:
        return _REGISTRY[name]
    except KeyError:
        raise DlcError(f"no op is called {name!r}") from None


def has_op(name: str) -> bool:
    """Tell whether an op is called ``name``."""
    return name in _REGISTRY


def all_ops() -> Mapping[str, OpDef]:
    """Return the registry, name -> op."""
    return dict(_REGISTRY)
