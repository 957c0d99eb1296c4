"""Where a model comes from: a path, bytes or a ModelProto, parsed safely.

Nothing but the named file is read here, and no more than a protobuf can hold.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import onnx
from google.protobuf.message import DecodeError

from dlc.errors import InvalidModelError
from dlc.frontends.onnx.external_data import ExternalFolder
from dlc.frontends.onnx.text_fields import check_text
from dlc.frontends.onnx.wire import FileBytes, HeldBytes, SplitModel, UnusualLayout, split_weights
from dlc.ir.provenance import FileState, Region

LARGEST_PROTOBUF = (1 << 31) - 1

Source: TypeAlias = str | os.PathLike | bytes | bytearray | memoryview | onnx.ModelProto


@dataclass(frozen=True)
class ModelSource:
    """A parsed model, a name for messages, the folder of its external data, and weights viewed where they were read."""

    model: onnx.ModelProto
    label: str
    folder: ExternalFolder
    weights: Mapping[int, memoryview] = field(default_factory=dict)  # raw data taken out of graph.initializer
    file: FileState | None = None
    read: tuple[Region, ...] = ()  # where weights of the file were read to

    @property
    def regions(self) -> tuple[Region, ...]:
        """The memory that holds parts of files as they are."""
        return (*self.read, *self.folder.regions)


def open_model(source: Source, external_data_root: str | os.PathLike | None = None) -> ModelSource:
    """Parse ``source``; InvalidModelError with the size in bytes if it is not an ONNX model."""
    root = Path(external_data_root) if external_data_root is not None else None
    if isinstance(source, onnx.ModelProto):
        check_text(source)
        return ModelSource(source, "model", ExternalFolder(None, root))
    if isinstance(source, bytes | bytearray | memoryview):
        split = split_weights(HeldBytes(bytes(source)))
        model = _parse(split, len(source), "the given bytes")
        return ModelSource(model, "model", ExternalFolder(None, root), split.weights)
    if not isinstance(source, str | os.PathLike):
        raise InvalidModelError(f"a model is a path, bytes or an onnx.ModelProto, not {type(source).__name__}")
    path = Path(source)
    split, data = _open_file(path)
    model = _parse(split, data.size, repr(str(path)[:300]))
    folder = ExternalFolder(path.resolve().parent, root)
    return ModelSource(model, path.name, folder, split.weights, data.state, tuple(data.regions))


def _open_file(path: Path) -> tuple[SplitModel, FileBytes]:
    shown = str(path)[:300]
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InvalidModelError(f"{shown!r} is not a file; give the path of an .onnx file")
        if status.st_size > LARGEST_PROTOBUF:
            raise InvalidModelError(
                f"{shown!r} is {status.st_size} bytes; a protobuf holds at most {LARGEST_PROTOBUF}: "
                "save the model with external data"
            )
        with open(path, "rb") as file:
            data = FileBytes(file.fileno(), str(path.resolve()))
            return split_weights(data), data
    except (OSError, ValueError, UnusualLayout) as error:
        raise InvalidModelError(f"{shown!r} cannot be read: {error or 'it changed while it was read'}") from error


def _parse(split: SplitModel, size: int, what: str) -> onnx.ModelProto:
    if not size:
        raise InvalidModelError(f"{what} is empty (0 bytes); it should hold an ONNX model")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(split.model)
        complete = model.HasField("graph") and (len(model.graph.node) + len(model.graph.output)) > 0
    except (DecodeError, RecursionError, ValueError, UnicodeDecodeError) as error:
        raise InvalidModelError(
            f"{what} ({size} bytes) is not an ONNX model, or is cut off or damaged: {str(error)[:200]}"
        ) from error
    if not complete:
        raise InvalidModelError(f"{what} ({size} bytes) holds no graph: it is not an ONNX model")
    check_text(model)
    return model
