"""Vector instructions for the resampling kernel, as numba intrinsics.

numba leaves it to the compiler to find vectors in loops, which makes narrow ones of loops that are short or move px of
three bytes. Here they are spelled out: 16 sums at a time, which the compiler splits where registers are narrower. All
arithmetic is in whole numbers and exact, so that no result depends on the width of a register or on the processor.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from lemon_sc.crops.tables import COLUMN_BITS, QUAD, WEIGHT_BITS

BYTE, SHORT, INT = ir.IntType(8), ir.IntType(16), ir.IntType(32)
SUMS = ir.VectorType(INT, 16)
PAIRS = ir.VectorType(SHORT, 32)

ORDER = ((0, 3, 1, 4), (2, 5, 5, 5))
"""Two px r g b r g b as a pair of px, first r r g g, then b b and two that do not count."""


def _data(context: Any, builder: Any, signature: Any, args: Any, k: int) -> Any:
    """Pointer to the data of the k-th argument, an array."""
    return context.make_array(signature.args[k])(context, builder, args[k]).data


def _at(builder: Any, base: Any, index: Any, kind: Any) -> Any:
    """Pointer to a vector of `kind` that begins at an element of an array."""
    return builder.bitcast(builder.gep(base, [index]), kind.as_pointer())


def _mask(index: Any) -> Any:
    picked = list(index)
    return ir.Constant(ir.VectorType(INT, len(picked)), picked)


def _all(value: int) -> Any:
    return ir.Constant(SUMS, [value] * SUMS.count)


def _splat(builder: Any, pair: Any) -> Any:
    """A pair of weights in all lanes."""
    none = ir.Constant(SUMS, ir.Undefined)
    filled = builder.shuffle_vector(builder.insert_element(none, pair, INT(0)), none, _mask([0] * SUMS.count))
    return builder.bitcast(filled, PAIRS)


def _instructions(features: str) -> tuple[int, str, str, str] | None:
    """How many bytes of two vectors the widest instructions take, and which they are; None: no such.

    They multiply pairs of int16 and add the two products; narrow int32 to int16; narrow int16 to bytes.
    """
    has = set(features.split(","))
    if "+avx512bw" in has:
        return 64, "llvm.x86.avx512.pmaddw.d.512", "llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512"
    if "+avx2" in has:
        return 32, "llvm.x86.avx2.pmadd.wd", "llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb"
    if "+sse2" in has:
        return 16, "llvm.x86.sse2.pmadd.wd", "llvm.x86.sse2.packssdw.128", "llvm.x86.sse2.packuswb.128"
    return None


def _in_parts(builder: Any, name: str, n_bytes: int, made: Any, vectors: tuple[Any, Any]) -> Any:
    """What an instruction that takes `n_bytes` makes of two vectors of 64, a vector of `made`."""
    whole = vectors[0].type
    n = whole.count * n_bytes // 64
    kind = ir.FunctionType(ir.VectorType(made, 8 * n_bytes // made.width), [ir.VectorType(whole.element, n)] * 2)
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    parts = []
    for start in range(0, whole.count, n):
        some = _mask(range(start, start + n))
        parts.append(builder.call(function, [builder.shuffle_vector(v, v, some) for v in vectors]))
    return _joined(builder, parts)


def _dot(builder: Any, values: Any, weights: Any, features: str) -> Any:
    """Sums of products of pairs: int32 (16,) of two int16 (32,)."""
    found = _instructions(features)
    if found is not None:
        n_bytes, multiply, *_ = found
        return _in_parts(builder, multiply, n_bytes, INT, (values, weights))
    halves = [
        [builder.sext(builder.shuffle_vector(v, v, _mask(range(k, 32, 2))), SUMS) for v in (values, weights)]
        for k in (0, 1)
    ]
    return builder.add(*(builder.mul(*half) for half in halves))


def _joined(builder: Any, parts: list[Any]) -> Any:
    """One vector of several, a power of two of them."""
    while len(parts) > 1:
        both = _mask(range(2 * parts[0].type.count))
        parts = [builder.shuffle_vector(a, b, both) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _packed(builder: Any, first: Any, second: Any, features: str) -> Any:
    """Two vectors of 64 bytes as one: 8 bytes for 16 of the one, 8 for 16 of the other, four times.

    int32 become int16, and int16 bytes; what does not fit becomes the nearest that does.
    """
    whole = first.type
    to_short = whole.element == INT
    made, low, high = (SHORT, -(1 << 15), (1 << 15) - 1) if to_short else (BYTE, 0, 255)
    found = _instructions(features)
    if found is not None:
        n_bytes, _, short, byte = found
        return _in_parts(builder, short if to_short else byte, n_bytes, made, (first, second))
    narrow = []
    for vector in (first, second):
        within = vector
        for beyond, end in (("<", low), (">", high)):
            limit = ir.Constant(whole, [end] * whole.count)
            within = builder.select(builder.icmp_signed(beyond, within, limit), limit, within)
        narrow.append(builder.trunc(within, ir.VectorType(made, whole.count)))
    n = whole.count // 4
    in_turn = (s * whole.count + k * n + i for k in range(4) for s in (0, 1) for i in range(n))
    return builder.shuffle_vector(narrow[0], narrow[1], _mask(in_turn))


def _blends(  # noqa: PLR0917
    context: Any, builder: Any, base: Any, at: Any, apart: int, first: Any, weights: Any, bits: int
) -> list[Any]:
    """Four vectors of weighted sums, divided by 2^bits and rounded to nearest, int32 (16,).

    `apart` int16 lie between the pairs that one sum takes. `first` is a tuple of the first pair of each of the four,
    counted from `at`, `weights` of the pairs of weights of the four, one after the other.
    """
    features, index = context.codegen().magic_tuple()[2], context.get_value_type(types.intp)
    n = weights.type.count // QUAD
    made = []
    for k in range(QUAD):
        here = builder.add(at, builder.mul(builder.sext(builder.extract_value(first, k), index), index(apart)))
        total = _all(1 << (bits - 1))
        for j in range(n):
            where = _at(builder, base, builder.add(here, index(apart * j)), PAIRS)
            pair = _splat(builder, builder.extract_value(weights, k * n + j))
            total = builder.add(total, _dot(builder, builder.load(where, align=2), pair, features))
        made.append(builder.ashr(total, _all(bits)))
    return made


def _turned(builder: Any, rows: list[Any]) -> list[Any]:
    """Four vectors of four parts each, turned: the k-th holds the k-th part of each."""

    def parts(a: Any, b: Any, picked: tuple[int, ...]) -> Any:
        n = a.type.count // 4
        return builder.shuffle_vector(a, b, _mask(n * k + i for k in picked for i in range(n)))

    halves = [(parts(rows[0], rows[1], k), parts(rows[2], rows[3], k)) for k in ((0, 1, 4, 5), (2, 3, 6, 7))]
    return [parts(a, b, k) for a, b in halves for k in ((0, 2, 4, 6), (1, 3, 5, 7))]


@intrinsic
def loaded(_typing: Any, array: Any, at: Any, like: Any) -> Any:
    """As many elements of an int32 array from `at` as `like`, a tuple, is long, as a tuple."""
    n = like.count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, index = _data(context, builder, signature, args, 0), context.get_value_type(types.intp)
        made = [builder.load(builder.gep(base, [builder.add(args[1], index(j))])) for j in range(n)]
        return context.make_tuple(builder, signature.return_type, made)

    return types.UniTuple(types.int32, n)(array, types.intp, like), codegen


def _ask(context: Any, builder: Any, signature: Any, args: Any, to_write: int) -> Any:
    """Have the line of the cache with an element of an array fetched."""
    where = builder.gep(_data(context, builder, signature, args, 0), [args[1]])
    kind = ir.FunctionType(ir.VoidType(), [where.type, INT, INT, INT])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [where, INT(to_write), INT(3), INT(1)])
    return context.get_dummy_value()


@intrinsic
def prefetch(_typing: Any, array: Any, at: Any) -> Any:
    """Ask for the bytes around an element of an array; they may lie outside it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _ask(context, builder, signature, args, 0)

    return types.void(array, types.intp), codegen


@intrinsic
def prefetch_to_write(_typing: Any, array: Any, at: Any) -> Any:
    """`prefetch` of bytes that are written soon."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _ask(context, builder, signature, args, 1)

    return types.void(array, types.intp), codegen


@intrinsic
def move(_typing: Any, source: Any, at: Any, out: Any, to: Any, n: Any) -> Any:
    """Copy `n` bytes of `source` from `at` to `out` from `to`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, target = (_data(context, builder, signature, args, k) for k in (0, 2))
        cgutils.raw_memcpy(builder, builder.gep(target, [args[3]]), builder.gep(base, [args[1]]), args[4], 1)
        return context.get_dummy_value()

    return types.void(source, types.intp, out, types.intp, types.intp), codegen


@intrinsic
def pair_rows(_typing: Any, source: Any, upper: Any, lower: Any, out: Any, to: Any) -> Any:
    """Interleave eight px of two rows.

    Reads 32 bytes of `source` from `upper` and from `lower`, 24 of which count, and writes 64 int16 to `out` from `to`:
    the upper and the lower value of each colour of each px, in the order of `ORDER`.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, target = (_data(context, builder, signature, args, k) for k in (0, 3))
        index = context.get_value_type(types.intp)
        rows = [builder.load(_at(builder, base, args[k], ir.VectorType(BYTE, 32)), align=1) for k in (1, 2)]
        for half, order in enumerate(ORDER):
            both = builder.shuffle_vector(
                *rows, _mask(6 * p + v + row for p in range(4) for v in order for row in (0, 32))
            )
            where = builder.add(args[4], index(32 * half))
            builder.store(builder.zext(both, PAIRS), _at(builder, target, where, PAIRS), align=2)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, out, types.intp), codegen


@intrinsic
def blend_rows(_typing: Any, pairs: Any, at: Any, first: Any, weights: Any, out: Any, to: Any) -> Any:
    """The pass along y for eight px of four rows: to `out` from `to`, 32 int16 for each pair of px, row by row.

    `pairs` holds what `pair_rows` made from `at` on, one pair of rows after the other. Of the four rows, `first` is a
    tuple of the first pairs, `weights` of the pairs of weights, one row after the other.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, target = (_data(context, builder, signature, args, k) for k in (0, 4))
        index, features = context.get_value_type(types.intp), context.codegen().magic_tuple()[2]
        first, weights, bits = args[2], args[3], WEIGHT_BITS - COLUMN_BITS
        left, right = (
            _blends(context, builder, base, builder.add(args[1], index(k)), 64, first, weights, bits) for k in (0, 32)
        )
        rows = [_packed(builder, a, b, features) for a, b in zip(left, right, strict=True)]  # [px pair][8]
        for k, px in enumerate(_turned(builder, rows)):
            builder.store(px, _at(builder, target, builder.add(args[5], index(32 * k)), PAIRS), align=2)
        return context.get_dummy_value()

    return types.void(pairs, types.intp, first, weights, out, types.intp), codegen


@intrinsic
def blend_columns(_typing: Any, columns: Any, at: Any, first: Any, weights: Any, out: Any, to: Any, stride: Any) -> Any:  # noqa: PLR0917
    """The pass along x for 4 x 4 px: 12 bytes to `out` from `to`, and from each of three strides further.

    `columns` holds what `blend_rows` made of the four rows from `at` on. Of the four px, `first` is a tuple of the
    first pairs, `weights` of the pairs of weights, one px after the other.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, target = (_data(context, builder, signature, args, k) for k in (0, 4))
        index, features = context.get_value_type(types.intp), context.codegen().magic_tuple()[2]
        sums = _blends(context, builder, base, args[1], 32, args[2], args[3], WEIGHT_BITS + COLUMN_BITS)
        left, right = (_packed(builder, sums[k], sums[k + 1], features) for k in (0, 2))
        px = _packed(builder, left, right, features)  # [row][px][r, g, b, nothing]
        for row in range(QUAD):
            line = builder.shuffle_vector(px, px, _mask(16 * row + 4 * i + c for i in range(QUAD) for c in range(3)))
            where = builder.add(args[5], builder.mul(args[6], index(row)))
            builder.store(line, _at(builder, target, where, line.type), align=1)
        return context.get_dummy_value()

    return types.void(columns, types.intp, first, weights, out, types.intp, types.intp), codegen
