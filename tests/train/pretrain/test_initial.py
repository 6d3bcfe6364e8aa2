"""A model begins with what a trained one knows, modality by modality."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fourmill_tests import training

from fourmill.modalities import Kind, ModalitySpec
from fourmill.model import checkpoint as model_files
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.train.pretrain import initial

RGB, TOK_RGB, GLOBAL, CAPTION = training.SPECS
SIZES = {"dim": 32, "encoder_depth": 2, "decoder_depth": 1, "num_heads": 2}


def model(*specs: object, seed: int, **changes: object) -> FourM:
    torch.manual_seed(seed)
    return FourM(FourMConfig(specs, **(SIZES | changes)))  # type: ignore[arg-type]


def test_what_both_know_is_taken_over(tmp_path: Path) -> None:
    """Other modalities in another order: 4M-7 to 4M-21."""
    trained = model(CAPTION, RGB, TOK_RGB, seed=0)
    model_files.save(trained, tmp_path)
    target = model(*training.SPECS, seed=1)
    fresh = model(*training.SPECS, seed=1)
    initial.fill(target, str(tmp_path))
    for name in ("tok_rgb", "caption"):
        for side in ("encoder_embeddings", "decoder_embeddings"):
            assert torch.equal(getattr(target, side).token_table(name), getattr(trained, side).token_table(name))
    for name in ("rgb", "tok_rgb", "caption"):
        new_row, old_row = (m.modality_table[m.config.index(name)] for m in (target, trained))
        assert torch.equal(new_row, old_row)
    for side in ("encoder_embeddings", "decoder_embeddings"):
        new, old = (getattr(m, side).token_table(GLOBAL.name) for m in (target, fresh))
        assert torch.equal(new, old), "a new modality keeps its fresh weights"
    assert torch.equal(target.projections.layers["rgb"].weight, trained.projections.layers["rgb"].weight)
    for new_block, old_block in zip(target.encoder, trained.encoder, strict=True):
        assert torch.equal(new_block.attn.qkv.weight, old_block.attn.qkv.weight)
    assert torch.equal(target.mask_token, trained.mask_token)


def test_learned_positions_are_taken_over() -> None:
    trained, target = model(GLOBAL, CAPTION, seed=0), model(*training.SPECS, seed=1)
    initial.copy(trained, target)
    for side in ("encoder_embeddings", "decoder_embeddings"):
        assert torch.equal(
            getattr(target, side).position_rows_of(GLOBAL.name), getattr(trained, side).position_rows_of(GLOBAL.name)
        )


def test_the_published_format_is_read(tmp_path: Path) -> None:
    from fourmill.model.published import ml4m

    spec = replace(TOK_RGB, max_tokens=196)
    trained = model(spec, CAPTION, seed=0, tied_heads=False)
    ml4m.save(trained, tmp_path)
    target = model(CAPTION, spec, seed=1)
    initial.fill(target, str(tmp_path))
    assert torch.equal(
        target.encoder_embeddings.token_table("tok_rgb"), trained.encoder_embeddings.token_table("tok_rgb")
    )


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({"dim": 64}, "dim is 32 here, and 64 in there; the models must have the same train.model"),
        ({"encoder_depth": 3}, "encoder_depth is 2 here, and 3 in there"),
        ({"decoder_depth": 2}, "decoder_depth is 1 here, and 2 in there"),
        ({"num_heads": 4}, "num_heads is 2 here, and 4 in there"),
        ({"activation": "gelu"}, "activation is silu here, and gelu in there"),
        ({"qkv_bias": True}, "qkv_bias is False here, and True in there"),
        ({"qk_norm": True}, "qk_norm"),
        ({"num_register_tokens": 4}, "num_register_tokens is 0 here, and 4 in there"),
        ({"share_modality_embeddings": False}, "share_modality_embeddings"),
        ({"decoder_causal": True}, "decoder_causal"),
    ],
)
def test_another_architecture_is_refused(source: dict[str, object], problem: str) -> None:
    """Weights of some of these would fit by their shapes, and compute something else."""
    with pytest.raises(ValueError, match=rf"^train.init: {problem}"):
        initial.copy(model(*training.SPECS, seed=0, **source), model(*training.SPECS, seed=1), "there")


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (replace(TOK_RGB, vocab_size=128), "tok_rgb has a vocabulary of 128 here, and 64 in there; the tokens differ"),
        (replace(TOK_RGB, max_tokens=9), "tok_rgb has as many tokens: 9 here, and 16 in there"),
        (replace(GLOBAL, columns=8), "has in a row, where it is no square, tokens: 8 here, and 0 in there"),
        (replace(RGB, input_dim=12), "rgb has values of width 12 here, and 48 in there"),
        (replace(GLOBAL, learned_positions=False), "has learned positions: False here, and True in there"),
    ],
)
def test_other_tokens_of_a_modality_are_refused(target: ModalitySpec, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        initial.copy(model(*training.SPECS, seed=0), model(target, CAPTION, seed=1), "there")


def test_texts_may_be_longer_and_positions_are_those_of_4m() -> None:
    trained = model(*training.SPECS, seed=0)
    assert not initial.copy(trained, model(RGB, replace(CAPTION, max_tokens=20), seed=1))
    trained.encoder_embeddings.positions.data.mul_(2)
    with pytest.raises(ValueError, match="there has other positions of tok_rgb"):
        initial.copy(trained, model(TOK_RGB, seed=1), "there")


def test_two_tables_of_output_tokens_into_one_and_back() -> None:
    """A tied table takes the output weights, which is all that a grid's decoder uses; texts are named."""
    trained, target = model(TOK_RGB, CAPTION, seed=0, tied_heads=False), model(TOK_RGB, CAPTION, seed=1)
    notes = initial.copy(trained, target, "there")
    assert all(torch.equal(target.head(name), trained.head(name)) for name in ("tok_rgb", "caption"))
    assert notes == ["train.init: the decoder of there reads caption by another table than it predicts with; "
                     "took the latter"]  # fmt: skip
    again = model(TOK_RGB, CAPTION, seed=2, tied_heads=False)
    assert not initial.copy(trained, again)
    for name in ("tok_rgb", "caption"):
        assert torch.equal(again.head(name), trained.head(name))
        tables = [m.decoder_embeddings.token_table(name) for m in (again, trained)]
        assert torch.equal(*tables)


def test_modalities_match_by_published_names(tmp_path: Path) -> None:
    """`rgb` at 32 pixels is `rgb@32` in a published folder, and is loaded under that name."""
    from fourmill.model.published import ml4m

    rgb, tok_rgb = ModalitySpec("rgb", Kind.PIXELS, 0, 4, 768), ModalitySpec("tok_rgb", Kind.GRID, 64, 4)
    trained = model(rgb, tok_rgb, seed=0)
    ml4m.save(trained, tmp_path)
    assert [spec.name for spec in ml4m.load(tmp_path).config.modalities] == ["rgb@32", "tok_rgb@32"]
    target = model(rgb, tok_rgb, CAPTION, seed=1)
    assert initial.fill(target, str(tmp_path)) == [
        f"train.init: caption begin with fresh weights; {tmp_path} does not know them"
    ]
    tables = [m.encoder_embeddings.token_table("tok_rgb") for m in (target, trained)]
    assert torch.equal(*tables)
    assert torch.equal(target.projections.layers["rgb"].weight, trained.projections.layers["rgb"].weight)
    assert torch.equal(target.modality_table[:2], trained.modality_table)
    with pytest.raises(ValueError, match=r"knows none of the modalities caption; it knows rgb@32, tok_rgb@32"):
        initial.fill(model(CAPTION, seed=1), str(tmp_path))


def test_configuration_in_the_weights_header_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fourmill.model.published import ml4m
    from fourmill.train.settings import Train

    ml4m.save(model(CAPTION, seed=0), tmp_path / "trained")
    (tmp_path / "trained" / "config.json").unlink()
    monkeypatch.chdir(tmp_path)
    assert initial.resolved(Train(init="trained")).init == str(tmp_path / "trained")
    assert initial.load("trained").config.dim == 32


def test_a_run_begins_with_them_and_is_another_run(tmp_path: Path) -> None:
    model_files.save(model(*training.SPECS, seed=7), tmp_path / "trained")
    one = training.trainer(training.job(tmp_path, init=str(tmp_path / "trained")))
    trained = model_files.load(tmp_path / "trained")
    for (name, parameter), expected in zip(one.model.named_parameters(), trained.parameters(), strict=True):
        assert torch.equal(parameter, expected), name
    before = initial.identity(str(tmp_path / "trained"))
    model_files.save(model(*training.SPECS, seed=8), tmp_path / "trained")
    assert initial.identity(str(tmp_path / "trained")) != before
    assert initial.identity("EPFL-VILAB/4M-7_B_CC12M") == "EPFL-VILAB/4M-7_B_CC12M" and initial.identity(None) is None


def test_a_run_begins_with_a_checkpoint_of_another(tmp_path: Path) -> None:
    """By its folder, or by that of all, which is the newest; its content is what it is in a fingerprint."""
    from fourmill.train.settings import Train

    job = training.job(tmp_path)
    training.train_until(job, 5)
    folder = Path(job.folder, "checkpoints")
    (second, fourth), trained = sorted(map(str, folder.iterdir())), training.trainer(job).model
    assert [initial.resolved(Train(init=place)).init for place in (str(folder), second)] == [fourth, second]
    prints = {initial.identity(place) for place in (second, fourth)}
    assert len(prints) == 2 and not prints & {second, fourth}
    target = model(*training.SPECS, seed=1)
    assert initial.fill(target, fourth) == []
    assert all(torch.equal(p, q) for p, q in zip(target.parameters(), trained.parameters(), strict=True))


def test_what_is_not_there_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders, models of the hub, the roots of other datasets."""
    import httpx
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    from fourmill.recipe import RecipeError
    from fourmill.train.settings import DatasetShare, Train

    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "runs").mkdir(parents=True)
    for place in ("/nowhere", "a/b/c", "out/model", str(tmp_path / "out"), "s3://nowhere"):
        if place.startswith("s3"):
            place = "memory://nowhere/model"
        with pytest.raises(RecipeError, match=f"^train.init: there is no model at {place}; expected the `model` or"):
            initial.check(Train(init=place))
    asked = []

    def hub(name: str, *, allow_patterns: list[str], **_: Any) -> str:
        asked.append((name, allow_patterns))
        if name == "EPFL-VILAB/4M-7_B_CC12":
            response = httpx.Response(401, request=httpx.Request("GET", "https://hub"))
            raise RepositoryNotFoundError("Repository Not Found", response=response)
        raise LocalEntryNotFoundError("no network, and nothing in the cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    initial.check(Train(init="EPFL-VILAB/4M-7_B_CC12M", datasets=[DatasetShare()]))
    with pytest.raises(RecipeError, match=r"^train.init: EPFL-VILAB/4M-7_B_CC12: no such folder, and the Hugging Face"):
        initial.check(Train(init="EPFL-VILAB/4M-7_B_CC12"))
    assert asked == [(name, ["config.json"]) for name in ("EPFL-VILAB/4M-7_B_CC12M", "EPFL-VILAB/4M-7_B_CC12")]
    with pytest.raises(RecipeError, match=r"^train.datasets: nowhere is no root, there is no recipe.yaml; label"):
        initial.check(Train(datasets=[DatasetShare(), DatasetShare(root="nowhere")]))
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere" / "recipe.yaml").touch()
    initial.check(Train(datasets=[DatasetShare(root="nowhere")]))
