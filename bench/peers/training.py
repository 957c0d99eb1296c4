"""What the contenders for training share: the losses of the first steps, by which they are compared.

All start from the same weights and see the same batches in the same order, so that the losses of the first steps,
each after the updates before it, tell whether gradients and updates agree.
"""

from __future__ import annotations

import numpy as np

COMPARED = 4
LEARNING_RATE = 1e-3


class FirstLosses:
    """Keeps the losses of the first ``COMPARED`` steps."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def after(self, loss: float) -> dict[str, np.ndarray]:
        """Note a step's loss; return what a contender answers."""
        if len(self.values) < COMPARED:
            self.values.append(loss)
        return {"losses": np.array(self.values)}
