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

from lemon_sc.crops.tables import COLUMN_BITS, WEIGHT_BITS

BYTE, SHORT, INT = ir.IntType(8), ir.IntType(16), ir.IntType(32)
SUMS = ir.VectorType(INT, 16)
PAIRS = ir.VectorType(SHORT, 32)

ORDER = (0, 3, 1, 4, 2, 5, 5, 5, 6, 9, 7, 10, 8, 11, 11, 11)
"""Four px r g b r g b ... as two pairs of px, r r g g b b and two that do not count."""


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


def _multiplier(features: str) -> tuple[str, int] | None:
    """The instruction that multiplies pairs and adds the two products, and how many sums it makes; None: no such."""
    has = set(features.split(","))
    if "+avx512bw" in has:
        return "llvm.x86.avx512.pmaddw.d.512", 16
    if "+avx2" in has:
        return "llvm.x86.avx2.pmadd.wd", 8
    return ("llvm.x86.sse2.pmadd.wd", 4) if "+sse2" in has else None


def _dot(builder: Any, values: Any, weights: Any, features: str) -> Any:
    """Sums of products of pairs: int32 (16,) of two int16 (32,)."""
    found = _multiplier(features)
    if found is None:
        halves = [
            [builder.sext(builder.shuffle_vector(v, v, _mask(range(k, 32, 2))), SUMS) for v in (values, weights)]
            for k in (0, 1)
        ]
        return builder.add(*(builder.mul(*half) for half in halves))
    name, width = found
    kind = ir.FunctionType(ir.VectorType(INT, width), [ir.VectorType(SHORT, 2 * width)] * 2)
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    parts = []
    for start in range(0, 32, 2 * width):
        some = _mask(range(start, start + 2 * width))
        parts.append(builder.call(function, [builder.shuffle_vector(v, v, some) for v in (values, weights)]))
    return _joined(builder, parts)


def _joined(builder: Any, parts: list[Any]) -> Any:
    """One vector of several, a power of two of them."""
    while len(parts) > 1:
        both = _mask(range(2 * parts[0].type.count))
        parts = [builder.shuffle_vector(a, b, both) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _blend(context: Any, builder: Any, base: Any, at: Any, step: Any, weights: list[Any], bits: int) -> Any:  # noqa: PLR0917
    """Weighted sums, divided by 2^bits and rounded to nearest, int32 (16,)."""
    features = context.codegen().magic_tuple()[2]
    index = context.get_value_type(types.intp)
    total = _all(1 << (bits - 1))
    for j, pair in enumerate(weights):
        where = _at(builder, base, builder.add(at, builder.mul(step, index(j))), PAIRS)
        values = builder.load(where, align=2)
        total = builder.add(total, _dot(builder, values, _splat(builder, pair), features))
    return builder.ashr(total, _all(bits))


def _elements(builder: Any, tuple_: Any, n: int) -> list[Any]:
    return [builder.extract_value(tuple_, j) for j in range(n)]


@intrinsic
def loaded(_typing: Any, array: Any, at: Any, like: Any) -> Any:
    """As many elements of an int32 array from `at` as `like`, a tuple, is long, as a tuple."""
    n = like.count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, index = _data(context, builder, signature, args, 0), context.get_value_type(types.intp)
        made = [builder.load(builder.gep(base, [builder.add(args[1], index(j))])) for j in range(n)]
        return context.make_tuple(builder, signature.return_type, made)

    return types.UniTuple(types.int32, n)(array, types.intp, like), codegen


@intrinsic
def prefetch(_typing: Any, array: Any, at: Any) -> Any:
    """Ask for the bytes around an element of an array; they may lie outside it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        where = builder.gep(_data(context, builder, signature, args, 0), [args[1]])
        kind = ir.FunctionType(ir.VoidType(), [where.type, INT, INT, INT])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [where, INT(0), INT(3), INT(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@intrinsic
def pair_rows(_typing: Any, source: Any, upper: Any, lower: Any, out: Any, to: Any) -> Any:
    """Interleave four px of two rows.

    Reads 16 bytes of `source` from `upper` and from `lower`, 12 of which count, and writes 32 int16 to `out` from `to`:
    the upper and the lower value of each colour of each px, in the order of `ORDER`.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, target = (_data(context, builder, signature, args, k) for k in (0, 3))
        rows = [builder.load(_at(builder, base, args[k], ir.VectorType(BYTE, 16)), align=1) for k in (1, 2)]
        both = builder.shuffle_vector(*rows, _mask(v for k in ORDER for v in (k, 16 + k)))
        builder.store(builder.zext(both, PAIRS), _at(builder, target, args[4], PAIRS), align=2)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, out, types.intp), codegen


@intrinsic
def blend_rows(_typing: Any, pairs: Any, at: Any, step: Any, weights: Any, out: Any, left: Any, right: Any) -> Any:  # noqa: PLR0917
    """The pass along y for four px of one row: 8 int16 to `out` from `left`, 8 from `right`, one pair of px each.

    `pairs` holds what `pair_rows` made, `step` from one pair of rows to the next; `weights` is a tuple of pairs.
    """
    n = weights.count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, target = (_data(context, builder, signature, args, k) for k in (0, 4))
        pass_bits = WEIGHT_BITS - COLUMN_BITS
        sums = _blend(context, builder, base, args[1], args[2], _elements(builder, args[3], n), pass_bits)
        short = builder.trunc(sums, ir.VectorType(SHORT, 16))
        for first, to in ((0, args[5]), (8, args[6])):
            half = builder.shuffle_vector(short, short, _mask(range(first, first + 8)))
            builder.store(half, _at(builder, target, to, half.type), align=2)
        return context.get_dummy_value()

    return types.void(pairs, types.intp, types.intp, weights, out, types.intp, types.intp), codegen


@intrinsic
def blend_columns(_typing: Any, columns: Any, at: Any, step: Any, weights: Any, out: Any, to: Any, stride: Any) -> Any:  # noqa: PLR0917
    """The pass along x for 4 x 4 px of the crop: 12 bytes to `out` from `to`, and from each of three strides further.

    `columns` holds pairs of px, each for all rows; `at` is a tuple of four places in it, where the taps of four px
    begin for the first of the four rows, `step` leads from one pair to the next, `weights` is a tuple of the pairs of
    weights of the four px, one after the other.
    """
    n = weights.count // 4

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        base, target = (_data(context, builder, signature, args, k) for k in (0, 4))
        index = context.get_value_type(types.intp)
        every = _elements(builder, args[3], 4 * n)
        made = []
        for i, first in enumerate(_elements(builder, args[1], 4)):
            sums = _blend(context, builder, base, first, args[2], every[i * n : (i + 1) * n], WEIGHT_BITS + COLUMN_BITS)
            for limit, beyond in ((0, "<"), (255, ">")):
                sums = builder.select(builder.icmp_signed(beyond, sums, _all(limit)), _all(limit), sums)
            made.append(builder.trunc(sums, ir.VectorType(BYTE, 16)))
        px = _joined(builder, made)  # [px][row][r, g, b, nothing]
        for row in range(4):
            line = builder.shuffle_vector(px, px, _mask(16 * i + 4 * row + c for i in range(4) for c in range(3)))
            where = builder.add(args[5], builder.mul(args[6], index(row)))
            builder.store(line, _at(builder, target, where, line.type), align=1)
        return context.get_dummy_value()

    return types.void(columns, at, types.intp, weights, out, types.intp, types.intp), codegen
