# mypy: ignore-errors
"""The vector operations of the NCA kernel as LLVM code: numba leaves straight-line code over lanes scalar.

A block is LANES cells. A vector of LANES float32 is one AVX-512 register, two AVX or four NEON ones; every operation is
an IEEE float32 sum, fused multiply-add or comparison in a fixed order, so results do not depend on the machine.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from nca_interp.data.rng import GOLDEN

LANES = 16
"""Cells of a block; hidden units are padded to a multiple of it."""
GROUP = 5
"""States whose logits are summed at a time, enough to hide the latency of an FMA; states are padded to a multiple of it."""
LOWEST = -3e38
"""Logit that padding starts from, so that it is never the best."""

WORD, FLOAT = ir.IntType(64), ir.FloatType()
VECTOR, INDEX = ir.VectorType(FLOAT, LANES), ir.VectorType(ir.IntType(32), LANES)


class _Code:
    """Writes loads, stores and shuffles; `args` are data pointers for arrays and values for numbers."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self.builder = builder
        self.args = [
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, args, strict=True)
        ]

    def element(self, pointer: Any, at: Any) -> Any:
        return self.builder.load(self.builder.gep(pointer, [at]))

    def row(self, pointer: Any, row: Any) -> Any:
        return self.builder.gep(pointer, [self.builder.mul(row, ir.Constant(WORD, LANES))])

    def load(self, pointer: Any, at: Any) -> Any:
        place = self.builder.bitcast(self.builder.gep(pointer, [at]), VECTOR.as_pointer())
        return self.builder.load(place, align=4)

    def store(self, vector: Any, pointer: Any, at: Any) -> None:
        place = self.builder.bitcast(self.builder.gep(pointer, [at]), vector.type.as_pointer())
        self.builder.store(vector, place, align=1)

    def splat(self, scalar: Any) -> Any:
        empty = ir.Constant(VECTOR, ir.Undefined)
        one = self.builder.insert_element(empty, scalar, ir.Constant(ir.IntType(32), 0))
        return self.builder.shuffle_vector(one, empty, ir.Constant(INDEX, [0] * LANES))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, kind, "llvm.fma.v16f32"), [a, b, c]
        )

    def larger(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def transpose(self, rows: list[Any]) -> list[Any]:
        """16 x 16: interleave floats, then pairs of them, inside quarters of two vectors; then move quarters, twice."""
        floats = [q + k for q in range(0, LANES, 4) for k in (0, LANES, 1, LANES + 1)]
        pairs = [q + k for q in range(0, LANES, 4) for k in (0, 1, LANES, LANES + 1)]
        quarters = [q + k for q in range(0, 2 * LANES, 8) for k in range(4)]
        for distance, mask, other in ((1, floats, 2), (2, pairs, 2), (4, quarters, 4), (8, quarters, 4)):
            for i in (i for i in range(LANES) if not i & distance):
                a, b = rows[i], rows[i + distance]
                for place, offset in ((i, 0), (i + distance, other)):
                    rows[place] = self.builder.shuffle_vector(a, b, ir.Constant(INDEX, [m + offset for m in mask]))
        return [rows[i & 12 | (i & 1) << 1 | (i & 2) >> 1] for i in range(LANES)]


@intrinsic
def add_rows(typing: Any, rows: Any, first: Any, second: Any, out: Any, at: Any) -> Any:
    """out[at : at + LANES] = rows[first : first + LANES] + rows[second : second + LANES], flat float32 and uint64."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args)
        rows, first, second, out, at = code.args
        code.store(builder.fadd(code.load(rows, first), code.load(rows, second)), out, at)
        return context.get_dummy_value()

    return types.void(rows, first, second, out, at), write


@intrinsic
def lowest_bit(typing: Any, word: Any) -> Any:
    """Position of the lowest set bit of a uint64 that is not 0, as uint64."""

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), write


def _hidden(n_terms: int) -> Any:
    """The intrinsic that sums `n_terms` rows a cell: in order (5), or the first eight of 9 two by two."""

    def hidden(typing: Any, rows: Any, starts: Any, indices: Any, stride: Any, block: Any, out: Any, row: Any) -> Any:
        """out[row + unit, lane] = ReLU of the hidden layer, LANES units of LANES cells from cell `block`.

        Term t of cell c is the vector of LANES units at rows[starts[t] + indices[t * stride + c]].
        """

        def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            code = _Code(context, builder, signature, args)
            rows, starts, indices, stride, block, out, row = code.args
            tables = [builder.gep(rows, [builder.extract_value(starts, t)]) for t in range(n_terms)]
            places = [builder.add(builder.mul(stride, ir.Constant(WORD, t)), block) for t in range(n_terms)]
            sources = [builder.gep(indices, [place]) for place in places]
            sums, zero = [], ir.Constant(VECTOR, [0.0] * LANES)
            for lane in range(LANES):
                terms = [
                    code.load(table, builder.zext(code.element(source, ir.Constant(WORD, lane)), WORD))
                    for table, source in zip(tables, sources, strict=True)
                ]
                if n_terms == 9:
                    terms = [builder.fadd(*terms[i : i + 2]) for i in range(0, 8, 2)] + terms[8:]
                total = terms[0]
                for term in terms[1:]:
                    total = builder.fadd(total, term)
                sums.append(code.larger(total, zero))
            out = code.row(out, row)
            for unit, vector in enumerate(code.transpose(sums)):
                code.store(vector, out, ir.Constant(WORD, unit * LANES))
            return context.get_dummy_value()

        return types.void(rows, starts, indices, stride, block, out, row), write

    return intrinsic(hidden)


hidden_of_pairs, hidden_of_singles = _hidden(5), _hidden(9)


@intrinsic
def add_logits(typing: Any, hidden: Any, unit: Any, readout: Any, at: Any, start: Any, logits: Any, state: Any) -> Any:
    """logits[state + k, lane] = start[state + k, lane] + sum over i of hidden[unit + i, lane] * readout[at, i, k].

    i < LANES, in order, each with one rounding; k < GROUP; `at` is where the units begin in the flat readout.
    """

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args)
        hidden, unit, readout, at, start, logits, state = code.args
        hidden, source, into = code.row(hidden, unit), code.row(start, state), code.row(logits, state)
        weights = builder.gep(readout, [at])
        sums = [code.load(source, ir.Constant(WORD, k * LANES)) for k in range(GROUP)]
        for i in range(LANES):
            vector = code.load(hidden, ir.Constant(WORD, i * LANES))
            for k in range(GROUP):
                weight = code.splat(code.element(weights, ir.Constant(WORD, i * GROUP + k)))
                sums[k] = code.fma(vector, weight, sums[k])
        for k in range(GROUP):
            code.store(sums[k], into, ir.Constant(WORD, k * LANES))
        return context.get_dummy_value()

    return types.void(hidden, unit, readout, at, start, logits, state), write


@intrinsic
def best_two(typing: Any, logits: Any, row: Any, n: Any, limit: Any, best: Any, at: Any, gap: Any) -> Any:
    """best[at + lane] (uint8) = lowest of n states with the largest logits[row + state, lane]; gap[lane] = its lead.

    Returns a uint64 whose bit `lane` says that gap[lane] < limit.
    """

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args)
        logits, row, n, limit, best, at, gap = code.args
        logits = code.row(logits, row)
        one, zero = ir.Constant(WORD, 1), ir.Constant(WORD, 0)
        top = cgutils.alloca_once_value(builder, code.load(logits, zero))
        second = cgutils.alloca_once_value(builder, ir.Constant(VECTOR, [LOWEST] * LANES))
        index = cgutils.alloca_once_value(builder, ir.Constant(INDEX, [0] * LANES))
        with cgutils.for_range_slice(builder, one, n, one) as (k, _):
            value, most = code.load(logits, builder.mul(k, ir.Constant(WORD, LANES))), builder.load(top)
            better = builder.fcmp_ordered(">", value, most)
            builder.store(code.larger(builder.select(better, most, value), builder.load(second)), second)
            state = builder.bitcast(code.splat(builder.bitcast(builder.trunc(k, ir.IntType(32)), FLOAT)), INDEX)
            builder.store(builder.select(better, state, builder.load(index)), index)
            builder.store(builder.select(better, value, most), top)
        code.store(builder.trunc(builder.load(index), ir.VectorType(ir.IntType(8), LANES)), best, at)
        lead = builder.fsub(builder.load(top), builder.load(second))
        code.store(lead, gap, zero)
        return builder.zext(
            builder.bitcast(builder.fcmp_ordered("<", lead, code.splat(limit)), ir.IntType(LANES)), WORD
        )

    return types.uint64(logits, row, n, limit, best, at, gap), write


@intrinsic
def undecided(typing: Any, stream: Any, cells: Any, block: Any, gap: Any, sure: Any, step: Any) -> Any:
    """Bit `lane` of the result: gap[lane] <= sure + step * b, where u > 1 - 2**-b for the lane's random number u.

    u is that of `rng` at word mix(stream + GOLDEN * cells[block + lane]); cells are int64, b at most 159.
    """

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = _Code(context, builder, signature, args)
        stream, cells, block, gap, sure, step = code.args
        words = ir.VectorType(WORD, LANES)

        def all_lanes(value: int, kind: Any = words) -> Any:
            return ir.Constant(kind, [value] * LANES)

        place = builder.bitcast(builder.gep(cells, [block]), words.as_pointer())
        first = builder.insert_element(ir.Constant(words, ir.Undefined), stream, ir.Constant(ir.IntType(32), 0))
        first = builder.shuffle_vector(first, first, ir.Constant(INDEX, [0] * LANES))
        word = builder.add(first, builder.mul(builder.load(place, align=8), all_lanes(GOLDEN)))
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # rng.mix
            word = builder.mul(builder.xor(word, builder.lshr(word, all_lanes(shift))), all_lanes(factor))
        word = builder.xor(word, builder.lshr(word, all_lanes(31)))
        rest = builder.uitofp(builder.not_(builder.trunc(builder.lshr(word, all_lanes(32)), INDEX)), VECTOR)
        exponent = builder.lshr(builder.bitcast(rest, INDEX), all_lanes(23, INDEX))  # 127 + log2 of (1 - u) * 2**32
        b = builder.sitofp(builder.sub(all_lanes(159, INDEX), exponent), VECTOR)
        limit = builder.fadd(code.splat(sure), builder.fmul(code.splat(step), b))
        lead = code.load(gap, ir.Constant(WORD, 0))
        return builder.zext(builder.bitcast(builder.fcmp_ordered("<=", lead, limit), ir.IntType(LANES)), WORD)

    return types.uint64(stream, cells, block, gap, sure, step), write
