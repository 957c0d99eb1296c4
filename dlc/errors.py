"""The exceptions of dlc: one family, each naming the offender and the next step.

Every message that reaches a user says which op and node failed, with which
shapes, and what to do next. Nothing here knows the compiler's data structures.
"""

from __future__ import annotations


class DlcError(Exception):
    """Base of every error that dlc raises on purpose."""


class InvalidModelError(DlcError):
    """A model file is empty, damaged, inconsistent or not a model at all."""


class UnsupportedVersionError(InvalidModelError):
    """An IR or opset version is missing or outside the supported range."""


class UnsupportedOpError(DlcError):
    """One or more ops or domains are unknown; the message lists them all."""


class ExternalDataError(InvalidModelError):
    """External data lies outside the model's folder, is missing, or is too short."""


class TypeRuleError(DlcError):
    """Operand shapes, dtypes or attributes break an op's type rule."""


class GraphError(DlcError):
    """A graph is malformed: undefined or duplicate values, cycles, a bad signature."""


class VerificationError(GraphError):
    """A pass left an invalid graph or kernel behind; carries the neighbourhood as a note."""


class NotDifferentiableError(DlcError):
    """A gradient was asked for through an op that has none."""


class InputError(DlcError):
    """An array fed to an executable is missing, extra, or of the wrong shape, dtype or kind."""


class CompileError(DlcError):
    """A graph cannot be compiled for the target; names the node and the reason."""


class ResourceLimitError(DlcError):
    """A model asks for more memory or work than the limits allow."""


class CheckpointError(DlcError):
    """A checkpoint is incomplete, damaged, or does not fit the graph."""


class ConfigError(DlcError):
    """An option or DLC_* variable has a value that makes no sense."""
