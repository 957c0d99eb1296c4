"""One form for what can be written in several, with less work: local rewrite rules, applied until none matches.

Read ``canonicalize``, the pass; then the rules of ``elementwise`` arithmetic, of ``movement`` and of contractions
(``contract``).
"""
