"""Published tokenizers: parity with recorded reference models of every kind, and where they are loaded from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fourmill_tests.precision import recorded

from fourmill.tokenize import ml4m
from fourmill.tokenize.networks.divae import DiVAE
from fourmill.tokenize.networks.quantize import VectorQuantizer
from fourmill.tokenize.tokenizer import save

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDERS = sorted(path.parent.name for path in GOLDEN.glob("*/arch.json"))


RECORDS = {name: recorded(np.load(GOLDEN / name / "expected.npz")) for name in FOLDERS}
CASES = [(name, key.removesuffix("/input")) for name in FOLDERS for key in RECORDS[name] if key.endswith("/input")]
TRAINED = [name for name in FOLDERS if "train/code_loss" in RECORDS[name]]


def test_every_kind_is_recorded() -> None:
    assert len(FOLDERS) == 5 and ("vqvae_rgb_vit", "other_resolution") in CASES and len(TRAINED) == 3


@pytest.mark.parametrize(("name", "case"), CASES)
def test_tokens_and_reconstructions_are_the_references(name: str, case: str) -> None:
    model, expected = ml4m.load(GOLDEN / name).double(), RECORDS[name]
    x = expected[f"{case}/input"]
    ids = model.encode(x)
    assert ids.dtype == torch.int64 and torch.equal(ids, expected[f"{case}/tokens"].long())
    torch.testing.assert_close(model.latents(x), expected[f"{case}/latent_pre_quant"], atol=1e-5, rtol=0)
    torch.testing.assert_close(model.quantize.decode(ids), expected[f"{case}/quant"], atol=1e-6, rtol=0)
    for output in ("recon", "decode_tokens"):
        if f"{case}/{output}" in expected:
            torch.testing.assert_close(model.decode(ids), expected[f"{case}/{output}"], atol=1e-4, rtol=0)
    output = model.step(x)
    assert torch.equal(output.ids, ids) and output.commitment == 0
    if not isinstance(model, DiVAE):
        torch.testing.assert_close(output.prediction, expected[f"{case}/recon"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", TRAINED)
def test_codebook_moves_as_the_reference_does(name: str) -> None:
    model, expected = ml4m.load(GOLDEN / name).double().train(), RECORDS[name]
    commitment = model.step(expected["base/input"]).commitment
    assert isinstance(model.quantize, VectorQuantizer)
    book = model.quantize.codebook
    torch.testing.assert_close(commitment, expected["train/code_loss"][0], atol=1e-6, rtol=0)
    torch.testing.assert_close(book.embed, expected["train/codebook_after"], atol=1e-6, rtol=0)
    torch.testing.assert_close(book.cluster_size, expected["train/cluster_size_after"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", FOLDERS)
def test_saving_a_recorded_model_keeps_every_name_and_value(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = ml4m.load(GOLDEN / name)
    save(model, tmp_path, {})
    before, after = load_file(GOLDEN / name / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert ml4m.load(tmp_path).config == model.config  # sizes travel in the config


@pytest.mark.parametrize("name", FOLDERS)
def test_header_of_weights_replaces_missing_config(name: str, tmp_path: Path) -> None:
    for file in ("model.safetensors", "arch.json"):
        shutil.copy(GOLDEN / name / file, tmp_path)
    assert ml4m.load(tmp_path).config == ml4m.load(GOLDEN / name).config


def test_a_hub_id_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository, commit = tmp_path / "models--someone--tokenizer", "a" * 40
    shutil.copytree(GOLDEN / "vqvae_rgb_vit", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert ml4m.load("someone/tokenizer").config == ml4m.load(GOLDEN / "vqvae_rgb_vit").config
    assert ml4m.load("someone/tokenizer", revision=commit).config.codebook_size == 64
    assert ml4m.hub_settings("someone/tokenizer")["codebook_size"] == 64
    (repository / "snapshots" / commit / "config.json").unlink()  # the header says it too
    assert ml4m.hub_settings("someone/tokenizer")["codebook_size"] == 64
    with pytest.raises(ValueError, match=r"could not fetch 'someone/other' \(revision main\)"):
        ml4m.load("someone/other")
    with pytest.raises(ValueError, match="revision v2"):
        ml4m.load("someone/tokenizer", revision="v2")


@pytest.mark.parametrize("name", ["/no/such", "nothing", "./a/b", "nope/", "~/nope", "a/b c"])
def test_what_is_neither_folder_nor_hub_id_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected a folder that exists, or a hub id"):
        ml4m.load(name)


def test_a_published_folder_without_sizes_names_what_it_lacks(tmp_path: Path) -> None:
    for file in ("model.safetensors", "config.json"):
        shutil.copy(GOLDEN / "divae_unet" / file, tmp_path)
    with pytest.raises(ValueError, match=r"dec_type 'unet_patched_tiny'.*unet_patched.*uvit_b_p4_f16.*`sizes`"):
        ml4m.load(tmp_path)
