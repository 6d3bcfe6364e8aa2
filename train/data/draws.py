"""Random numbers that belong to samples: each follows from its sample's key, what it is for, and its index alone.

A random generator returns numbers in the order of the calls, so that a sample's numbers would depend on the samples
before it in the batch. Here the numbers are hashes (counter-based, as in Salmon et al. 2011): any samples can be masked
together, on any worker, and each has the mask that it has alone. This is as fast, since NumPy hashes whole arrays.

Legend: R rows (samples, or sequences of samples).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import ragged

_AT_ONCE = 2**15  # numbers in each array of a Gamma draw: a dozen float32 arrays (1.5 MB) fit into a core's cache
_STEP = np.uint32(0x9E3779B9)  # 2^32 / golden ratio, odd: multiples of consecutive indices are spread evenly
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: its multiples are spread evenly


@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of some rows for one purpose.

    keys: uint64 (R,). Rows with the same key get the same numbers.
    """

    keys: np.ndarray

    def of(self, *purpose: str | int) -> Draws:
        """Those for another purpose; all purposes are independent of each other."""
        # A checksum and not hash(): Python's hash of a string differs in every process.
        tag = zlib.crc32(repr(purpose).encode())
        return Draws(mix64(self.keys ^ np.uint64(tag * int(GOLDEN) % 2**64)))

    def numbered(self, numbers: np.ndarray) -> Draws:
        """For each row those of purpose number `numbers`, int64 (R,): for rows that are repeated."""
        return Draws(mix64(self.keys + mix64(numbers.astype(np.uint64))))

    def times(self, numbers: np.ndarray) -> Draws:
        """Each row repeated with each of the purpose `numbers`, int64 (n,), row by row: R * n rows."""
        return Draws(mix64(self.keys[:, None] + mix64(numbers.astype(np.uint64))).ravel())

    def rows(self, rows: np.ndarray | slice) -> Draws:
        """Of some rows; int64 indices, which may repeat, or bool, or a slice."""
        return Draws(self.keys[rows])

    @staticmethod
    def fresh(rng: np.random.Generator, rows: int) -> Draws:
        """Of rows with keys from a generator."""
        return Draws(rng.integers(0, 2**64, rows, dtype=np.uint64))

    @staticmethod
    def concatenate(parts: Sequence[Draws]) -> Draws:
        return Draws(np.concatenate([part.keys for part in parts]))

    def bits(self, count: int) -> np.ndarray:
        """uint32 (R, count)."""
        low, high = self._halves()
        return _hash(np.arange(count, dtype=np.uint32)[None], low[:, None], high[:, None])

    def uniform(self, count: int) -> np.ndarray:
        """float32 (R, count) in (0, 1], of 24 bits."""
        return self._columns(count).T

    def flat(self, counts: np.ndarray) -> np.ndarray:
        """`counts`, int64 (R,), numbers of each row, end to end: uint32 (sum of counts,); row by row as of `bits`."""
        low, high = self._halves()
        low -= ragged.exclusive_cumsum(counts).astype(np.uint32) * _STEP  # a row's numbers begin at index 0
        index = np.arange(int(counts.sum()), dtype=np.uint32)
        return _hash(index, ragged.spread(low, counts), ragged.spread(high, counts))

    def below(self, highs: np.ndarray) -> np.ndarray:
        """An integer of 0..high-1 for each row; `highs`, int64 (R,), 1 to 2^31: int64 (R,)."""
        # Multiply and shift in place of a remainder (Lemire 2019); the bias is below high / 2^32.
        product = self.bits(1)[:, 0].astype(np.uint64) * highs.astype(np.uint64)
        return (product >> np.uint64(32)).astype(np.int64)

    def log_gamma(self, shapes: np.ndarray) -> np.ndarray:
        """Logarithms of Gamma draws of shapes a = `shapes`, float (R, S), all above 0: float32 (R, S).

        Gamma(a) = Gamma(a + 1) * U^(1/a): in logarithms this does not underflow for the alphas of 0.01 that 4M uses.
        """
        # Rows do not depend on each other: blocks of them give the same numbers.
        block = _AT_ONCE // shapes.shape[1]
        if len(shapes) > block:
            return np.concatenate(
                [self.rows(slice(i, i + block)).log_gamma(shapes[i : i + block]) for i in range(0, len(shapes), block)]
            )
        columns = shapes.T.astype(np.float32, order="C")
        drawn, log_u = _log_gamma_above_1(self, columns + np.float32(1))
        drawn += log_u / columns
        return np.ascontiguousarray(drawn.T)

    def _columns(self, count: int) -> np.ndarray:
        """`uniform`, transposed: NumPy's inner loops are long where there are many rows, and few numbers of each."""
        return _unit(_hash(np.arange(count, dtype=np.uint32)[:, None], *self._halves()))

    def _halves(self) -> tuple[np.ndarray, np.ndarray]:
        return self.keys.astype(np.uint32), (self.keys >> np.uint64(32)).astype(np.uint32)


def mix64(x: np.ndarray) -> np.ndarray:
    """A permutation of uint64 without visible structure (SplitMix64: Steele et al. 2014)."""
    x = x + GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hash(index: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """uint32 of an index under a key of two halves: a 32-bit mixer with the key in its first two rounds."""
    x: np.ndarray = index * _STEP + low
    shifted = np.empty_like(x)  # the only temporary: fresh memory for each round costs more than the arithmetic
    x ^= np.right_shift(x, np.uint32(16), out=shifted)
    x *= np.uint32(0x21F0AAAD)
    x += high
    x ^= np.right_shift(x, np.uint32(15), out=shifted)
    x *= np.uint32(0x735A2D97)
    x ^= np.right_shift(x, np.uint32(15), out=shifted)
    return x


def _unit(bits: np.ndarray) -> np.ndarray:
    unit: np.ndarray = (bits >> np.uint32(8)).astype(np.float32)
    unit += 1
    unit *= np.float32(2**-24)
    return unit


def _log_gamma_above_1(draws: Draws, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of Gamma draws of shapes of at least 1, by rejection (Marsaglia and Tsang 2000), and of uniform
    numbers independent of them. `shapes` is float32 (S, R), as are both results."""
    d = shapes - np.float32(1 / 3)
    u = draws._columns(3 * len(shapes)).reshape(3, *shapes.shape)
    logs = np.log(u[:2])
    # Box and Muller: one normal number of two uniform ones.
    normal = np.sqrt(-2 * logs[0]) * np.cos(np.float32(2 * np.pi) * u[2])
    cube = np.maximum(1 + normal / np.sqrt(9 * d), np.float32(1e-7))  # below 0 for at most 0.7 %, and rejected
    v = cube * cube * cube
    log_v = np.log(v)
    # Of an accepted draw, U is uniform below its limit: U / limit is a uniform number again, and is used as one.
    limit = np.minimum(0.5 * normal * normal + d * (1 - v + log_v), np.float32(0))
    log_u = logs[1] - limit
    result: np.ndarray = np.log(d) + log_v
    rejected = column, row = np.nonzero(log_u >= 0)  # 1 in 20, drawn again
    if row.size:
        again = _log_gamma_above_1(draws.rows(row).numbered(column), shapes[rejected][None])
        result[rejected], log_u[rejected] = again[0][0], again[1][0]
    return result, log_u
