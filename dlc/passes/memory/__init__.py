"""The memory plan: where the buffers of a program lie.

Read ``plan``, which copies go and which results take over memory; then ``offsets``, places in one arena.
"""
