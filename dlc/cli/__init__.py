"""The ``dlc`` command: a table of commands, loaded when called, so that help is quick."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from dlc import __version__, errors

# Command -> (module, one-line help). Help must not import NumPy or LLVM.
COMMANDS = {
    "info": ("dlc.cli.info", "Show inputs, outputs, ops, parameters, FLOPs and memory of a model."),
    "check": ("dlc.cli.check", "List every problem of an ONNX model at once."),
    "compile": ("dlc.cli.compile", "Compile a model; show phase times, code size and memory."),
    "run": ("dlc.cli.run", "Run a model on arrays from an .npz file."),
    "bench": ("dlc.cli.bench", "Measure a model, alone or against a peer in alternating rounds."),
    "profile": ("dlc.cli.profile", "Show the time that each kernel takes."),
    "compare": ("dlc.cli.compare", "Compare results with a reference and name the first node that differs."),
    "bisect": ("dlc.cli.bisect", "Run the interpreter after each pass and name the first that changes values."),
    "train": ("dlc.cli.train", "Train the built-in digits example, or resume it."),
    "cache": ("dlc.cli.cache", "List, verify, explain or prune the code cache."),
    "env": ("dlc.cli.env", "Print versions, processor features and options, for bug reports."),
}
EXIT_CODES = (
    (errors.UnsupportedOpError, 4),
    (errors.UnsupportedVersionError, 4),
    (errors.ResourceLimitError, 5),
    (errors.DlcError, 3),
)


class LazyGroup(click.Group):
    """Finds commands by the table above and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return import_module(COMMANDS[cmd_name][0]).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except errors.DlcError as error:
            click.echo(click.style("error: ", fg="red", bold=True) + f"{type(error).__name__}: {error}", err=True)
            for note in getattr(error, "__notes__", ()):
                click.echo(f"  {note}", err=True)
            sys.exit(next(code for kind, code in EXIT_CODES if isinstance(error, kind)))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dlc")
def main() -> None:
    """Compile deep-learning models to native code, run them, train them, measure them.

    MODEL is the path of an ONNX file, or the name of a built-in model such as resnet50 or bert_base.
    """
