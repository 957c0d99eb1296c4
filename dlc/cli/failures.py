"""How commands fail: one clean message on standard error and a documented exit status.

Cheap to import; it knows the error family and nothing of the compiler.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import click

from dlc import errors

MISMATCH = 1
USAGE = 2
INVALID_MODEL = 3
UNSUPPORTED = 4
RESOURCE_LIMIT = 5
INTERNAL = 70
INTERRUPTED = 130
BROKEN_PIPE = 141

# The first entry that fits decides.
EXIT_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (errors.ResourceLimitError, RESOURCE_LIMIT),
    (MemoryError, RESOURCE_LIMIT),
    (errors.UnsupportedOpError, UNSUPPORTED),
    (errors.UnsupportedVersionError, UNSUPPORTED),
    (errors.CompileError, UNSUPPORTED),
    (errors.NotDifferentiableError, UNSUPPORTED),
    (errors.ConfigError, USAGE),
    (errors.InputError, USAGE),
    (errors.CheckpointError, USAGE),
    (errors.VerificationError, INTERNAL),
    (errors.DlcError, INVALID_MODEL),
    (OSError, USAGE),
)


def exit_code(error: BaseException) -> int:
    """Return the exit status of a command that ends with ``error``."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), INTERNAL)


def printable(text: object) -> str:
    """Return text whose control characters are escaped: names in a model must not steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in str(text))


def describe(error: BaseException) -> str:
    """Return one message for ``error``."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"out of memory: {error}" if str(error) else "out of memory"
    return f"{type(error).__name__}: {error}"


@contextmanager
def reported() -> Iterator[None]:
    """End the process with a message and an exit status if the block fails; ``click`` handles its own exceptions."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            yield
            sys.stdout.flush()
        except KeyboardInterrupt:
            click.echo(click.style("interrupted", fg="yellow"), err=True)
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            _discard_output()
            sys.exit(BROKEN_PIPE)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (errors.DlcError, OSError, MemoryError) as error:
            code = exit_code(error)
            click.echo(click.style("error: ", fg="red", bold=True) + printable(describe(error)), err=True)
            for note in getattr(error, "__notes__", ()):
                click.echo(f"  {printable(note)}", err=True)
            _flush_or_discard()
            sys.exit(code)
        except Exception:
            traceback.print_exc()
            message = "this is a fault of dlc; please report it with the lines above and the output of `dlc env`"
            click.echo(click.style("internal error: ", fg="red", bold=True) + message, err=True)
            sys.exit(INTERNAL)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(click.style("warning: ", fg="yellow", bold=True) + printable(message), err=True)


def _flush_or_discard() -> None:
    """Keep the interpreter from failing again, at exit, on output that cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        _discard_output()


def _discard_output() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
