"""Attention as one ``fused`` node, known by its structure.

Read ``pattern``, what is matched; ``mask``, which masks an index can say; then ``fuse``, the pass.
"""
