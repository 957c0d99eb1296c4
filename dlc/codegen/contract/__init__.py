"""Contractions by fused multiply-adds: read, cut, packed and multiplied. Other ways to multiply build on it."""
