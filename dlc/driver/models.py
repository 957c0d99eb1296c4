"""Models that were imported before: from the state of their files straight to a deferred graph.

Keeps in the code cache what the interface of an imported model is and where its weights lie. How a model is
imported is a function given by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dlc import config
from dlc.driver.identity import compiler_digest
from dlc.errors import DlcError
from dlc.ir.graph import Graph, InputSpec, Role
from dlc.ir.interface import DeferredGraph, Interface, digest_of, interface_of
from dlc.ir.provenance import FileState, Place, Region, file_state, find_place
from dlc.messages import inform
from dlc.runtime.cache import CacheKey, CodeCache, make_key
from dlc.runtime.cache_file import Entry
from dlc.runtime.file_arrays import FileArrays
from dlc.runtime.plan_json import type_from_json, type_to_json

_MOST_HELD = 16 << 20
"""Bytes of initial arrays that are no part of a file and therefore stored; a model with more is imported each time."""


class Imported(Protocol):
    """What importing gives: the graph, what there is to warn of, and the memory that holds parts of files."""

    graph: Graph
    warnings: tuple[str, ...]
    regions: tuple[Region, ...]


Import = Callable[[], Imported]


def load_known(
    path: Path, question: Mapping[str, Any], frontend: str, import_model: Import
) -> tuple[Graph, tuple[str, ...]]:
    """Return the graph of the model at ``path`` and the warnings of its import.

    ``question`` holds whatever else decides what is imported, ``frontend`` is a digest of what imports. A file that
    changed in the last two seconds is not remembered: another change might not show in its times.
    """
    try:
        state = file_state(str(path.resolve()))
    except OSError:
        return _unpacked(import_model())  # which says what is wrong
    key = _key(state, question, frontend)
    entry = CodeCache().load(key)
    known = _from_entry(entry, import_model, path) if entry is not None else None
    if known is not None:
        return known
    imported = import_model()
    _remember(key, state, imported)
    return _unpacked(imported)


def _unpacked(imported: Imported) -> tuple[Graph, tuple[str, ...]]:
    return imported.graph, imported.warnings


def _key(state: FileState, question: Mapping[str, Any], frontend: str) -> CacheKey:
    parts = {
        "file": repr(state),
        "question": repr(sorted(question.items())),
        "memory limit": str(config.memory_limit()),
        "compiler": compiler_digest() + frontend,
    }
    return make_key("model", parts)


def _remember(key: CacheKey, state: FileState, imported: Imported) -> None:
    """Store the interface of ``imported``, unless a file is too young or too much would have to be stored."""
    files = list(dict.fromkeys([state, *(region.file for region in imported.regions)]))
    if not all(file.settled for file in files):
        return
    interface = interface_of(imported.graph)
    inputs: list[list[Any]] = []
    held: dict[str, np.ndarray] = {}
    for spec, type_ in interface.inputs:
        initial = interface.initial.get(spec.name)
        place = find_place(initial, type_, imported.regions, files) if initial is not None else None
        if initial is not None and place is None:
            held[spec.name] = initial
        where = [place.file, place.offset] if place is not None else None
        inputs.append([spec.name, spec.role.value, type_to_json(type_), spec.replaced_by, spec.trainable, where])
    if sum(array.nbytes for array in held.values()) > _MOST_HELD:
        return
    facts = {
        "name": interface.name,
        "digest": digest_of(imported.graph),
        "inputs": inputs,
        "outputs": [[name, type_to_json(type_)] for name, type_ in interface.outputs],
        "files": [asdict(file) for file in files],
        "warnings": list(imported.warnings),
    }
    CodeCache().store(key, facts, None, held)


def _from_entry(entry: Entry, import_model: Import, path: Path) -> tuple[Graph, tuple[str, ...]] | None:
    """Return the deferred graph that ``entry`` describes, or None if a file is not as it was."""
    facts = entry.metadata
    files = [FileState(**file) for file in facts["files"]]
    inputs = []
    places: dict[str, Place] = {}
    for name, role, stored_type, replaced_by, trainable, where in facts["inputs"]:
        type_ = type_from_json(stored_type)
        inputs.append((InputSpec(name, Role(role), None, replaced_by, trainable), type_))
        if where is not None:
            places[name] = Place(where[0], where[1], type_)
    outputs = tuple((name, type_from_json(stored)) for name, stored in facts["outputs"])
    try:
        arrays = FileArrays(files, places, entry.arrays)
    except OSError as error:
        inform("dlc.cache", f"model {path} is imported again: {error}")
        return None

    def make() -> Graph:
        if [file_state(file.path) for file in files] != files:
            raise DlcError(f"{path} was changed after it was loaded; load it again")
        return import_model().graph

    interface = Interface(facts["name"], tuple(inputs), outputs, arrays)
    return DeferredGraph.of(interface, facts["digest"], make), tuple(facts["warnings"])
