"""Parity with the reference: span cases exactly, budgets and counts in distribution (recorded data, tests/golden)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.modalities import Kind, ModalitySpec
from fourmill.train.data.draws import Draws
from fourmill.train.masking import spans
from fourmill.train.masking.masking import MaskingConfig, ModalityTokens, ResolvedMixture, mask_batch
from fourmill.train.masking.spans import KEEPS, Keep

GOLDEN = Path(__file__).parents[2] / "golden" / "data"
SPAN_CASES = json.loads((GOLDEN / "span_masking.json").read_text())["cases"]
STATISTICS = json.loads((GOLDEN / "masking_stats.json").read_text())
EXAMPLES = json.loads((GOLDEN / "mask_examples.json").read_text())


def fresh(seed: int, rows: int) -> Draws:
    return Draws.fresh(np.random.default_rng(seed), rows)


def test_spans_exactly() -> None:
    """All recorded cases at once, end to end in one flat array."""
    tokens, masked = [], []
    for case in SPAN_CASES:
        chunks = [[t] for t in case["sequence"]] if case["kind"] == "simple" else case["sequence"]
        tokens.append([t for chunk in chunks for t in chunk])
        masked.append([m for chunk, m in zip(chunks, case["masked"], strict=True) for _ in chunk])
    lengths = np.array([len(t) for t in tokens])
    got = spans.split(np.concatenate(tokens), ~np.concatenate(masked), lengths, first_sentinel=5)
    inputs = np.split(got.input_ids, np.cumsum(got.input_lengths)[:-1])
    targets = np.split(got.target_ids, np.cumsum(got.target_lengths)[:-1])
    for case, into, out in zip(SPAN_CASES, inputs, targets, strict=True):
        assert into.tolist() == case["input"]
        assert out.tolist() == case["target"]
        if "merged" in case:
            assert merged(into.tolist(), out.tolist()) == case["merged"]


def merged(shown: list[int], target: list[int]) -> list[int]:
    """The whole text again: each sentinel of the input gives way to what follows it in the target."""
    spans_of: dict[int, list[int]] = {}
    for token in target:
        if 5 <= token < 205:
            spans_of[token] = current = []
        else:
            current.append(token)
    return [t for token in shown for t in (spans_of[token] if 5 <= token < 205 else [token])]


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=30), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_inputs_and_targets_make_the_text(masks: list[list[bool]]) -> None:
    lengths = np.array([len(m) for m in masks])
    ids = np.arange(1000, 1000 + lengths.sum())
    got = spans.split(ids, ~np.concatenate(masks), lengths, first_sentinel=5)
    inputs = np.split(got.input_ids, np.cumsum(got.input_lengths)[:-1])
    targets = np.split(got.target_ids, np.cumsum(got.target_lengths)[:-1])
    texts = [merged(into.tolist(), out.tolist()) for into, out in zip(inputs, targets, strict=True)]
    assert texts == [text.tolist() for text in np.split(ids, np.cumsum(lengths)[:-1])]


@pytest.mark.parametrize("case", [c for c in EXAMPLES if c["kind"] == "sequence"], ids=lambda c: c["input_budget"])
def test_recorded_text_masks_are_possible(case: dict[str, Any]) -> None:
    """From the recorded mask follow the recorded input, and a target among those that the budget allows."""
    head, first = case["tensor_head"], case["target_idx"][0]
    shown, target = [head[i] for i in case["input_idx"]], [head[i] for i in case["target_idx"]]
    text = next(c for c in EXAMPLES if c["kind"] == "sequence" and c["input_budget"] == 0)["tensor_head"][1:-1]
    # "a" (4321) occurs three times; take the masks that explain the recorded input and try each.
    possible = False
    for first_kept in range(2**3):
        repeats = iter([bool(first_kept >> i & 1) for i in range(3)])
        kept = np.array([next(repeats) if t == 4321 else t in shown for t in text])
        got = spans.split(np.array(text), kept, np.array([len(text)]), first_sentinel=5)
        starts = {spans.cut_targets(got, np.array([case["target_budget"]]), fresh(s, 1))[0][0] for s in range(24)}
        windows = [got.target_ids[s : s + case["target_budget"]].tolist() for s in starts]
        possible |= (not shown or got.input_ids.tolist() == shown) and target in windows
    assert possible and first == case["input_budget"]


def test_long_targets_start_at_a_sentinel_that_fits() -> None:
    """Of [S1] a [S2] b [S3] c [S4] a budget of 4 pays for 4 tokens from S1 or S2, or for the 3 from S3. A budget of 6
    pays for 6 tokens from S1; from S2 and S3 less would be left, and the earliest whose rest fits is S2."""
    split = spans.split(np.arange(1000, 1006), np.tile([False, True], 3), np.array([6]), first_sentinel=5)
    assert split.target_ids.tolist() == [5, 1000, 6, 1002, 7, 1004, 8]
    windows = set()
    for seed in range(40):
        start, length = spans.cut_targets(split, np.array([4]), fresh(seed, 1))
        windows.add((int(start[0]), int(length[0])))
    assert windows == {(0, 4), (2, 4), (4, 3)}
    for seed in range(40):
        start, length = spans.cut_targets(split, np.array([6]), fresh(seed, 1))
        windows.add((int(start[0]), int(length[0])))
    assert windows == {(0, 4), (2, 4), (4, 3), (0, 6), (2, 5)}


@pytest.mark.parametrize(("keep", "shares"), [(Keep.ALL, {1.0}), (Keep.BINARY, {0.0, 1.0})])
def test_keep_rules(keep: Keep, shares: set[float]) -> None:
    lengths, many = np.full(200, 10), np.full(200, 10)
    kept = spans.draw_keep(lengths, many, np.full(200, KEEPS.index(keep)), np.ones(200, int), fresh(0, 200))
    assert set(kept.reshape(200, 10).mean(axis=1)) == shares


def test_random_keep_is_uniform() -> None:
    """With a uniform keep probability every number of kept tokens is equally likely (Bayes' billiard)."""
    count = 22_000
    arrays = np.full(count, 10), np.full(count, 10), np.full(count, KEEPS.index(Keep.RANDOM)), np.ones(count, int)
    kept = spans.draw_keep(*arrays, fresh(0, count)).reshape(count, 10)
    counts = np.bincount(kept.sum(axis=1), minlength=11)
    assert ((counts - count / 11) ** 2 / (count / 11)).sum() < 29.6  # chi-square, 10 degrees of freedom, p = 0.001


def _setting(
    recorded: dict[str, Any], count: int, rng: np.random.Generator
) -> tuple[list[ModalitySpec], MaskingConfig, dict[str, ModalityTokens]]:
    kinds = {"seq": Kind.SEQUENCE, "seq_emb": Kind.EMBEDDING}
    specs, tokens = [], {}
    for name, entry in recorded["modalities"].items():
        kind = kinds.get(entry["type"], Kind.PIXELS if name == "rgb@224" else Kind.GRID)
        specs.append(ModalitySpec(name, kind, 30_000, entry["max_tokens"], chunked=name == "metadata"))
        length = recorded["sequence_token_lengths_incl_eos"].get(name, entry["max_tokens"])
        if isinstance(length, dict):
            length = sum(length["chunks"]) + length["eos_chunk"]
        shape = {Kind.GRID: (count, length), Kind.SEQUENCE: (count * length,)}.get(kind)
        ids = None if shape is None else rng.integers(5000, 30_000, shape).astype(np.uint16)
        tokens[name] = ModalityTokens(np.full(count, length), ids)
    modalities = recorded["modalities"]
    mixtures = tuple(
        ResolvedMixture(
            {n: g["input_alphas"][k] for n, g in modalities.items()},
            {n: g["target_alphas"][k] for n, g in modalities.items()},
            weight,
            {n: Keep(g["keep"][k]) for n, g in modalities.items() if g["keep"]},
        )
        for k, weight in enumerate(recorded["sampling_weights"] or [1.0] * len(modalities["caption"]["input_alphas"]))
    )
    ranges = tuple(recorded["input_tokens_range"]), tuple(recorded["target_tokens_range"])
    return specs, MaskingConfig(*ranges, mixtures, redistribute=False), tokens


@pytest.mark.parametrize("recorded", STATISTICS, ids=lambda r: r["name"])
def test_statistics(recorded: dict[str, Any]) -> None:
    """Mean, spread and share of zeros of every modality's inputs and targets, within the errors of both samples.

    The reference counts all tokens of a target sequence, we count predictions, one less; of these only means compare.
    """
    rng, count = np.random.default_rng(7), 8000
    specs, config, tokens = _setting(recorded, count, rng)
    b = mask_batch(specs, config, tokens, rng)
    scores = []
    for side, mod, valid in (("input", b.input_mod, b.input_valid), ("target", b.target_mod, b.target_valid)):
        for m, spec in enumerate(specs):
            got, expected = ((mod == m) & valid).sum(axis=1), recorded[f"{side}_tokens"][spec.name]
            shift = (1 - expected["frac_zero"]) if side == "target" and spec.kind is Kind.SEQUENCE else 0.0
            if expected["std"] == 0:
                assert (got == expected["mean"]).all()
                continue
            error = np.hypot(expected["std"] / recorded["draws"] ** 0.5, got.std() / count**0.5)
            scores.append((got.mean() - (expected["mean"] - shift)) / error)
            if not shift:
                # The counts have heavy tails: the error of a standard deviation follows from the fourth moment.
                tail = np.mean((got - got.mean()) ** 4) / got.var() ** 2 - 1
                error = np.sqrt(tail / 4 * (1 / recorded["draws"] + 1 / count))
                scores.append(np.log(got.std() / expected["std"]) / error)
                zeros = expected["frac_zero"]
                spread = np.sqrt(zeros * (1 - zeros) * (1 / recorded["draws"] + 1 / count))
                scores.append(((got == 0).mean() - zeros) / spread)
    assert np.abs(scores).max() < 4.5
    assert np.sqrt(np.mean(np.square(scores))) < 1.35, "together the deviations are larger than chance"
