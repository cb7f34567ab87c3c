# mypy: ignore-errors
"""The length of zlib's level-9 DEFLATE output, computed without writing it: exact, compiled, and the same on every machine.

Follows zlib 1.2.12 to 1.3 (deflate_slow and _tr_flush_block: RFC 1951 leaves both the matches and the trees to the
compressor). Other libraries under that name (zlib-ng, Intel's, Chromium's) give other lengths at the same level.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from nca_interp.data.compiled import inner, outer
from nca_interp.data.nca.vectors import lowest_bit

MAX_BYTES = 16_000
"""Longest input: one block of symbols, and a window that never slides."""
MIN_MATCH, MAX_MATCH, TOO_FAR = 3, 258, 4096
GOOD_MATCH, MAX_CHAIN = 32, 4096
"""Level 9: a match of GOOD_MATCH bytes quarters the search for a better one at the next byte."""
END, LITERALS, DISTANCES, LENGTHS = 256, 286, 30, 19
HEADER_AND_TRAILER, KEY = 18, 10
U = np.uint64


def _codes() -> tuple[np.ndarray, ...]:
    """Symbol and extra bits of each match length - 3, and of each distance - 1 (RFC 1951, 3.2.5); extra bits of code lengths."""
    length, distance = np.zeros((2, 256), np.uint16), np.zeros((2, 32768), np.uint8)
    at = 0
    for symbol in range(28):
        extra = max(0, symbol // 4 - 1)
        length[:, at : at + 2**extra] = [[257 + symbol], [extra]]
        at += 2**extra
    length[:, 255] = 285, 0
    at = 0
    for symbol in range(30):
        extra = max(0, symbol // 2 - 1)
        distance[:, at : at + 2**extra] = [[symbol], [extra]]
        at += 2**extra
    return length, distance


LENGTH_CODE, DISTANCE_CODE = _codes()
ORDER = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15])
"""Order in which the lengths of the code-length code are sent."""
FIXED_LITERALS, FIXED_DISTANCES = np.repeat([8, 9, 7, 8], [144, 112, 24, 6]), np.full(DISTANCES, 5)
"""Code lengths of the fixed trees (RFC 1951, 3.2.6)."""


@inner
def _insert(ahead, at, head, links):
    """Enter the bytes at `at` into both chains; returns the place before it on that of zlib (0: none)."""
    word = ahead[at]
    three = (word << U(10)) ^ (word >> U(8) << U(5) & U(0x1FE0)) ^ (word >> U(16) & U(0xFF))
    three &= U(0x7FFF)
    four = U(0x8000) + ((word & U(0xFFFFFFFF)) * U(0x9E3779B1) >> U(20) & U(0xFFF))
    before = U(head[three])
    links[0, at], links[1, at] = before, head[four]
    head[three] = head[four] = at
    return before


@inner
def _longest_match(ahead, at, candidate, best, left, links):
    """Length and place of the longest match longer than `best`, the nearest one, by zlib's search from `candidate` on.

    A match longer than three bytes is on the chain of four as well, which is shorter. It is used where zlib would come to
    the end of its own chain before MAX_CHAIN steps.
    """
    chain, nice, place = U(MAX_CHAIN >> 2 if best >= U(GOOD_MATCH) else MAX_CHAIN), min(U(MAX_MATCH), left), U(0)
    row, short = U(0), U(len(ahead)) <= chain
    if short and best >= U(MIN_MATCH):
        row, candidate = U(1), U(links[1, at])
    while best < left and candidate:
        offset = best - U(7) if best > U(7) else U(0)
        unlike = (ahead[candidate + offset] ^ ahead[at + offset]) << (U(56) - U(8) * (best - offset))
        if not unlike:  # up to eight bytes that a longer match has to have
            length = U(0)
            while length < nice:
                unlike = ahead[candidate + length] ^ ahead[at + length]
                if unlike:
                    length += lowest_bit(unlike) >> U(3)
                    break
                length += U(8)
            length = min(length, nice)
            if length > best:
                best, place = length, candidate
                if length == nice:
                    break
                if short and row == U(0):
                    row, candidate = U(1), U(links[1, at])
                    continue
        candidate, chain = U(links[row, candidate]), chain - U(1)
        if chain == U(0):
            break
    return min(best, left), place


@inner
def _count_symbols(data, ahead, head, links, literals, distances):
    """Frequencies of literal or length symbols and of distance symbols (lazy matching); returns the extra bits.

    ahead[i] is the word of bytes i to i + 7, lowest first.
    """
    n, extra, waiting, length, place, at = U(len(data)), U(0), False, U(MIN_MATCH - 1), U(0), U(0)
    word = U(0)
    for i in range(len(data) - 1, -1, -1):
        word = word << U(8) | U(data[i])
        ahead[i] = word
    while at < n:
        candidate = _insert(ahead, at, head, links) if at + U(MIN_MATCH) <= n else U(0)
        old, old_place, length = length, place, U(MIN_MATCH - 1)
        if candidate and old < U(MAX_MATCH):
            length, place = _longest_match(ahead, at, candidate, old, n - at, links)
            if length == U(MIN_MATCH) and at - place > U(TOO_FAR):
                length = U(MIN_MATCH - 1)
        if old >= U(MIN_MATCH) and length <= old:
            size, distance = old - U(MIN_MATCH), at - U(2) - old_place
            literals[LENGTH_CODE[0, size]] += 1
            distances[DISTANCE_CODE[0, distance]] += 1
            extra += U(LENGTH_CODE[1, size]) + U(DISTANCE_CODE[1, distance])
            end = at + old - U(1)
            at += U(1)
            while at < end:
                if at + U(MIN_MATCH) <= n:
                    _insert(ahead, at, head, links)
                at += U(1)
            waiting, length = False, U(MIN_MATCH - 1)
        else:
            if waiting:
                literals[data[at - U(1)]] += 1
            waiting = True
            at += U(1)
    if waiting:
        literals[data[n - U(1)]] += 1
    literals[END] += 1
    return np.int64(extra)


@inner
def _sift(heap, k, size):
    """Restore the heap [1 .. size] below place k; an entry's KEY bits and what is above them count, not its node."""
    value, child, key = heap[k], U(2) * k, np.uint32(KEY)
    heap[size + U(1)] = np.uint32(0xFFFFFFFF)
    while child <= size:
        left, right = heap[child], heap[child + U(1)]
        after = right >> key <= left >> key
        least = right if after else left
        if value >> key <= least >> key:
            break
        heap[k] = least
        k = child + U(after)
        child = U(2) * k
    heap[k] = value


@inner
def _code_lengths(frequency, limit, lengths, work):
    """Huffman code lengths of at most `limit` bits, with zlib's ties and repair; returns the largest symbol used.

    Entries of the heap: frequency (14 bits), depth (8), node (KEY).
    """
    heap, order, parent, depth, counts = work
    n, size, largest, node_of = len(frequency), U(0), -1, np.uint32((1 << KEY) - 1)
    lengths[:] = 0
    for symbol in range(n):
        if frequency[symbol]:
            size, largest = size + U(1), symbol
            heap[size] = (U(frequency[symbol]) << U(KEY + 8)) + U(symbol)
    while size < U(2):  # a tree has at least two codes
        largest, symbol = (largest + 1, largest + 1) if largest < 2 else (largest, 0)
        size += U(1)
        heap[size] = (U(1) << U(KEY + 8)) + U(symbol)
    for k in range(size // U(2), 0, -1):
        _sift(heap, U(k), size)
    node, removed, mask = U(n), U(0), np.uint32(0xFF)
    while size >= U(2):
        first = heap[1]
        heap[1], size = heap[size], size - U(1)
        _sift(heap, U(1), size)
        second = heap[1]
        one, two = U(first & node_of), U(second & node_of)
        order[removed], order[removed + U(1)], removed = one, two, removed + U(2)
        parent[one] = parent[two] = node
        deepest = U(max(first >> np.uint32(KEY) & mask, second >> np.uint32(KEY) & mask)) + U(1)
        frequencies = U(first >> np.uint32(KEY + 8)) + U(second >> np.uint32(KEY + 8))
        heap[1] = (frequencies << U(KEY + 8)) + (deepest << U(KEY)) + node
        _sift(heap, U(1), size)
        node += U(1)
    depth[node - U(1)] = 0
    counts[:], overflow = 0, np.int64(0)
    for i in range(np.int64(removed) - 1, -1, -1):
        here = U(order[i])
        bits = np.int64(depth[U(parent[here])]) + 1
        if bits > limit:
            bits, overflow = limit, overflow + 1
        depth[here] = bits
        if here < U(n):
            lengths[here] = bits
            counts[bits] += 1
    if overflow:
        _shorten(order, n, limit, overflow, counts, lengths)
    return largest


@inner
def _shorten(order, n, limit, overflow, counts, lengths):
    """Make a code of too long lengths, all cut to `limit`, a prefix code again: the rarest symbols become the longest."""
    while overflow > 0:
        bits = limit - 1
        while counts[bits] == 0:
            bits -= 1
        counts[bits] -= 1
        counts[bits + 1] += 2
        counts[limit] -= 1
        overflow -= 2
    at = 0
    for bits in range(limit, 0, -1):
        left = counts[bits]
        while left:
            symbol = order[at]
            at += 1
            if symbol < n:
                lengths[symbol] = bits
                left -= 1


@inner
def _count_lengths(lengths, largest, frequency):
    """Frequencies of the symbols that send lengths[0 .. largest], run-length coded."""
    before, count = -1, 0
    for symbol in range(largest + 1):
        here, following = lengths[symbol], lengths[symbol + 1] if symbol < largest else -1
        count += 1
        most = 138 if here == 0 else (6 if here == before else 7)
        if count < most and here == following:
            continue
        if count < (3 if here == 0 or here == before else 4):
            frequency[here] += count
        elif here:
            frequency[here] += here != before
            frequency[16] += 1
        else:
            frequency[17 if count <= 10 else 18] += 1
        before, count = here, 0


@inner
def _dot(a, b):
    total = 0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


class Work(NamedTuple):
    """Work space for rows of one length."""

    head: Any
    """Last place of each hash of three bytes (zlib's), then of four bytes."""
    links: Any
    """[2, bytes]: the place before on the same chain."""
    ahead: Any
    literals: Any
    distances: Any
    lengths: Any
    """Frequencies of the literal and match-length, the distance, and the code-length symbols."""
    bits: Any
    """The lengths of their codes."""
    tree: Any


def work_space(n_bytes: int) -> Work:
    """For rows of n_bytes."""
    literals, distances, lengths, *bits = (np.empty(n, np.int64) for n in 2 * (LITERALS, DISTANCES, LENGTHS))
    tree = *(np.empty(2 * LITERALS + 1, np.uint32) for _ in range(4)), np.empty(17, np.int64)
    chains = np.empty(0x9000, np.uint16), np.empty((2, n_bytes), np.uint16), np.empty(n_bytes, np.uint64)
    return Work(*chains, literals, distances, lengths, tuple(bits), tree)


@outer
def gzip_lengths(rows, out, work):
    """out[row] = len(gzip.compress(rows[row], 9)) of uint8 rows of 1 to MAX_BYTES bytes."""
    n, tree = rows.shape[1], work.tree
    literals, distances, lengths, (bits_l, bits_d, bits_c) = work.literals, work.distances, work.lengths, work.bits
    for row in range(len(rows)):
        work.head[:], literals[:], distances[:], lengths[:] = 0, 0, 0, 0
        extra = _count_symbols(rows[row], work.ahead, work.head, work.links, literals, distances)
        last_l = _code_lengths(literals, np.int64(15), bits_l, tree)
        last_d = _code_lengths(distances, np.int64(15), bits_d, tree)
        _count_lengths(bits_l, last_l, lengths)
        _count_lengths(bits_d, last_d, lengths)
        _code_lengths(lengths, np.int64(7), bits_c, tree)
        sent = LENGTHS
        while sent > 4 and bits_c[ORDER[sent - 1]] == 0:
            sent -= 1
        trees = 14 + 3 * sent + _dot(lengths, bits_c) + 2 * lengths[16] + 3 * lengths[17] + 7 * lengths[18]
        dynamic = trees + _dot(literals, bits_l) + _dot(distances, bits_d)
        static = _dot(literals, FIXED_LITERALS) + _dot(distances, FIXED_DISTANCES)
        coded = (3 + min(dynamic, static) + extra + 7) // 8
        out[row] = HEADER_AND_TRAILER + (n + 5 if n + 4 <= coded else coded)
