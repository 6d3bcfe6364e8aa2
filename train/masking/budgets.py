"""How many tokens of each modality a sample shows and predicts: a Dirichlet draw, as in 4M.

Legend: B samples, S modalities.
"""

from __future__ import annotations

import numpy as np

from ..data import ragged
from ..data.draws import Draws

MAX_ALPHA = 1e6  # equal alphas of it share equally but for 0.1 %; above it float32 is too coarse to accept draws
_MIN_SHARE = 1e-300  # a share that underflows stays above 0: 0 means that the modality takes no part


def draw_budgets(alphas: np.ndarray, totals: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Split each sample's total among its modalities.

    The integer parts of a Dirichlet draw times the total; each token that is left over goes to the largest share of a
    fresh draw, so that no modality with alpha near 0 gets one (ml-4m).

    Args:
        alphas: float64 (B, S), concentrations, >= 0. A modality with alpha 0 gets nothing.
        totals: int64 (B,), tokens to give.
        draws: of the B samples.

    Returns:
        Budgets, int64 (B, S); rows sum to `totals`, or to 0 where all alphas are 0.
        The Dirichlet draw, float64 (B, S): above 0 where alphas are, and at most 1.
    """
    count, modalities = alphas.shape
    log_gamma = _log_gamma(alphas, draws).astype(np.float64)
    top = log_gamma.max(axis=1, keepdims=True)
    empty = np.isneginf(top[:, 0])  # all alphas are 0
    # Relative to the largest: Gamma draws of alpha 0.01 underflow float64, their logarithms do not.
    shares = np.exp(log_gamma - np.where(empty[:, None], 0.0, top))
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1.0)  # the largest is 1 before this line
    # Below 1, as an exact share is: with alphas of 0.01 float32 rounds the largest to 1, and no token would be left.
    budgets: np.ndarray = np.floor(np.minimum(shares, 1 - 2**-24) * totals[:, None]).astype(np.int64)
    left = np.where(empty, 0, totals - budgets.sum(axis=1))
    # At most S - 1 tokens of a sample are left; each is a row of its own in one more Dirichlet draw.
    rows = np.repeat(np.arange(count), left)
    each = draws.of("left").rows(rows).numbered(ragged.ranks(left))
    winners = _log_gamma(alphas[rows], each).argmax(axis=1)
    extra = np.bincount(rows * modalities + winners, minlength=count * modalities)
    budgets += extra.reshape(count, modalities)
    return budgets, np.where(alphas > 0, np.maximum(shares, _MIN_SHARE), 0)


def fill_up(
    budgets: np.ndarray, capacity: np.ndarray, left: np.ndarray, shares: np.ndarray, draws: Draws
) -> np.ndarray:
    """Give tokens that were left over to modalities that can take more, in proportion to their shares.

    A modality that is full takes no more, and the others share the rest. Modalities with share 0 take none: "RGB to
    everything" shows RGB alone.

    Args:
        budgets: int64 (B, S), tokens given so far.
        capacity: int64 (B, S), the most that each can take in all; `budgets` does not exceed it where it counts.
        left: int64 (B,), tokens to give.
        shares: float64 (B, S), 0 or at least 1e-300.

    Returns:
        int64 (B, S), at least `budgets`; `left` is given away as far as the capacities go.
    """
    room = np.where(shares > 0, np.maximum(capacity - budgets, 0), 0)
    shares = np.where(room > 0, shares, 0)
    left = np.minimum(left, room.sum(axis=1))
    # Each takes min(level * share, room); `level` is such that the sum is `left` (water-filling). Sorted by the level
    # at which they are full: if the first i are full, level = (left - before) / rest; the right i gives the highest.
    order = np.argsort(room / np.maximum(shares, _MIN_SHARE), axis=1)
    rooms, rest = np.take_along_axis(room, order, axis=1), np.take_along_axis(shares, order, axis=1)
    before = np.cumsum(rooms, axis=1) - rooms
    rest = np.maximum(np.cumsum(rest[:, ::-1], axis=1)[:, ::-1], _MIN_SHARE)
    level = ((left[:, None] - before) / rest).max(axis=1, keepdims=True)
    ends = np.cumsum(np.minimum(level * shares, room), axis=1)
    # Whole tokens with the same mean: the ends are rounded down after one random shift for all (systematic sampling).
    # The shift lies strictly inside (0, 1): at 1 a whole end would go up by a token.
    whole = np.floor(ends + (draws.uniform(1) - 2.0**-25))
    extra = np.diff(whole, axis=1, prepend=0).astype(np.int64)
    return budgets + np.minimum(extra, room)


def _log_gamma(alphas: np.ndarray, draws: Draws) -> np.ndarray:
    """Logarithms of Gamma(alpha) draws, -inf where alpha is 0; normalized they are a Dirichlet draw."""
    given = alphas > 0
    return np.where(given, draws.log_gamma(np.where(given, alphas, 1.0)), np.float32(-np.inf))
