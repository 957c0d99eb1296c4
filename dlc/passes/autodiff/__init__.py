"""Reverse-mode differentiation: gradients as ordinary nodes.

Read ``activity``, which values a gradient flows through; ``autodiff``, the way back through a graph; then ``regions``,
the gradients of control flow.
"""
