"""What the transformer promises of packed batches, whatever its weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fourmill import modalities as registry
from fourmill.modalities import Kind, ModalitySpec
from fourmill.model import checkpoint
from fourmill.model.batch import PackedBatch
from fourmill.model.checkpointing import Checkpointing
from fourmill.model.config import SIZES, FourMConfig
from fourmill.model.embeddings import RGB_MEAN, RGB_STD
from fourmill.model.fourm import FourM, weigh
from fourmill.model.initialize import STD
from fourmill.model.prepare import check_batch, group_targets

SPECS = (ModalitySpec("tok_rgb", Kind.GRID, 4, 16),)
Batches = Callable[..., PackedBatch]
INPUT_FIELDS = ("input_ids", "input_mod", "input_pos", "input_valid")
TARGET_FIELDS = ("target_ids", "query_ids", "target_mod", "target_pos", "target_end", "target_valid")


def test_groups_are_sorted_by_modality_and_batch_major(random_batch: Batches, config: FourMConfig) -> None:
    batch = random_batch(config, seed=1)
    groups = group_targets(batch, len(config.modalities))
    mod, index = batch.target_mod.reshape(-1), groups.index.numpy()
    assert sum(groups.counts) == len(index) == batch.target_valid.sum()
    assert batch.target_valid.reshape(-1)[index].all()
    for m, part in enumerate(np.split(index, np.cumsum(groups.counts)[:-1])):
        assert (mod[part] == m).all() and (np.diff(part) > 0).all()


@pytest.mark.parametrize("weighting", ["modality", "token", "ml4m_token"])
def test_loss_is_the_weighted_mean_of_cross_entropies(random_batch: Batches, model: FourM, weighting: str) -> None:
    batch = random_batch(model.config, seed=2)
    output = model(batch, weighting)
    losses, weights = [], []
    for spec in model.config.modalities:
        if spec.is_target:
            chosen = batch.target_valid & (batch.target_mod == model.config.index(spec.name))
            ids = torch.from_numpy(batch.target_ids[chosen]).long()
            logp = output.logits(spec.name).log_softmax(-1)
            losses.append(-logp[torch.arange(len(ids)), ids].mean().item())
            n = len(ids)
            weights.append({"modality": 1, "token": n, "ml4m_token": n * spec.vocab_size}[weighting])
            assert output.losses[spec.name].item() == pytest.approx(losses[-1], rel=1e-5)
    assert output.loss.item() == pytest.approx(np.average(losses, weights=weights), rel=1e-5)


def test_absent_modality_counts_as_zero() -> None:
    losses = {"a": torch.tensor(3.0), "b": torch.tensor(0.0)}
    sizes = {"a": 10, "b": 20}
    assert weigh(losses, {"a": 5, "b": 0}, sizes, "modality").item() == pytest.approx(1.5)
    assert weigh(losses, {"a": 5, "b": 0}, sizes, "token").item() == pytest.approx(3.0)
    with pytest.raises(ValueError, match="weighting"):
        weigh(losses, {"a": 5, "b": 0}, sizes, "mean")  # type: ignore[arg-type]


def test_what_pads_hold_changes_nothing(random_batch: Batches, model: FourM) -> None:
    batch = random_batch(model.config, seed=3)
    changed = copy.deepcopy(batch)
    other = random_batch(model.config, seed=4)
    for names, valid in ((INPUT_FIELDS, batch.input_valid), (TARGET_FIELDS, batch.target_valid)):
        for name in names[:-1]:
            getattr(changed, name)[~valid] = getattr(other, name)[~valid]
    a, b = model(batch), model(changed)
    assert not np.array_equal(batch.input_ids, changed.input_ids)
    assert a.loss.item() == b.loss.item()


def test_order_of_inputs_and_more_pads_change_nothing(random_batch: Batches, model: FourM) -> None:
    model, batch = model.double(), random_batch(model.config, seed=5)
    order = np.random.default_rng(0).permutation(batch.input_ids.shape[1])
    changed = copy.deepcopy(batch)
    for name in INPUT_FIELDS:
        x = getattr(batch, name)[:, order]
        setattr(changed, name, np.concatenate([x, np.zeros_like(x[:, :3])], axis=1))
    for name in TARGET_FIELDS:
        x = getattr(batch, name)
        setattr(changed, name, np.concatenate([x, np.zeros_like(x[:, :2])], axis=1))
    assert model(changed).loss.item() == pytest.approx(model(batch).loss.item(), rel=1e-6)


def test_samples_do_not_see_each_other(random_batch: Batches, model: FourM) -> None:
    model, batch = model.double(), random_batch(model.config, seed=6)
    whole = model(batch)
    rows = {name: array[1:2] for name, array in batch.arrays().items()}
    alone = model(PackedBatch(**rows, values={k: v[1:2] for k, v in batch.values.items()}))
    for spec in model.config.modalities:
        if spec.is_target:
            chosen = batch.target_valid & (batch.target_mod == model.config.index(spec.name))
            second = np.nonzero(chosen)[0] == 1
            torch.testing.assert_close(alone.logits(spec.name), whole.logits(spec.name)[second], atol=1e-9, rtol=0)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_sample_without_inputs_trains(random_batch: Batches, config: FourMConfig, qk_norm: bool) -> None:
    model = FourM(replace(config, qk_norm=qk_norm))
    batch = random_batch(config, seed=7)
    batch.input_valid[0] = False
    loss = model(batch).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_batch_without_targets_trains(random_batch: Batches, model: FourM) -> None:
    batch = random_batch(model.config, seed=8)
    batch.target_valid[:] = False
    loss = model(batch).loss
    loss.backward()
    assert loss.item() == 0
    assert not model.decoder_embeddings.tokens.grad.any()


def test_every_parameter_gets_a_gradient(random_batch: Batches, config: FourMConfig) -> None:
    """Distributed training needs it, whatever modalities a batch happens to hold."""
    model = FourM(replace(config, share_modality_embeddings=False, num_register_tokens=2, tied_heads=False))
    batch = random_batch(config, seed=9)
    batch.input_mod[:] = config.index("tok_rgb")
    batch.input_ids[:], batch.input_pos[:] = 0, 0
    model(batch).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_tensors_and_arrays_agree_with_groups_or_without(random_batch: Batches, model: FourM) -> None:
    batch = random_batch(model.config, seed=10)
    tensors = batch.to("cpu")
    groups = group_targets(batch, len(model.config.modalities))
    assert model(batch).loss == model(tensors).loss == model(tensors, groups=groups).loss


@pytest.mark.parametrize("how", [True, "selective"])
def test_checkpointing_changes_no_gradient(random_batch: Batches, model: FourM, how: Checkpointing) -> None:
    """Nor any product, if it is selective: counted by PyTorch."""
    batch, grads, operations = random_batch(model.config, seed=11), [], []
    for on in (False, how):
        model.checkpoint_blocks(on)
        model.zero_grad()
        with FlopCounterMode(display=False) as counter:
            model.double()(batch).loss.backward()
        operations.append(counter.get_total_flops())
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert operations[1] == operations[0] if how == "selective" else operations[1] > 1.2 * operations[0]


@pytest.mark.parametrize("qk_norm", [False, True])
def test_bfloat16_autocast_is_close(random_batch: Batches, config: FourMConfig, qk_norm: bool) -> None:
    model = FourM(replace(config, qk_norm=qk_norm))
    batch = random_batch(model.config, seed=12)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(model(batch).loss.item(), rel=0.03)


def test_bfloat16_weights_run(random_batch: Batches, model: FourM) -> None:
    batch = random_batch(model.config, seed=12)
    expected = model(batch).loss.item()
    assert model.bfloat16()(batch).loss.item() == pytest.approx(expected, rel=0.03)


def test_compiled_blocks_share_two_graphs_over_steps(random_batch: Batches, config: FourMConfig) -> None:
    """One graph for a side, whatever the depth; batches of the same shape compile nothing new."""
    model = FourM(replace(config, encoder_depth=10, decoder_depth=10))
    batches = [random_batch(config, seed=15 + i) for i in range(2)]
    expected = [model(batch).loss.item() for batch in batches]
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model.compile_blocks(backend=backend, fullgraph=True, dynamic=False)
    assert [model(batch).loss.item() for batch in batches] == pytest.approx(expected, rel=1e-5)
    assert len(graphs) == 2


def test_pixels_are_normalized_with_imagenet_statistics(model: FourM) -> None:
    patches = torch.randint(0, 256, (2, 9, 12), dtype=torch.uint8)
    expected = (patches.view(2, 9, 4, 3) / 255 - torch.tensor(RGB_MEAN)) / torch.tensor(RGB_STD)
    torch.testing.assert_close(model.projections.normalize_pixels(patches), expected.view(2, 9, 12))
    floats = torch.randn(2, 9, 12)
    assert model.projections.normalize_pixels(floats) is floats


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("input_ids", 10**6, r"input token 0 of sample 'sample1': id 1000000 of modality 'tok_rgb'"),
        ("input_ids", 30, "input token 0 .* id 30 of modality 'tok_rgb'"),
        ("input_ids", -1, "input token 0 .* id -1 of modality 'tok_rgb'"),
        ("input_pos", -2, "position -2 of modality 'tok_rgb'"),
        ("target_ids", -1, "target token 0 .* id -1"),
        ("target_ids", 30, "target token 0 of sample 'sample1': id 30"),
        ("query_ids", -2, "query token 0 .* id -2"),
        ("input_pos", 9, "position 9 of modality 'tok_rgb'"),
        ("target_pos", -2, "position -2"),
        ("target_mod", 0, "modality 0 of modality 'rgb', expected one of tok_rgb, caption"),
        ("input_mod", 7, "modality 7 of modality 7"),
    ],
)
def test_numbers_out_of_range_are_refused(
    random_batch: Batches, model: FourM, name: str, value: int, message: str
) -> None:
    batch = random_batch(model.config, seed=13)
    tok_rgb = model.config.index("tok_rgb")
    for field in ("input_mod", "target_mod"):
        getattr(batch, field)[1, 0] = tok_rgb
    for field in ("input_ids", "input_pos", "target_ids", "target_pos", "query_ids"):
        getattr(batch, field)[1, 0] = 0
    getattr(batch, name)[1, 0] = value
    with pytest.raises(ValueError, match=message):
        model(batch)


@pytest.mark.parametrize(("number", "fits"), [(8, True), (9, False)])
def test_pixels_are_numbered_by_their_values(model: FourM, random_batch: Batches, number: int, fits: bool) -> None:
    batch = random_batch(model.config, seed=13)
    batch.input_mod[1, 0], batch.input_ids[1, 0], batch.input_pos[1, 0] = 0, number, 8
    with nullcontext() if fits else pytest.raises(ValueError, match="id 9 of modality 'rgb'"):
        check_batch(model.config, batch)


def test_initial_weights(config: FourMConfig) -> None:
    torch.manual_seed(0)
    model = FourM(replace(config, dim=64, qkv_bias=True, norm_bias=True, tied_heads=False))
    assert model.encoder_embeddings.tokens.std().item() == pytest.approx(STD, rel=0.1)
    assert model.decoder_embeddings.learned_positions.std().item() == pytest.approx(STD, rel=0.2)
    attn, cross = model.encoder[0].attn, model.decoder[0].cross_attn
    limit = (6 / (64 + 64)) ** 0.5
    for weight in (attn.qkv.weight, cross.kv.weight, attn.proj.weight):
        assert 0.97 * limit < weight.abs().max() <= limit
    head = model.head("caption")
    assert 0.97 < head.abs().max() / (6 / (40 + 64)) ** 0.5 <= 1
    assert not attn.qkv.bias.any() and (model.encoder_norm.weight == 1).all()


def test_weight_decay_leaves_out_norms_and_biases(config: FourMConfig) -> None:
    model = FourM(replace(config, qkv_bias=True, norm_bias=True, qk_norm=True))
    decay, no_decay = model.parameter_groups(0.05)
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.05, 0.0)
    assert len(decay["params"]) + len(no_decay["params"]) == len(list(model.parameters()))
    names = model.no_decay_names()
    assert {"encoder.0.attn.q_norm.weight", "decoder_norm.bias", "decoder_proj_context.bias"} <= names
    assert not names & {"mask_token", "modality_table", "decoder_embeddings.tokens", "encoder.0.mlp.fc1.weight"}


@pytest.mark.parametrize(("size", "variant", "expected"), [
    ("B", "swiglu", 198e6), ("B", "gelu", 198e6), ("L", "swiglu", 705e6), ("XL", "swiglu_qknorm", 2.8e9),
])  # fmt: skip
def test_sizes_of_the_paper(size: str, variant: str, expected: float) -> None:
    """4M-21 counts 198M, 705M and 2.8B parameters without embeddings (section 4)."""
    with torch.device("meta"):
        model = FourM(FourMConfig.preset(size, SPECS, variant))
    blocks = [*model.encoder.parameters(), *model.decoder.parameters()]
    assert sum(p.numel() for p in blocks) == pytest.approx(expected, rel=0.01)
    assert any("q_norm" in name for name in model.state_dict()) == (variant == "swiglu_qknorm")
    assert (model.encoder[0].attn.qkv.bias is None) == (variant != "gelu")


def test_parameters_of_4m_7() -> None:
    """Counted on apple/ml-4m's 4M-B: 360.8M as trained, heads tied; 441.5M on the Hub."""
    names = ("caption", "det", "rgb", "tok_rgb", "tok_depth", "tok_normal", "tok_semseg", "tok_clip")
    specs = [registry.spec(name, image_size=224) for name in names]
    for tied, expected in ((True, 360.8e6), (False, 441.5e6)):
        with torch.device("meta"):
            model = FourM(FourMConfig.preset("B", specs, tied_heads=tied))
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(expected, abs=5e4)


def test_presets_are_named() -> None:
    assert set(SIZES) == {"Ti", "S", "B", "L", "XL"}
    config = FourMConfig.preset("Ti", SPECS, "gelu", num_register_tokens=4)
    assert (config.dim, config.activation, config.num_register_tokens) == (384, "gelu", 4)
    with pytest.raises(ValueError, match="size: got 'M', expected one of Ti"):
        FourMConfig.preset("M", SPECS)
    with pytest.raises(ValueError, match="variant: got 'relu'"):
        FourMConfig.preset("B", SPECS, "relu")


def test_configuration_goes_through_json(config: FourMConfig) -> None:
    changed = replace(config, outputs=("caption",), activation="gelu", mlp_ratio=2.0)
    assert FourMConfig.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 18}, "multiple of 4"),
        ({"num_heads": 3}, "3 heads"),
        ({"outputs": ("rgb",)}, "input only"),
        ({"inputs": ("depth",)}, "unknown modalities"),
        ({"activation": "relu"}, "activation"),
        ({"modalities": ()}, "at least one"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(config: FourMConfig, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(config, **change)


def test_checkpoint_is_exact_and_whole(random_batch: Batches, model: FourM, tmp_path: Path) -> None:
    checkpoint.save(model, tmp_path)
    loaded = checkpoint.load(tmp_path)
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    batch = random_batch(model.config, seed=14)
    assert torch.equal(loaded(batch).loss, model(batch).loss)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="written whole"):
        checkpoint.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(replace(model.config, dim=32).to_dict()))
    with pytest.raises(ValueError, match="do not fit"):
        checkpoint.load(tmp_path)
    (tmp_path / "config.json").write_text('{"domains_in": []}')
    with pytest.raises(ValueError, match="ml4m"):
        checkpoint.load(tmp_path)
