"""Parity with apple/ml-4m on recorded tiny models (tests/golden/fm*): activations, losses, gradients, steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fourmill.modalities import Kind, ModalitySpec
from fourmill.model.batch import PackedBatch
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM, decoder_mask
from fourmill.model.published import ml4m

GOLDEN = Path(__file__).parents[2] / "golden"
MODELS = ["fm7_swiglu_nobias", "fm_gelu_bias_registers", "fm21_qknorm"]
VARIANTS = {
    "default": {},
    "no_sep_mask": {"decoder_separate": False},
    "causal": {"decoder_causal": True},
    "causal_no_sep": {"decoder_causal": True, "decoder_separate": False},
}


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def facts(name: str) -> dict:
    return json.loads((GOLDEN / name / "expected.json").read_text())


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name / "expected.npz") as file:
        return dict(file)


def batch_of(name: str, model: FourM) -> PackedBatch:
    expected = facts(name)
    with np.load(GOLDEN / name / "inputs.npz") as file:
        mod_dict = {
            mod: {
                key: file[f"{mod}/{key}"] for key in ("tensor", "input_mask", "target_mask", "decoder_attention_mask")
            }
            for mod in expected["mod_order"]
        }
    budgets = expected["num_encoder_tokens"], expected["num_decoder_tokens"]
    return ml4m.pack(model, mod_dict, *budgets, decoder_order=expected["decoder_order"])


def exact(name: str) -> FourM:
    """In float64: what is left is the rounding of the recording, which was made in float32."""
    return ml4m.load(GOLDEN / name).double()


def close(actual: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@torch.no_grad()
def test_encoder_activations(name: str) -> None:
    model, expected = exact(name), golden(name)
    batch = batch_of(name, model).to("cpu")
    x, _ = model.embed_inputs(batch.input_ids, batch.input_mod, batch.input_pos, batch.input_valid, batch.values)
    close(x, expected["encoder_input"])
    mask = torch.from_numpy(~expected["encoder_pad_mask"])
    valid = mask.unsqueeze(-1)
    y = model.encode_embedded(x, mask[:, None, None, :])
    close(y * valid, expected["encoder_output"] * valid.numpy())


def test_packing_and_decoder_mask(name: str) -> None:
    model, expected = ml4m.load(GOLDEN / name), golden(name)
    ids = [facts(name)["modality_ids"][ml4m.published_name(spec)] for spec in model.config.modalities]
    batch = batch_of(name, model)
    valid = ~expected["decoder_pad_mask"]
    assert np.array_equal(batch.target_valid, valid)
    assert np.array_equal(batch.target_ids[valid], expected["decoder_target_ids"][valid])
    assert np.array_equal(np.array(ids)[batch.target_mod][valid], expected["decoder_mod_ids"][valid])
    registers = model.config.num_register_tokens
    input_valid = ~expected["encoder_pad_mask"][:, registers:]
    assert np.array_equal(batch.input_valid, input_valid)
    input_mod = expected["encoder_mod_ids"][:, registers:]
    assert np.array_equal(np.array(ids)[batch.input_mod][input_valid], input_mod[input_valid])

    length = valid.shape[1]
    bits = np.unpackbits(expected["decoder_attention_mask_bits"], axis=-1)[..., :length].astype(bool)
    moved = batch.to("cpu")
    mask = decoder_mask(model.config, moved.target_mod, moved.target_end, moved.target_valid)[:, 0].numpy()
    pairs = valid[:, :, None] & valid[:, None, :]
    assert np.array_equal(mask[pairs], ~bits[pairs])
    assert not (mask & ~pairs & ~np.eye(length, dtype=bool)).any(), "a pad is seen, or sees more than itself"


@torch.no_grad()
def test_logits(name: str) -> None:
    model, expected = exact(name), golden(name)
    output = model(batch_of(name, model))
    for published, count in facts(name)["valid_decoder_per_mod"].items():
        logits = output.logits(ml4m.local_name(published))
        assert len(logits) == count == output.counts[ml4m.local_name(published)]
        close(logits, expected[f"logits/{published}"])


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_losses_of_variants(name: str, variant: str) -> None:
    model, expected = exact(name), facts(name)["loss"][variant]
    model.config = replace(model.config, **VARIANTS[variant])
    batch = batch_of(name, model)
    output = model(batch)
    assert output.loss.item() == pytest.approx(expected["mod"], rel=1e-5)
    assert model(batch, "ml4m_token").loss.item() == pytest.approx(expected["token"], rel=1e-5)
    for published, loss in expected["per_modality"].items():
        assert output.losses[ml4m.local_name(published)].item() == pytest.approx(loss, rel=1e-5)
    for key, first in golden(name).items():
        if key.startswith(f"variant/{variant}/"):
            close(output.logits(ml4m.local_name(key.rsplit("/", 1)[1]))[:8], first)


@torch.no_grad()
def test_float32_is_float64_but_for_rounding(name: str) -> None:
    """Whatever kernels a CPU takes for its products."""
    model, double = ml4m.load(GOLDEN / name), exact(name)
    batch = batch_of(name, model)
    output, expected = model(batch), double(batch)
    for modality in model.config.outputs:
        close(output.logits(modality).double(), expected.logits(modality).numpy())
    assert output.loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)


def gradients(model: FourM) -> dict[str, torch.Tensor]:
    """Gradients under the reference's names: its view of a model whose weights are their gradients."""
    twin = FourM(model.config).to(model.mask_token.dtype)
    own = dict(twin.named_parameters())
    for key, parameter in model.named_parameters():
        own[key].data = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
    return ml4m.state_dict(twin)


def test_gradients(name: str) -> None:
    model, expected = exact(name), facts(name)
    model(batch_of(name, model)).loss.backward()
    grads = gradients(model)
    for key, norm in expected["grad_norm"].items():
        assert grads[key].norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-6), key
    for key in expected["no_grad_params"]:
        assert not grads[key].any(), key
    total = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert total.item() == pytest.approx(expected["grad_norm_total"], rel=1e-4)


def test_three_steps_of_adamw(name: str) -> None:
    model, expected = exact(name), facts(name)
    settings = expected["adamw"]
    groups = model.parameter_groups(settings["weight_decay"])
    optimizer = torch.optim.AdamW(groups, lr=settings["lr"], betas=tuple(settings["betas"]), eps=settings["eps"])
    batch, losses = batch_of(name, model), []
    for _ in range(settings["steps"]):
        loss = model(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx(expected["adamw_losses"], rel=1e-5)


def test_parameters_without_decay(name: str) -> None:
    model = ml4m.load(GOLDEN / name)
    renamed = {f"encoder_embeddings.{m}.emb_proj.bias": f"projections.layers.{m}.bias" for m in ("t5_caption",)}
    assert model.no_decay_names() == {renamed.get(key, key) for key in facts(name)["no_decay_params"]}


def test_load_save_load_is_exact(name: str, tmp_path: Path) -> None:
    ml4m.save(ml4m.load(GOLDEN / name), tmp_path)
    before, after = load_file(GOLDEN / name / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    config = json.loads((tmp_path / "config.json").read_text())
    stored = json.loads((GOLDEN / name / "config.json").read_text())
    assert config == {"num_register_tokens": 0} | stored


def test_configuration_from_the_header(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(GOLDEN / name / "model.safetensors")
    assert ml4m.load(tmp_path).config == ml4m.load(GOLDEN / name).config


@pytest.mark.parametrize("dropped", ["encoder_embeddings", "decoder_embeddings"])
def test_one_of_two_shared_embeddings_is_enough(dropped: str, tmp_path: Path) -> None:
    source = GOLDEN / "fm7_swiglu_nobias"
    rewrite(source, tmp_path, lambda t: t.pop(f"{dropped}.caption.mod_emb"))
    assert same(ml4m.load(tmp_path), ml4m.load(source))


def rewrite(source: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text((source / "config.json").read_text())


def same(a: FourM, b: FourM) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return a.config == b.config and x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("encoder.1.mlp.fc3.weight"), "lacks encoder.1.mlp.fc3.weight"),
        (lambda t: t.update(stray=torch.zeros(1)), "no place for.*stray"),
        (lambda t: t.update(mask_token=torch.zeros(1, 1, 8)), r"mask_token: got shape \(1, 1, 8\)"),
        (lambda t: t["encoder_norm.bias"].fill_(1), "no place for.*encoder_norm.bias"),
        (lambda t: t["decoder_embeddings.det.mod_emb"].fill_(1), "embedding of det: got two different ones"),
        (lambda t: [t.pop(k) for k in list(t) if "det.to" in k], "no embedding of det"),
        (lambda t: t.pop("encoder_embeddings.det.token_emb.weight"), "lacks encoder_embeddings.det.token_emb.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: Callable, message: str, tmp_path: Path) -> None:
    rewrite(GOLDEN / "fm7_swiglu_nobias", tmp_path, change)
    with pytest.raises(ValueError, match=message):
        ml4m.load(tmp_path)


def test_no_folder_and_no_hub_id() -> None:
    with pytest.raises(ValueError, match="no such folder"):
        ml4m.load("nowhere")


def test_tied_heads_are_written_twice_and_read_as_one(tmp_path: Path, random_batch: Callable[..., PackedBatch]) -> None:
    specs = (
        ModalitySpec("tok_dinov2", Kind.GRID, 24, 256),
        ModalitySpec("caption", Kind.SEQUENCE, 40, 256),
        ModalitySpec("tok_dinov2_global", Kind.GRID, 12, 16, learned_positions=True),
    )
    model = FourM(FourMConfig(specs, dim=8, num_heads=2, encoder_depth=1, decoder_depth=1))
    ml4m.save(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tables = [tensors[f"decoder_embeddings.tok_dinov2@224.{part}.weight"] for part in ("token_emb", "to_logits")]
    assert torch.equal(*tables)
    loaded = ml4m.load(tmp_path)
    assert loaded.config.tied_heads and loaded.heads is None
    assert [s.name for s in loaded.config.modalities] == [s.name for s in specs]
    batch = random_batch(model.config, seed=0)
    assert torch.equal(loaded(batch).loss, model.eval()(batch).loss)


def test_super_resolution_names_keep_their_resolution() -> None:
    assert ml4m.local_name("tok_rgb@448") == "tok_rgb@448"
    specs = {name: ModalitySpec(ml4m.local_name(name), Kind.GRID, 4, n) for name, n in
             (("tok_rgb@448", 784), ("tok_rgb@224", 196), ("tok_dinov2@224", 256), ("tok_dinov2_global", 16))
        }  # fmt: skip
    assert [ml4m.published_name(spec) for spec in specs.values()] == list(specs)


def test_targets_past_the_table_fall_back_to_its_first_row() -> None:
    config = FourMConfig((ModalitySpec("caption", Kind.SEQUENCE, 40, 6),), dim=8, num_heads=2)
    length = 10
    mod_dict = {
        "caption": {
            "tensor": np.arange(length)[None],
            "input_mask": np.ones((1, length), bool),
            "target_mask": np.zeros((1, length), bool),
            "decoder_attention_mask": np.ones((1, length), np.int32),
        }
    }
    batch = ml4m.pack(FourM(config), mod_dict, 4, 12)
    assert batch.target_pos.tolist() == [[0, 1, 2, 3, 4, 5, 0, 0, 0]]
    assert batch.query_ids.tolist() == [list(range(9))]
    assert batch.target_ids.tolist() == [list(range(1, 10))]
    assert batch.target_end.tolist() == [list(range(1, 10))]
