"""Batches of which steps would hand on more than caches hold, done in parts.

Read ``rows``, what a node does along its first dimension; ``stretch``, which nodes are worth it; ``split``, the pass.
"""
