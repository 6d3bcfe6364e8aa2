"""A model begins with what a trained one knows, modality by modality."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fourmill_tests import training

from fourmill.model import checkpoint as model_files
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.train import initial

RGB, TOK_RGB, GLOBAL, CAPTION = training.SPECS
SIZES = {"dim": 32, "encoder_depth": 2, "decoder_depth": 1, "num_heads": 2}


def model(*specs: object, seed: int, **changes: object) -> FourM:
    torch.manual_seed(seed)
    return FourM(FourMConfig(specs, **(SIZES | changes)))  # type: ignore[arg-type]


def test_what_both_know_is_taken_over(tmp_path: Path) -> None:
    """Other modalities in another order: 4M-7 to 4M-21."""
    trained = model(CAPTION, RGB, TOK_RGB, seed=0)
    model_files.save(trained, tmp_path)
    mine = model(*training.SPECS, seed=1)
    fresh = model(*training.SPECS, seed=1)
    initial.fill(mine, str(tmp_path))
    for name in ("tok_rgb", "caption"):
        for side in ("encoder_embeddings", "decoder_embeddings"):
            assert torch.equal(getattr(mine, side).token_table(name), getattr(trained, side).token_table(name))
    for name in ("rgb", "tok_rgb", "caption"):
        mine_row, their_row = (m.modality_table[m.config.index(name)] for m in (mine, trained))
        assert torch.equal(mine_row, their_row)
    for side in ("encoder_embeddings", "decoder_embeddings"):
        new, old = (getattr(m, side).token_table(GLOBAL.name) for m in (mine, fresh))
        assert torch.equal(new, old), "a new modality keeps its fresh weights"
    assert torch.equal(mine.projections.layers["rgb"].weight, trained.projections.layers["rgb"].weight)
    for mine_block, their_block in zip(mine.encoder, trained.encoder, strict=True):
        assert torch.equal(mine_block.attn.qkv.weight, their_block.attn.qkv.weight)
    assert torch.equal(mine.mask_token, trained.mask_token)


def test_learned_positions_are_taken_over() -> None:
    trained, mine = model(GLOBAL, CAPTION, seed=0), model(*training.SPECS, seed=1)
    initial.copy(trained, mine)
    for side in ("encoder_embeddings", "decoder_embeddings"):
        assert torch.equal(
            getattr(mine, side).position_rows_of(GLOBAL.name), getattr(trained, side).position_rows_of(GLOBAL.name)
        )


def test_the_published_format_is_read(tmp_path: Path) -> None:
    from fourmill.model import ml4m

    spec = replace(TOK_RGB, max_tokens=196)
    trained = model(spec, CAPTION, seed=0, tied_heads=False)
    ml4m.save(trained, tmp_path)
    mine = model(CAPTION, spec, seed=1)
    initial.fill(mine, str(tmp_path))
    assert torch.equal(
        mine.encoder_embeddings.token_table("tok_rgb"), trained.encoder_embeddings.token_table("tok_rgb")
    )


def test_other_sizes_are_refused() -> None:
    trained = model(*training.SPECS, seed=0)
    with pytest.raises(ValueError, match=r"train.init: .* is \(.*64.*\) here, and \(.*32.*\) in there"):
        initial.copy(trained, model(*training.SPECS, seed=1, dim=64), "there")
    with pytest.raises(ValueError, match=r"encoder.2.* and none in there; the models must have the same train.model"):
        initial.copy(trained, model(*training.SPECS, seed=1, encoder_depth=3), "there")
    other = replace(TOK_RGB, vocab_size=128)
    with pytest.raises(ValueError, match=r"tok_rgb has a vocabulary of 128 here, and 64 in there; the tokens differ"):
        initial.copy(trained, model(RGB, other, seed=1), "there")


def test_a_run_begins_with_them_and_is_another_run(tmp_path: Path) -> None:
    model_files.save(model(*training.SPECS, seed=7), tmp_path / "trained")
    one = training.trainer(training.job(tmp_path, init=str(tmp_path / "trained")))
    trained = model_files.load(tmp_path / "trained")
    for (name, mine), theirs in zip(one.model.named_parameters(), trained.parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    before = initial.identity(str(tmp_path / "trained"))
    model_files.save(model(*training.SPECS, seed=8), tmp_path / "trained")
    assert initial.identity(str(tmp_path / "trained")) != before
    assert initial.identity("EPFL-VILAB/4M-7_B_CC12M") == "EPFL-VILAB/4M-7_B_CC12M" and initial.identity(None) is None
