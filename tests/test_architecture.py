"""Holds the layout: who may import whom, which file may name which package, how long files are."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

import dlc

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    [
        *(p for p in (ROOT / "dlc").rglob("*.py") if "frontends" not in p.parts[len(ROOT.parts) + 1 :]),
        *(ROOT / "frontends").rglob("*.py"),
    ]
)

# Layer -> layers it may import. Frontends see the ir only; the driver sees all; facade and cli see the driver.
ALLOWED = {
    "errors": set(),
    "config": {"errors"},
    "messages": set(),
    "ir": {"errors", "config"},
    "passes": {"errors", "config", "ir"},
    "codegen": {"errors", "config", "ir"},
    "runtime": {"errors", "config", "messages", "ir"},
    "frontends": {"errors", "config", "ir"},
    "driver": {"errors", "config", "messages", "ir", "passes", "codegen", "runtime"},
    "training": {"errors", "config", "ir", "passes", "codegen", "runtime", "driver", "frontends"},
    "facade": {"errors", "config", "ir", "passes", "codegen", "runtime", "driver", "frontends"},
    "tools": {"errors", "config", "ir", "passes", "driver", "frontends", "facade"},
    "gradients": {"errors", "config", "ir", "passes", "facade"},
    "onnx_backend": {"driver", "frontends"},
    "cli": {
        *("errors", "config", "ir", "passes", "codegen", "runtime", "driver", "frontends"),
        *("training", "facade", "tools"),
    },
    "__init__": {"errors", "config", "facade"},
    "__main__": {"cli"},
}  # fmt: skip
# Within a layer: package -> those it may import, beside the modules of the layer that are named in neither table.
CODEGEN = {
    "loops": set(),
    "rows": {"loops"},
    "contract": {"loops"},
    "tiles": {"contract"},
    "winograd": {"contract", "tiles"},
    "attention": {"contract", "rows"},
    "lower": {"loops", "rows", "contract", "tiles", "winograd", "attention"},
    "llvm": set(),
}
# The last two are modules: they stand above packages, and no package imports them.
PASSES = {
    "canonicalize": set(),
    "autodiff": set(),
    "attention": set(),
    "layout": set(),
    "state": {"layout"},
    "precision": set(),
    "fusion": set(),
    "rematerialise": set(),
    "memory": set(),
    "batch": set(),
    "train_step": {"autodiff"},
    "pipeline": {"canonicalize", "attention", "layout", "precision"},
}
PACKAGES = {"codegen": CODEGEN, "passes": PASSES}
OWNERS = {
    "llvmlite": ("dlc/codegen/llvm/",),
    "onnx": ("frontends/onnx/",),
    "networkx": ("dlc/passes/rematerialise/cut.py",),
    "numba": ("dlc/codegen/cuda", "dlc/runtime/cuda"),
}
# Optional dependencies and lazy loading, each at its one named place.
LOCAL_IMPORTS_ALLOWED = {"dlc/cli/optional.py"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def layer_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    if parts[0] == "frontends":
        return "frontends"
    return parts[1] if len(parts) > 2 else parts[1].removesuffix(".py")


def imported_modules(tree: ast.AST) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            module = node.module or ""
            if module == "dlc":
                found += [(node.lineno, f"dlc.{alias.name}") for alias in node.names]
            else:
                found.append((node.lineno, module))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_follow_the_layers(path):
    layer = layer_of(path)
    for line, module in imported_modules(ast.parse(path.read_text())):
        if module.startswith("dlc."):
            other = module.split(".")[1]
            if other in ("__version__",):
                continue
            assert other == layer or other in ALLOWED[layer], f"{name_of(path)}:{line}: {layer} imports {module}"


@pytest.mark.parametrize("path", [p for p in SOURCES if layer_of(p) in PACKAGES], ids=name_of)
def test_packages_of_a_layer_are_layers(path):
    layer = layer_of(path)
    table = PACKAGES[layer]
    package = path.relative_to(ROOT / "dlc" / layer).parts[0].removesuffix(".py")
    allowed = {package, *table[package]} if package in table else set()
    for line, module in imported_modules(ast.parse(path.read_text())):
        parts = module.split(".")
        if parts[:2] == ["dlc", layer] and len(parts) > 2 and parts[2] in table:
            assert parts[2] in allowed, f"{name_of(path)}:{line} imports {module}"


@pytest.mark.parametrize("layer", PACKAGES)
def test_every_package_of_a_layer_is_in_its_table(layer):
    packages = {path.parent.name for path in (ROOT / "dlc" / layer).glob("*/__init__.py")}
    assert packages <= PACKAGES[layer].keys()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_owners_name_foreign_packages(path):
    for line, module in imported_modules(ast.parse(path.read_text())):
        owners = OWNERS.get(module.split(".")[0])
        assert owners is None or name_of(path).startswith(owners), f"{name_of(path)}:{line} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_imports_inside_functions(path):
    if name_of(path) in LOCAL_IMPORTS_ALLOWED:
        return
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                assert not isinstance(node, ast.Import | ast.ImportFrom), f"{name_of(path)}:{node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_stay_short_and_open_with_a_docstring(path):
    text = path.read_text()
    assert text.count("\n") <= 600, f"{name_of(path)} has {text.count(chr(10))} lines"
    assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{name_of(path)} has no module docstring"


def test_nothing_is_pickled():
    for path in SOURCES:
        for line, module in imported_modules(ast.parse(path.read_text())):
            assert module.split(".")[0] not in ("pickle", "marshal", "shelve", "dill"), f"{name_of(path)}:{line}"


def test_no_import_cycles():
    modules = {}
    for path in SOURCES:
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if parts[0] == "frontends":
            parts.insert(0, "dlc")
        if parts[-1] == "__init__":
            parts.pop()
        modules[".".join(parts)] = path
    edges = {}
    for name, path in modules.items():
        tree = ast.parse(path.read_text())
        blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
        guarded = {id(n) for block in blocks for n in ast.walk(block)}
        targets = set()
        for node in ast.walk(tree):
            if id(node) in guarded or not isinstance(node, ast.ImportFrom):
                continue
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                targets.add(full if full in modules else node.module)
        edges[name] = {t for t in targets if t in modules and t != name}
    done, path_now = set(), []

    def visit(name):
        if name in done:
            return
        assert name not in path_now, f"import cycle: {' -> '.join([*path_now[path_now.index(name) :], name])}"
        path_now.append(name)
        for target in sorted(edges[name]):
            visit(target)
        path_now.pop()
        done.add(name)

    for name in sorted(modules):
        visit(name)


def test_no_public_function_has_the_name_of_a_module():
    """Importing ``dlc.log``, were there one, would hide the function ``dlc.log``."""
    modules = {path.stem for path in (ROOT / "dlc").iterdir()}
    functions = {*import_module("dlc.frontends.graph").__all__, *dlc._LAZY}
    assert not modules & functions
