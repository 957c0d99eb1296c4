"""Attention as one kernel with online softmax."""
