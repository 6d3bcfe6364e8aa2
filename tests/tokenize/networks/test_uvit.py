"""UViT: its convolutions are diffusers', its names the published ones; shapes, gradients, masks, other resolutions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fourmill.tokenize.networks.uvit import PRESETS, UViT, UViTSize

TINY = UViTSize((8, 12), 3, 2, 16, downsample_before_mid=True, norm_num_groups=4, mid_hw_posemb=4)
KINDS = [
    (TINY, "concat"), (TINY, "xattn"), (replace(TINY, mid_use_long_skip=True), "concat"),
    (replace(TINY, mid_use_long_skip=True), "xattn"), (replace(TINY, downsample_before_mid=False), "concat"),
    (replace(TINY, block_out_channels=(8, 12, 16), downsample_before_mid=False, layers_per_block=1), "concat"),
]  # fmt: skip


def opened(size: UViTSize, conditioning: str = "concat", dropout: float = 0.0) -> UViT:
    """With branches that are not closed, as after training."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = UViT(size, 3, 5, conditioning, dropout)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def inputs(side: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return draw(2, 3, side, side), torch.tensor([3, 700]), draw(2, 5, 2, 2)


@pytest.mark.parametrize(("size", "conditioning"), KINDS)
@pytest.mark.parametrize("sides", [(32, 32), (16, 48)])
def test_shapes_gradients_and_conditions(size: UViTSize, conditioning: str, sides: tuple[int, int]) -> None:
    model = opened(size, conditioning)
    _, t, cond = inputs()
    x = torch.randn(2, 3, *sides)
    out = model(x, t, cond)
    assert out.shape == x.shape
    for other in (model(x, t + 50, cond), model(x, t, -cond), model(x, t, cond, torch.ones(2, 2, 2).bool())):
        assert not torch.allclose(other, out, atol=1e-4)
    for i in range(2):
        torch.testing.assert_close(model(x[i : i + 1], t[i : i + 1], cond[i : i + 1])[0], out[i])
    mask = torch.tensor([[[True, False], [False, False]]]).expand(2, -1, -1)
    model(x, t, cond, mask).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("conditioning", ["concat", "xattn"])
def test_what_is_masked_does_not_count(conditioning: str) -> None:
    model = opened(TINY, conditioning)
    x, t, cond = inputs()
    mask = torch.zeros(2, 2, 2, dtype=torch.bool)
    mask[:, 0] = True
    changed = cond.clone()
    changed[:, :, 0] *= -1
    torch.testing.assert_close(model(x, t, changed, mask), model(x, t, cond, mask))
    assert not torch.allclose(model(x, t, changed), model(x, t, cond), atol=1e-3)
    assert model(x, t, cond, torch.ones_like(mask)).isfinite().all()


@pytest.mark.parametrize(("size", "conditioning"), KINDS)
def test_fresh_branches_are_closed(size: UViTSize, conditioning: str) -> None:
    """Gates and second convolutions start at zero: the time cannot matter yet."""
    model = UViT(size, 3, 5, conditioning)
    x, t, cond = inputs()
    torch.testing.assert_close(model(x, t, cond), model(x, t + 9, cond))


def test_convolutional_blocks_are_those_of_diffusers() -> None:
    """Same names, same arithmetic: their state dicts are interchangeable."""
    blocks = pytest.importorskip("diffusers.models.unets.unet_2d_blocks")
    model, time = opened(TINY).eval(), torch.randn(2, TINY.time_dim)
    options: dict[str, Any] = {"temb_channels": TINY.time_dim, "resnet_eps": 1e-5, "resnet_groups": 4}
    h = model.conv_in(inputs()[0])
    skips, ours = [h], [h]
    x = h
    for block, (a, b, halve) in zip(model.down_blocks, [(8, 8, True), (8, 12, False)], strict=True):
        reference = blocks.DownBlock2D(a, b, num_layers=2, add_downsample=halve, **options).eval()
        reference.load_state_dict(block.state_dict())
        h, states = reference(h, time)
        skips += states
        x = block(x, time, ours)
    for one, other in zip(ours, skips, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(x, h)
    for block, (a, b, c, double) in zip(model.up_blocks, [(8, 12, 12, True), (8, 12, 8, False)], strict=True):
        reference = blocks.UpBlock2D(a, b, c, num_layers=3, add_upsample=double, **options).eval()
        reference.load_state_dict(block.state_dict())
        h, skips = reference(h, tuple(skips[-3:]), time), skips[:-3]
        x = block(x, time, ours)
        torch.testing.assert_close(x, h)
    assert ours == []


def test_the_modulated_block_by_its_formula() -> None:
    block = opened(TINY).eval().mid_block.mid_block[0]
    x, time = torch.randn(2, 6, 16), torch.randn(2, TINY.time_dim)
    shift1, scale1, shift2, scale2 = block.adaLN_modulation(F.silu(time))[:, None].chunk(4, 2)
    gate1, gate2 = block.adaLN_gate(F.silu(time))[:, None].chunk(2, 2)
    h = x + gate1 * block.attn(block.norm1(x) * (1 + scale1) + shift1)
    h = h + gate2 * block.mlp(block.norm2(h) * (1 + scale2) + shift2)
    torch.testing.assert_close(block(x, time), h)


def test_names_are_the_published_ones() -> None:
    names = {k.split(".weight")[0].split(".bias")[0] for k in UViT(TINY, 3, 5).state_dict()}
    resnet = {"norm1", "conv1", "time_emb_proj", "norm2", "conv2"}
    block = {"norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2", "adaLN_modulation", "adaLN_gate"}
    expected = {"conv_in", "time_embedding.linear_1", "time_embedding.linear_2", "conv_norm_out", "conv_out"}
    expected |= {f"down_blocks.{i}.resnets.{j}.{part}" for i in range(2) for j in range(2) for part in resnet}
    expected |= {f"up_blocks.{i}.resnets.{j}.{part}" for i in range(2) for j in range(3) for part in resnet}
    expected |= {"down_blocks.1.resnets.0.conv_shortcut", "down_blocks.0.downsamplers.0.conv"}
    expected |= {f"up_blocks.{i}.resnets.{j}.conv_shortcut" for i in range(2) for j in range(3)}
    expected |= {"up_blocks.0.upsamplers.0.conv", "downsample_mid.conv", "upsample_mid.conv"}
    expected |= {f"mid_block.mid_block.{i}.{part}" for i in range(3) for part in block}
    expected |= {f"mid_block.{part}" for part in ("mid_pos_emb", "mid_cond_proj", "mid_proj_in", "mid_proj_out")}
    assert names == expected | {"mid_block.mask_token"}
    crossed = set(UViT(replace(TINY, mid_use_long_skip=True), 3, 5, "xattn").mid_block.mid_block[2].state_dict())
    parts = ("self_attn.qkv", "cross_attn.q", "cross_attn.kv", "query_norm", "context_norm", "skip_linear")
    assert {f"{part}.weight" for part in parts} <= crossed


def test_dropout_is_for_training() -> None:
    model = opened(TINY, dropout=0.5)
    x, t, cond = inputs()
    assert torch.equal(model.eval()(x, t, cond), model(x, t, cond))
    assert not torch.equal(model.train()(x, t, cond), model(x, t, cond))


@pytest.mark.parametrize("name", PRESETS)
def test_published_presets_can_be_built(name: str) -> None:
    size = PRESETS[name]
    with torch.device("meta"):
        model = UViT(size, 3, 32)
    assert size.multiple == (8 if "_f8" in name else 16)
    assert len(model.mid_block.mid_block) == size.mid_layers
    d, skips = size.mid_dim, size.mid_layers // 2 if "longskip" in name else 0
    # 12 d^2 of a transformer block with biases and norms, 6 d of adaLN from a time of width 512.
    blocks = size.mid_layers * (12 * d**2 + 13 * d + 6 * d * 513) + skips * (2 * d**2 + d)
    assert sum(p.numel() for p in model.mid_block.mid_block.parameters()) == blocks


def test_sizes_that_cannot_be_built_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 mid_layers.*odd"):
        replace(TINY, mid_layers=2, mid_use_long_skip=True)
    with pytest.raises(ValueError, match="norm_num_groups, 32"):
        replace(TINY, norm_num_groups=32)
