"""Artifacts and object code in the cache: what an entry depends on, and its way there and back."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from dlc import config
from dlc.codegen.llvm_jit import compile_module
from dlc.codegen.target import CpuTarget
from dlc.driver.artifact import Artifact
from dlc.driver.options import CompileOptions
from dlc.ir.graph import Graph, Role
from dlc.ir.structure import graph_digest
from dlc.runtime.cache import CacheKey, CodeCache, make_key
from dlc.runtime.plan_json import plan_from_json, plan_to_json

PACKAGE = Path(__file__).parent.parent
COMPILER_FOLDERS = ("ir", "passes", "codegen", "driver", "runtime")


@lru_cache(maxsize=1)
def compiler_digest() -> str:
    """Return a digest of the compiler's own sources and of llvmlite's version: other compilers make other code."""
    hasher = hashlib.sha256(metadata.version("llvmlite").encode())
    for folder in COMPILER_FOLDERS:
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            hasher.update(path.relative_to(PACKAGE).as_posix().encode())
            hasher.update(path.read_bytes())
    return hasher.hexdigest()


def artifact_key(graph: Graph, options: CompileOptions, target: CpuTarget) -> CacheKey:
    """Return the key of a graph's artifact. Of initial arrays, only constants small enough to be folded count."""
    folded = hashlib.sha256()
    for _, spec in graph.inputs_with(Role.CONSTANT):
        if spec.initial is not None and spec.initial.nbytes <= options.fold_limit:
            folded.update(f"{spec.name}\0{spec.initial.dtype}{spec.initial.shape}\0".encode())
            folded.update(spec.initial.tobytes())
    chosen = replace(options, dump=None, verify=0)
    return make_key(
        "executable",
        {
            "graph": graph_digest(graph, origins=True),
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
    }
    CodeCache().store(key, facts, blobs, artifact.literals)


def compile_cached(text: str, target: CpuTarget) -> bytes:
    """Compile a module, or take its object code from the cache: the second level, shared by all graphs."""
    if not config.cache_enabled():
        return compile_module(text, target)
    key = make_key("object", {"text": text, "target": repr(target), "compiler": compiler_digest()})
    cache = CodeCache()
    entry = cache.load(key)
    if entry is not None:
        return bytes(entry.blobs["object"])
    image = compile_module(text, target)
    cache.store(key, {}, {"object": image})
    return image
