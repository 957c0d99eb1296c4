"""Writes the references under docs/reference from docstrings and the command line's own help.

python docs/generate.py            # write
python docs/generate.py --check    # exit status 1 if a file is out of date
"""

import enum
import inspect
import re
import sys
from pathlib import Path

import click

import dlc
from dlc.cli import COMMANDS, main
from dlc.config import OPTIONS
from dlc.ir import ops as _ops  # noqa: F401  (registers every op)
from dlc.ir.opdef import NotDifferentiable, all_ops

REFERENCE = Path(__file__).parent / "reference"
FUNCTIONS = [
    "load",
    "compile",
    "compile_training",
    "grad",
    "interpret",
    "save_onnx",
    "check",
    "input",
    "output",
    "parameter",
    "scan",
]
CLASSES = {
    "Executable": "dlc.runtime.executable",
    "SpecialisingExecutable": "dlc.runtime.specialise",
    "TrainingStep": "dlc.training",
    "Graph": "dlc.frontends.graph",
    "Tensor": "dlc.frontends.graph",
}


def text_of(thing):
    """The docstring as Markdown: sections such as Args become lists."""
    lines, section = [], False
    for line in inspect.cleandoc(inspect.getdoc(thing) or "").splitlines():
        item = re.match(r"    (\w+): (.*)", line)
        if re.fullmatch(r"(Args|Returns|Raises):", line):
            section = True
            lines += [f"{line}", ""]
        elif section and item:
            lines.append(f"- `{item[1]}`: {item[2]}")
        elif section and line.startswith("    "):
            lines.append(f"  {line.strip()}" if lines[-1] else line.strip())
        else:
            section = section and not line
            lines.append(line)
    return "\n".join(lines)


def parameter_text(parameter):
    text = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "") + parameter.name
    if parameter.annotation is not parameter.empty:
        kind = parameter.annotation
        text += f": {kind if isinstance(kind, str) else getattr(kind, '__name__', kind)}"
    if parameter.default is not parameter.empty:
        default = parameter.default.value if isinstance(parameter.default, enum.Enum) else parameter.default
        default = "..." if "object at 0x" in repr(default) else repr(default)
        text += f" = {default}" if parameter.annotation is not parameter.empty else f"={default}"
    return text


def signature_of(thing, methods=False):
    """The parameters and the result; without ``self`` for methods."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return "(...)"
    parts, keyword_only = [], False
    for number, parameter in enumerate(signature.parameters.values()):
        if methods and number == 0 and parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only and "*" not in "".join(parts):
            parts.append("*")
        keyword_only = keyword_only or parameter.kind is parameter.KEYWORD_ONLY
        parts.append(parameter_text(parameter))
    result = signature.return_annotation
    arrow = (
        "" if result is signature.empty or result in (None, "None") else f" -> {getattr(result, '__name__', result)}"
    )
    one_line = f"({', '.join(parts)}){arrow}"
    return one_line if len(one_line) < 90 else "(\n    " + ",\n    ".join(parts) + f",\n){arrow}"


def described_function(name, function):
    short = name.rsplit(".", 1)[-1]
    return [f"### {name}", "", "```python", f"{short}{signature_of(function)}", "```", "", text_of(function), ""]


def described_class(name, cls):
    lines = [f"### {name}", "", "```python", f"{name}{signature_of(cls)}", "```", "", text_of(cls), ""]
    for attribute, member in sorted(vars(cls).items()):
        if attribute.startswith("_") or not text_of(member):
            continue
        if inspect.isfunction(member):
            signature = " ".join(
                signature_of(member, methods=True).replace("(\n    ", "(").replace(",\n)", ")").split()
            )
            lines += [f"- `{attribute}{signature}`: {' '.join(text_of(member).split())}"]
        elif isinstance(member, property):
            lines += [f"- `{attribute}`: {' '.join(text_of(member).split())}"]
    return [*lines, ""]


def public_of(module):
    own = [n for n, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__]
    names = getattr(module, "__all__", None) or [n for n in own if not n.startswith("_")]
    return [(n, getattr(module, n)) for n in sorted(names)]


def api():
    lines = ["# API reference", "", "Written by `docs/generate.py` from the docstrings.", "", "## Functions", ""]
    for name in FUNCTIONS:
        function = getattr(dlc, name)
        lines += described_function(f"dlc.{name}", function)
    lines += ["## Classes", ""]
    for name, module in CLASSES.items():
        lines += described_class(name, getattr(__import__(module, fromlist=[name]), name))
    for title, module in (
        ("Layers", dlc.nn),
        ("Losses", dlc.losses),
        ("Optimizers", dlc.optim),
        ("Callbacks", dlc.callbacks),
    ):
        lines += [f"## {title}: dlc.{module.__name__.rsplit('.', 1)[-1]}", ""]
        for name, thing in public_of(module):
            if inspect.isclass(thing) and text_of(thing):
                lines += described_class(name, thing)
            elif inspect.isfunction(thing) and text_of(thing):
                lines += described_function(name, thing)
    graph_api = __import__("dlc.frontends.graph", fromlist=["__all__"])
    lines += ["## Array functions", "", "Each is `dlc.<name>` and follows the NumPy function of its name.", ""]
    for name, thing in public_of(graph_api):
        if inspect.isfunction(thing) and name not in FUNCTIONS:
            first = text_of(thing).split("\n\n")[0].replace("\n", " ")
            signature = " ".join(signature_of(thing).replace("(\n    ", "(").replace(",\n)", ")").split())
            lines.append(f"- `{name}{signature}`: {first}")
    lines += ["", "## Errors", ""]
    for name, thing in vars(dlc.errors).items():
        if inspect.isclass(thing):
            lines.append(f"- `{name}`: {text_of(thing)}")
    return "\n".join(lines) + "\n"


def cli():
    lines = ["# Command line reference", "", "Written by `docs/generate.py` from the commands' own help.", ""]

    def add(command, path, parent=None):
        context = click.Context(command, info_name=path, parent=parent, terminal_width=110, max_content_width=110)
        lines.extend([f"## {path}", "", "```", command.get_help(context), "```", ""])
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                add(command.get_command(context, name), f"{path} {name}")

    add(main, "dlc")
    assert all(f"## dlc {name}" in lines for name in COMMANDS)
    lines += ["## Options in the environment", "", "| variable | type | default | meaning |", "|---|---|---|---|"]
    for option in OPTIONS.values():
        lines.append(f"| {', '.join(option.variables)} | {option.type} | {option.default_text} | {option.help} |")
    return "\n".join(lines) + "\n"


def attribute_text(name, attribute):
    kinds = " or ".join(dict.fromkeys("None" if k is type(None) else k.__name__ for k in attribute.kinds))
    default = "" if attribute.required else f", default {attribute.default!r}"
    return f"`{name}` ({kinds}{default}): {attribute.doc}"


def op_table():
    lines = [
        "# Ops",
        "",
        "Written by `docs/generate.py` from the registry, `dlc/ir/ops`. A *composite* is expanded into",
    ]
    lines += [
        "other ops; an op in *index form* is fused with its neighbours; a *kernel* runs as it is; a *region* holds"
    ]
    lines += [
        "a graph. Gradients of composites are those of their expansion, unless they have a rule of their own.",
        "",
    ]
    lines += ["| op | operands | form | gradient | meaning and attributes |", "|---|---|---|---|---|"]
    for name, op in sorted(all_ops().items()):
        form = "composite" if op.expand else "index form" if op.compute else "kernel" if op.kernel else "region"
        gradient = "none" if isinstance(op.vjp, NotDifferentiable) else "rule" if op.vjp else "composed"
        parts = [" ".join(op.doc.split()), *(attribute_text(n, a) for n, a in op.attributes.items())]
        meaning = "<br>".join(parts).replace("|", "\\|")
        lines.append(f"| `{name}` | {'any' if op.arity is None else op.arity} | {form} | {gradient} | {meaning} |")
    return "\n".join(lines) + "\n"


def files():
    return {REFERENCE / "api.md": api(), REFERENCE / "cli.md": cli(), REFERENCE / "ops.md": op_table()}


if __name__ == "__main__":
    stale = [path for path, text in files().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        print("\n".join(f"out of date: {path}" for path in stale) or "references are up to date")
        sys.exit(bool(stale))
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
