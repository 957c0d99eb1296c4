"""The embedded example data: scikit-learn's handwritten digits, 1,797 images of 8 x 8 pixels.

Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning Repository,
CC BY 4.0 (see DIGITS_LICENSE.txt).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlc.errors import DlcError


@dataclass(frozen=True)
class Split:
    """A part of a data set: ``image`` (count, 1, 8, 8) float32 in [0, 1] and ``label`` (count,) int64."""

    image: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by input name, as ``fit`` and ``evaluate`` take them."""
        return {"image": self.image, "label": self.label}


def digits(seed: int = 0, test_fraction: float = 0.2) -> tuple[Split, Split]:
    """Return the training and test parts of the digits, split at random within each class (stratified).

    The same ``seed`` gives the same split; 20 % of 1,797 are 360 test images.
    """
    if not 0.0 < test_fraction < 1.0:
        raise DlcError(f"test_fraction is {test_fraction}; it must be between 0 and 1")
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as archive:
        images = archive["images"].astype(np.float32)[:, None] / np.float32(16.0)
        labels = archive["labels"].astype(np.int64)
    generator = np.random.Generator(np.random.PCG64(seed))
    total = math.ceil(len(labels) * test_fraction)
    members = [generator.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    # Shares of each class, rounded so that they add up to the total: the largest remainders get one more.
    exact = np.array([len(m) for m in members]) * total / len(labels)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    test = generator.permutation(np.concatenate([m[:n] for m, n in zip(members, counts)]))
    train = generator.permutation(np.concatenate([m[n:] for m, n in zip(members, counts)]))
    return Split(images[train], labels[train]), Split(images[test], labels[test])
