"""Parity with 4M on checkpoints that nobody recorded: any widths, modalities and variants, against dense eager code."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests import published
from fourmill_tests.eager import EagerFourM
from fourmill_tests.published import TABLE, Published
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.published import ml4m

GOLDEN = Path(__file__).parents[2] / "golden"
ModDict = dict[str, dict[str, Tensor]]
OUTPUTS = [name for name, (kind, _) in TABLE.items() if kind in ("tokens", "sequence")]


def write(checkpoint: Published, folder: Path, drop: tuple[str, ...] = (), header: bool = False) -> None:
    tensors = {key: value for key, value in checkpoint.tensors.items() if key not in drop}
    texts = {key: str(value) for key, value in checkpoint.config.items()}
    save_file(tensors, folder / "model.safetensors", metadata=texts if header else None)
    if not header:
        (folder / "config.json").write_text(json.dumps(checkpoint.config))


@pytest.mark.parametrize("name", ["fm7_swiglu_nobias", "fm_gelu_bias_registers", "fm21_qknorm"])
def test_the_eager_model_is_the_recorded_one(name: str) -> None:
    facts = json.loads((GOLDEN / name / "expected.json").read_text())
    config = {"num_register_tokens": 0, "decoder_causal_mask": False, "decoder_sep_mask": True}
    config |= json.loads((GOLDEN / name / "config.json").read_text())
    kinds = {m: TABLE[m][0] for m in facts["mod_order"]}
    limits = {m: TABLE[m][1] for m in facts["mod_order"]}
    tensors = {key: tensor.double() for key, tensor in load_file(GOLDEN / name / "model.safetensors").items()}
    eager = EagerFourM(tensors, config, kinds, limits)
    with np.load(GOLDEN / name / "inputs.npz") as file:
        parts = ("tensor", "input_mask", "target_mask", "decoder_attention_mask")
        mod_dict = {m: {p: torch.from_numpy(file[f"{m}/{p}"]) for p in parts} for m in facts["mod_order"]}
    for d in mod_dict.values():
        d["tensor"] = d["tensor"].double() if d["tensor"].is_floating_point() else d["tensor"].long()
    budgets = facts["num_encoder_tokens"], facts["num_decoder_tokens"]
    losses = eager.losses(mod_dict, budgets, facts["decoder_order"])
    for m, expected in facts["loss"]["default"]["per_modality"].items():
        assert losses[m].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def exact(checkpoint: Published, mod_dict: ModDict) -> tuple[EagerFourM, ModDict]:
    """The eager model and its inputs in float64, whose rounding is below what any test looks at."""
    tensors = {key: tensor.double() for key, tensor in checkpoint.tensors.items()}
    inputs = {
        name: {part: x.double() if x.is_floating_point() else x for part, x in arrays.items()}
        for name, arrays in mod_dict.items()
    }
    return Published(tensors, checkpoint.config).eager(), inputs


@st.composite
def checkpoints(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `published.checkpoint`."""
    names = draw(st.lists(st.sampled_from(sorted(TABLE)), min_size=1, max_size=5, unique=True))
    outputs = draw(st.lists(st.sampled_from(OUTPUTS), min_size=1, max_size=4, unique=True))
    switches = ("qkv_bias", "proj_bias", "mlp_bias", "norm_bias", "gated_mlp", "qk_norm", "share_modality_embeddings")
    heads = draw(st.sampled_from([1, 2, 3]))
    options: dict[str, Any] = {key: draw(st.booleans()) for key in switches} | {
        "num_heads": heads,
        "dim": heads * draw(st.sampled_from([4, 8])),
        "encoder_depth": draw(st.integers(1, 2)),
        "decoder_depth": draw(st.integers(1, 2)),
        "mlp_ratio": draw(st.sampled_from([2.0, 4.0])),
        "act_layer": draw(st.sampled_from(["GELU", "SiLU"])),
        "num_register_tokens": draw(st.sampled_from([0, 3])),
        "decoder_causal_mask": draw(st.booleans()),
        "decoder_sep_mask": draw(st.booleans()),
    }
    return {"seed": draw(st.integers(0, 2**31)), "inputs": names, "outputs": outputs} | options


@settings(max_examples=25, deadline=None, derandomize=True)
@given(checkpoints(), st.booleans(), st.integers(0, 2**31))
def test_logits_and_losses_of_any_checkpoint(settings: dict[str, Any], header: bool, seed: int) -> None:
    checkpoint = published.checkpoint(**settings)
    with tempfile.TemporaryDirectory() as folder:
        write(checkpoint, Path(folder), header=header)
        model = ml4m.load(folder).double()
    rng = np.random.default_rng(seed)
    mod_dict = published.masked_inputs(checkpoint, seed)
    order = list(rng.permutation(list(mod_dict)))
    budgets = tuple(int(n) for n in rng.integers(4, 40, 2))
    with torch.no_grad():
        output = model(ml4m.pack(model, mod_dict, *budgets, decoder_order=order))
        eager, inputs = exact(checkpoint, mod_dict)
        logits, targets = eager.logits(inputs, budgets, order)
        losses = eager.losses(inputs, budgets, order)
    for name, expected in logits.items():
        torch.testing.assert_close(output.logits(name), expected, atol=1e-6, rtol=1e-6)
        own = model.config.spec(name).name
        assert output.counts[own] == len(targets[name])
        assert output.losses[own].item() == pytest.approx(losses[name].item(), rel=1e-5)
    assert output.loss.item() == pytest.approx(sum(losses.values()).item() / len(losses), rel=1e-5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(checkpoints(), st.booleans(), st.randoms(use_true_random=False))
def test_load_save_load_is_exact(settings: dict[str, Any], header: bool, random: Any) -> None:
    """Whatever optional tensors and keys are left out, what is saved is the whole checkpoint, and loads again."""
    checkpoint = published.checkpoint(**settings)
    both = [m for m in checkpoint.config["domains_out"] if m in checkpoint.config["domains_in"]]
    shared = both if checkpoint.config["share_modality_embeddings"] else []
    drop = tuple(f"{random.choice(('en', 'de'))}coder_embeddings.{m}.mod_emb" for m in shared if random.random() < 0.7)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        write(checkpoint, Path(first), drop, header)
        once = ml4m.load(first)
        ml4m.save(once, second)
        stored = load_file(Path(second) / "model.safetensors")
        assert stored.keys() == checkpoint.tensors.keys()
        assert all(torch.equal(stored[key], value) for key, value in checkpoint.tensors.items())
        twice = ml4m.load(second)
        config = json.loads((Path(second) / "config.json").read_text())
    assert twice.config == once.config
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True))
    del config["image_size"]  # of the first pixels; the reference takes each modality's from its name
    assert {key: checkpoint.config[key] for key in config} == config


def test_every_published_modality_in_one_checkpoint(tmp_path: Path) -> None:
    checkpoint = published.checkpoint(0, sorted(TABLE), OUTPUTS)
    write(checkpoint, tmp_path)
    model = ml4m.load(tmp_path)
    assert [ml4m.published_name(spec) for spec in model.config.modalities] == checkpoint.names
    limits = {name: TABLE[name][1] for name in checkpoint.names}
    assert {ml4m.published_name(s): s.max_tokens for s in model.config.modalities} == limits


@pytest.mark.parametrize("kept", ["token_emb", "to_logits"])
def test_tied_tables_may_be_stored_once(kept: str, tmp_path: Path) -> None:
    names = ["caption", "tok_depth@224"]
    checkpoint = published.checkpoint(1, names, names)
    for name in names:
        key = f"decoder_embeddings.{name}"
        checkpoint.tensors[f"{key}.to_logits.weight"] = checkpoint.tensors[f"{key}.token_emb.weight"].clone()
    other = {"token_emb": "to_logits", "to_logits": "token_emb"}[kept]
    write(checkpoint, tmp_path, tuple(f"decoder_embeddings.{name}.{other}.weight" for name in names))
    model = ml4m.load(tmp_path)
    assert model.config.tied_heads
    stored = ml4m.state_dict(model)
    assert all(torch.equal(stored[key], value) for key, value in checkpoint.tensors.items())


def test_configuration_keys_have_the_reference_defaults(tmp_path: Path) -> None:
    checkpoint = published.checkpoint(2, ["caption"], ["caption"])
    needed = ("domains_in", "domains_out", "dim", "encoder_depth", "decoder_depth", "num_heads")
    write(Published(checkpoint.tensors, {key: checkpoint.config[key] for key in needed}), tmp_path)
    model = ml4m.load(tmp_path)
    write(checkpoint, tmp_path)
    assert model.config == ml4m.load(tmp_path).config


def test_a_grid_of_an_unusual_size_keeps_its_name(tmp_path: Path) -> None:
    checkpoint = published.checkpoint(3, ["tok_depth@224"], ["tok_depth@224"])
    for side in ("encoder_embeddings", "decoder_embeddings"):
        key = f"{side}.tok_depth@224.pos_emb"
        checkpoint.tensors[key] = checkpoint.tensors[key][:, :49].contiguous()
    write(checkpoint, tmp_path)
    model = ml4m.load(tmp_path)
    assert ml4m.state_dict(model).keys() == checkpoint.tensors.keys()
    arrays = published.masked_inputs(checkpoint, 0)["tok_depth@224"]
    mod_dict = {"tok_depth@224": {part: x[:, :49] for part, x in arrays.items()}}
    mod_dict["tok_depth@224"]["input_mask"][:, 0] = False
    assert ml4m.pack(model, mod_dict, 8, 8).input_valid.any()


def loaded(checkpoint: Published, folder: Path) -> FourM:
    write(checkpoint, folder)
    return ml4m.load(folder)


def test_the_mean_is_over_the_outputs_that_are_offered(tmp_path: Path) -> None:
    names = ["tok_depth@224", "caption", "tok_rgb@224"]
    checkpoint = published.checkpoint(5, names, names)
    model = loaded(checkpoint, tmp_path).double()
    mod_dict = published.masked_inputs(checkpoint, 1)
    offered = {name: mod_dict[name] for name in names[:2]}
    with torch.no_grad():
        output = model(ml4m.pack(model, offered, 64, 64).to("cpu"))
        eager, inputs = exact(checkpoint, offered)
        losses = eager.losses(inputs, (64, 64), list(offered))
    assert list(losses) == names[:2]
    assert output.loss.item() == pytest.approx(sum(losses.values()).item() / 2, rel=1e-5)
    assert output.losses["tok_depth@224"] is output.losses["tok_depth"] and output.counts["tok_rgb@224"] == 0


def test_inputs_are_packed_as_people_have_them(tmp_path: Path) -> None:
    """Grids with rows and columns, tensors with gradients or in bfloat16, either names, nothing to predict."""
    checkpoint = published.checkpoint(6, ["rgb@224", "tok_depth@224"], ["tok_depth@224", "caption"])
    model = loaded(checkpoint, tmp_path)
    mod_dict = published.masked_inputs(checkpoint, 0)
    mod_dict["rgb@224"]["tensor"] = mod_dict["rgb@224"]["tensor"].bfloat16()
    expected = ml4m.pack(model, mod_dict, 64, 64)
    grid, pixels = mod_dict["tok_depth@224"], mod_dict["rgb@224"]
    square = {part: x.reshape(-1, 14, 14) for part, x in grid.items()}
    ours = {"rgb": pixels | {"tensor": pixels["tensor"].requires_grad_()}, "tok_depth": square}
    packed = ml4m.pack(model, ours | {"caption": mod_dict["caption"]}, 64, 64, decoder_order=["tok_depth", "caption"])
    assert all(np.array_equal(packed.arrays()[name], array) for name, array in expected.arrays().items())
    assert np.array_equal(packed.values["rgb"], expected.values["rgb"])
    inputs = ml4m.pack(model, {"rgb@224": {part: pixels[part] for part in ("tensor", "input_mask")}}, 64, 64)
    assert not inputs.target_valid.any() and model(inputs).loss.item() == 0
    with pytest.raises(ValueError, match="decoder_order names caption, expected modalities of mod_dict"):
        ml4m.pack(model, {"tok_depth": square}, 64, 64, decoder_order=["caption"])
    with pytest.raises(ValueError, match="got depth, expected some of rgb@224"):
        ml4m.pack(model, {"depth": pixels}, 64, 64)


def test_domains_without_tensors_on_their_side_are_left_out(tmp_path: Path) -> None:
    checkpoint = published.checkpoint(7, ["rgb@224", "caption"], ["caption"])
    plain = loaded(checkpoint, tmp_path)
    checkpoint.config["domains_in"] = ["rgb", "depth", *checkpoint.config["domains_in"]]
    checkpoint.config["domains_out"] = ["rgb@224", *checkpoint.config["domains_out"]]
    assert loaded(checkpoint, tmp_path).config == plain.config
    checkpoint.config["domains_out"] = ["depth"]
    with pytest.raises(ValueError, match="has no decoder_embeddings of any of depth"):
        loaded(checkpoint, tmp_path)


def test_no_two_modalities_get_one_published_name(tmp_path: Path) -> None:
    """224 pixels in patches of 8: the registry's patches of 16 would make it a grid of 448 pixels."""
    rgb, depth = ModalitySpec("rgb", Kind.PIXELS, 0, 784, 192), ModalitySpec("tok_depth", Kind.GRID, 20, 784)
    large = replace(depth, name="tok_depth@448")
    sizes: dict[str, Any] = {"dim": 8, "num_heads": 2, "encoder_depth": 1, "decoder_depth": 1}
    model = FourM(FourMConfig((rgb, depth, large), **sizes)).eval()
    ml4m.save(model, tmp_path)
    again = ml4m.load(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    with pytest.raises(ValueError, match="tok_depth and tok_depth@448 would both be tok_depth@448"):
        ml4m.save(FourM(FourMConfig((depth, large), **sizes)), tmp_path)


def test_models_come_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = published.checkpoint(4, ["caption"], ["caption"])
    write(checkpoint, tmp_path)
    asked = []

    def download(hub_id: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((hub_id, revision, allow_patterns))
        if hub_id == "some/model":
            return str(tmp_path)
        raise FileNotFoundError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert ml4m.load("some/model", revision="v1").config.dim == 16
    assert asked == [("some/model", "v1", ["model.safetensors", "config.json", "*.pt"])]
    with pytest.raises(ValueError, match=r"other/model: .*offline; check the id"):
        ml4m.load("other/model")
