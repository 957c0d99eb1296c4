"""Problems of a model: what ``load`` raises one of and ``check`` lists all of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dlc.errors import DlcError


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a model: the error that ``load`` would raise, and the node it concerns."""

    error: DlcError
    node: str = ""
    severity: Literal["error", "warning"] = "error"

    @property
    def message(self) -> str:
        return str(self.error)

    def __str__(self) -> str:
        return f"{self.severity}: {type(self.error).__name__}: {self.message}"


class AlreadyReported(DlcError):
    """A node cannot be imported because of problems that have been reported already."""


class Sink:
    """Receives problems: raises the first error, or collects all of them (``collect=True``)."""

    def __init__(self, collect: bool = False) -> None:
        self.collect = collect
        self.problems: list[Problem] = []

    def report(self, error: DlcError, node: str = "") -> None:
        """Take one error: raise it, or keep it."""
        if not self.collect:
            raise error
        if not any(known.message == str(error) for known in self.problems):
            self.problems.append(Problem(error, node))

    def warn(self, error: DlcError, node: str = "") -> None:
        """Take one warning."""
        self.problems.append(Problem(error, node, "warning"))
