"""Contractions on the tile unit (AMX): float32 in fixed point, bfloat16 by pairs."""
