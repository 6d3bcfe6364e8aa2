"""Masking: what holds of every batch, whatever the samples and the generator."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.batch import PackedBatch
from fourmill.train.data import ragged
from fourmill.train.data.draws import Draws
from fourmill.train.masking import masking, spans
from fourmill.train.masking.masking import MaskingConfig, ModalityTokens, ResolvedMixture, choose_disjoint, mask_batch
from fourmill.train.masking.spans import Keep

SPECS = [
    ModalitySpec("rgb", Kind.PIXELS, 0, 16, input_dim=12),
    ModalitySpec("tok_rgb", Kind.GRID, 50, 16),
    ModalitySpec("tok_depth", Kind.GRID, 50, 25),
    ModalitySpec("caption", Kind.SEQUENCE, 9000, 20),
    ModalitySpec("metadata", Kind.SEQUENCE, 9000, 9, chunked=True),
    ModalitySpec("t5_caption", Kind.EMBEDDING, 0, 7, input_dim=4),
]
NAMES = [spec.name for spec in SPECS]
ALL = dict.fromkeys(NAMES, 0.5)
TO_ALL = {"tok_rgb": 1.0, "tok_depth": 0.2, "caption": 1.0, "metadata": 1.0}
MIXTURES = (
    ResolvedMixture(ALL, TO_ALL),
    ResolvedMixture({"rgb": 1000.0}, TO_ALL, 2.0),
    ResolvedMixture(
        {"caption": 5.0, "tok_depth": 0.05, "t5_caption": 5.0},
        TO_ALL,
        0.5,
        {"caption": Keep.ALL, "t5_caption": Keep.ALL},
    ),
    ResolvedMixture(ALL, TO_ALL, 1.0, {"metadata": Keep.BINARY}),
)
CONFIG = MaskingConfig((4, 24), (6, 32), MIXTURES)
EOS, FIRST_SENTINEL = 3, 5


def fresh(rows: int, seed: int = 0) -> Draws:
    return Draws.fresh(np.random.default_rng(seed), rows)


def make_tokens(count: int, rng: np.random.Generator, missing: float = 0.3) -> dict[str, ModalityTokens]:
    """Random samples. Texts hold ids from 1000 on, each different from its neighbours, and EOS."""
    tokens = {}
    for spec in SPECS:
        there = rng.random(count) >= missing
        if spec.kind in (Kind.PIXELS, Kind.GRID):
            ids = rng.integers(0, 50, (count, spec.max_tokens)).astype(np.uint16)
            tokens[spec.name] = ModalityTokens(
                np.where(there, spec.max_tokens, 0), ids if spec.kind is Kind.GRID else None
            )
            continue
        lengths = np.where(there, rng.integers(1, spec.max_tokens + 1, count), 0)
        if spec.chunked:
            lengths -= there & (lengths % 2 == 0)  # pairs and EOS
        flat = 1000 + ragged.ranks(lengths) + 100 * ragged.spread(np.arange(count) % 10, lengths)
        flat[(np.cumsum(lengths) - 1)[lengths > 0]] = EOS
        tokens[spec.name] = ModalityTokens(lengths, flat.astype(np.uint16) if spec.kind is Kind.SEQUENCE else None)
    return tokens


def text_of(tokens: ModalityTokens, sample: int) -> list[int]:
    assert tokens.ids is not None
    start = ragged.exclusive_cumsum(tokens.lengths)[sample]
    return tokens.ids[start : start + tokens.lengths[sample]].tolist()


def check_text(
    spec: ModalitySpec, tokens: ModalityTokens, b: PackedBatch, i: int, into: np.ndarray, out: np.ndarray
) -> None:
    """Inputs and targets of one text hold only its tokens, each at most once, under the right sentinels."""
    text, shown = text_of(tokens, i), b.input_ids[i][into].tolist()
    queries, targets = b.query_ids[i][out].tolist(), b.target_ids[i][out].tolist()
    assert b.input_pos[i][into].tolist() == list(range(len(shown)))
    assert b.target_pos[i][out].tolist() == list(range(len(targets)))
    assert b.target_end[i][out].tolist() == (np.flatnonzero(out) + 1).tolist()
    assert queries[1:] == targets[:-1], "teacher forcing reads what was to be predicted before"
    is_sentinel = [FIRST_SENTINEL <= t < 1000 for t in shown]
    assert [t for t, s in zip(shown, is_sentinel, strict=True) if s] == list(
        range(FIRST_SENTINEL, FIRST_SENTINEL + sum(is_sentinel))
    )
    assert not any(a and c for a, c in pairwise(is_sentinel)), "runs are as long as they can be"
    kept = [t for t, s in zip(shown, is_sentinel, strict=True) if not s]
    predicted = [t for t in targets if not FIRST_SENTINEL <= t < 1000]
    if queries:
        assert FIRST_SENTINEL <= queries[0] < 1000
    assert len(set(kept + predicted)) == len(kept + predicted)
    assert set(kept + predicted) <= set(text)
    if not spec.chunked:
        order = [text.index(t) for t in kept]
        assert order == sorted(order)
    elif kept:  # pairs stay together, EOS stays last
        pairs = kept[: len(kept) // 2 * 2]
        assert all(b == a + 1 and (a - 1000) % 2 == 0 for a, b in zip(pairs[::2], pairs[1::2], strict=True))
        assert len(kept) % 2 == 0 or kept[-1] == EOS


@given(seed=st.integers(0, 10**6), redistribute=st.booleans(), missing=st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=60, deadline=None)
def test_laws(seed: int, redistribute: bool, missing: float) -> None:
    rng = np.random.default_rng(seed)
    tokens = make_tokens(12, rng, missing)
    config = replace(CONFIG, redistribute=redistribute)
    b = mask_batch(SPECS, config, tokens, rng)
    assert b.input_ids.shape == (12, 24) and b.target_ids.shape == (12, 32)
    for side in ("input", "target"):
        valid, mod = getattr(b, f"{side}_valid"), getattr(b, f"{side}_mod")
        assert (np.diff(valid.astype(int), axis=1) <= 0).all(), "valid tokens come first"
        assert (np.diff(np.where(valid, mod, len(SPECS)), axis=1) >= 0).all(), "sorted by modality"
        assert not getattr(b, f"{side}_ids")[~valid].any() and not mod[~valid].any()
    for i in range(12):
        for m, spec in enumerate(SPECS):
            into, out = (b.input_mod[i] == m) & b.input_valid[i], (b.target_mod[i] == m) & b.target_valid[i]
            source = tokens[spec.name]
            if source.lengths[i] == 0 or not spec.is_target:
                assert not out.any()
            if source.lengths[i] == 0:
                assert not into.any()
            elif spec.kind is Kind.SEQUENCE:
                check_text(spec, source, b, i, into, out)
            elif spec.kind is Kind.EMBEDDING:
                vectors = b.input_ids[i][into]
                assert (vectors[vectors < spec.max_tokens] < source.lengths[i]).all()
                assert b.input_pos[i][into].tolist() == list(range(into.sum()))
            else:
                shown, hidden = b.input_pos[i][into], b.target_pos[i][out]
                assert not set(shown) & set(hidden) and (np.diff(shown) > 0).all() and (np.diff(hidden) > 0).all()
                expected = np.arange(spec.max_tokens) if source.ids is None else source.ids[i]
                assert (b.input_ids[i][into] == expected[shown]).all()
                if out.any():
                    assert (b.target_ids[i][out] == expected[hidden]).all() and (b.query_ids[i][out] == -1).all()
                    assert (b.target_end[i][out] == np.flatnonzero(out)[-1] + 1).all()


@given(seed=st.integers(0, 10**6), redistribute=st.booleans(), data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_sample_is_masked_as_if_it_were_alone(seed: int, redistribute: bool, data: st.DataObject) -> None:
    """A sample's mask follows from its tokens and its key, whatever samples are masked with it."""
    rng = np.random.default_rng(seed)
    tokens, keys = make_tokens(12, rng), rng.integers(0, 2**64, 12, dtype=np.uint64)
    config = replace(CONFIG, redistribute=redistribute)
    whole = mask_batch(SPECS, config, tokens, keys)
    chosen = np.array(data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=6)))
    part = mask_batch(SPECS, config, {name: some(t, chosen) for name, t in tokens.items()}, keys[chosen])
    for name, array in part.arrays().items():
        np.testing.assert_array_equal(array, whole.arrays()[name][chosen], name)


def some(tokens: ModalityTokens, rows: np.ndarray) -> ModalityTokens:
    lengths = tokens.lengths[rows]
    if tokens.ids is None or tokens.ids.ndim == 2:
        return ModalityTokens(lengths, None if tokens.ids is None else tokens.ids[rows])
    return ModalityTokens(lengths, tokens.ids[ragged.indices(ragged.exclusive_cumsum(tokens.lengths)[rows], lengths)])


def test_weights_of_samples_choose_among_the_components() -> None:
    tokens = make_tokens(400, np.random.default_rng(0), missing=0.0)
    only = (
        ResolvedMixture({"rgb": 1.0}, {"tok_rgb": 1.0}),
        ResolvedMixture({"tok_depth": 1.0}, {"caption": 1.0}, weight=9.0),
    )
    weights = np.where(np.arange(400)[:, None] % 2, [[1.0, 0.0]], [[0.0, 1.0]])
    b = mask_batch(SPECS, MaskingConfig((8, 8), (8, 8), only), tokens, np.random.default_rng(0), weights)
    assert (b.input_mod[1::2] == NAMES.index("rgb")).all() and (b.input_mod[::2] == NAMES.index("tok_depth")).all()


@pytest.mark.parametrize(("modalities", "total"), [(7, 128), (18, 256)])
def test_small_alphas_leave_a_token_to_give(modalities: int, total: int) -> None:
    """Of a Dirichlet draw of alpha 0.01 nearly all goes to one, but never all: the reference then gives the last token
    to the winner of another draw. Compared with the rule itself on PyTorch's Dirichlet."""
    count = 40_000
    torch.manual_seed(0)
    alphas = torch.full((modalities,), 0.01)
    expected = (torch.distributions.Dirichlet(alphas).sample((count,)) * total).floor().long()
    while (left := total - expected.sum(1)).any():
        rows = left.nonzero()[:, 0]
        winners = torch.distributions.Dirichlet(alphas).sample((len(rows),)).argmax(1)
        expected.index_put_((rows, winners), torch.ones(1, dtype=torch.long), accumulate=True)
    shape = (count, modalities)
    budgets, _ = masking.draw_budgets(np.full(shape, 0.01), np.full(count, total), fresh(count))
    assert (budgets.sum(1) == total).all()
    for ours, reference in (((budgets > 0).sum(1), (expected > 0).sum(1)), (budgets.max(1), expected.max(1).values),
                         ((budgets == total).any(1), (expected == total).any(1))):  # fmt: skip
        a, b = ours.astype(float), reference.double().numpy()
        assert abs(a.mean() - b.mean()) < 4.5 * np.sqrt((a.var() + b.var()) / count)


def test_same_generator_same_batch() -> None:
    tokens = make_tokens(8, np.random.default_rng(0))
    first, again, other = (mask_batch(SPECS, CONFIG, tokens, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first.input_ids == again.input_ids).all() and (first.target_ids == again.target_ids).all()
    assert (first.input_ids != other.input_ids).any()


def test_redistribution_fills_the_budgets() -> None:
    tokens = make_tokens(500, np.random.default_rng(0), missing=0.2)
    grids = [n for n in ("rgb", "tok_rgb", "tok_depth")]
    complete = np.all([tokens[n].lengths > 0 for n in grids], axis=0)
    config = MaskingConfig((24, 24), (12, 12), (ResolvedMixture(ALL, TO_ALL),))
    full = mask_batch(SPECS, config, tokens, np.random.default_rng(1))
    assert full.input_valid[complete].all() and full.target_valid[complete].all()
    parity = mask_batch(SPECS, replace(config, redistribute=False), tokens, np.random.default_rng(1))
    assert parity.input_valid[complete].mean() < 0.9 and parity.target_valid[complete].mean() < 0.95


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_leftover_budget_follows_shares_and_room(seed: int) -> None:
    rng = np.random.default_rng(seed)
    budgets, capacity = rng.integers(0, 9, (30, 5)), rng.integers(0, 30, (30, 5))
    shares = rng.choice([0, 1e-300, 1e-20, 0.1, 0.3, 1.0], (30, 5))
    left = rng.integers(0, 60, 30)
    filled = masking.fill_up(budgets, capacity, left, shares, fresh(30, seed))
    given_out, room = filled - budgets, np.where(shares > 0, np.maximum(capacity - budgets, 0), 0)
    assert (given_out >= 0).all() and (given_out <= room).all()
    assert (given_out.sum(axis=1) == np.minimum(left, room.sum(axis=1))).all()
    # A modality with room left took no less for its share than any other, but for one token of rounding.
    for extra, space, share in zip(given_out, room, shares, strict=True):
        for i in np.flatnonzero(extra < space):
            assert ((extra - 1) * share[i] <= (extra[i] + 1) * share).all()


def test_what_is_left_goes_in_exact_proportion_on_average() -> None:
    count = 20_000
    shares, none = np.tile([0.5, 0.3, 0.2, 0.0], (count, 1)), np.zeros((count, 4), np.int64)
    filled = masking.fill_up(none, np.tile([3, 90, 90, 90], (count, 1)), np.full(count, 7), shares, fresh(count))
    assert (filled[:, 0] == 3).all() and not filled[:, 3].any()  # 3 of 7, and of the other 4 come 2.4 and 1.6
    assert abs(filled[:, 1].mean() - 2.4) < 4.5 * (0.24 / count) ** 0.5


def test_redistribution_respects_alphas_of_zero() -> None:
    tokens = make_tokens(200, np.random.default_rng(0), missing=0.0)
    config = MaskingConfig((24, 24), (8, 8), (ResolvedMixture({"rgb": 1000.0}, {"caption": 1.0}),))
    b = mask_batch(SPECS, config, tokens, np.random.default_rng(1))
    assert (b.input_valid.sum(axis=1) == 16).all() and not b.input_mod.any()
    assert (b.target_mod[b.target_valid] == NAMES.index("caption")).all()


def test_redistribution_shows_nothing_that_targets_drew() -> None:
    tokens = make_tokens(500, np.random.default_rng(0), missing=0.0)
    tokens = {name: ModalityTokens(np.zeros(500, np.int64), all_of.ids) for name, all_of in tokens.items()}
    tokens["tok_rgb"] = ModalityTokens(np.full(500, 16), tokens["tok_rgb"].ids)
    tokens["caption"] = ModalityTokens(np.full(500, 2), np.tile([1000, EOS], 500))
    shown = ResolvedMixture({"tok_rgb": 1.0, "caption": 1.0}, {"tok_rgb": 1.0})
    b = mask_batch(SPECS, MaskingConfig((16, 16), (8, 8), (shown,)), tokens, np.random.default_rng(1))
    # Of 16 tokens the grid draws 0 to 16, all as likely; what the caption cannot use leaves 8 of them, where there are.
    assert abs(b.target_valid.sum(axis=1).mean() - (9 * 8 + sum(range(8))) / 17) < 0.5


def test_missing_modalities_leave_their_budget_to_others() -> None:
    tokens = make_tokens(200, np.random.default_rng(0), missing=0.0)
    tokens["rgb"] = ModalityTokens(np.zeros(200, np.int64))
    config = MaskingConfig((8, 8), (8, 8), (ResolvedMixture({"rgb": 1000.0, "tok_depth": 0.1}, {"tok_rgb": 1.0}),))
    assert mask_batch(SPECS, config, tokens, np.random.default_rng(1)).input_valid.all()
    off = replace(config, redistribute=False)
    assert mask_batch(SPECS, off, tokens, np.random.default_rng(1)).input_valid.mean() < 0.01


def test_components_that_a_sample_cannot_fill_are_not_drawn() -> None:
    tokens = make_tokens(300, np.random.default_rng(0), missing=0.0)
    tokens["rgb"] = ModalityTokens(np.where(np.arange(300) % 2, 16, 0))
    mixtures = (ResolvedMixture({"rgb": 1.0}, {"tok_rgb": 1.0}), ResolvedMixture({"caption": 1.0}, {"tok_depth": 1.0}))
    b = mask_batch(SPECS, MaskingConfig((8, 8), (8, 8), mixtures), tokens, np.random.default_rng(1))
    first = b.input_mod[:, 0]
    assert (first[::2] == NAMES.index("caption")).all() and b.input_valid[:, 0].all() and b.target_valid.all()
    assert 50 < (first[1::2] == NAMES.index("rgb")).sum() < 100


def test_chunks_come_in_random_order() -> None:
    tokens = {n: t for n, t in make_tokens(300, np.random.default_rng(0), 0.0).items()}
    ids = np.tile(np.r_[1000:1008, EOS], 300).astype(np.uint16)
    tokens["metadata"] = ModalityTokens(np.full(300, 9), ids)
    config = MaskingConfig(
        (9, 9), (8, 8), (ResolvedMixture({"metadata": 1.0}, {"tok_rgb": 1.0}, keep={"metadata": Keep.ALL}),)
    )
    rows = mask_batch(SPECS, config, tokens, np.random.default_rng(1)).input_ids[:, :9]
    assert len({tuple(row) for row in rows.tolist()}) == 24  # 4! orders of the pairs, all seen in 300 draws
    assert (rows[:, 8] == EOS).all() and (rows[:, 1:8:2] == rows[:, 0:8:2] + 1).all()


@given(length=st.integers(1, 300), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_disjoint_subsets(length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, length + 1, 20)
    second = rng.integers(0, length + 1 - first)
    a, b = choose_disjoint(length, first, second, Draws.fresh(rng, len(first)))
    for own, other in zip(np.split(a, first.cumsum()), np.split(b, second.cumsum()), strict=True):
        assert (np.diff(own) > 0).all() and (np.diff(other) > 0).all() and not set(own) & set(other)
        assert set(own) | set(other) <= set(range(length))
    assert len(a) == first.sum() and len(b) == second.sum()


def test_disjoint_subsets_are_uniform() -> None:
    flat = choose_disjoint(10, np.full(20_000, 3), np.full(20_000, 4), fresh(20_000))
    a, b = ((part.reshape(20_000, -1, 1) == np.arange(10)).any(axis=1) for part in flat)
    for chosen, share in ((a, 0.3), (b, 0.4)):
        error = (chosen.mean(axis=0) - share) / np.sqrt(share * (1 - share) / 20_000)
        assert np.abs(error).max() < 4.5
    together = (a[:, 0] & a[:, 1]).mean()
    assert abs(together - 3 * 2 / (10 * 9)) < 4.5 * np.sqrt(together / 20_000)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9])
def test_the_tokenizer_has_the_largest_sentinel(length: int) -> None:
    """Most sentinels are used if every other token is masked, the first one included; [S_0] is never used."""
    masked = np.arange(length) % 2 == 0
    split = spans.split(np.arange(1000, 1000 + length), ~masked, np.array([length]), FIRST_SENTINEL)
    largest = int(split.target_ids[split.target_ids < 1000].max())
    needed = 1 + largest - FIRST_SENTINEL + 1
    specs = [ModalitySpec("caption", Kind.SEQUENCE, 9000, length), ModalitySpec("t5_caption", Kind.EMBEDDING, 0, 99, 4)]
    config = MaskingConfig((4, 4), (4, 4), (ResolvedMixture({"caption": 1.0}, {"caption": 1.0}),))
    replace(config, num_sentinels=needed).check(specs)
    with pytest.raises(ValueError, match=f"texts of {length} tokens need {needed}"):
        replace(config, num_sentinels=needed - 1).check(specs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_tokens": (0, 4)}, r"input_tokens: got 0..4"),
        ({"target_tokens": (5, 4)}, r"target_tokens: got 5..4"),
        ({"mixtures": ()}, "at least one"),
        ({"mixtures": (ResolvedMixture(ALL, ALL, -1.0),)}, "weights >= 0"),
    ],
)
def test_wrong_configs(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            replace(CONFIG, mixtures=(ResolvedMixture({"x": 1.0}, TO_ALL),)),
            r"mixtures\[0\].input_alphas: \['x'\] are not among",
        ),
        (
            replace(CONFIG, mixtures=(ResolvedMixture(ALL, TO_ALL), ResolvedMixture(ALL, {"rgb": 1.0}))),
            r"mixtures\[1\]: no modality",
        ),
        (
            replace(CONFIG, mixtures=(ResolvedMixture({"rgb": -1.0}, TO_ALL),)),
            r"alphas must be 0 to 1e\+06, got \[-1.0\]",
        ),
        (replace(CONFIG, num_sentinels=11), "texts of 20 tokens need 12"),
    ],
)
def test_configs_are_checked_against_the_model(config: MaskingConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.check(SPECS)


def test_budget_shares_are_dirichlet() -> None:
    """Mean and variance of a Dirichlet with an alpha where plain Gamma draws underflow in single precision."""
    alphas = np.tile([0.01, 0.02, 0.07], (40_000, 1))
    budgets, _ = masking.draw_budgets(alphas, np.full(40_000, 1000), fresh(40_000))
    assert (budgets.sum(axis=1) == 1000).all()
    share = budgets / 1000
    mean = alphas[0] / alphas[0].sum()
    variance = mean * (1 - mean) / (alphas[0].sum() + 1)
    assert np.abs(share.mean(0) - mean).max() < 4.5 * np.sqrt(variance.max() / 40_000)
    np.testing.assert_allclose(share.var(0), variance, rtol=0.04)
