"""Contractions in lower precision, where that was asked for.

Read ``lower``, the pass; then ``split``, operands as two bfloat16 parts.
"""
