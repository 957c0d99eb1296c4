"""The pipelines: literal lists of passes for inference and for training."""

from __future__ import annotations

from dlc.ir.opdef import Mode
from dlc.passes.cleanup import cleanup, prune_state
from dlc.passes.expand import ExpandOptions, expand
from dlc.passes.fold import fold
from dlc.passes.manager import Pass

INFERENCE: tuple[Pass, ...] = (
    Pass("cleanup", cleanup),
    Pass("fold", fold),
    Pass("expand", expand, ExpandOptions(Mode.INFERENCE)),
    Pass("prune_state", prune_state),
    Pass("fold_expanded", fold),
    Pass("cleanup_expanded", cleanup),
)

TRAINING: tuple[Pass, ...] = (
    Pass("cleanup", cleanup),
    Pass("fold", fold),
    Pass("expand", expand, ExpandOptions(Mode.TRAINING)),
    Pass("fold_expanded", fold),
    Pass("cleanup_expanded", cleanup),
)
