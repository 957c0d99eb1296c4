"""The pipelines: literal lists of passes for inference and for training."""

from __future__ import annotations

from dlc.ir.opdef import Mode
from dlc.passes.attention.fuse import fuse_attention
from dlc.passes.canonicalize.canonicalize import CanonicalizeOptions, canonicalize
from dlc.passes.cleanup import cleanup, prune_state
from dlc.passes.expand import ExpandOptions, expand
from dlc.passes.fold import fold
from dlc.passes.layout.layout import layout
from dlc.passes.manager import Pass
from dlc.passes.precision.lower import LowerPrecisionOptions, lower_precision
from dlc.passes.sink_products import sink_products
from dlc.passes.trim_scans import trim_scans

INFERENCE: tuple[Pass, ...] = (
    Pass("cleanup", cleanup),
    Pass("fold", fold),
    Pass("expand", expand, ExpandOptions(Mode.INFERENCE)),
    Pass("prune_state", prune_state),
    Pass("fold_expanded", fold),
    Pass("canonicalize", canonicalize, CanonicalizeOptions(Mode.INFERENCE)),
    Pass("layout", layout),
    Pass("canonicalize_layout", canonicalize, CanonicalizeOptions(Mode.INFERENCE)),
    Pass("fold_canonical", fold),
    Pass("trim_scans", trim_scans),
    Pass("cleanup_canonical", cleanup),
    Pass("lower_precision", lower_precision, LowerPrecisionOptions()),
    Pass("sink_products", sink_products),
    Pass("fuse_attention", fuse_attention),
)
"""For graphs whose symbols are bound. ``hoist`` and ``fuse`` follow."""

TRAINING: tuple[Pass, ...] = (
    Pass("cleanup", cleanup),
    Pass("fold", fold),
    Pass("expand", expand, ExpandOptions(Mode.TRAINING)),
    Pass("fold_expanded", fold),
    Pass("canonicalize", canonicalize, CanonicalizeOptions(Mode.TRAINING)),
    Pass("layout", layout),
    Pass("canonicalize_layout", canonicalize, CanonicalizeOptions(Mode.TRAINING)),
    Pass("fold_canonical", fold),
    Pass("trim_scans", trim_scans),
    Pass("cleanup_canonical", cleanup),
    Pass("lower_precision", lower_precision, LowerPrecisionOptions()),
    Pass("sink_products", sink_products),
)
"""For the graph that ``train_step`` composed."""
