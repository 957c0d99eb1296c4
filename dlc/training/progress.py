"""The progress display of ``fit``: a line per epoch, and a bar with loss, metrics and time; quiet off a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def format_logs(logs: Mapping[str, float]) -> str:
    """Return ``loss 0.1234  accuracy 0.9876``."""
    return "  ".join(f"{name} {value:.4f}" for name, value in logs.items())


class ProgressDisplay:
    """Shows epochs on a terminal. ``verbose``: None shows on terminals only, False never, True always.

    Off a terminal, True prints one line per epoch.
    """

    def __init__(self, epochs: int, verbose: bool | None) -> None:
        self.console = Console()
        self.epochs = epochs
        self.lines = verbose is True and not self.console.is_terminal
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        if verbose is not False and self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[logs]}"),
                console=self.console,
                transient=True,
                refresh_per_second=8,
            )

    def __enter__(self) -> ProgressDisplay:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def begin_epoch(self, epoch: int, steps: int, done: int) -> None:
        """Show an epoch of ``steps`` steps (0: unknown), ``done`` of which lie behind; the bar spans all epochs."""
        if self.bar is None:
            return
        label = f"epoch {epoch + 1}/{self.epochs}"
        total, completed = (steps * self.epochs, epoch * steps + done) if steps else (None, done)
        if self.task is None:
            self.task = self.bar.add_task(label, total=total, completed=completed, logs="")
        else:
            self.bar.update(self.task, description=label, total=total, completed=completed)

    def advance(self, logs: Mapping[str, float]) -> None:
        """Count one step."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, advance=1, logs=format_logs(logs))

    def end_epoch(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Print the epoch's logs, above the bar if there is one."""
        if self.bar is not None or self.lines:
            self.console.print(f"epoch {epoch + 1}/{self.epochs}  {format_logs(logs)}", highlight=False)
