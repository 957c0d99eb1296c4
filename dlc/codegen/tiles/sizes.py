"""Sizes of tiles (AMX) and of what kernels make of them."""

TILE = 16
"""Rows of a tile, and float32 columns."""
STEP = 32
"""Depth of one tile product of bfloat16."""
BLOCK = 2 * TILE
"""Rows and columns of a block: two by two tiles of accumulators."""
TILE_ELEMENTS = TILE * STEP
LINE = 16
"""Words of a cache line."""
