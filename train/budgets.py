"""How many tokens of each modality a sample shows and predicts: a Dirichlet draw, as in 4M.

Legend: B samples, S modalities.
"""

from __future__ import annotations

import numpy as np

from . import ragged
from .draws import Draws

# 4M's floor of alphas: a modality with alpha 0 gets nothing, unless all have alpha 0.
MIN_ALPHA = 1e-9
MAX_ALPHA = 1e6  # as good as all to one; above it float32 cannot tell what to accept


def draw_budgets(alphas: np.ndarray, totals: np.ndarray, excluded: np.ndarray, draws: Draws) -> np.ndarray:
    """Split each sample's total among its modalities.

    The integer parts of a Dirichlet draw times the total; each token that is left over goes to the largest share of a
    fresh draw, so that no modality with alpha near 0 gets one (ml-4m).

    Args:
        alphas: float64 (B, S), concentrations, >= 0.
        totals: int64 (B,), tokens to give.
        excluded: bool (B, S), modalities that must not get any.
        draws: of the B samples.

    Returns:
        int64 (B, S); rows sum to `totals`, or to 0 where all modalities are excluded.
    """
    count, modalities = alphas.shape
    log_gamma = _log_gamma(alphas, excluded, draws)
    top = log_gamma.max(axis=1, keepdims=True)
    nobody = np.isneginf(top[:, 0])
    shares = np.exp(log_gamma - np.where(nobody[:, None], 0.0, top))
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1.0)  # the largest is 1 before this line
    # A share is never all: with alphas of 0.01 float32 would round it to that, and nothing would be left to give.
    shares = np.minimum(shares, 1 - 2**-24)
    budgets: np.ndarray = np.floor(shares * totals[:, None]).astype(np.int64)
    left = np.where(nobody, 0, totals - budgets.sum(axis=1))
    rows = np.repeat(np.arange(count), left)
    each = draws.of("left").rows(rows).numbered(ragged.ranks(left))
    winners = _log_gamma(alphas[rows], excluded[rows], each).argmax(axis=1)
    extra = np.bincount(rows * modalities + winners, minlength=count * modalities)
    budgets += extra.reshape(count, modalities)
    return budgets


def fill_up(
    budgets: np.ndarray, capacity: np.ndarray, left: np.ndarray, alphas: np.ndarray, draws: Draws
) -> np.ndarray:
    """Give tokens that were left over to modalities that can take more, in the proportions of the same Dirichlet.

    Modalities with alpha 0 take none: "RGB to everything" stays what it says.

    Args:
        budgets: int64 (B, S), tokens given so far.
        capacity: int64 (B, S), the most that each can take in all; `budgets` does not exceed it where it counts.
        left: int64 (B,), tokens to give.
        alphas: float64 (B, S).

    Returns:
        int64 (B, S), at least `budgets`; `left` is given away as far as the capacities go.
    """
    budgets, left = budgets.copy(), left.copy()
    room = np.where(alphas > 0, np.maximum(capacity - budgets, 0), 0)
    number = 0
    while (rows := np.flatnonzero((left > 0) & (room > 0).any(axis=1))).size:
        # Each round gives all that is left of a sample or fills one of its modalities: at most S rounds.
        each = draws.of(number).rows(rows)
        extra = np.minimum(draw_budgets(alphas[rows], left[rows], room[rows] == 0, each), room[rows])
        budgets[rows] += extra
        room[rows] -= extra
        left[rows] -= extra.sum(axis=1)
        number += 1
    return budgets


def _log_gamma(alphas: np.ndarray, excluded: np.ndarray, draws: Draws) -> np.ndarray:
    """Logarithms of Gamma(alpha) draws, -inf where excluded; normalised they are a Dirichlet draw."""
    return np.where(excluded, -np.inf, draws.log_gamma(np.maximum(alphas, MIN_ALPHA)))
