"""How the dimensions of a reshape correspond: runs of old dimensions against runs of new ones."""

from __future__ import annotations

from dlc.ir.dims import Dim, Shape

Block = tuple[tuple[int, ...], tuple[int, ...]]


def reshape_blocks(old: Shape, new: Shape) -> list[Block] | None:
    """Return minimal runs (positions in ``old``, positions in ``new``) with equal products, in order.

    Extents of 1 go with a neighbour where they do not face each other. None if an extent is 0, or if symbolic
    dimensions do not match one by one.
    """
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        left: Dim = old[i]
        right: Dim = new[j]
        run: tuple[list[int], list[int]] = ([i], [j])
        i, j = i + 1, j + 1
        while left != right:
            if not isinstance(left, int) or not isinstance(right, int) or 0 in (left, right):
                return None
            if left < right and i < len(old):
                left, i = left * old[i], i + 1
                run[0].append(i - 1)
            elif right < left and j < len(new):
                right, j = right * new[j], j + 1
                run[1].append(j - 1)
            else:
                return None
        blocks.append(run)
    rest_old, rest_new = list(range(i, len(old))), list(range(j, len(new)))
    if any(old[k] != 1 for k in rest_old) or any(new[k] != 1 for k in rest_new):
        return None
    if rest_old or rest_new:
        if not blocks:
            return None
        blocks[-1][0].extend(rest_old)
        blocks[-1][1].extend(rest_new)
    return [(tuple(a), tuple(b)) for a, b in blocks]
