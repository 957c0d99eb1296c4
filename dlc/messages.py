"""Messages to Python's logging, which is imported when there is something to say."""

from __future__ import annotations

import sys
from importlib import import_module


def warn(channel: str, message: str) -> None:
    """Log ``message`` as a warning."""
    import_module("logging").getLogger(channel).warning(message)


def inform(channel: str, message: str) -> None:
    """Log ``message`` for information; without logging loaded, nobody has asked for it."""
    if "logging" in sys.modules:
        import_module("logging").getLogger(channel).info(message)
