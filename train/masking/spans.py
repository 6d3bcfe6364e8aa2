"""T5-like span masking of many sequences at once (4M; `sequence_mask` of ml-4m).

Each masked run of a sequence becomes one sentinel in the input; the target lists the runs, each after its sentinel, and
ends with one sentinel more:

    ids     a b c d e f EOS     masked: b c, f
    input   a [S_1] d e [S_2] EOS
    target  [S_1] b c [S_2] f [S_3]

Sequences lie end to end in flat arrays (ragged.py); nothing here loops over samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ..data import ragged
from ..data.draws import Draws

KEEP_DECAY = 0.9  # of the keep probability, each time an input is over its budget
CHUNK_TOKENS = 2  # a chunk of metadata is a pair, "v1=type v0=value"


class Keep(StrEnum):
    """How the share of tokens that an input keeps is drawn."""

    RANDOM = "random"  # uniform in 0..1
    ALL = "all"  # 1: as much as the budget allows
    BINARY = "binary"  # 0 or 1


KEEPS = tuple(Keep)  # arrays hold the index of a rule


@dataclass(frozen=True)
class Spans:
    """Inputs and whole targets (not yet cut to their budgets) of R sequences.

    input_ids, target_ids: int32, flat; input_lengths, target_lengths: int64 (R,).
    runs: int64 (R,), masked runs of each sequence; a target holds one sentinel more.
    sentinels: int64, flat (sum of runs,), where in its target the sentinel of each run stands.
    """

    input_ids: np.ndarray
    input_lengths: np.ndarray
    target_ids: np.ndarray
    target_lengths: np.ndarray
    runs: np.ndarray
    sentinels: np.ndarray


def draw_keep(
    lengths: np.ndarray, budgets: np.ndarray, keeps: np.ndarray, chunks: np.ndarray, draws: Draws
) -> np.ndarray:
    """Which tokens stay in the inputs.

    A token (or chunk) is kept with its sequence's keep probability; while an input is over its budget the probability
    is multiplied by 0.9 and the whole sequence drawn again.

    Args:
        lengths: int64 (R,), tokens of each sequence, >= 1.
        budgets: int64 (R,), the most tokens of each input, sentinels included; 0 keeps nothing.
        keeps: int64 (R,), indices into `KEEPS`.
        chunks: int64 (R,), tokens that stay or go together; fewer at the end of a sequence (EOS) are a chunk, too.
        draws: of the R sequences.

    Returns:
        bool (sum of lengths,).
    """
    prob = draws.of("share").uniform(1)[:, 0]  # in (0, 1], never 0
    prob = np.where(keeps == KEEPS.index(Keep.BINARY), prob > 0.5, prob)
    prob[keeps == KEEPS.index(Keep.ALL)] = 1.0
    starts = ragged.exclusive_cumsum(lengths)
    kept = np.zeros(int(lengths.sum()), bool)
    pending = np.flatnonzero((budgets > 0) & (prob > 0))
    done, count, own = 0, 1, draws.of("keep")
    while pending.size:  # ends: a sequence that is masked as a whole is one sentinel, which fits every budget
        # 1, 2, 4, ... 16 attempts at once, of which the first that fits counts: most need one, some need dozens.
        attempts = np.arange(done, done + count)
        chances = prob[pending, None] * (KEEP_DECAY**attempts).astype(np.float32)
        length, chunk = (np.repeat(values[pending], count) for values in (lengths, chunks))
        draw = _draw_once(length, chances.ravel(), chunk, own.rows(pending).times(attempts))
        # Input length: kept tokens, and a sentinel for each masked run, which begins after a kept token or at the
        # start of the sequence. So `shown` is true where a token is kept, or the one before it, or at the start.
        shown, first = draw.copy(), ragged.exclusive_cumsum(length)
        shown[1:] |= draw[:-1]
        shown[first] = True
        fits = ragged.counts(shown, length).reshape(-1, count) <= budgets[pending, None]
        fitting = fits.any(axis=1)
        begin = first.reshape(-1, count)[fitting, fits.argmax(axis=1)[fitting]]
        finished = pending[fitting]
        into, of = (ragged.indices(start, lengths[finished]) for start in (starts[finished], begin))
        kept[into] = draw[of]
        pending = pending[~fitting]
        done, count = done + count, min(2 * count, 16)
    return kept


def _draw_once(lengths: np.ndarray, prob: np.ndarray, chunks: np.ndarray, draws: Draws) -> np.ndarray:
    """bool (sum of lengths,): each chunk with the probability of its sequence, float32 (R,) above 0."""
    # The highest random bits that keep a token: integers are compared, no float is made for each token.
    highest = (np.ceil(prob.astype(np.float64) * 2**32) - 1).astype(np.uint32)
    draw: np.ndarray = draws.flat(lengths) <= ragged.spread(highest, lengths)
    if (several := chunks > 1).any():  # a chunk does what its first token does
        length, first = lengths[several], ragged.exclusive_cumsum(lengths)[several]
        token = ragged.indices(first, length)
        draw[token] = draw[token - ragged.ranks(length) % ragged.spread(chunks[several], length)]
    return draw


def run_starts(masked: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """True at the first token of each run of masked tokens: bool, flat like `masked`."""
    starts = masked.copy()
    starts[1:] = masked[1:] > masked[:-1]
    first = ragged.exclusive_cumsum(lengths)
    starts[first] = masked[first]
    return starts


def split(ids: np.ndarray, kept: np.ndarray, lengths: np.ndarray, first_sentinel: int) -> Spans:
    """Inputs and targets, given which tokens are kept.

    Args:
        ids: any integers, flat (sum of lengths,).
        kept: bool, likewise.
        lengths: int64 (R,), >= 1.
        first_sentinel: id of [S_1]; [S_2] and so on follow it.
    """
    masked = ~kept
    starts = run_starts(masked, lengths)
    runs, hidden = ragged.counts(starts, lengths), ragged.counts(masked, lengths)
    target_lengths = hidden + runs + 1
    begin = ragged.exclusive_cumsum(target_lengths)
    # Place of a masked token in the flat targets: the masked tokens before it, one sentinel for each run up to its own,
    # and the last sentinel of each target before its own.
    token = np.flatnonzero(masked)
    opens = starts.take(token)
    place = np.arange(len(token)) + np.cumsum(opens, dtype=np.int32) + ragged.spread(np.arange(len(runs)), hidden)
    sentinel_place, sentinel = place.compress(opens) - 1, first_sentinel + ragged.ranks(runs)
    target = np.empty(int(target_lengths.sum()), np.int32)
    target[place] = ids.take(token)
    target[sentinel_place] = sentinel
    target[begin + target_lengths - 1] = first_sentinel + runs  # the last sentinel ends the target
    shown = ids.astype(np.int32)
    shown[token.compress(opens)] = sentinel
    return Spans(
        input_ids=shown.compress(kept | starts),
        input_lengths=lengths - hidden + runs,
        target_ids=target,
        target_lengths=target_lengths,
        runs=runs,
        sentinels=sentinel_place - ragged.spread(begin, runs),
    )


def cut_targets(spans: Spans, budgets: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """The window of each target that its budget pays for.

    A target over budget starts at a random sentinel, never the last. If less than the budget would be left from
    there, it starts at the earliest sentinel whose rest fits (ml-4m).

    Args:
        budgets: int64 (R,), the most tokens of each target, its first sentinel included.
        draws: of the R sequences.

    Returns:
        First token of each window within its target, and its length: int64 (R,) each.
    """
    first = ragged.exclusive_cumsum(spans.runs)
    over = (spans.target_lengths > budgets) & (spans.runs > 0)
    chosen = draws.below(np.maximum(spans.runs, 1))
    start = np.zeros(len(budgets), np.int64)
    start[over] = spans.sentinels[(first + chosen)[over]]
    # The earliest sentinel from which the rest fits: the first after all sentinels before position `need`.
    need = spans.target_lengths - budgets
    too_early = ragged.counts(spans.sentinels < ragged.spread(need, spans.runs), spans.runs)
    short = over & (start > need)
    start[short] = spans.sentinels[(first + too_early)[short]]
    return start, np.minimum(spans.target_lengths - start, budgets)
