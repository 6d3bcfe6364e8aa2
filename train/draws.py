"""Random numbers that belong to samples: each follows from its sample's key, what it is for, and its index alone.

A generator hands out numbers in the order of the calls, so that what a sample gets depends on its neighbours in the
batch. Here the numbers are hashes (counter-based, as in Salmon et al. 2011): any samples can be masked together, on any
worker, and each has the mask that it has alone. That is as fast, since the hashing is NumPy's on whole arrays.

Legend: R rows (samples, or sequences of samples).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import ragged

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # of the golden ratio: its multiples are spread evenly


@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of some rows for one purpose.

    keys: uint64 (R,). Rows with the same key get the same numbers.
    """

    keys: np.ndarray

    def of(self, *purpose: str | int) -> Draws:
        """Those for another purpose; all purposes are independent of each other."""
        tag = zlib.crc32(repr(purpose).encode())
        return Draws(mix64(self.keys ^ np.uint64(tag * int(GOLDEN) % 2**64)))

    def numbered(self, numbers: np.ndarray) -> Draws:
        """For each row those of purpose number `numbers`, int64 (R,): for rows that are repeated."""
        return Draws(mix64(self.keys + mix64(numbers.astype(np.uint64))))

    def rows(self, rows: np.ndarray) -> Draws:
        """Of some rows; int64 indices, which may repeat, or bool."""
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
        return _unit(self.bits(count))

    def flat(self, counts: np.ndarray) -> np.ndarray:
        """`counts`, int64 (R,), numbers of each row, end to end: float32 (sum of counts,) in (0, 1]."""
        low, high = self._halves()
        index = ragged.ranks(counts).astype(np.uint32)
        return _unit(_hash(index, ragged.spread(low, counts), ragged.spread(high, counts)))

    def below(self, highs: np.ndarray) -> np.ndarray:
        """An integer of 0..high-1 for each row; `highs`, int64 (R,), 1 to 2^31: int64 (R,)."""
        product = self.bits(1)[:, 0].astype(np.uint64) * highs.astype(np.uint64)
        return (product >> np.uint64(32)).astype(np.int64)

    def log_gamma(self, shapes: np.ndarray) -> np.ndarray:
        """Logarithms of Gamma draws of shapes a = `shapes`, float (R, S), all above 0: float32 (R, S).

        Gamma(a) = Gamma(a + 1) * U^(1/a): in logarithms this does not underflow for the alphas of 0.01 that 4M uses.
        """
        shapes = shapes.astype(np.float32)
        drawn: np.ndarray = np.log(self.of("boost").uniform(shapes.shape[1])) / shapes
        drawn += _log_gamma_above_1(self.of("gamma"), shapes + np.float32(1))
        return drawn

    def _halves(self) -> tuple[np.ndarray, np.ndarray]:
        return self.keys.astype(np.uint32), (self.keys >> np.uint64(32)).astype(np.uint32)


def mix64(x: np.ndarray) -> np.ndarray:
    """A permutation of uint64 without visible structure (SplitMix64: Steele et al. 2014)."""
    x = x + GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def _hash(index: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """uint32 of an index under a key of two halves: a 32-bit mixer with the key in its first two rounds."""
    x: np.ndarray = index * np.uint32(0x9E3779B9) + low
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x21F0AAAD)
    x += high
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x735A2D97)
    x ^= x >> np.uint32(15)
    return x


def _unit(bits: np.ndarray) -> np.ndarray:
    unit: np.ndarray = (bits >> np.uint32(8)).astype(np.float32)
    unit += 1
    unit *= np.float32(2**-24)
    return unit


def _log_gamma_above_1(draws: Draws, shapes: np.ndarray) -> np.ndarray:
    """Logarithms of Gamma draws of shapes of at least 1, float32 (R, S), by rejection (Marsaglia and Tsang 2000)."""
    width = shapes.shape[1]
    d = shapes - np.float32(1 / 3)
    u = draws.uniform(3 * width)
    logs = np.log(u[:, : 2 * width])
    normal = np.sqrt(-2 * logs[:, :width]) * np.cos(np.float32(2 * np.pi) * u[:, 2 * width :])
    cube = np.maximum(1 + normal / np.sqrt(9 * d), np.float32(1e-7))  # as good as never so low, and rejected there
    v = cube * cube * cube
    log_v = np.log(v)
    rejected = logs[:, width:] >= 0.5 * normal * normal + d * (1 - v + log_v)
    result: np.ndarray = np.log(d) + log_v
    row, column = np.nonzero(rejected)  # 1 in 20, drawn again
    if row.size:
        result[row, column] = _log_gamma_above_1(draws.rows(row).numbered(column), shapes[row, column][:, None])[:, 0]
    return result
