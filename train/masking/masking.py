"""Multimodal masked modelling: from a batch of whole samples to inputs and targets, as in 4M and 4M-21.

For each sample: numbers of tokens, a component of the mixture of Dirichlets, budgets for each modality (budgets.py),
then which tokens: disjoint random subsets of grids, spans of sequences (spans.py). The chosen tokens are packed into
a `PackedBatch` (packing.py). Nothing here loops over samples; a sample's mask follows from its key alone (draws.py).

`redistribute=False` is the reference (apple/ml-4m) in distribution: budgets of short texts and missing modalities are
lost. `redistribute=True` gives them to the sample's grids, in the proportions of the same Dirichlet draw.

Legend: B samples, S modalities, N and M the largest numbers of input and target tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...modalities import Kind, ModalitySpec
from ...model.batch import PackedBatch
from ..data import ragged
from ..data.draws import Draws
from . import spans
from .budgets import MAX_ALPHA, draw_budgets, fill_up
from .packing import Chosen, pack
from .spans import KEEPS, Keep

_TEXT_KINDS = (Kind.SEQUENCE, Kind.EMBEDDING)


@dataclass(frozen=True)
class ResolvedMixture:
    """A mixture of a recipe with one concentration for each modality; also called a component below.

    input_alphas, target_alphas: modality -> concentration; modalities that are not named have 0.
    weight: how often the component is drawn, in proportion.
    keep: modality -> how its input spans are drawn, for sequences and embeddings; `Keep.RANDOM` if not named.
    during: the part of the run in which the component is drawn, from 0 to 1.
    """

    input_alphas: Mapping[str, float]
    target_alphas: Mapping[str, float]
    weight: float = 1.0
    keep: Mapping[str, Keep] = field(default_factory=dict)
    during: tuple[float, float] = (0.0, 1.0)


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
    mixtures: tuple[ResolvedMixture, ...]
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
        # Most sentinels: every other token masked, one more that closes the target, and [S_0], which is never used.
        if (needed := (longest + 1) // 2 + 2) > self.num_sentinels:
            raise ValueError(f"masking.num_sentinels: {self.num_sentinels}, texts of {longest} tokens need {needed}")
        for i, mixture in enumerate(self.mixtures):
            for what in ("input_alphas", "target_alphas", "keep"):
                if unknown := sorted(set(getattr(mixture, what)) - set(known)):
                    raise ValueError(f"masking.mixtures[{i}].{what}: {unknown} are not among {sorted(known)}")
            if bad := [
                a for a in (*mixture.input_alphas.values(), *mixture.target_alphas.values()) if not 0 <= a <= MAX_ALPHA
            ]:
                raise ValueError(f"masking.mixtures[{i}]: alphas must be 0 to {MAX_ALPHA:.0e}, got {bad}")
            for alphas, specs_of_side in (
                (mixture.input_alphas, list(known)),
                (mixture.target_alphas, [n for n, spec in known.items() if spec.is_target]),
            ):
                if not any(alphas.get(name, 0) > 0 for name in specs_of_side):
                    raise ValueError(f"masking.mixtures[{i}]: no modality of {specs_of_side} has an alpha above 0")


@dataclass(frozen=True)
class ModalityTokens:
    """All tokens of one modality in a batch, before masking.

    lengths: int64 (B,), tokens, patches or vectors of each sample; 0 where the sample lacks the modality.
    ids: grids: integers (B, max_tokens), anything where lengths is 0. Sequences: flat (sum of lengths,), EOS included.
        Pixels and embeddings: None; their masks do not look at the values.
    """

    lengths: np.ndarray
    ids: np.ndarray | None = None


def mask_batch(
    specs: Sequence[ModalitySpec],
    config: MaskingConfig,
    tokens: Mapping[str, ModalityTokens],
    keys: np.ndarray | np.random.Generator,
    weights: np.ndarray | None = None,
) -> PackedBatch:
    """Choose inputs and targets of a batch.

    Args:
        specs: the model's modalities; their order numbers `input_mod` and `target_mod`.
        config: checked against `specs` once by the caller (`config.check`).
        tokens: what the samples have, for every modality of `specs`.
        keys: uint64 (B,), what each sample's randomness follows from, and random themselves (`order.mask_keys`); or a
            generator to draw them from.
        weights: float (B, K), how often each of the K components is drawn for each sample, in proportion; those of the
            components themselves if None.

    Returns:
        A batch of NumPy arrays without `values` and `keys`. Grid and pixel tokens are in raster order. `input_ids` of
        pixels and embeddings are rows of the `values` to be: 0..max_tokens-1, and for masked runs of embeddings
        max_tokens, which must be a row of zeros.
    """
    lengths = np.stack([tokens[spec.name].lengths for spec in specs], axis=1)
    draws = Draws(keys) if isinstance(keys, np.ndarray) else Draws.fresh(keys, len(lengths))
    if weights is None:
        weights = np.tile([mixture.weight for mixture in config.mixtures], (len(lengths), 1))
    draw = _draw(specs, config, lengths, weights, draws)
    texts = _mask_texts(specs, config, tokens, draw, draws)
    _final_budgets(specs, config, lengths, draw, texts, draws)
    inputs: list[Chosen] = []
    targets: list[Chosen] = []
    for m, spec in enumerate(specs):
        text = texts.get(m) or _mask_grid(spec, tokens[spec.name], draw.inputs[:, m], draw.targets[:, m], draws)
        inputs.append(text[0])
        targets.append(text[1])
    return pack(specs, inputs, targets, config.input_tokens[1], config.target_tokens[1])


@dataclass
class _Draw:
    """What was drawn for each sample: totals (B,), shares (B, S), keep rules (B, S), budgets (B, S)."""

    input_total: np.ndarray
    target_total: np.ndarray
    input_shares: np.ndarray
    target_shares: np.ndarray
    keeps: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray


def _draw(
    specs: Sequence[ModalitySpec], config: MaskingConfig, lengths: np.ndarray, odds: np.ndarray, draws: Draws
) -> _Draw:
    names = [spec.name for spec in specs]
    in_alphas, out_alphas = (
        np.array([[float(getattr(m, side).get(n, 0.0)) for n in names] for m in config.mixtures])
        for side in ("input_alphas", "target_alphas")
    )
    keeps = np.array([[KEEPS.index(m.keep.get(n, Keep.RANDOM)) for n in names] for m in config.mixtures])
    # Only the reference lets missing modalities, and those that are no targets, draw budgets, which are lost.
    is_target = np.array([spec.is_target for spec in specs])
    can_show = (lengths > 0) | (not config.redistribute)
    can_predict = can_show & is_target | (not config.redistribute)
    # Components that give a sample no input or no target are not drawn for it, unless all are like that.
    feasible = (can_show @ (in_alphas > 0).T) & (can_predict @ (out_alphas > 0).T)
    if config.redistribute:
        possible = odds * feasible
        odds = np.where(possible.any(axis=1, keepdims=True), possible, odds)
    component = _draw_component(odds, draws.of("component"))
    in_alphas, out_alphas = in_alphas[component], out_alphas[component]
    in_total, out_total = (
        least + draws.of("total", side).below(np.full(len(odds), most + 1 - least))
        for side, (least, most) in (("input", config.input_tokens), ("target", config.target_tokens))
    )
    (inputs, targets), (in_shares, out_shares) = (
        np.split(both, 2)
        for both in draw_budgets(  # both sides together: twice the rows cost less than a second call
            np.concatenate([in_alphas * can_show, out_alphas * can_predict]),
            np.concatenate([in_total, out_total]),
            Draws.concatenate([draws.of("inputs"), draws.of("targets")]),
        )
    )
    # A token of a grid is either shown or predicted; texts are split by spans, which need no such limit.
    limit = np.array([spec.max_tokens for spec in specs])
    is_text = np.array([spec.kind in _TEXT_KINDS for spec in specs])
    inputs = np.minimum(inputs, limit)
    targets = np.minimum(targets, np.where(is_text, limit, limit - inputs))
    return _Draw(in_total, out_total, in_shares, out_shares, keeps[component], inputs, targets)


def _draw_component(odds: np.ndarray, draws: Draws) -> np.ndarray:
    """An index for each row of `odds` (B, K), in their proportions; never one whose odds are 0."""
    ends = np.cumsum(odds, axis=1)
    return (ends >= draws.uniform(1) * ends[:, -1:]).argmax(axis=1)


def _final_budgets(
    specs: Sequence[ModalitySpec],
    config: MaskingConfig,
    lengths: np.ndarray,
    draw: _Draw,
    texts: Mapping[int, tuple[Chosen, Chosen]],
    draws: Draws,
) -> None:
    """Lower `draw.inputs` and `draw.targets` to the tokens that there are, and redistribute the rest if configured."""
    # Texts first: how many tokens they take is known only after their spans are drawn.
    for m, (shown, predicted) in texts.items():
        draw.inputs[:, m], draw.targets[:, m] = shown.counts, predicted.counts
    is_grid = np.array([spec.kind in (Kind.GRID, Kind.PIXELS) for spec in specs])
    is_target = np.array([spec.kind is Kind.GRID for spec in specs])
    room = np.where(is_grid, lengths, 0)
    draw.inputs = np.where(is_grid, np.minimum(draw.inputs, room), draw.inputs)
    if config.redistribute:
        left = draw.input_total - draw.inputs.sum(axis=1)
        # Inputs must not take the tokens that the targets have drawn.
        spared = np.where(is_target, np.minimum(draw.targets, room - draw.inputs), 0)
        draw.inputs = fill_up(draw.inputs, room - spared, left, draw.input_shares, draws.of("fill inputs"))
    room = np.where(is_target, room - draw.inputs, 0)
    draw.targets = np.where(is_grid, np.minimum(draw.targets, room), draw.targets)
    if config.redistribute:
        left = draw.target_total - draw.targets.sum(axis=1)
        draw.targets = fill_up(draw.targets, room, left, draw.target_shares, draws.of("fill targets"))


def _mask_texts(
    specs: Sequence[ModalitySpec],
    config: MaskingConfig,
    tokens: Mapping[str, ModalityTokens],
    draw: _Draw,
    draws: Draws,
) -> dict[int, tuple[Chosen, Chosen]]:
    """Inputs and targets of sequences and embeddings, by the index of their modality.

    All modalities are masked together, one after the other in the same flat arrays: most are short, and the cost of a
    NumPy call is paid once for all. Positions are ranks within the chosen tokens.
    """
    texts = [_text(m, spec, tokens[spec.name], draw, draws) for m, spec in enumerate(specs) if spec.kind in _TEXT_KINDS]
    if not texts:
        return {}
    ids, lengths, inputs, targets, keeps, chunks = (
        np.concatenate([getattr(text, name) for text in texts])
        for name in ("ids", "lengths", "inputs", "targets", "keeps", "chunks")
    )
    own = Draws.concatenate([text.draws for text in texts])
    split = spans.split(ids, spans.draw_keep(lengths, inputs, keeps, chunks, own), lengths, config.first_sentinel)
    # Without an input budget the input is empty; one sentinel for the whole text would be a token over budget.
    shown = np.where(inputs > 0, split.input_lengths, 0)
    input_ids = split.input_ids[ragged.spread(inputs > 0, split.input_lengths)]
    start, length = spans.cut_targets(split, targets, own.of("cut"))
    # n target tokens are n - 1 predictions: the first sentinel is only read (teacher forcing).
    predicted = np.maximum(length - 1, 0)
    reads = ragged.indices(ragged.exclusive_cumsum(split.target_lengths) + start, predicted)
    chosen, row, first_input, first_target = {}, 0, 0, 0
    for text in texts:
        here = slice(row, row := row + len(text.rows))
        in_counts, out_counts = (np.zeros(len(draw.inputs), np.int64) for _ in range(2))
        in_counts[text.rows], out_counts[text.rows] = shown[here], predicted[here]
        seen = input_ids[first_input : (first_input := first_input + int(in_counts.sum()))]
        if specs[text.modality].kind is Kind.EMBEDDING:
            # ~row is a vector's row; ids >= 0 are sentinels, which become the row of zeros after the last vector.
            seen = np.where(seen < 0, ~seen, specs[text.modality].max_tokens)
        read = reads[first_target : (first_target := first_target + int(out_counts.sum()))]
        chosen[text.modality] = (
            Chosen(in_counts, seen, ragged.ranks(in_counts)),
            Chosen(out_counts, split.target_ids[read + 1], ragged.ranks(out_counts), split.target_ids[read]),
        )
    return chosen


@dataclass(frozen=True)
class _Text:
    """The draws of one sequence or embedding modality: R `rows` (samples) take part, `ids` is flat, the others are
    int64 (R,). The ids of vectors are ~0, ~1, ...: below 0, so that they differ from sentinels."""

    modality: int
    rows: np.ndarray
    ids: np.ndarray
    lengths: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray
    keeps: np.ndarray
    chunks: np.ndarray
    draws: Draws


def _text(m: int, spec: ModalitySpec, tokens: ModalityTokens, draw: _Draw, draws: Draws) -> _Text:
    targets = draw.targets[:, m] * spec.is_target  # as ml-4m: embeddings draw a target budget and lose it
    rows = np.flatnonzero(((draw.inputs[:, m] > 0) | (targets > 0)) & (tokens.lengths > 0))
    lengths, own = tokens.lengths[rows], draws.of("tokens", spec.name).rows(rows)
    if tokens.ids is None:
        ids = ~ragged.ranks(lengths)
    else:
        order = ragged.indices(ragged.exclusive_cumsum(tokens.lengths)[rows], lengths)
        if spec.chunked:
            order = _shuffle_chunks(order, lengths, own.of("order"))
        ids = tokens.ids[order].astype(np.int64)
    chunks = np.full(len(rows), spans.CHUNK_TOKENS if spec.chunked else 1)
    return _Text(m, rows, ids, lengths, draw.inputs[rows, m], targets[rows], draw.keeps[rows, m], chunks, own)


def _shuffle_chunks(order: np.ndarray, lengths: np.ndarray, draws: Draws) -> np.ndarray:
    """Token indices with each sequence's pairs in a random order; an odd token at its end (EOS) stays there."""
    # A new order at each draw (4M-21): one sort of all pairs, with the sequence's number in the upper 32 bits.
    pairs = lengths // spans.CHUNK_TOKENS
    keys = ragged.spread(np.arange(len(pairs), dtype=np.uint64) << np.uint64(32), pairs) | draws.flat(pairs)
    ranks = np.argsort(keys) - ragged.spread(ragged.exclusive_cumsum(pairs), pairs)
    begin = ragged.spread(ragged.exclusive_cumsum(lengths), pairs)
    shuffled = order.copy()
    for i in range(spans.CHUNK_TOKENS):
        shuffled[begin + spans.CHUNK_TOKENS * ragged.ranks(pairs) + i] = order[begin + spans.CHUNK_TOKENS * ranks + i]
    return shuffled


def _mask_grid(
    spec: ModalitySpec, tokens: ModalityTokens, inputs: np.ndarray, targets: np.ndarray, draws: Draws
) -> tuple[Chosen, Chosen]:
    """Disjoint random subsets of a grid; `inputs` and `targets` say how many tokens, (B,) each."""
    rows = np.flatnonzero(inputs + targets)
    own = draws.of("tokens", spec.name).rows(rows)
    sides = []
    positions = choose_disjoint(spec.max_tokens, inputs[rows], targets[rows], own)
    for position, counts in zip(positions, (inputs, targets), strict=True):
        ids = position
        if tokens.ids is not None:
            ids = tokens.ids.ravel().take(position + ragged.spread(rows * spec.max_tokens, counts[rows]))
        sides.append(Chosen(counts, ids, position))
    return sides[0], sides[1]


def choose_disjoint(length: int, first: np.ndarray, second: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint uniformly random subsets of 0..length-1 for each row.

    Args:
        first, second: int64 (R,), sizes; first + second <= length.
        draws: of the R rows.

    Returns:
        The subsets, row after row, each in ascending order: int64 (sum of first,) and (sum of second,).
    """
    # One random key for each position, unique within its row because its low bits are the position. Sorting gives
    # thresholds, and comparing with them gives the subsets in raster order without a second sort. Positions count from
    # 1, so that a threshold of 0 is below all keys.
    keys = draws.bits(length)
    keys <<= np.uint32(length.bit_length())
    keys |= np.arange(1, length + 1, dtype=np.uint32)
    ordered, rows, both = np.sort(keys, axis=1), np.arange(len(first)), first + second
    highest_first, highest = (np.where(size > 0, ordered[rows, size - 1], np.uint32(0)) for size in (first, both))
    chosen = np.flatnonzero(keys <= highest[:, None])
    in_first = keys.ravel().take(chosen) <= ragged.spread(highest_first, both)
    chosen -= ragged.spread(rows * length, both)
    return chosen.compress(in_first), chosen.compress(~in_first)
