"""Names: dimension symbols made from untrusted text, nearest-name hints, and text safe to print.

Names of a model never become paths or symbols as they are.
"""

from __future__ import annotations

import difflib
import keyword
import re
from collections.abc import Iterable

from dlc.errors import DlcError
from dlc.ir.dims import Dim, parse_dim, symbol

_EXPRESSION = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\s*(?:\+|-|\*|//)\s*[A-Za-z0-9_]+)+")
_LONGEST_SYMBOL = 48
_LONGEST_SHOWN = 80


def shown(name: str) -> str:
    """Return ``name`` quoted, escaped and shortened for a message."""
    if len(name) > _LONGEST_SHOWN:
        return f"{name[:_LONGEST_SHOWN]!r}... ({len(name)} characters)"
    return repr(name)


def hint(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest known name, or an empty text."""
    if len(name) > 200:
        return ""
    candidates = [k for k in list(known)[:20_000] if abs(len(k) - len(name)) <= 8]
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
    return f"; did you mean {shown(near[0])}?" if near else ""


class DimensionNames:
    """Gives each dimension text of a model one symbol, and fresh symbols to unnamed dimensions."""

    def __init__(self) -> None:
        self._known: dict[str, Dim] = {}
        self._taken: set[str] = set()
        self._fresh = 0

    def named(self, text: str) -> Dim:
        """Return the dimension for ``dim_param`` text: an expression of symbols, or one symbol."""
        if text in self._known:
            return self._known[text]
        if len(text) <= 128 and _EXPRESSION.fullmatch(text.strip()):
            try:
                dim = parse_dim(re.sub(r"[A-Za-z_][A-Za-z0-9_]*", lambda m: self._identifier(m.group()), text))
            except DlcError:
                dim = symbol(self._identifier(text))
        else:
            dim = symbol(self._identifier(text))
        self._known[text] = dim
        return dim

    def fresh(self, stem: str) -> Dim:
        """Return a new symbol for an unnamed dimension."""
        while True:
            name = f"{_sanitize(stem)}_{self._fresh}"
            self._fresh += 1
            if name not in self._taken:
                self._taken.add(name)
                self._known[name] = symbol(name)
                return self._known[name]

    def _identifier(self, text: str) -> str:
        plain = _sanitize(text)
        if plain == text and text in self._known:
            return text
        candidate, number = plain, 1
        while candidate in self._taken and candidate != text:
            number += 1
            candidate = f"{plain}_{number}"
        self._taken.add(candidate)
        self._known.setdefault(candidate, symbol(candidate))
        return candidate


def _sanitize(text: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_]", "_", text)[:_LONGEST_SYMBOL] or "dim"
    if plain[0].isdigit() or keyword.iskeyword(plain) or keyword.issoftkeyword(plain):
        plain = f"d_{plain}"
    return plain
