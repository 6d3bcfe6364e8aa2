"""ImageBind's vision trunk against the arithmetic of its publication, written out on the published names."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fourmill_tests.pictures import items, noise, ready
from fourmill_tests.tiny import features as tiny
from safetensors.torch import save_file

from fourmill.pipelines.specialists.features.imagebind import ImageBind, ImageBindGlobal
from fourmill.pipelines.specialists.features.imagebind_trunk import from_tensors

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HEADS = 2
GOLDEN = Path(__file__).parents[3] / "golden" / "imagebind" / "tokens.npz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.imagebind(tmp_path_factory.mktemp("imagebind") / "weights"))


def published(pixels: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) to all tokens (B, 1 + h w, D), by torch's own attention and a convolution over two frames."""
    weights = tiny.imagebind_tensors()
    stem, trunk = "modality_preprocessors.vision.", "modality_trunks.vision."
    kernel = weights[stem + "rgbt_stem.proj.1.weight"]
    dim = len(kernel)
    clip = pixels[:, :, None].repeat(1, 1, 2, 1, 1)
    x = F.conv3d(clip, kernel, stride=kernel.shape[2:]).flatten(2).transpose(1, 2)
    positions = weights[stem + "pos_embedding_helper.pos_embed"]
    if positions.shape[1] != x.shape[1] + 1:
        side = math.isqrt(positions.shape[1] - 1)
        square = positions[:, 1:].reshape(1, side, side, dim).permute(0, 3, 1, 2)
        grown = F.interpolate(square, scale_factor=math.sqrt(x.shape[1]) / side, mode="bicubic")
        positions = torch.cat([positions[:, :1], grown.flatten(2).transpose(1, 2)], dim=1)
    x = torch.cat([weights[stem + "cls_token"].expand(len(x), 1, dim), x], dim=1) + positions

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (dim,), weights[f"{trunk}{name}.weight"], weights[f"{trunk}{name}.bias"], 1e-6)

    x = norm(x, "pre_transformer_layer.0")
    for i in range(2):
        block = f"blocks.{i}."
        attention = torch.nn.MultiheadAttention(dim, HEADS, batch_first=True)
        state = {name: weights[f"{trunk}{block}attn.{name}"] for name in attention.state_dict()}
        attention.load_state_dict(state)
        y = norm(x, block + "norm_1")
        x = x + attention(y, y, y, need_weights=False)[0]
        y = norm(x, block + "norm_2")
        for name in ("mlp.fc1", "mlp.fc2"):
            y = F.linear(y, weights[f"{trunk}{block}{name}.weight"], weights[f"{trunk}{block}{name}.bias"])
            y = F.gelu(y) if name == "mlp.fc1" else y
        x = x + y
    return x


@pytest.mark.parametrize(
    ("number", "dim", "heads", "patch", "grid", "side"),
    [(0, 32, 2, 14, 16, 224), (1, 24, 4, 7, 5, 35), (2, 24, 4, 7, 5, 70)],  # the last resizes positions
)
def test_tokens_are_those_of_imagebinds_own_classes(
    number: int, dim: int, heads: int, patch: int, grid: int, side: int
) -> None:
    """Recorded from RGBDTPreprocessor and SimpleTransformer of facebookresearch/ImageBind, with the same weights."""
    depth = 2 + (number > 0)
    trunk = from_tensors(tiny.imagebind_tensors(dim, depth, patch, grid), heads)
    pixels = np.random.default_rng(40 + number).standard_normal((1, 3, side, side)).astype(np.float32)
    with torch.inference_mode():
        found = trunk(torch.from_numpy(pixels))[0].numpy()
    np.testing.assert_allclose(found[:: max(1, len(found) // 24)], np.load(GOLDEN)[str(number)], atol=3e-5)


@pytest.mark.parametrize("side", [224, 112])
def test_the_trunk_is_the_published_one(side: int) -> None:
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = from_tensors(tiny.imagebind_tensors(), HEADS)(pixels)
        torch.testing.assert_close(found, published(pixels), rtol=1e-4, atol=1e-4)


def test_labels_are_its_patches_and_its_class_token(folder: str) -> None:
    image = noise(224, 224)
    pixels = (torch.from_numpy(image).permute(2, 0, 1) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
        :, None, None
    ]
    with torch.inference_mode():
        tokens = published(pixels[None])[0].numpy()
    dense, whole = (
        ready(ImageBind(weights=folder, num_heads=HEADS)),
        ready(ImageBindGlobal(weights=folder, num_heads=2)),
    )
    batch = items(image)
    passes: list[int] = []
    hook = dense._backbone.model.register_forward_hook(lambda *_: passes.append(1))
    (patches,), (token,) = dense(batch), whole(batch)
    hook.remove()
    assert passes == [1] and dense._backbone.model is whole._backbone.model
    assert patches.shape == (16, 16, 32) and token.shape == (32,) and patches.dtype == token.dtype == np.float16
    np.testing.assert_allclose(patches.reshape(256, 32), tokens[1:], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(token, tokens[0], rtol=1e-3, atol=1e-3)


def test_other_grids_and_neighbours(folder: str) -> None:
    specialist = ready(ImageBind(weights=folder, num_heads=HEADS))
    images = [noise(100, 300), noise(300, 100), noise(224, 224), noise(1, 900), noise(101, 301)]
    together = specialist(items(*images))
    assert [made.shape for made in together] == [(16, 48, 32), (48, 16, 32), (16, 16, 32), (1, 900, 32), (16, 48, 32)]
    for image, made in zip(images, together, strict=True):
        (alone,) = specialist(items(image))
        np.testing.assert_allclose(alone.astype(np.float32), made.astype(np.float32), rtol=1e-3, atol=1e-4)
    other = images[0].copy()
    other[:, :150] //= 4
    change = np.abs(specialist(items(other))[0].astype(np.float32) - together[0]).mean(axis=2)
    assert change[:, :24].mean() > 2 * change[:, 24:].mean()


def test_positions_on_their_own_grid_stay_exact() -> None:
    trunk = from_tensors(tiny.imagebind_tensors(), HEADS)
    torch.testing.assert_close(trunk._positions(16, 16), trunk.pos_emb, rtol=0, atol=0)
    assert trunk._positions(16, 48).shape == (1, 1 + 16 * 48, 32)
    # Rows must not become columns: a position table that grows downwards grows downwards in any grid.
    rows = torch.arange(16.0)[:, None].expand(16, 16).reshape(1, 256, 1).expand(1, 256, 32)
    trunk.pos_emb.data[:, 1:] = rows
    tall = trunk._positions(16, 8)[0, 1:].reshape(16, 8, 32)
    torch.testing.assert_close(tall, torch.arange(16.0)[:, None, None].expand(16, 8, 32), rtol=0, atol=1e-4)


def test_bfloat16_is_close(folder: str) -> None:
    image = noise(224, 300)
    (exact,) = ready(ImageBind(weights=folder, num_heads=HEADS))(items(image))
    (close,) = ready(ImageBind(weights=folder, num_heads=HEADS, precision="bf16"))(items(image))
    difference = np.abs(exact.astype(np.float32) - close.astype(np.float32)).mean()
    assert 0 < difference < 0.03 * np.abs(exact).mean(dtype=np.float32)


def test_the_published_pickle_is_read_when_it_is_trusted(folder: str, tmp_path: Path) -> None:
    path = tmp_path / "imagebind_huge.pth"
    torch.save(tiny.imagebind_tensors(), path)
    with pytest.raises(ValueError, match="is a pickle"):
        ImageBind(weights=str(path), num_heads=HEADS).setup("cpu")
    image = noise(100, 120)
    (found,) = ready(ImageBind(weights=str(path), num_heads=HEADS, allow_pickle=True))(items(image))
    (expected,) = ready(ImageBind(weights=folder, num_heads=HEADS))(items(image))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality_preprocessors.vision.rgbt_stem.proj.1.weight": None}, "no ImageBind: .*proj.weight"),
        ({"modality_trunks.vision.blocks.1.norm_2.bias": None}, "do not fit together: .*blocks.1.norm2.bias"),
        ({"modality_trunks.vision.blocks.1.norm_2.bias": torch.zeros(3)}, "do not fit together: .*blocks.1.norm2.bias"),
        ({"modality_preprocessors.vision.pos_embedding_helper.pos_embed": torch.zeros(1, 200, 32)}, "square grid"),
    ],
)
def test_other_weights_are_refused(change: dict[str, torch.Tensor | None], message: str, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in {**tiny.imagebind_tensors(), **change}.items() if tensor is not None}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"(?s)^imagebind: .*{message}"):
        ImageBind(weights=str(tmp_path), num_heads=HEADS).setup("cpu")


def test_heads_that_do_not_divide_the_width(folder: str) -> None:
    with pytest.raises(ValueError, match=r"imagebind: .*32 with 5 heads"):
        ImageBind(weights=folder, num_heads=5).setup("cpu")


def test_only_the_tensors_of_vision_are_read(folder: str) -> None:
    names = ImageBind(weights=folder, num_heads=HEADS)._tensors()
    assert names and all(".vision." in name and not name.startswith("modality_heads") for name in names)
