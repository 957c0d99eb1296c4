"""The ``dlc`` command: a table of commands, loaded when called, so that help is quick."""

from __future__ import annotations

import difflib
from importlib import import_module

import click

from dlc import __version__
from dlc.cli.failures import reported

# Command -> (module, one-line help). Help must not import NumPy or LLVM.
COMMANDS = {
    "info": ("dlc.cli.info", "Show inputs, outputs, ops, parameters, FLOPs and memory of a model."),
    "check": ("dlc.cli.check", "List every problem of an ONNX model at once."),
    "compile": ("dlc.cli.compile", "Compile a model; show phase times, code size and memory."),
    "run": ("dlc.cli.run", "Run a model on arrays from an .npz file."),
    "bench": ("dlc.cli.bench", "Measure a model, alone or against a peer in alternating rounds."),
    "profile": ("dlc.cli.profile", "Show each kernel's time and how near it is to the machine's limits."),
    "compare": ("dlc.cli.compare", "Compare results with a reference; name the first node that differs."),
    "bisect": ("dlc.cli.bisect", "Run the interpreter after each pass; name the first that changes values."),
    "train": ("dlc.cli.train", "Train the built-in digits example, or resume it."),
    "cache": ("dlc.cli.cache", "List, verify, explain or prune the code cache."),
    "env": ("dlc.cli.env", "Print versions, processor features and options, for bug reports."),
}


class LazyGroup(click.Group):
    """Finds commands by the table above and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return import_module(COMMANDS[cmd_name][0]).command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and near and not args[0].startswith("-"):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        with reported():
            return super().invoke(ctx)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="dlc")
def main() -> None:
    """Compile deep-learning models to native code, run them, train them, measure them.

    MODEL is the path of an ONNX file, or the name of a built-in model such as resnet50 or bert_base.

    Exit status: 0 success, 1 results differ, 2 wrong usage or unusable files, 3 invalid model, 4 unsupported,
    5 resource limit, 70 a fault of dlc itself, 130 interrupted.
    """
