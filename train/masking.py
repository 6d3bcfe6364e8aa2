"""Multimodal masked modelling: from a batch of whole samples to inputs and targets (4M, section 2.2; 4M-21, section 3.3).

For each sample: numbers of tokens, a component of the mixture of Dirichlets, budgets for each modality (budgets.py),
then which tokens: disjoint random subsets of grids, spans of sequences (spans.py). The chosen tokens are packed into
a `PackedBatch`; nothing here loops over samples, and all randomness comes from the generator that the caller gives.

Decisions:
- `redistribute=False` is the reference (apple/ml-4m) in distribution. Its budgets are often not used: texts are shorter,
  modalities missing. With `redistribute=True` missing modalities take no part in the draw, and what is not used goes to
  the grids of the sample, in the proportions of the same Dirichlet.
- A target sequence of n tokens makes n - 1 predictions: its first sentinel is only read (teacher forcing).
- Chunks of metadata are put in a new random order at each draw, EOS last (4M-21).

Legend: B samples, S modalities, N and M the largest numbers of input and target tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..modalities import Kind, ModalitySpec
from ..model.batch import PackedBatch
from . import ragged, spans
from .budgets import draw_budgets, fill_up
from .spans import KEEPS, Keep


@dataclass(frozen=True)
class Mixture:
    """One component of a mixture of Dirichlets.

    input_alphas, target_alphas: modality -> concentration; modalities that are not named have 0.
    weight: how often the component is drawn, in proportion.
    keep: modality -> how its input spans are drawn, for sequences and embeddings; `Keep.RANDOM` if not named.
    """

    input_alphas: Mapping[str, float]
    target_alphas: Mapping[str, float]
    weight: float = 1.0
    keep: Mapping[str, Keep] = field(default_factory=dict)


@dataclass(frozen=True)
class MaskingConfig:
    """How batches are masked.

    input_tokens, target_tokens: least and most tokens of a sample, drawn uniformly; the most is the static width.
    mixtures: the components of the mixture of Dirichlets.
    redistribute: whether unused budget goes to other modalities; False is the reference.
    first_sentinel: id of [S_1]; 4M never uses [S_0].
    num_sentinels: sentinels of the text tokenizer, [S_0] included.
    """

    input_tokens: tuple[int, int]
    target_tokens: tuple[int, int]
    mixtures: tuple[Mixture, ...]
    redistribute: bool = True
    first_sentinel: int = 5
    num_sentinels: int = 200

    def __post_init__(self) -> None:
        for side, (least, most) in (("input_tokens", self.input_tokens), ("target_tokens", self.target_tokens)):
            if not 1 <= least <= most:
                raise ValueError(f"masking.{side}: got {least}..{most}, expected 1 <= least <= most")
        if not self.mixtures or any(m.weight < 0 for m in self.mixtures) or not sum(m.weight for m in self.mixtures):
            raise ValueError("masking.mixtures: expected at least one, with weights >= 0 that are not all 0")

    def check(self, specs: Sequence[ModalitySpec]) -> None:
        """ValueError if it names modalities or asks for targets that the model's `specs` do not have."""
        known = {spec.name: spec for spec in specs}
        longest = max((spec.max_tokens for spec in specs if spec.kind is Kind.SEQUENCE), default=0)
        if (needed := (longest + 1) // 2 + 2) > self.num_sentinels:  # every other token masked, one to close, [S_0]
            raise ValueError(f"masking.num_sentinels: {self.num_sentinels}, texts of {longest} tokens need {needed}")
        for i, mixture in enumerate(self.mixtures):
            for what in ("input_alphas", "target_alphas", "keep"):
                if unknown := sorted(set(getattr(mixture, what)) - set(known)):
                    raise ValueError(f"masking.mixtures[{i}].{what}: {unknown} are not among {sorted(known)}")
            if bad := [a for a in (*mixture.input_alphas.values(), *mixture.target_alphas.values()) if not 0 <= a < 1e9]:
                raise ValueError(f"masking.mixtures[{i}]: alphas must be >= 0 and finite, got {bad}")
            for alphas, specs_of_side in (
                (mixture.input_alphas, list(known)),
                (mixture.target_alphas, [n for n, spec in known.items() if spec.is_target]),
            ):
                if not any(alphas.get(name, 0) > 0 for name in specs_of_side):
                    raise ValueError(f"masking.mixtures[{i}]: no modality of {specs_of_side} has an alpha above 0")


@dataclass(frozen=True)
class Tokens:
    """All tokens of one modality in a batch, before masking.

    lengths: int64 (B,), tokens, patches or vectors of each sample; 0 where the sample lacks the modality.
    ids: grids: integers (B, max_tokens), anything where lengths is 0. Sequences: flat (sum of lengths,), EOS included.
        Pixels and embeddings: None; their masks do not look at the values.
    """

    lengths: np.ndarray
    ids: np.ndarray | None = None


@dataclass(frozen=True)
class _Chosen:
    """Tokens of one modality that were chosen for one side, sample by sample. `ids`, ... are flat (sum of counts,)."""

    counts: np.ndarray
    ids: np.ndarray
    positions: np.ndarray
    queries: np.ndarray | None = None


def mask_batch(
    specs: Sequence[ModalitySpec], config: MaskingConfig, tokens: Mapping[str, Tokens], rng: np.random.Generator
) -> PackedBatch:
    """Choose inputs and targets of a batch.

    Args:
        specs: the model's modalities; their order numbers `input_mod` and `target_mod`.
        config: checked against `specs` once by the caller (`config.check`).
        tokens: what the samples have, for every modality of `specs`.
        rng: all randomness; the same state gives the same batch.

    Returns:
        A batch of NumPy arrays without `values` and `keys`. Grid and pixel tokens are in raster order. `input_ids` of
        pixels and embeddings are rows of the `values` to be: 0..max_tokens-1, and for masked runs of embeddings
        max_tokens, which must be a row of zeros.
    """
    lengths = np.stack([tokens[spec.name].lengths for spec in specs], axis=1)
    draw = _draw(specs, config, lengths, rng)
    texts = {
        m: _mask_sequence(spec, config, tokens[spec.name], draw, m, rng)
        for m, spec in enumerate(specs)
        if spec.kind in (Kind.SEQUENCE, Kind.EMBEDDING)
    }
    _settle(specs, config, lengths, draw, texts, rng)
    inputs: list[_Chosen] = []
    targets: list[_Chosen] = []
    for m, spec in enumerate(specs):
        text = texts.get(m) or _mask_grid(spec, tokens[spec.name], draw.inputs[:, m], draw.targets[:, m], rng)
        inputs.append(text[0])
        targets.append(text[1])
    return _pack(specs, inputs, targets, len(lengths), config.input_tokens[1], config.target_tokens[1])


@dataclass
class _Draw:
    """What was drawn for each sample: totals (B,), alphas (B, S), keep rules (B, S), budgets (B, S)."""

    input_total: np.ndarray
    target_total: np.ndarray
    input_alphas: np.ndarray
    target_alphas: np.ndarray
    keeps: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray


def _draw(specs: Sequence[ModalitySpec], config: MaskingConfig, lengths: np.ndarray, rng: np.random.Generator) -> _Draw:
    count, names = len(lengths), [spec.name for spec in specs]
    weights = np.array([mixture.weight for mixture in config.mixtures], np.float64)
    component = rng.choice(len(weights), count, p=weights / weights.sum())
    input_alphas, target_alphas = (
        np.array([[float(getattr(m, side).get(n, 0.0)) for n in names] for m in config.mixtures])[component]
        for side in ("input_alphas", "target_alphas")
    )
    keeps = np.array([[KEEPS.index(m.keep.get(n, Keep.RANDOM)) for n in names] for m in config.mixtures])[component]
    input_total = rng.integers(config.input_tokens[0], config.input_tokens[1] + 1, count)
    target_total = rng.integers(config.target_tokens[0], config.target_tokens[1] + 1, count)
    missing = (lengths == 0) & config.redistribute
    no_target = np.array([not spec.is_target for spec in specs]) & config.redistribute
    limit = np.array([spec.max_tokens for spec in specs])
    is_text = np.array([spec.kind in (Kind.SEQUENCE, Kind.EMBEDDING) for spec in specs])
    inputs = np.minimum(draw_budgets(input_alphas, input_total, missing, rng), limit)
    targets = draw_budgets(target_alphas, target_total, missing | no_target, rng)
    targets = np.minimum(targets, np.where(is_text, limit, limit - inputs))
    return _Draw(input_total, target_total, input_alphas, target_alphas, keeps, inputs, targets)


def _settle(
    specs: Sequence[ModalitySpec],
    config: MaskingConfig,
    lengths: np.ndarray,
    draw: _Draw,
    texts: Mapping[int, tuple[_Chosen, _Chosen]],
    rng: np.random.Generator,
) -> None:
    """Make `draw.inputs` and `draw.targets` what is really used, and give the rest to the grids if so configured."""
    for m, (shown, predicted) in texts.items():
        draw.inputs[:, m], draw.targets[:, m] = shown.counts, predicted.counts
    is_grid = np.array([spec.kind in (Kind.GRID, Kind.PIXELS) for spec in specs])
    is_target = np.array([spec.kind is Kind.GRID for spec in specs])
    room = np.where(is_grid, lengths, 0)
    draw.inputs = np.where(is_grid, np.minimum(draw.inputs, room), draw.inputs)
    if config.redistribute:
        left = draw.input_total - draw.inputs.sum(axis=1)
        draw.inputs = fill_up(draw.inputs, room, left, draw.input_alphas, rng)
    room = np.where(is_target, room - draw.inputs, 0)
    draw.targets = np.where(is_grid, np.minimum(draw.targets, room), draw.targets)
    if config.redistribute:
        left = draw.target_total - draw.targets.sum(axis=1)
        draw.targets = fill_up(draw.targets, room, left, draw.target_alphas, rng)


def _mask_sequence(
    spec: ModalitySpec, config: MaskingConfig, tokens: Tokens, draw: _Draw, m: int, rng: np.random.Generator
) -> tuple[_Chosen, _Chosen]:
    """Inputs and targets of a sequence or embedding modality; positions are ranks within the chosen tokens."""
    is_text = spec.kind is Kind.SEQUENCE
    wanted = (draw.inputs[:, m] > 0) | (is_text & (draw.targets[:, m] > 0))
    rows = np.flatnonzero(wanted & (tokens.lengths > 0))
    lengths, budgets = tokens.lengths[rows], draw.inputs[rows, m]
    counts = np.zeros((2, len(wanted)), np.int64)
    kept = spans.draw_keep(lengths, budgets, draw.keeps[rows, m], rng, chunked=spec.chunked)
    if not is_text:
        # A masked run of vectors is one vector of zeros, the row after the last (ml-4m `sequence_emb_mask_span`).
        starts = spans.run_starts(~kept, lengths)
        counts[0, rows] = ragged.row_sums(kept | starts, lengths)
        vectors = np.where(starts, spec.max_tokens, ragged.ranks(lengths))[kept | starts]
        none = np.zeros(0, np.int32)
        return _Chosen(counts[0], vectors, ragged.ranks(counts[0])), _Chosen(counts[1], none, none)
    assert tokens.ids is not None
    order = ragged.indices(ragged.exclusive_cumsum(tokens.lengths)[rows], lengths)
    if spec.chunked:
        order = _shuffle_chunks(order, lengths, rng)
    split = spans.split(tokens.ids[order], kept, lengths, config.first_sentinel)
    # Without an input budget the input is empty, and not the sentinel that stands for all of the text.
    counts[0, rows] = np.where(budgets > 0, split.input_lengths, 0)
    start, length = spans.cut_targets(split, draw.targets[rows, m], rng)
    counts[1, rows] = np.maximum(length - 1, 0)
    read = ragged.indices(ragged.exclusive_cumsum(split.target_lengths) + start, counts[1, rows])
    shown = split.input_ids[ragged.spread(budgets > 0, split.input_lengths)]
    return (
        _Chosen(counts[0], shown, ragged.ranks(counts[0])),
        _Chosen(counts[1], split.target_ids[read + 1], ragged.ranks(counts[1]), split.target_ids[read]),
    )


def _shuffle_chunks(order: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Token indices with each sequence's pairs in a random order; an odd token at its end (EOS) stays there."""
    pairs = lengths // spans.CHUNK_TOKENS
    keys = ragged.spread(np.arange(len(pairs)), pairs) + rng.random(int(pairs.sum()))
    ranks = np.argsort(keys) - ragged.spread(ragged.exclusive_cumsum(pairs), pairs)
    begin = ragged.exclusive_cumsum(lengths)
    shuffled = order.copy()
    place = ragged.spread(begin, pairs) + spans.CHUNK_TOKENS * ragged.ranks(pairs)
    source = ragged.spread(begin, pairs) + spans.CHUNK_TOKENS * ranks
    for i in range(spans.CHUNK_TOKENS):
        shuffled[place + i] = order[source + i]
    return shuffled


def _mask_grid(
    spec: ModalitySpec, tokens: Tokens, inputs: np.ndarray, targets: np.ndarray, rng: np.random.Generator
) -> tuple[_Chosen, _Chosen]:
    """Disjoint random subsets of a grid; `inputs` and `targets` say how many tokens, (B,) each."""
    rows = np.flatnonzero((inputs + targets > 0) & (tokens.lengths > 0))
    shown, predicted = choose_disjoint(spec.max_tokens, inputs[rows], targets[rows], rng)
    sides = []
    for chosen, wanted in ((shown, inputs), (predicted, targets)):
        counts = np.zeros(len(inputs), np.int64)
        counts[rows] = wanted[rows]
        position = np.flatnonzero(chosen) - ragged.spread(np.arange(len(rows)) * spec.max_tokens, counts[rows])
        ids = position if tokens.ids is None else tokens.ids[ragged.spread(rows, counts[rows]), position]
        sides.append(_Chosen(counts, ids, position))
    return sides[0], sides[1]


def choose_disjoint(
    length: int, first: np.ndarray, second: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint uniformly random subsets of 0..length-1 for each row.

    Args:
        first, second: int64 (R,), sizes; first + second <= length.

    Returns:
        bool (R, length) twice.
    """
    # One random key for each position, unique within its row because its low bits are the position: sorting gives
    # thresholds, and comparing with them gives the subsets in raster order without a second sort.
    bits = max(length - 1, 1).bit_length()
    keys = rng.integers(0, 2 ** (32 - bits), (len(first), length), dtype=np.uint32)
    keys = (keys << np.uint32(bits)) | np.arange(length, dtype=np.uint32)
    ordered = np.sort(keys, axis=1)
    rows = np.arange(len(first))
    in_first, in_both = (
        (keys <= ordered[rows, np.maximum(size, 1) - 1][:, None]) & (size > 0)[:, None] for size in (first, first + second)
    )
    return in_first, in_both ^ in_first


def _pack(
    specs: Sequence[ModalitySpec], inputs: Sequence[_Chosen], targets: Sequence[_Chosen], count: int, n: int, m: int
) -> PackedBatch:
    shown, predicted = _pack_side(specs, inputs, count, n), _pack_side(specs, targets, count, m)
    return PackedBatch(
        input_ids=shown.ids,
        input_mod=shown.mod,
        input_pos=shown.position,
        input_valid=shown.valid,
        target_ids=predicted.ids,
        query_ids=predicted.query,
        target_mod=predicted.mod,
        target_pos=predicted.position,
        target_end=predicted.end,
        target_valid=predicted.valid,
    )


@dataclass(frozen=True)
class _Side:
    """Inputs or targets, packed: int32 (count, width) each, `valid` bool."""

    ids: np.ndarray
    mod: np.ndarray
    position: np.ndarray
    query: np.ndarray
    end: np.ndarray
    valid: np.ndarray


def _pack_side(specs: Sequence[ModalitySpec], chosen: Sequence[_Chosen], count: int, width: int) -> _Side:
    """Put the chosen tokens side by side, modality after modality."""
    ids, mod, position, query, end = (np.zeros((count, width), np.int32) for _ in range(5))
    used = np.zeros(count, np.int64)
    for m, (spec, piece) in enumerate(zip(specs, chosen, strict=True)):
        slots = ragged.indices(np.arange(count) * width + used, piece.counts)
        used += piece.counts
        ids.reshape(-1)[slots] = piece.ids
        mod.reshape(-1)[slots] = m
        position.reshape(-1)[slots] = piece.positions
        query.reshape(-1)[slots] = -1 if piece.queries is None else piece.queries
        # A grid's targets all see each other; a text's see those before them and themselves.
        causal = spec.kind is Kind.SEQUENCE
        end.reshape(-1)[slots] = slots % width + 1 if causal else ragged.spread(used, piece.counts)
    assert used.max(initial=0) <= width
    return _Side(ids, mod, position, query, end, np.arange(width) < used[:, None])
