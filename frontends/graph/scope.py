"""The graph scope: ``with dlc.Graph(...)`` collects inputs, parameters, nodes and outputs, then freezes them.

It owns names, roles, the seed, nested regions and the source line of each node. It must
not know any op's meaning.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import dlc.ir.ops  # noqa: F401  (registers every op family)
from dlc.errors import DlcError, GraphError
from dlc.ir import graph as ir_graph
from dlc.ir.builder import Builder
from dlc.ir.dims import Dim, SymbolicDim, parse_dim, symbol
from dlc.ir.graph import InputSpec, Origin, Role, Value
from dlc.ir.types import DType, TensorType, as_dtype, tensor_type, uint32

RANDOM_KEY = "random_key"
Initializer = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
"""Makes an initial array from a random generator and a shape."""

LITERAL_LIMIT = 64
"""Arrays of more elements become graph inputs of role constant, smaller ones nodes."""

_ACTIVE: ContextVar[tuple[Graph, ...]] = ContextVar("dlc_active_graphs", default=())


@dataclass(eq=False)
class Region:
    """Nodes under construction: the graph itself or a body inside it; ``captured`` maps outer values to inputs."""

    builder: Builder
    parent: Region | None = None
    captured: dict[Value, Value] = field(default_factory=dict)
    sources: list[Value] = field(default_factory=list)

    def is_inside(self, other: Region) -> bool:
        """Tell whether this region is ``other`` or nested in it."""
        region: Region | None = self
        while region is not None and region is not other:
            region = region.parent
        return region is other

    def import_value(self, value: Value, owner: Region) -> Value:
        """Return ``value`` of ``owner`` as seen from here, adding captures on the way in."""
        chain: list[Region] = []
        region = self
        while region is not owner:
            chain.append(region)
            assert region.parent is not None
            region = region.parent
        for inner in reversed(chain):
            if value not in inner.captured:
                inner.captured[value] = inner.builder.input(f"capture{len(inner.sources)}", value.type)
                inner.sources.append(value)
            value = inner.captured[value]
        return value


class Graph:
    """A model under definition, and, once left, the frozen graph in ``.ir``.

    ``seed`` makes initial parameters and random ops repeatable; every parameter draws from a stream of its
    own, chosen by the seed and its name, so that adding a layer leaves the others' values alone. ``dtype`` is the
    element type of parameters and of created arrays where none is given.
    """

    def __init__(self, name: str = "graph", seed: int = 0, dtype: DType | str | type = "float32") -> None:
        self.name = name
        self.seed = int(seed)
        self.dtype = as_dtype(dtype)
        if not self.dtype.is_float:
            raise DlcError(f"dtype of graph {name!r} is {self.dtype}; it must be a floating-point dtype")
        self.root = Region(Builder(name))
        self._region = self.root
        self._names: set[str] = set()
        self._scopes: list[str] = []
        self._prefixes: set[str] = set()
        self._streams = 0
        self._updates: dict[str, Value] = {}
        self._initial: dict[str, np.ndarray] = {}
        self._ir: ir_graph.Graph | None = None

    # -- life ---------------------------------------------------------------------

    @classmethod
    def from_ir(cls, graph: ir_graph.Graph) -> Graph:
        """Wrap a frozen graph of the intermediate representation."""
        wrapped = cls(graph.name)
        wrapped._ir = graph
        return wrapped

    @classmethod
    @contextmanager
    def around(cls, builder: Builder) -> Iterator[Graph]:
        """Open a scope that emits into an existing ``builder``; leaving it does not finish the builder."""
        graph = cls(builder.name)
        graph.root = graph._region = Region(builder)
        graph._names = {v.hint for v in builder.inputs}
        token = _ACTIVE.set((*_ACTIVE.get(), graph))
        try:
            yield graph
        finally:
            _ACTIVE.reset(token)

    def __enter__(self) -> Graph:
        if self._ir is not None:
            raise GraphError(f"graph {self.name!r} is frozen already; define another dlc.Graph")
        _ACTIVE.set((*_ACTIVE.get(), self))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        _ACTIVE.set(_ACTIVE.get()[:-1])
        if error is None:
            self.freeze()

    def freeze(self) -> ir_graph.Graph:
        """Finish the definition and return the frozen graph; later calls return the same."""
        if self._ir is None:
            builder = self.root.builder
            for name, value in self._updates.items():
                builder.replace(name, value)
            self._ir = builder.finish()
        return self._ir

    @property
    def ir(self) -> ir_graph.Graph:
        """The frozen graph. Raises GraphError while the scope is still open."""
        if self._ir is None:
            raise GraphError(f"graph {self.name!r} is still being defined; leave its `with` block or call freeze()")
        return self._ir

    def __repr__(self) -> str:
        return f"dlc.{self._ir}" if self._ir is not None else f"dlc.graph {self.name} (being defined)"

    # -- where nodes go -----------------------------------------------------------

    @property
    def region(self) -> Region:
        """The region that nodes go to now."""
        return self._region

    @property
    def builder(self) -> Builder:
        """The builder that nodes go to now."""
        if self._ir is not None:
            raise GraphError(f"graph {self.name!r} is frozen; tensors of it can no longer be used to define nodes")
        return self._region.builder

    @contextmanager
    def nested(self, name: str) -> Iterator[Region]:
        """Collect nodes into the body of a control-flow op inside the block."""
        before = self._region
        self._region = Region(Builder(name), before)
        try:
            yield self._region
        finally:
            self._region = before

    def import_value(self, value: Value, owner: Region) -> Value:
        """Return ``value`` for use in the current region; GraphError if it belongs to a body that has ended."""
        if owner is self._region:
            return value
        if not self._region.is_inside(owner):
            raise GraphError(
                f"a tensor of type {value.type} made inside the body {owner.builder.name!r} is used outside it; "
                "return it from the body instead"
            )
        return self._region.import_value(value, owner)

    # -- names ----------------------------------------------------------------------

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of parameters made inside the block with ``name.``; also named in origins."""
        self._scopes.append(name)
        try:
            yield
        finally:
            self._scopes.pop()

    @contextmanager
    def at_path(self, path: str) -> Iterator[None]:
        """Make ``path`` the whole name prefix inside the block."""
        before, self._scopes = self._scopes, [path]
        try:
            yield
        finally:
            self._scopes = before

    @property
    def path(self) -> str:
        """The current name prefix, such as ``layer1.0.conv1``."""
        return ".".join(s for s in self._scopes if s)

    def full_name(self, name: str) -> str:
        """Return ``name`` with the current prefix."""
        return f"{self.path}.{name}" if self.path else name

    def has_name(self, name: str) -> bool:
        """Tell whether an input, parameter or state is called ``name``."""
        return name in self._names

    def unique_name(self, base: str) -> str:
        """Return ``base``, or ``base_1``, ``base_2``, ... whichever is free."""
        candidate, count = base, 0
        while candidate in self._names:
            count += 1
            candidate = f"{base}_{count}"
        return candidate

    def claim_prefix(self, prefix: str) -> bool:
        """Take ``prefix`` for one module called at the top; False if another has it."""
        if prefix in self._prefixes:
            return False
        self._prefixes.add(prefix)
        return True

    def origin(self) -> Origin:
        """The user's source line, preceded by the module path if there is one."""
        line = _user_line()
        return Origin(f"{self.path} ({line})" if self.path else line)

    # -- inputs and outputs -----------------------------------------------------------

    def add_input(self, name: str, type_: TensorType, role: Role, initial: np.ndarray | None, trainable: bool) -> Value:
        """Add an input to the outermost region; GraphError if the name is taken or empty."""
        if self._ir is not None:
            raise GraphError(f"graph {self.name!r} is frozen; {name!r} cannot be added")
        if not isinstance(name, str) or not name:
            raise GraphError(f"graph {self.name!r}: a name must be a non-empty string, not {name!r}")
        if name in self._names:
            raise GraphError(f"graph {self.name!r} already has an input or parameter {name!r}; choose another name")
        value = self.root.builder.input(name, type_, role, initial, trainable)
        self._names.add(name)
        return value

    def add_constant(self, array: np.ndarray, name: str | None = None) -> tuple[Value, Region]:
        """Hold ``array`` as a node, or, if it is large or named, as an input; return the value and its region."""
        if name is None and array.size <= LITERAL_LIMIT:
            return self.builder.constant(array), self._region
        name = self.full_name(name) if name is not None else self.unique_name("constant")
        type_ = tensor_type(array.dtype, array.shape)
        return self.add_input(name, type_, Role.CONSTANT, np.ascontiguousarray(array), False), self.root

    def add_output(self, name: str, value: Value) -> None:
        """Name a value of the outermost region as an output."""
        if self._region is not self.root:
            raise GraphError(f"output {name!r} is declared inside a body; declare outputs at the top of the graph")
        self.builder.output(name, value)

    def latest(self, name: str, value: Value) -> Value:
        """Return what the state ``name`` holds after the updates so far."""
        return self._updates.get(name, value)

    def add_update(self, name: str, value: Value) -> None:
        """Make ``value`` the next value of the state ``name``."""
        if self._region is not self.root:
            raise GraphError(
                f"state {name!r} is updated inside a body; carry it through the body and update it outside"
            )
        self._updates[name] = value

    def random_key(self) -> tuple[Value, int]:
        """Return the graph's random key (uint32[2], a state advanced by every run) and a stream number not yet used."""
        if RANDOM_KEY not in self._names:
            words = np.random.SeedSequence(self.seed).generate_state(2, np.uint32)
            key = self.add_input(RANDOM_KEY, tensor_type(uint32, (2,)), Role.STATE, words, False)
            self._updates[RANDOM_KEY] = self.root.builder.key_next(key)
        self._streams += 1
        return next(v for v in self.root.builder.inputs if v.hint == RANDOM_KEY), self._streams - 1

    def generator(self, name: str) -> np.random.Generator:
        """Return the random generator of the parameter ``name``: a function of the seed and the name."""
        words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], np.uint32)
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, *words.tolist()])))

    # -- after freezing -----------------------------------------------------------------

    def state(self) -> dict[str, np.ndarray]:
        """Return copies of the initial arrays of parameters, state and constants, by name."""
        return {s.name: np.array(s.initial) for s in self.ir.signature.inputs if s.initial is not None}

    def load_state(self, arrays: Mapping[str, Any], strict: bool = True) -> None:
        """Replace initial arrays by ``arrays`` (name -> array of the same shape), for example a PyTorch state_dict.

        With ``strict``, parameters and state not in ``arrays`` and names that the graph lacks raise GraphError;
        ``num_batches_tracked``, the random key and constants may be absent or extra in either case.
        """
        self._ir = load_state(self.ir, arrays, strict)


def load_state(graph: ir_graph.Graph, arrays: Mapping[str, Any], strict: bool = True) -> ir_graph.Graph:
    """Return ``graph`` with initial arrays replaced; see ``Graph.load_state``."""
    known = {s.name: s for s in graph.signature.inputs if s.initial is not None}
    extra = [n for n in arrays if n not in known and not n.endswith("num_batches_tracked")]
    wanted = [n for n, s in known.items() if s.role in (Role.PARAMETER, Role.STATE) and n != RANDOM_KEY]
    missing = [n for n in wanted if n not in arrays]
    if strict and (extra or missing):
        raise GraphError(
            f"state does not fit graph {graph.name!r}: missing {missing or 'none'}, unknown {extra or 'none'}; "
            "pass strict=False to load what fits"
        )
    specs: list[InputSpec] = []
    for value, spec in zip(graph.inputs, graph.signature.inputs, strict=True):
        if spec.name not in arrays or spec.initial is None:
            specs.append(spec)
            continue
        array = np.asarray(arrays[spec.name])
        if array.shape != value.type.shape:
            raise GraphError(f"{spec.name!r} is {value.type}; the array given has shape {list(array.shape)}")
        specs.append(replace(spec, initial=np.array(array, dtype=value.type.dtype.numpy, order="C")))
    return replace(graph, signature=replace(graph.signature, inputs=tuple(specs)))


def active_graph(what: str) -> Graph:
    """Return the innermost open scope; GraphError naming ``what`` if there is none."""
    active = _ACTIVE.get()
    if not active:
        raise GraphError(f"{what} needs an open graph: use it inside `with dlc.Graph(...) as graph:`")
    return active[-1]


def as_shape(shape: Any, name: str) -> tuple[Dim, ...]:
    """Read a shape: ints, names of symbols (or expressions of them), dimensions; None makes a symbol of its own."""
    if isinstance(shape, int | str | SymbolicDim | np.integer):
        shape = (shape,)
    dims: list[Dim] = []
    for position, dim in enumerate(shape):
        if dim is None:
            dims.append(symbol(f"{_identifier(name)}_{position}"))
        elif isinstance(dim, str):
            dims.append(parse_dim(dim))
        elif isinstance(dim, int | np.integer) and not isinstance(dim, bool):
            if dim < 0:
                raise DlcError(
                    f"{name!r} has the negative dimension {dim}; name unknown dimensions, for example 'batch'"
                )
            dims.append(int(dim))
        elif isinstance(dim, SymbolicDim):
            dims.append(dim)
        else:
            raise DlcError(f"{name!r} has the dimension {dim!r}; a dimension is an int, a name or None")
    return tuple(dims)


def _identifier(name: str) -> str:
    text = "".join(c if c.isalnum() else "_" for c in name)
    return text if text.isidentifier() else f"d_{text}"


_SHORT_NAMES: dict[str, str] = {}


def _user_line() -> str:
    """``file:line`` of the innermost frame outside dlc; the named models count as user code."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if not (module == "dlc" or module.startswith("dlc.")) or module.startswith("dlc.frontends.models"):
            break
        frame = frame.f_back
    path = frame.f_code.co_filename
    short = _SHORT_NAMES.get(path)
    if short is None:
        relative = os.path.relpath(path) if os.path.isabs(path) else path
        short = _SHORT_NAMES[path] = os.path.basename(path) if relative.startswith("..") else relative
    return f"{short}:{frame.f_lineno}"


def static_shape(shape: Sequence[Dim], what: str) -> tuple[int, ...]:
    """Return ``shape`` as ints; GraphError if a dimension is symbolic."""
    for dim in shape:
        if not isinstance(dim, int):
            raise GraphError(f"{what} has the symbolic dimension {dim}; its extents must be known")
    return tuple(int(d) for d in shape)  # type: ignore[arg-type]
