"""Groups of primitives that become one kernel or a few each.

Read ``fuse``, which asks the rules node by node; ``groups`` and ``state``, which the rules share; the rules,
``pointwise``, ``epilogue``, ``rows`` and ``slices``; ``build``, which makes nodes of groups; last ``crossings`` and
``recompute``, which rewrite the graph before anything is grouped.
"""
