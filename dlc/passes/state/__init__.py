"""State stored as kernels read it rather than as the graph defines it.

Read ``orders``, which order is best; then ``store``, the pass.
"""
