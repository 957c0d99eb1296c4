"""Tile (AMX) instructions in LLVM's vector code, so that kernels on tiles run on processors that have none.

Slow, and meant for tests: the same bits as ``emulate_tiles`` defines. A thread's registers lie in memory, eight tiles
of 16 rows of 64 bytes; every function gets their address. It must not know kernels.
"""

from __future__ import annotations

from dlc.codegen.llvm.state import ModuleState

_TILE = 1024
TILES_BYTES = 8 * _TILE
"""Memory of a thread's tile registers."""


def emulated(module: ModuleState, name: str) -> str:
    """Return the function of ``module`` that does what the instruction ``name``, as LLVM calls it, does.

    Its arguments are the address of the registers and those of LLVM's function.
    """
    symbol = f"dlc_emulated_{name}"
    if symbol not in module.own:
        module.own.add(symbol)
        parameters, body = _INSTRUCTIONS[name]
        header = f"define internal void @{symbol}({', '.join(('ptr %tiles', *parameters))}) noinline #0 {{"
        module.functions.append(_text(header, "entry:", body, "  ret void", "}"))
    return symbol


# -- pieces of text ----------------------------------------------------------------------------------


def _text(*pieces: str) -> str:
    return "\n".join(piece.strip("\n") for piece in pieces)


def _loop(name: str, *body: str) -> str:
    """Run ``body`` with ``%name`` from 0 to 15."""
    return _text(
        f"  br label %{name}.enter",
        f"{name}.enter:",
        f"  br label %{name}.body",
        f"{name}.body:",
        f"  %{name} = phi i64 [ 0, %{name}.enter ], [ %{name}.next, %{name}.latch ]",
        *body,
        f"  br label %{name}.latch",
        f"{name}.latch:",
        f"  %{name}.next = add i64 %{name}, 1",
        f"  %{name}.more = icmp ult i64 %{name}.next, 16",
        f"  br i1 %{name}.more, label %{name}.body, label %{name}.done",
        f"{name}.done:",
    )


def _tile(name: str) -> str:
    """Find where the tile numbered ``%name`` begins (``%name.at``)."""
    return f"""
  %{name}.number = zext i8 %{name} to i64
  %{name}.offset = mul i64 %{name}.number, {_TILE}
  %{name}.at = getelementptr i8, ptr %tiles, i64 %{name}.offset
"""


def _row(tile: str, number: str, result: str = "") -> str:
    """Find a row of a tile (``%tile.row``, or ``%result``)."""
    return f"  %{result or f'{tile}.row'} = getelementptr [64 x i8], ptr %{tile}.at, i64 {number}"


def _splat(name: str, value: str) -> str:
    """Fill the vector ``%name`` with an i32."""
    return f"""
  %{name}.one = insertelement <16 x i32> poison, i32 {value}, i64 0
  %{name} = shufflevector <16 x i32> %{name}.one, <16 x i32> poison, <16 x i32> zeroinitializer
"""


def _constant(value: int) -> str:
    return f"<{', '.join([f'i32 {value}'] * 16)}>"


_CLEAR = _loop("z", _row("tile", "%z", "empty"), "  store <64 x i8> zeroinitializer, ptr %empty, align 64")
_FAR = """
  %far.offset = mul i64 %r, %stride
  %far = getelementptr i8, ptr %memory, i64 %far.offset
"""
_GROUPS = """
  %word.at = getelementptr i32, ptr %left.row, i64 %k
  %word = load i32, ptr %word.at
  %words = load <16 x i32>, ptr %right.row
"""
"""Groups of 32 bits that are multiplied: one of the left tile, ``%word``, and a row of the right one, ``%words``."""


# -- products ----------------------------------------------------------------------------------------


def _byte_product(h: int) -> str:
    """Add the product of the groups' bytes number ``h`` to ``%sum{h}``."""
    up = 24 - 8 * h
    return _text(
        f"  %a{h}.high = shl i32 %word, {up}",
        f"  %a{h}.low = ashr i32 %a{h}.high, 24",
        _splat(f"a{h}", f"%a{h}.low"),
        f"  %b{h}.high = shl <16 x i32> %words, {_constant(up)}",
        f"  %b{h} = ashr <16 x i32> %b{h}.high, {_constant(24)}",
        f"  %product{h} = mul <16 x i32> %a{h}, %b{h}",
        f"  %sum{h + 1} = add <16 x i32> %sum{h}, %product{h}",
    )


def _float(name: str, words: str) -> str:
    """Make floats of words; subnormal numbers become zero."""
    return f"""
  %{name}.size = and <16 x i32> {words}, {_constant(0x7FFFFFFF)}
  %{name}.small = icmp ult <16 x i32> %{name}.size, {_constant(0x00800000)}
  %{name}.words = select <16 x i1> %{name}.small, <16 x i32> zeroinitializer, <16 x i32> {words}
  %{name} = bitcast <16 x i32> %{name}.words to <16 x float>
"""


def _flushed(name: str, value: str) -> str:
    return _text(f"  %{name}.bits = bitcast <16 x float> {value} to <16 x i32>", _float(name, f"%{name}.bits"))


def _half_product(h: int, of_left: str, of_right: str) -> str:
    """Add the product of the groups' halves number ``h``, as two instructions widen them, to ``%sum{h}`` in memory."""
    return _text(
        f"  %left{h} = {of_left}",
        _splat(f"left{h}.words", f"%left{h}"),
        f"  %right{h}.words = {of_right}",
        _float(f"a{h}", f"%left{h}.words"),
        _float(f"b{h}", f"%right{h}.words"),
        f"  %product{h} = fmul <16 x float> %a{h}, %b{h}",
        f"  %old{h} = load <16 x float>, ptr %sum{h}",
        f"  %more{h} = fadd <16 x float> %old{h}, %product{h}",
        _flushed(f"new{h}", f"%more{h}"),
        f"  store <16 x float> %new{h}, ptr %sum{h}",
    )


_OPERANDS = ("i8 %target", "i8 %left", "i8 %right")
_TILES = _text(*map(_tile, ("target", "left", "right")))
_ROWS_OF_LEFT = (_row("left", "%m"), _row("target", "%m"))
_INSTRUCTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "ldtilecfg": (("ptr %configuration",), ""),
    "tilerelease": ((), ""),
    "tilezero": (("i8 %tile",), _text(_tile("tile"), _CLEAR)),
    "tileloadd64": (
        ("i8 %tile", "ptr %memory", "i64 %stride"),
        _text(
            _tile("tile"),
            _loop(
                "r",
                _row("tile", "%r"),
                _FAR,
                "  %line = load <64 x i8>, ptr %far, align 1",
                "  store <64 x i8> %line, ptr %tile.row",
            ),
        ),
    ),
    "tilestored64": (
        ("i8 %tile", "ptr %memory", "i64 %stride"),
        _text(
            _tile("tile"),
            _loop(
                "r",
                _row("tile", "%r"),
                _FAR,
                "  %line = load <64 x i8>, ptr %tile.row",
                "  store <64 x i8> %line, ptr %far, align 1",
            ),
        ),
    ),
    "tdpbssd": (
        _OPERANDS,
        _text(
            _TILES,
            _loop(
                "k",
                _row("right", "%k"),
                _loop(
                    "m",
                    *_ROWS_OF_LEFT,
                    _GROUPS,
                    "  %sum0 = load <16 x i32>, ptr %target.row",
                    *map(_byte_product, range(4)),
                    "  store <16 x i32> %sum4, ptr %target.row",
                ),
            ),
        ),
    ),
    "tdpbf16ps": (
        _OPERANDS,
        _text(
            *(f"  %sum{h} = alloca <16 x float>" for h in range(2)),
            _TILES,
            _loop(
                "m",
                *_ROWS_OF_LEFT,
                *(f"  store <16 x float> zeroinitializer, ptr %sum{h}" for h in range(2)),
                _loop(
                    "k",
                    _row("right", "%k"),
                    _GROUPS,
                    _half_product(0, "shl i32 %word, 16", f"shl <16 x i32> %words, {_constant(16)}"),
                    _half_product(1, "and i32 %word, -65536", f"and <16 x i32> %words, {_constant(-65536)}"),
                ),
                *(f"  %half{h} = load <16 x float>, ptr %sum{h}" for h in range(2)),
                "  %both = fadd <16 x float> %half0, %half1",
                _flushed("all", "%both"),
                "  %before = load <16 x float>, ptr %target.row",
                "  %after = fadd <16 x float> %before, %all",
                _flushed("result", "%after"),
                "  store <16 x float> %result, ptr %target.row",
            ),
        ),
    ),
}
"""Instruction, as LLVM calls it -> its parameters and what it does. ``emulate_tiles`` defines the products."""
