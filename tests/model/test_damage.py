"""Checkpoints that are cut off, do not fit, or were being written when the process died."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fourmill.model import checkpoint
from fourmill.model.fourm import FourM
from fourmill.model.published import ml4m

GOLDEN = Path(__file__).parents[1] / "golden" / "fm7_swiglu_nobias"
Save, Load = Callable[[FourM, Path], None], Callable[[Path], FourM]
FORMATS = [(ml4m.save, ml4m.load), (checkpoint.save, checkpoint.load)]


@pytest.fixture
def published() -> FourM:
    return ml4m.load(GOLDEN)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("model.safetensors", "config.json"):
        shutil.copy(GOLDEN / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(("save", "load"), FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_weights_that_are_cut_off(published: FourM, save: Save, load: Load, share: float, tmp_path: Path) -> None:
    save(published, tmp_path)
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"model.safetensors: damaged or cut off \("):
        load(tmp_path)


@pytest.mark.parametrize(("save", "load"), FORMATS)
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no JSON"), (b'{"dim": [', "no JSON"), (b"\xff", "no JSON"), (b"[]", "got a list, expected a JSON object")],
)
def test_configurations_that_are_none(
    published: FourM, save: Save, load: Load, content: bytes, message: str, tmp_path: Path
) -> None:
    save(published, tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        load(tmp_path)


@pytest.mark.parametrize(("save", "load"), FORMATS)
@pytest.mark.parametrize("at", ["weights", "config"])
def test_a_save_that_is_killed_leaves_no_mixture(
    published: FourM, save: Save, load: Load, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other heads fit the same tensors: a mixture of the two would load, and compute something else."""
    save(published, tmp_path)
    other = FourM(replace(published.config, num_heads=published.config.num_heads * 2)).eval()

    def kill(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    target = "safetensors.torch.save_file" if at == "weights" else "pathlib.Path.write_text"
    monkeypatch.setattr(target, kill)
    with pytest.raises(KeyboardInterrupt):
        save(other, tmp_path)
    monkeypatch.undo()
    try:
        found = load(tmp_path)
    except ValueError:
        return
    whole = other if at == "config" else published
    assert found.config == whole.config and torch.equal(found.mask_token, whole.mask_token)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 0}, "dim 16 does not divide into 0 heads"),
        ({"dim": "16"}, "dim: got '16', expected a whole number"),
        ({"encoder_depth": -1}, "encoder_depth: got -1"),
        ({"mlp_ratio": 0}, "mlp_ratio: got 0, expected a number above 0"),
        ({"qk_norm": "no"}, "qk_norm: got 'no', expected true or false"),
        ({"domains_in": "caption"}, "domains_in: got 'caption', expected the names of modalities"),
        ({"domains_out": []}, r"domains_out: got \[\], expected"),
        ({"domains_in": ["caption", "caption"]}, "inputs: got .*, expected no name twice"),
        ({"act_layer": []}, r"act_layer: got \[\]"),
    ],
)
def test_configurations_that_say_nothing_useful(copy: Path, change: dict[str, Any], message: str) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=f"{copy}: {message}"):
        ml4m.load(copy)


def rewrite(folder: Path, changes: dict[str, Callable[[Tensor], Tensor]]) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors |= {key: change(tensors[key]).contiguous() for key, change in changes.items()}
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("encoder_embeddings.rgb@224.pos_emb", lambda t: t[..., :7], r"\(1, 196, 7\), expected \(1, 196 to 196, 16\)"),
        ("encoder_embeddings.rgb@224.pos_emb", lambda t: t[0], r"rgb@224.pos_emb \(196, 16\), expected 3 axes"),
        ("encoder_embeddings.rgb@224.pos_emb", lambda t: t.repeat(2, 1, 1), r"got shape \(2, 196, 16\)"),
        ("decoder_embeddings.tok_rgb@224.pos_emb", lambda t: t[:, :100], "as many rows on both sides"),
        ("encoder_embeddings.tok_rgb@224.pos_emb", lambda t: t[:, :100], "as many rows on both sides"),
        ("decoder_embeddings.caption.pos_emb", lambda t: t[:, :100], "as many rows on both sides"),
        ("encoder_embeddings.caption.mod_emb", lambda t: t[..., :7], r"\(1, 1, 7\), expected \(1, 1, 16\)"),
        ("decoder_embeddings.caption.mod_emb", lambda t: t[0, 0], r"mod_emb: got shape \(16,\)"),
        ("decoder_embeddings.caption.token_emb.weight", lambda t: t[:-1], "as many rows on both sides"),
    ],
)
def test_tables_of_other_shapes(copy: Path, key: str, change: Callable[[Tensor], Tensor], message: str) -> None:
    rewrite(copy, {key: change})
    with pytest.raises(ValueError, match=message):
        ml4m.load(copy)


def test_short_tables_of_sequences_are_written_as_they_were(copy: Path, tmp_path: Path) -> None:
    keys = [f"{side}_embeddings.caption.pos_emb" for side in ("encoder", "decoder")]
    rewrite(copy, dict.fromkeys(keys, lambda t: t[:, :30]))
    model = ml4m.load(copy)
    assert model.config.spec("caption").max_tokens == 30
    ml4m.save(model, tmp_path / "again")
    before, after = load_file(copy / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    rewrite(copy, dict.fromkeys(keys, lambda t: t.repeat(1, 20, 1)))
    with pytest.raises(ValueError, match=r"got shape \(1, 600, 16\), expected \(1, 1 to 512, 16\)"):
        ml4m.load(copy)


def test_native_configurations_of_another_model(published: FourM, tmp_path: Path) -> None:
    checkpoint.save(published, tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for change, message in (
        ({"num_heads": 0}, "dim 16 does not divide into 0 heads"),
        ({"modalities": [{"name": "rgb"}]}, "modalities: no list of modalities with their sizes"),
        ({"modalities": 5}, "modalities: no list of modalities with their sizes"),
    ):
        path.write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=f"{path}: {message}"):
            checkpoint.load(tmp_path)
