"""Vectors of 16 float32 as a Numba type, so that a kernel is vectorised because it says so and not because a compiler saw it.

LLVM maps an operation to whatever the processor has: one 512-bit instruction, two of 256 bits, or four of 128 bits.
"""

from __future__ import annotations

import operator

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import float32, intp, njit, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, overload, register_jitable, register_model

LANES = 16
# AVX-512 has 32 registers of 16 floats; elsewhere half as many vectors fit into the registers, or fewer.
MANY_REGISTERS = bool(get_host_cpu_features().get("avx512f", False))
FLOATS = ir.VectorType(ir.FloatType(), LANES)
INTS = ir.VectorType(ir.IntType(32), LANES)


class Float32x16(types.Type):
    def __init__(self) -> None:
        super().__init__(name="float32x16")


vector = Float32x16()


@register_model(Float32x16)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, type_) -> None:
        super().__init__(manager, type_, FLOATS)


def _splat(builder, value, kind=FLOATS):
    """A vector with ``value`` in every lane."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, ir.Constant(INTS, [0] * LANES))


def _llvm(builder, name, arguments, result=FLOATS, fastmath=()):
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [a.type for a in arguments]), name)
    return builder.call(function, arguments, fastmath=fastmath)


def _place(context, builder, kind, array, index, what=FLOATS):
    """Pointer to the 16 floats, or to ``what``, at a flat index of a contiguous array of a Numba type; no bounds are checked."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), what.as_pointer())


@intrinsic
def load(typingctx, array, index):
    """The 16 floats from a flat index of a contiguous array."""

    def codegen(context, builder, signature, args):
        return builder.load(_place(context, builder, signature.args[0], *args), align=4)

    return vector(array, intp), codegen


@intrinsic
def store(typingctx, array, index, value):
    """Write 16 floats to a flat index of a contiguous array."""

    def codegen(context, builder, signature, args):
        builder.store(args[2], _place(context, builder, signature.args[0], *args[:2]), align=4)

    return types.void(array, intp, vector), codegen


def _prefetch(purpose, locality):
    @intrinsic
    def prefetch(typingctx, array, index):
        def codegen(context, builder, signature, args):
            place, i32 = _place(context, builder, signature.args[0], *args, ir.IntType(8)), ir.IntType(32)
            _llvm(builder, "llvm.prefetch.p0i8", [place, i32(purpose), i32(locality), i32(1)], ir.VoidType())
            return context.get_dummy_value()

        return types.void(array, intp), codegen

    return prefetch


# Ask for the cache line at a flat index before it is read, or written: memory then works while the kernel computes. An index
# outside the array does no harm.
prefetch, prefetch_for_write = _prefetch(0, 2), _prefetch(1, 3)


@njit
def prefetch_rows(source, place, hop, start, stop, count):
    """:func:`prefetch` for ``count`` floats of each row from ``start`` to before ``stop``; row 0 begins at ``place``."""
    for row in range(start, stop):
        for d in range(0, count, LANES):
            prefetch(source, place + row * hop + d)


@njit
def will_write_rows(target, place, hop, start, stop, count):
    """The same for :func:`prefetch_for_write`."""
    for row in range(start, stop):
        for d in range(0, count, LANES):
            prefetch_for_write(target, place + row * hop + d)


@njit
def zeros(count):
    """``count`` zeros that begin at a cache line, so that no vector lies across two."""
    room = np.zeros(count + LANES, dtype=np.float32)
    start = -(room.ctypes.data // 4) % LANES
    return room[start : start + count]


@intrinsic
def _copy_part(typingctx, target, to, source, start, count):
    """Copy the first ``count`` floats of a vector, and touch no others."""

    def codegen(context, builder, signature, args):
        i32 = ir.IntType(32)
        to_place, from_place = (_place(context, builder, signature.args[i], args[i], args[i + 1]) for i in (0, 2))
        bound = _splat(builder, builder.trunc(args[4], i32), INTS)
        within = builder.icmp_signed("<", ir.Constant(INTS, list(range(LANES))), bound)
        kind = f"v{LANES}f32.p0v{LANES}f32"
        values = _llvm(builder, f"llvm.masked.load.{kind}", [from_place, i32(4), within, ir.Constant(FLOATS, [0.0] * LANES)])
        _llvm(builder, f"llvm.masked.store.{kind}", [values, to_place, i32(4), within], ir.VoidType())
        return context.get_dummy_value()

    return types.void(target, intp, source, intp, intp), codegen


@njit
def copy(target, to, source, start, count):
    """Copy ``count`` floats between flat places of two flat arrays."""
    whole = count // LANES * LANES
    for d in range(0, whole, LANES):
        store(target, to + d, load(source, start + d))
    if whole < count:
        _copy_part(target, to + whole, source, start + whole, count - whole)


@njit
def copy_rows(target, to, stride, source, start, hop, rows, count):
    """Copy ``rows`` rows of ``count`` floats, which begin ``hop`` apart, to rows that begin ``stride`` apart."""
    for row in range(rows):
        copy(target, to + row * stride, source, start + row * hop, count)


@register_jitable  # a plain function where Python calls it: compiling it there would take longer than it ever saves
def padded(count, multiple=LANES):
    """The least multiple that is not below ``count``."""
    return (count + multiple - 1) // multiple * multiple


@intrinsic
def broadcast(typingctx, value):
    """A float in every lane."""
    return vector(float32), lambda context, builder, signature, args: _splat(builder, args[0])


@intrinsic
def repeat(typingctx, array, index):
    """The float at a flat index of a contiguous array, in every lane."""

    def codegen(context, builder, signature, args):
        return _splat(builder, builder.load(_place(context, builder, signature.args[0], *args, ir.FloatType())))

    return vector(array, intp), codegen


@intrinsic
def fma(typingctx, a, b, c):
    """a·b + c, fused where the processor can."""

    def codegen(context, builder, signature, args):
        return _llvm(builder, f"llvm.fmuladd.v{LANES}f32", args)

    return vector(vector, vector, vector), codegen


@intrinsic
def swapped(typingctx, a):
    """Lanes 1, 0, 3, 2, …"""

    def codegen(context, builder, signature, args):
        order = ir.Constant(INTS, [lane ^ 1 for lane in range(LANES)])
        return builder.shuffle_vector(args[0], args[0], order)

    return vector(vector), codegen


@intrinsic
def largest(typingctx, a, b):
    """The larger of two, lane by lane; b where either is not a number."""

    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return vector(vector, vector), codegen


@intrinsic
def total(typingctx, a):
    """Sum over the lanes, in a fixed order."""

    def codegen(context, builder, signature, args):
        zero = ir.Constant(ir.FloatType(), 0.0)
        return _llvm(builder, f"llvm.vector.reduce.fadd.v{LANES}f32", [zero, args[0]], ir.FloatType(), ("reassoc",))

    return float32(vector), codegen


@intrinsic
def store_totals(typingctx, array, index, a, b, c, d):
    """Write the sums over the lanes of four vectors to a flat index and the three after it, in a fixed order of summing.

    Their lanes are added side by side, which takes less than half the work of four times :func:`total`.
    """

    def codegen(context, builder, signature, args):
        def pick(x, y, lanes):
            return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))

        def side_by_side(x, y, unit):
            """Lanes of x and of y take turns, ``unit`` at a time; each is the sum of two of theirs."""
            halves = []
            for half in (0, 2):
                starts = [quad + half + at for quad in range(0, LANES, 4) for at in range(0, 2, unit)]
                halves.append(pick(x, y, [which + at + k for at in starts for which in (0, LANES) for k in range(unit)]))
            return builder.fadd(*halves)

        sums = side_by_side(side_by_side(args[2], args[3], 1), side_by_side(args[4], args[5], 1), 2)
        width = LANES
        while width > 4:
            width //= 2
            sums = builder.fadd(pick(sums, sums, list(range(width))), pick(sums, sums, list(range(width, 2 * width))))
        builder.store(sums, _place(context, builder, signature.args[0], *args[:2], sums.type), align=4)
        return context.get_dummy_value()

    return types.void(array, intp, vector, vector, vector, vector), codegen


@intrinsic
def _exponent_of(typingctx, rounded):
    """The bits of k + ROUND shifted into the place of an exponent: what multiplies a float by 2^k when added to its bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(builder.shl(builder.bitcast(args[0], INTS), ir.Constant(INTS, [23] * LANES)), FLOATS)

    return vector(vector), codegen


@intrinsic
def _add_bits(typingctx, a, b):
    def codegen(context, builder, signature, args):
        return builder.bitcast(builder.add(*(builder.bitcast(x, INTS) for x in args)), FLOATS)

    return vector(vector, vector), codegen


@intrinsic
def largest_lane(typingctx, a):
    """The largest of the lanes."""

    def codegen(context, builder, signature, args):
        return _llvm(builder, f"llvm.vector.reduce.fmax.v{LANES}f32", args, ir.FloatType(), ("nnan",))

    return float32(vector), codegen


def _arithmetic(symbol, instruction):
    @intrinsic
    def both(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return getattr(builder, instruction)(*args)

        return vector(vector, vector), codegen

    @overload(symbol, inline="never")
    def overloaded(a, b):
        if isinstance(a, Float32x16) and isinstance(b, Float32x16):
            return lambda a, b: both(a, b)
        if isinstance(a, Float32x16) and isinstance(b, types.Float):
            return lambda a, b: both(a, broadcast(np.float32(b)))
        if isinstance(b, Float32x16) and isinstance(a, types.Float):
            return lambda a, b: both(broadcast(np.float32(a)), b)
        return None


for _symbol, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")):
    _arithmetic(_symbol, _instruction)

LOG2_E = np.float32(1.4426950408889634)
_LOWEST = np.float32(-126.0)  # exponents below it are no normal float32
_ROUND = np.float32(1.5 * 2**23)  # adding it leaves the nearest whole number in the last bits


@njit
def exp2(x):
    """2^x for x ≤ 0, within 2 units in the last place; 2^-126 for all that is smaller."""
    x = largest(broadcast(_LOWEST), x)
    rounded = x + _ROUND
    f = x - (rounded - _ROUND)
    p = broadcast(np.float32(1.3274633e-3))  # of all with p(0) = 1 the one whose relative error is least for |f| <= 1/2
    p = fma(p, f, broadcast(np.float32(9.6719619e-3)))
    p = fma(p, f, broadcast(np.float32(5.5506784e-2)))
    p = fma(p, f, broadcast(np.float32(2.4022235e-1)))
    p = fma(p, f, broadcast(np.float32(6.9314706e-1)))
    p = fma(p, f, broadcast(np.float32(1.0)))
    return _add_bits(p, _exponent_of(rounded))


@njit
def _exp_of_minus_size(x):
    """exp(-|x|)."""
    return exp2(largest(x, np.float32(0.0) - x) * (np.float32(0.0) - LOG2_E))


@njit
def sigmoid(x):
    """1 / (1 + exp(-x)), of either sign without overflow."""
    return _sigmoid(x, _exp_of_minus_size(x))


@njit
def softplus(x):
    """ln(1 + exp(x)) with small *relative* error."""
    return _softplus(x, _exp_of_minus_size(x))


@njit
def softplus_and_slope(x):
    """:func:`softplus` and its derivative, which is :func:`sigmoid`."""
    small = _exp_of_minus_size(x)
    return _softplus(x, small), _sigmoid(x, small)


@njit
def _sigmoid(x, small):
    return _where_positive(x, broadcast(np.float32(1.0)), small) / (small + np.float32(1.0))


@intrinsic
def _where_positive(typingctx, x, a, b):
    def codegen(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", args[0], ir.Constant(FLOATS, [0.0] * LANES)), args[1], args[2])

    return vector(vector, vector, vector), codegen


@njit
def _softplus(x, small):
    """ln(1 + e) = 2 artanh(e / (2 + e)) for e = exp(-|x|)."""
    s = small / (small + np.float32(2.0))
    q = s * s
    p = broadcast(np.float32(2 / 15))
    p = fma(p, q, broadcast(np.float32(2 / 13)))
    p = fma(p, q, broadcast(np.float32(2 / 11)))
    p = fma(p, q, broadcast(np.float32(2 / 9)))
    p = fma(p, q, broadcast(np.float32(2 / 7)))
    p = fma(p, q, broadcast(np.float32(2 / 5)))
    p = fma(p, q, broadcast(np.float32(2 / 3)))
    p = fma(p, q, broadcast(np.float32(2.0)))
    return largest(broadcast(np.float32(0.0)), x) + p * s
