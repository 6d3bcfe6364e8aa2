"""HMR2.0's network: rotations, the published names and sizes, and what depends on what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fourmill_tests.tiny import hmr2 as tiny_hmr2
from torch.nn import functional as F

from fourmill.pipelines.specialists.poses import hmr2

GOLDEN = Path(__file__).parents[3] / "golden" / "hmr2" / "expected.npz"
HEADS = {"heads": tiny_hmr2.HEADS, "head_heads": tiny_hmr2.DECODER_HEADS}


def network(**sizes: int) -> hmr2.Hmr2Network:
    torch.set_num_threads(1)
    return hmr2.from_state(tiny_hmr2.tensors(**sizes), **HEADS)


def crops(count: int, net: hmr2.Hmr2Network) -> torch.Tensor:
    return torch.randn(count, 3, *net.sizes.crop, generator=torch.Generator().manual_seed(0))


def test_bodies_are_rotations_shape_and_camera() -> None:
    net = network()
    body = net(crops(5, net))
    assert body.rotations.shape == (5, 24, 3, 3) and body.betas.shape == (5, 10) and body.camera.shape == (5, 3)
    identity = torch.eye(3).expand(5, 24, 3, 3)
    torch.testing.assert_close(body.rotations @ body.rotations.mT, identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(body.rotations), torch.ones(5, 24), atol=1e-5, rtol=0)
    assert body.camera.std(0).min() > 1e-5  # it looks at its input


@pytest.mark.parametrize(
    ("number", "sizes", "iterations"), [(0, {}, 1), (1, {"unit": 2, "patch": 8}, 1), (2, {"token": 157}, 3)]
)
def test_bodies_are_those_of_4d_humans(number: int, sizes: dict[str, int], iterations: int) -> None:
    """Recorded from its ViT and SMPLTransformerDecoderHead (6ec7965) with the same weights."""
    net = hmr2.from_state(tiny_hmr2.tensors(**sizes), **HEADS, iterations=iterations)
    seen = np.random.default_rng(3 + number).standard_normal((2, 3, *net.sizes.crop)).astype(np.float32)
    body, expected = net(torch.from_numpy(seen)), np.load(GOLDEN)
    for name in ("rotations", "betas", "camera"):
        np.testing.assert_allclose(getattr(body, name), expected[f"{number}_{name}"], atol=2e-5)


def test_six_numbers_are_two_columns() -> None:
    """Column by column: those of the transpose would be HMR's layout."""
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    first, second = turn[:, 0], turn[:, 1]
    found = hmr2.rotations_from_6d(torch.cat([3 * first, 0.5 * second + 7 * first]))
    torch.testing.assert_close(found, turn)
    numbers = torch.randn(4, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = hmr2.rotations_from_6d(numbers)
    torch.testing.assert_close(found[..., 0], F.normalize(numbers[..., :3], dim=-1))
    assert (found[..., 1] * numbers[..., 3:]).sum(-1).min() > 0


def test_the_mean_body_is_what_no_evidence_gives() -> None:
    state = tiny_hmr2.tensors()
    for name in ("decpose", "decshape", "deccam"):
        for part in ("weight", "bias"):
            state[f"smpl_head.{name}.{part}"] = torch.zeros_like(state[f"smpl_head.{name}.{part}"])
    net = hmr2.from_state(state, **HEADS)
    body = net(crops(2, net))
    torch.testing.assert_close(body.betas, state["smpl_head.init_betas"].expand(2, -1))
    torch.testing.assert_close(body.camera, state["smpl_head.init_cam"].expand(2, -1))
    mean = hmr2.rotations_from_6d(state["smpl_head.init_body_pose"].view(24, 6))
    torch.testing.assert_close(body.rotations, mean.expand(2, -1, -1, -1))


def test_one_by_one_equals_together() -> None:
    net = network(unit=2, patch=8)
    images = crops(3, net)
    together, alone = net(images), [net(image[None]) for image in images]
    torch.testing.assert_close(together.rotations, torch.cat([body.rotations for body in alone]), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.camera, torch.cat([body.camera for body in alone]), atol=1e-5, rtol=0)


def test_the_backbone_is_a_plain_vit() -> None:
    """Against the same arithmetic spelled out on one token: with one patch, attention is its value."""
    state = tiny_hmr2.tensors(depth=1)
    net = hmr2.from_state(state, **HEADS)
    image = crops(1, net)
    x = F.conv2d(image, state["backbone.patch_embed.proj.weight"], state["backbone.patch_embed.proj.bias"], 16, 2)
    assert x.shape[-2:] == (4, 3)  # padding adds no patch
    x = x.flatten(2).mT + state["backbone.pos_embed"][:, 1:] + state["backbone.pos_embed"][:, :1]

    def part(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return state[f"backbone.{name}.weight"], state[f"backbone.{name}.bias"]

    q, k, v = F.linear(F.layer_norm(x, (16,), *part("blocks.0.norm1"), 1e-6), *part("blocks.0.attn.qkv")).chunk(3, -1)
    heads = []
    for i in range(2):
        own = slice(8 * i, 8 * i + 8)
        weights = (q[..., own] @ k[..., own].mT / 8**0.5).softmax(-1)
        heads.append(weights @ v[..., own])
    x = x + F.linear(torch.cat(heads, -1), *part("blocks.0.attn.proj"))
    hidden = F.linear(F.layer_norm(x, (16,), *part("blocks.0.norm2"), 1e-6), *part("blocks.0.mlp.fc1"))
    x = x + F.linear(F.gelu(hidden), *part("blocks.0.mlp.fc2"))
    x = F.layer_norm(x, (16,), *part("last_norm"), 1e-6)
    torch.testing.assert_close(net.backbone(image), x, atol=1e-5, rtol=1e-5)


def test_a_query_that_holds_the_estimate_refines_it() -> None:
    state = tiny_hmr2.tensors(token=157)
    once, twice = (hmr2.from_state(state, **HEADS, iterations=n) for n in (1, 2))
    image = crops(1, once)
    assert not torch.allclose(once(image).camera, twice(image).camera)
    fixed = tiny_hmr2.tensors()
    one, three = (hmr2.from_state(fixed, **HEADS, iterations=n)(image) for n in (1, 3))
    step = one.camera - fixed["smpl_head.init_cam"]
    torch.testing.assert_close(three.camera, fixed["smpl_head.init_cam"] + 3 * step)


def test_the_published_sizes() -> None:
    with torch.device("meta"):
        net = hmr2.Hmr2Network(hmr2.Sizes(1280, 32, 5120, 16, 4, 1024, 6, 1024, 512, 1))
        known = hmr2.sizes(net.state_dict())
    assert known == net.sizes and known.crop == (256, 192)
    assert net.state_dict()["backbone.pos_embed"].shape == (1, 193, 1280)


def test_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no 'backbone\.patch_embed"):
        hmr2.from_state({"a": torch.zeros(1)})
    with pytest.raises(ValueError, match="backbone_heads"):
        hmr2.from_state(tiny_hmr2.tensors(width=18), heads=4, head_heads=2)
    state = tiny_hmr2.tensors()
    state["backbone.pos_embed"] = torch.zeros(1, 14, 16)
    with pytest.raises(ValueError, match="13 positions"):
        hmr2.from_state(state, **HEADS)
    with pytest.raises(ValueError, match="larger than 4 pixels; these weights have 4"):
        hmr2.from_state(tiny_hmr2.tensors(patch=4), **HEADS)
    state = tiny_hmr2.tensors()
    del state["smpl_head.init_cam"]
    with pytest.raises(ValueError, match="init_cam"):
        hmr2.from_state(state, **HEADS)
