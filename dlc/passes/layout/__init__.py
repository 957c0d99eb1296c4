"""Channels-last activations: in which order the dimensions of values are stored.

Read ``reshape``, layouts as data; ``contract``, what contractions ask for; ``wanted``, what that means for what they
read; then ``layout``, the pass.
"""
