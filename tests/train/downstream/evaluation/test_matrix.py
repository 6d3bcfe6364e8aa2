"""The matrix of who knows what, on a model that has learned by heart which tokens go together."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.generation.known import SpecialIds
from fourmill.train.downstream.evaluation import matrix, matrix_files
from fourmill.train.downstream.evaluation.matrix_files import Cell, Matrix
from fourmill.train.downstream.evaluation.settings import Evaluate
from fourmill.train.downstream.pairing import others
from fourmill.train.downstream.samples import Samples
from fourmill.train.masking.masking import Keep, MaskingConfig, ModalityTokens, ResolvedMixture, mask_batch

SPECS = (
    ModalitySpec("tok_rgb", Kind.GRID, 30, 4),
    ModalitySpec("tok_depth", Kind.GRID, 20, 4),
    ModalitySpec("caption", Kind.SEQUENCE, 60, 8),
)
SPECIAL = SpecialIds(num_sentinels=10)
SETTINGS = Evaluate(draws=50, batch_size=4)
COUNT = 6


def tokens() -> dict[str, list[np.ndarray | None]]:
    rng = np.random.default_rng(0)
    grids = {name: list(rng.integers(0, 20, (COUNT, 4)).astype(np.uint16)) for name in ("tok_rgb", "tok_depth")}
    captions = [np.array([20 + i, 30 + i, 40 + i, 3], np.uint16) for i in range(COUNT)]
    return {**grids, "caption": captions}


def samples(**changes: list[np.ndarray | None]) -> Samples:
    places = [("val", f"key{i}", i) for i in range(COUNT)]
    return Samples({spec.name: spec for spec in SPECS}, places, tokens() | changes)


@pytest.fixture(scope="module")
def model() -> FourM:
    """Overfitted on all of `tokens`: from any modality to any other."""
    of = tokens()
    flat = np.concatenate([one for one in of["caption"] if one is not None])
    batch = {
        "caption": ModalityTokens(np.full(COUNT, 4), flat),
        **{name: ModalityTokens(np.full(COUNT, 4), np.stack(of[name])) for name in ("tok_rgb", "tok_depth")},
    }
    names = [spec.name for spec in SPECS]
    mixtures = tuple(
        ResolvedMixture({a: 1.0}, {b: 1.0}, keep={"caption": Keep.ALL}) for a in names for b in names if a != b
    )
    config = MaskingConfig((5, 5), (6, 6), mixtures, first_sentinel=SPECIAL.sentinel(1), num_sentinels=9)
    torch.manual_seed(0)
    trained = FourM(FourMConfig(SPECS, dim=32, num_heads=2, encoder_depth=1, decoder_depth=1))
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-2)
    repeated = {
        name: ModalityTokens(np.tile(one.lengths, 4), np.concatenate([one.ids] * 4)) for name, one in batch.items()
    }
    for step in range(120):
        loss = trained(mask_batch(SPECS, config, repeated, np.random.default_rng(step))).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return trained.eval()


def cells(model: FourM, of: Samples, combinations: list[list[str]] | None = None) -> dict[tuple[str, str], Cell]:
    found = matrix.compute(model, of, combinations or [], SETTINGS, SPECIAL)
    return {("+".join(cell.inputs), cell.target): cell for cell in found}


@given(count=st.integers(2, 60), seed=st.integers(0, 1000))
def test_nobody_is_paired_with_itself(count: int, seed: int) -> None:
    paired = others(count, seed)
    assert sorted(paired) == list(range(count)) and (paired != np.arange(count)).all()
    assert (paired == others(count, seed)).all()


def test_one_sample_has_no_other() -> None:
    with pytest.raises(ValueError, match="expected at least 2"):
        others(1, 0)


def test_own_inputs_say_more_than_anothers(model: FourM) -> None:
    found = cells(model, samples(), [["caption", "tok_depth"]])
    names = [spec.name for spec in SPECS]
    assert set(found) == {(a, b) for a in names for b in names if a != b} | {("caption+tok_depth", "tok_rgb")}
    for cell in found.values():
        assert cell.another is not None and cell.samples == COUNT and cell.tokens == 4 * COUNT
        assert cell.given.value < 0.7 < 1.5 < cell.another.value, cell
        assert cell.given.low <= cell.given.value <= cell.given.high
        assert cell.uniform == pytest.approx(np.log({"tok_rgb": 30, "tok_depth": 20, "caption": 60}[cell.target]))


def test_a_wrong_pairing_shows(model: FourM) -> None:
    """Captions that are shifted by one sample say as little of its pictures as those of any other sample."""
    captions = tokens()["caption"]
    found = cells(model, samples(caption=[*captions[1:], captions[0]]))
    for pair in (("caption", "tok_rgb"), ("caption", "tok_depth"), ("tok_rgb", "caption")):
        cell = found[pair]
        assert cell.another is not None and cell.given.value > 1.5
        assert cell.given.value > 0.6 * cell.another.value
    assert found["tok_rgb", "tok_depth"].given.value < 0.7  # the others are as they were


def test_cells_are_of_the_samples_that_have_both(model: FourM) -> None:
    of = tokens()
    depth, captions = [*of["tok_depth"][:3], None, None, None], [None, *of["caption"][1:]]
    found = cells(model, samples(tok_depth=depth, caption=captions))
    counts = {pair: cell.samples for pair, cell in found.items()}
    assert counts == {
        ("tok_rgb", "tok_depth"): 3, ("tok_rgb", "caption"): 5, ("tok_depth", "tok_rgb"): 3,
        ("tok_depth", "caption"): 2, ("caption", "tok_rgb"): 5, ("caption", "tok_depth"): 2,
    }  # fmt: skip
    whole = cells(model, samples())
    # Each sample is asked alone: who else is there changes nothing of it.
    only = cells(model, samples(tok_depth=[of["tok_depth"][0], *[None] * 5]))["tok_rgb", "tok_depth"]
    assert only.samples == 1 and only.another is not None
    assert only.nothing.value != pytest.approx(whole["tok_rgb", "tok_depth"].nothing.value, abs=1e-9)


def test_a_single_sample_has_no_other_input(model: FourM) -> None:
    one = samples()
    alone = replace(one, places=one.places[:1], tokens={name: rows[:1] for name, rows in one.tokens.items()})
    assert all(cell.another is None for cell in cells(model, alone).values())


def test_the_files_say_what_was_measured(model: FourM) -> None:
    found = matrix.compute(model, samples(), [["caption", "tok_depth"]], SETTINGS, SPECIAL)
    whole = Matrix("4m/0123", COUNT, 50, 0, found)
    files = matrix_files.files(whole)
    assert matrix_files.parse(json.loads(files["likelihoods.json"])) == whole
    rows = list(csv.DictReader(io.StringIO(files["likelihoods.csv"].decode())))
    assert len(rows) == 3 * len(found) and float(rows[0]["value"]) == found[0].given.value
    lines = files["likelihoods.md"].decode().splitlines()
    assert lines[0] == "# Who knows what: 4m/0123" and "The first 6 validation samples" in " ".join(lines)
    table = [line for line in lines if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in table[2:]] == [
        "tok_rgb", "tok_depth", "caption", "caption + tok_depth", "nothing", "(any token alike)", "(samples)",
    ]  # fmt: skip
    assert files == matrix_files.files(whole)
