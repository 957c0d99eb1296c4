"""Where a model comes from: a path, bytes or a ModelProto, parsed safely.

Nothing but the named file is read here, and no more than a protobuf can hold.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from dlc.errors import InvalidModelError
from dlc.frontends.onnx.external_data import ExternalFolder
from dlc.frontends.onnx.text_fields import check_text

LARGEST_PROTOBUF = (1 << 31) - 1

Source = str | os.PathLike | bytes | bytearray | memoryview | onnx.ModelProto


@dataclass(frozen=True)
class ModelSource:
    """A parsed model, a name for messages, and the folder its external data may be in."""

    model: onnx.ModelProto
    label: str
    folder: ExternalFolder


def open_model(source: Source, external_data_root: str | os.PathLike | None = None) -> ModelSource:
    """Parse ``source``; InvalidModelError with the size in bytes if it is not an ONNX model."""
    root = Path(external_data_root) if external_data_root is not None else None
    if isinstance(source, onnx.ModelProto):
        check_text(source)
        return ModelSource(source, "model", ExternalFolder(None, root))
    if isinstance(source, bytes | bytearray | memoryview):
        return ModelSource(_parse(bytes(source), "the given bytes"), "model", ExternalFolder(None, root))
    if not isinstance(source, str | os.PathLike):
        raise InvalidModelError(f"a model is a path, bytes or an onnx.ModelProto, not {type(source).__name__}")
    path = Path(source)
    model = _parse(_read(path), f"{str(path)!r}")
    return ModelSource(model, path.name, ExternalFolder(path.resolve().parent, root))


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InvalidModelError(f"{str(path)!r} is not a file; give the path of an .onnx file")
        if status.st_size > LARGEST_PROTOBUF:
            raise InvalidModelError(
                f"{str(path)!r} is {status.st_size} bytes; a protobuf holds at most {LARGEST_PROTOBUF}: "
                "save the model with external data"
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidModelError(f"{str(path)[:300]!r} cannot be read: {error}") from error


def _parse(data: bytes, what: str) -> onnx.ModelProto:
    if not data:
        raise InvalidModelError(f"{what} is empty (0 bytes); it should hold an ONNX model")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        complete = model.HasField("graph") and (len(model.graph.node) + len(model.graph.output)) > 0
    except (DecodeError, RecursionError, ValueError, UnicodeDecodeError) as error:
        raise InvalidModelError(
            f"{what} ({len(data)} bytes) is not an ONNX model, or is cut off or damaged: {str(error)[:200]}"
        ) from error
    if not complete:
        raise InvalidModelError(f"{what} ({len(data)} bytes) holds no graph: it is not an ONNX model")
    check_text(model)
    return model
