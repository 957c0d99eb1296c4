"""The one place where the command line imports optional packages."""

from __future__ import annotations

from types import ModuleType

from dlc.errors import ConfigError


def onnxruntime() -> ModuleType:
    """Return the onnxruntime module; ConfigError that says how to install it."""
    try:
        import onnxruntime as module  # noqa: PLC0415
    except ImportError:
        raise ConfigError("onnxruntime is not installed; run `pip install 'dlc[ort]'`") from None
    return module
