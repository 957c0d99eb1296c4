"""Values computed again instead of kept, under a limit of memory.

Read ``facts``, the parts of a training graph and their costs; ``cut``, the choice; then ``rematerialise``, the pass.
"""
