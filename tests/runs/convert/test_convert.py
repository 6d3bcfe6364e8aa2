"""`convert` takes apple/ml-4m's training checkpoints and published folders, gives ours back in its formats, and says
what a file is that it cannot take. The recorded models are ml-4m's own."""

from __future__ import annotations

import argparse
import json
import re
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests.earth import terramind as tiny
from fourmill_tests.runs import command
from fourmill_tests.s3 import S3
from safetensors.torch import load_file
from torch import Tensor

from fourmill.model import checkpoint
from fourmill.model.published import ml4m
from fourmill.tokenize import ml4m as published_tokenizers
from fourmill.tokenize.networks import divae, vit
from fourmill.tokenize.networks.unet import UNetSize
from fourmill.tokenize.text.wordpiece import WordPiece
from fourmill.train.pretrain import initial

GOLDEN = Path(__file__).parents[2] / "golden"
MODELS = ("fm7_swiglu_nobias", "fm21_qknorm", "fm_gelu_bias_registers")
TOKENIZERS = ("vq_mlp_memcodes_global", "vqvae_featuremap_vit", "vqvae_semseg_vit", "divae_unet")
OPTIONS = {
    "enc_type": "encoder_type",
    "dec_type": "decoder_type",
    "quant_type": "quantizer_type",
    "image_size": "input_size",
}


def config(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / name / "config.json").read_text())


def training(name: str, path: Path, tied: bool = False, prefix: str = "", **more: Any) -> dict[str, Tensor]:
    """A checkpoint as ml-4m's script of 4M writes one; returns the tensors."""
    values, tensors = config(name), load_file(GOLDEN / name / "model.safetensors")
    for key in [key for key in tensors if tied and key.endswith("to_logits.weight")]:
        tensors[key] = tensors[key.replace("to_logits", "token_emb")]
    args = argparse.Namespace(
        model="fm_own", in_domains=values["domains_in"], out_domains=values["domains_out"], patch_size=16,
        input_size=224, num_register_tokens=values.get("num_register_tokens", 0), opt_betas=[0.9, 0.95],
    )  # fmt: skip
    state = {prefix + key: value for key, value in tensors.items()}
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}}, "param_groups": [{"lr": 1e-4}]}
    torch.save({"model": state, "epoch": 7, "args": args, "scaler": {}, "optimizer": optimizer} | more, path)
    return tensors


def convert(*arguments: Any, status: int = 0) -> str:
    """What it said. Errors are one sentence, on stderr."""
    code, out, err = command("convert", *map(str, arguments))
    assert code == status, out + err
    return " ".join((out if status == 0 else err).split())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key].float(), b[key].float()) for key in a)


@pytest.mark.parametrize("name", MODELS)
def test_a_training_checkpoint_is_the_published_model(name: str, tmp_path: Path) -> None:
    prefix = {"fm7_swiglu_nobias": "_fsdp_wrapped_module.", "fm21_qknorm": "module."}.get(name, "")
    training(name, tmp_path / "c.pth", prefix=prefix)
    heads = [] if name == "fm21_qknorm" else ["--heads", config(name)["num_heads"]]
    said = convert(tmp_path / "c.pth", tmp_path / "ours", *heads)
    assert "the trained weights (model), epoch 7" in said and f"init: {tmp_path / 'ours'}" in said
    ours, expected = initial.load(str(tmp_path / "ours")), ml4m.load(GOLDEN / name)
    assert ours.config == expected.config and same(ours.state_dict(), expected.state_dict())
    assert "--finetune" not in convert(tmp_path / "ours", tmp_path / "theirs")
    assert same(load_file(tmp_path / "theirs/model.safetensors"), load_file(GOLDEN / name / "model.safetensors"))


def test_tied_heads_stay_tied_both_ways(tmp_path: Path) -> None:
    tensors = training("fm21_qknorm", tmp_path / "c.pth", tied=True)
    convert(tmp_path / "c.pth", tmp_path / "ours")
    assert checkpoint.load(tmp_path / "ours").config.tied_heads
    assert "--finetune" in convert(tmp_path / "ours", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=False)
    assert same(back["model"], tensors) and back["args"].in_domains == config("fm21_qknorm")["domains_in"]
    # Two tables are more than that script has.
    training("fm21_qknorm", tmp_path / "untied.pth")
    assert "name a folder as DEST" in convert(tmp_path / "untied.pth", tmp_path / "x.pth", "--to", "ml4m", status=2)
    convert(tmp_path / "untied.pth", tmp_path / "hub", "--to", "ml4m")
    assert json.loads((tmp_path / "hub/config.json").read_text())["num_heads"] == 2


def test_words_go_with_the_model(tmp_path: Path) -> None:
    model = ml4m.load(GOLDEN / "fm21_qknorm")
    checkpoint.save(model, tmp_path / "run/model")
    (tmp_path / "run/tokenizers.json").write_text('{"text": "0123"}')
    convert(tmp_path / "run", tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    assert checkpoint.load(tmp_path / "ours").tokenizers == {"text": "0123"}


def test_heads_that_no_tensor_shows_are_asked_for(tmp_path: Path) -> None:
    training("fm7_swiglu_nobias", tmp_path / "c.pth")
    said = convert(tmp_path / "c.pth", tmp_path / "ours", status=2)
    assert "say --heads N" in said and not (tmp_path / "ours").exists()
    content = torch.load(tmp_path / "c.pth", weights_only=False)
    content["args"].model = "fm_base_12e_12d_swiglu_nobias"
    torch.save(content, tmp_path / "c.pth")
    said = convert(tmp_path / "c.pth", tmp_path / "ours", "--heads", 4, status=2)
    assert "it has 2 + 2 blocks, its options say fm_base_12e_12d_swiglu_nobias" in said


@pytest.fixture
def presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small networks of the recorded tokenizers, as if ml-4m had them."""
    sizes = {path: json.loads((GOLDEN / path / "arch.json").read_text()) for path in TOKENIZERS}
    small = sizes["vqvae_semseg_vit"]["vit_t_enc"]
    monkeypatch.setitem(vit.PRESETS, "vit_t", vit.ViTSize(small["dim_tokens"], small["depth"], small["num_heads"]))
    unet = published_tokenizers.load(GOLDEN / "divae_unet").config.sizes["unet_patched_tiny"]
    assert isinstance(unet, UNetSize)
    monkeypatch.setitem(divae._PRESETS, "unet_patched_tiny", unet)


@pytest.mark.usefixtures("presets")
@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers_come_with_their_average_and_go_back(name: str, tmp_path: Path) -> None:
    tensors = load_file(GOLDEN / name / "model.safetensors")
    values = {OPTIONS.get(key, key): value for key, value in config(name).items()}
    values["domain"] = "CLIP-B16" if values.pop("patch_proj", True) is False else "x"
    for key in ("n_channels", "n_labels"):  # the tensors say them
        values.pop(key, None)
    args = argparse.Namespace(**values | {"codebook_size": str(values["codebook_size"])})
    other = {key: value + 1 if value.is_floating_point() else value for key, value in tensors.items()}
    torch.save({"model": other, "model_ema": tensors, "args": args, "epoch": 1}, tmp_path / "c.pth")
    assert "average" in convert(tmp_path / "c.pth", tmp_path / "ours")
    expected = published_tokenizers.load(GOLDEN / name)
    ours = published_tokenizers.load(tmp_path / "ours")
    assert same(ours.state_dict(), expected.state_dict())
    record = np.load(GOLDEN / name / "expected.npz")
    x = torch.from_numpy(record["base/input"])
    assert torch.equal(ours.encode(x), torch.from_numpy(record["base/tokens"]).long())
    assert "trained weights" in convert(tmp_path / "c.pth", tmp_path / "second", "--weights", "model")
    assert not same(published_tokenizers.load(tmp_path / "second").state_dict(), expected.state_dict())
    convert(tmp_path / "ours", tmp_path / "theirs")
    written = json.loads((tmp_path / "theirs/config.json").read_text())
    assert written["sync_codebook"] is False and not {"quality", "sizes"} & written.keys()
    assert same(load_file(tmp_path / "theirs/model.safetensors"), ours.state_dict())
    convert(tmp_path / "theirs", tmp_path / "again")
    assert same(published_tokenizers.load(tmp_path / "again").state_dict(), expected.state_dict())
    convert(tmp_path / "ours", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=False)["args"]
    assert (back.encoder_type, back.input_size) == (values["encoder_type"], values["input_size"])
    assert hasattr(back, "beta_schedule") is (name == "divae_unet")


def test_networks_of_other_sizes_are_said(tmp_path: Path) -> None:
    convert(GOLDEN / "vqvae_rgb_vit", tmp_path / "ours")
    assert "ml-4m has no network called vit_t_dec, vit_t_enc" in convert(tmp_path / "ours", tmp_path / "theirs")
    assert same(load_file(tmp_path / "theirs/model.safetensors"), load_file(GOLDEN / "vqvae_rgb_vit/model.safetensors"))
    assert published_tokenizers.load(tmp_path / "theirs").config.sizes
    convert(tmp_path / "ours", tmp_path / "theirs.pth")
    convert(tmp_path / "theirs.pth", tmp_path / "again")
    again, ours = (published_tokenizers.load(tmp_path / name) for name in ("again", "ours"))
    assert again.config.sizes == ours.config.sizes and same(again.state_dict(), ours.state_dict())


def test_vocabularies_go_both_ways(tmp_path: Path) -> None:
    words = WordPiece.fit(["a dog on a sofa"] * 4, vocab_size=4400, num_sentinels=8)
    words.save(tmp_path / "ours")
    assert "--text_tokenizer_path" in convert(tmp_path / "ours", tmp_path / "t.json")
    convert(tmp_path / "t.json", tmp_path / "again")
    assert WordPiece.load(tmp_path / "again").fingerprint() == words.fingerprint()
    assert ".json, or a folder" in convert(tmp_path / "ours", tmp_path / "t.pth", status=2)


def test_models_go_to_buckets(s3: S3, tmp_path: Path) -> None:
    training("fm21_qknorm", tmp_path / "c.pth")
    bucket = s3.bucket("convert")
    convert(tmp_path / "c.pth", f"{bucket}/ours")
    convert(f"{bucket}/ours", f"{bucket}/theirs")
    convert(f"{bucket}/theirs", tmp_path / "ours")
    assert same(checkpoint.load(tmp_path / "ours").state_dict(), ml4m.load(GOLDEN / "fm21_qknorm").state_dict())


def _cut(path: Path) -> None:
    training("fm21_qknorm", path)
    path.write_bytes(path.read_bytes()[:-9000])


def _foreign(path: Path) -> None:
    torch.save({"model": {"mask_token": torch.zeros(1, 1, 4)}, "args": {"lr": Fraction(1, 2)}}, path)


def _not_torch(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "text")


WRONG = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 2709521501\n"),
        "pointer of Git LFS for a file of 2,709,521,501 bytes; run `git lfs pull`",
    ),
    "page": (lambda path: path.write_text("<!DOCTYPE html><title>Sign in</title>"), "web page"),
    "cut": (_cut, "cut off after"),
    "foreign": (_foreign, "holds fractions.Fraction, and to load that would run code"),
    "zip": (_not_torch, "no checkpoint of PyTorch"),
    "text": (lambda path: path.write_text("hello"), "no checkpoint of PyTorch"),
    "list": (lambda path: torch.save([torch.zeros(2)], path), "holds a list"),
    "state": (lambda path: torch.save({"a": torch.zeros(2)}, path), "expected `model`"),
    "other": (lambda path: torch.save({"model": {"w": torch.zeros(2)}}, path), "no 4M model and no tokenizer (w, ...)"),
    "options": (
        lambda path: torch.save({"model": {"quant_proj.weight": torch.zeros(2, 2, 1, 1)}}, path),
        "holds no `args`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(WRONG))
def test_what_is_no_checkpoint_is_called_by_its_name(kind: str, tmp_path: Path) -> None:
    make, expected = WRONG[kind]
    make(tmp_path / "c.pth")
    said = convert(tmp_path / "c.pth", tmp_path / "ours", status=2)
    assert expected in said and "c.pth" in said and not (tmp_path / "ours").exists()


def test_wrong_places_are_said(tmp_path: Path) -> None:
    training("fm21_qknorm", tmp_path / "a.pth")
    (tmp_path / "b.pth.part").write_bytes(b"PK")
    assert "it holds a.pth, b.pth.part; name one of these" in convert(tmp_path, tmp_path / "x" / "ours", status=2)
    assert "not finished" in convert(tmp_path / "b.pth.part", tmp_path / "ours", status=2)
    assert "no such file" in convert(tmp_path / "none.pth", tmp_path / "ours", status=2)
    assert "--weights ema: it holds model" in convert(tmp_path / "a.pth", tmp_path / "o", "--weights", "ema", status=2)
    assert "is for .pth files" in convert(GOLDEN / "fm21_qknorm", tmp_path / "o", "--heads", 2, status=2)
    assert "DEST is SOURCE" in convert(GOLDEN / "fm21_qknorm", GOLDEN / "fm21_qknorm", status=2)
    assert "holds other files (a.pth" in convert(GOLDEN / "fm21_qknorm", tmp_path, status=2)
    (tmp_path / "root/runs").mkdir(parents=True)
    (tmp_path / "root/tokenizers").mkdir()
    assert "a root holds several" in convert(tmp_path / "root", tmp_path / "o", status=2)
    (tmp_path / "half").mkdir()
    (tmp_path / "half/config.json").write_text(json.dumps(config("fm21_qknorm")))
    assert "there is no model.safetensors" in convert(tmp_path / "half", tmp_path / "o", status=2)
    (tmp_path / "half/model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 12\n")
    assert "git lfs pull" in convert(tmp_path / "half", tmp_path / "o", status=2)
    whole = (GOLDEN / "fm21_qknorm/model.safetensors").read_bytes()
    (tmp_path / "half/model.safetensors").write_bytes(whole[:-100])
    assert "damaged or cut off" in convert(tmp_path / "half", tmp_path / "o", status=2)


def test_the_state_of_the_optimizer_is_not_read(tmp_path: Path) -> None:
    """Its bytes may be anything: tensors are mapped, and these are never looked at."""
    training("fm21_qknorm", tmp_path / "c.pth", optimizer={"state": {0: {"exp_avg": torch.full((64,), 2.5)}}})
    data = (tmp_path / "c.pth").read_bytes()
    pattern = np.full(64, 2.5, np.float32).tobytes()
    assert data.count(pattern) == 1
    (tmp_path / "c.pth").write_bytes(data.replace(pattern, bytes(256)))
    convert(tmp_path / "c.pth", tmp_path / "ours")


@pytest.mark.parametrize("part", ["classes", "4m"])
def test_files_of_tensors_alone_become_folders(tmp_path: Path, part: str) -> None:
    """As TerraMind publishes them: what the tensors do not show is asked for."""
    tensors = tiny.arrays(part)
    torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, tmp_path / "a.pt")
    said = convert(tmp_path / "a.pt", tmp_path / "made", status=2)
    assert re.search("how many (attention )?heads it has", said)
    said = convert(tmp_path / "a.pt", tmp_path / "made", "--heads", 2)
    assert "of tensors by ml-4m's names" in said
    if part == "classes":
        made = published_tokenizers.load(tmp_path / "made")
        assert same(made.state_dict(), {name: torch.from_numpy(value) for name, value in tensors.items()})
    else:
        mask = checkpoint.load(tmp_path / "made").mask_token[None]
        assert torch.equal(mask, torch.from_numpy(tensors["mask_token"]))
