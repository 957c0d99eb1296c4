"""Artifacts and object code in the cache: what an entry depends on, and its way there and back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module

from dlc import config
from dlc.codegen.target import CpuTarget
from dlc.driver.artifact import Artifact
from dlc.driver.identity import compiler_digest
from dlc.driver.options import CompileOptions
from dlc.ir.graph import Graph, Role
from dlc.ir.interface import digest_of, interface_of
from dlc.runtime.cache import CacheKey, CodeCache, make_key
from dlc.runtime.file_arrays import fetch
from dlc.runtime.plan_json import plan_from_json, plan_to_json


def artifact_key(
    graph: Graph, options: CompileOptions, target: CpuTarget, binding: Mapping[str, int] | None = None
) -> CacheKey:
    """Return the key of the artifact of ``graph`` with its symbols bound.

    Of initial arrays, only constants small enough to be folded count.
    """
    interface = interface_of(graph)
    small = [
        (spec.name, f"{type_}")
        for spec, type_ in interface.inputs_with(Role.CONSTANT)
        if spec.name in interface.initial and type_.is_static and int(type_.nbytes) <= options.fold_limit  # type: ignore[call-overload]
    ]
    folded = hashlib.sha256()
    arrays = fetch(interface.initial, [name for name, _ in small])
    for name, type_text in small:
        folded.update(f"{name}\0{type_text}\0".encode())
        folded.update(arrays[name].tobytes())
    chosen = replace(options, dump=None, verify=0)
    return make_key(
        "executable",
        {
            "graph": digest_of(graph),
            "binding": repr(sorted((binding or {}).items())),
            "constants": folded.hexdigest(),
            "options": repr(chosen),
            "target": repr(target),
            "compiler": compiler_digest(),
        },
    )


def load_artifact(key: CacheKey) -> Artifact | None:
    """Return the artifact of ``key`` from the cache, or None."""
    entry = CodeCache().load(key)
    if entry is None:
        return None
    facts = entry.metadata
    objects = tuple(bytes(entry.blobs[f"object{k}"]) for k in range(facts["objects"]))
    return Artifact(
        plan_from_json(bytes(entry.blobs["load"])),
        plan_from_json(bytes(entry.blobs["main"])),
        objects,
        facts["scratch_bytes"],
        dict(entry.arrays),
        facts["kernels"],
        facts["flops"],
        facts["full_arena_bytes"],
        facts["repeated"],
    )


def store_artifact(key: CacheKey, artifact: Artifact) -> None:
    """Keep ``artifact`` under ``key``."""
    blobs = {f"object{k}": image for k, image in enumerate(artifact.objects)}
    blobs["load"] = plan_to_json(artifact.load_plan).encode()
    blobs["main"] = plan_to_json(artifact.main_plan).encode()
    facts = {
        "objects": len(artifact.objects),
        "scratch_bytes": artifact.scratch_bytes,
        "kernels": artifact.kernels,
        "flops": artifact.flops,
        "full_arena_bytes": artifact.full_arena_bytes,
        "repeated": artifact.repeated,
    }
    CodeCache().store(key, facts, blobs, artifact.literals)


def compile_cached(text: str, target: CpuTarget) -> bytes:
    """Compile a module, or take its object code from the cache: the second level, shared by all graphs."""
    if not config.cache_enabled():
        return _compile(text, target)
    key = make_key("object", {"text": text, "target": repr(target), "compiler": compiler_digest()})
    cache = CodeCache()
    entry = cache.load(key)
    if entry is not None:
        return bytes(entry.blobs["object"])
    image = _compile(text, target)
    cache.store(key, {}, {"object": image})
    return image


def _compile(text: str, target: CpuTarget) -> bytes:
    image: bytes = import_module("dlc.codegen.llvm.jit").compile_module(text, target)
    return image
