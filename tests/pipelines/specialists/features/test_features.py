"""Features of vision transformers: whose numbers they are, where in the frame they stand, and what they cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from fourmill_tests.pictures import items, noise, ready
from fourmill_tests.tiny import features as tiny
from fourmill_tests.tiny.once import once
from hypothesis import given
from hypothesis import strategies as st

from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.features.features import Clip, Dino, DinoGlobal, Features, grid, usual_side

MAKERS: dict[str, Callable[[Path], Path]] = {
    "clip": tiny.clip,
    "clip_vision": tiny.clip_vision,
    "dinov2": tiny.dinov2,
    "registers": lambda folder: tiny.dinov2(folder, registers=4),
    "dinov3": tiny.dinov3,
    "siglip": tiny.siglip,
    "siglip2": tiny.siglip2,
    "t5": tiny.t5,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    return once(tmp_path_factory.mktemp("features"), MAKERS)


def label(specialist: Features, image: np.ndarray) -> np.ndarray:
    (made,) = specialist(items(image))
    assert isinstance(made, np.ndarray)
    return made


def assert_same(half: np.ndarray, exact: np.ndarray) -> None:
    """Equal but for the rounding to float16."""
    assert half.dtype == np.float16
    np.testing.assert_allclose(half.astype(np.float32), exact, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [
        ((224, 224), 1024, (14, 14)),
        ((2000, 3000), 1024, (14, 21)),
        ((3000, 2000), 1024, (21, 14)),
        ((100, 730), 1500, (14, 102)),
        ((100, 730), 1024, (11, 80)),  # would be 14 x 102, shrinks with its aspect
        ((1, 5000), 1024, (1, 1024)),
        ((5000, 1), 1024, (1024, 1)),
        ((1, 1), 196, (14, 14)),
    ],
)
def test_grids(size: tuple[int, int], most: int, expected: tuple[int, int]) -> None:
    assert grid(*size, short=14, most=most) == expected


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 40), st.integers(0, 5000))
def test_grids_keep_the_budget_and_the_aspect(height: int, width: int, short: int, spare: int) -> None:
    most = short**2 + spare
    rows, columns = grid(height, width, short, most)
    assert min(rows, columns) >= 1 and rows * columns <= most and min(rows, columns) <= short
    assert (rows <= columns) == (height <= width) or rows == columns
    assert grid(width, height, short, most) == (columns, rows)
    wanted = max(height, width) / min(height, width)
    # To within half a patch of the long side, unless a single row of patches is all that the budget allows.
    low, high = min(rows, columns), max(rows, columns)
    assert abs(high - low * wanted) <= 0.5 or low * round(low * wanted) > most


def test_a_square_image_gives_what_clip_gives_for_its_patches(folder: Callable[[str], str]) -> None:
    path, image = folder("clip"), noise(224, 224)
    model = transformers.CLIPModel.from_pretrained(path).eval()
    inputs = transformers.CLIPImageProcessor.from_pretrained(path)(images=image, return_tensors="pt")
    with torch.inference_mode():
        hidden = model.vision_model(**inputs).last_hidden_state
        expected = model.visual_projection(model.vision_model.post_layernorm(hidden))
        pooled = model.get_image_features(**inputs).pooler_output
    specialist = ready(Clip(weights=path))
    found = label(specialist, image)
    assert found.shape == (14, 14, 24)
    assert_same(found, expected[0, 1:].reshape(14, 14, 24).numpy())
    # The class token goes through the same layers as CLIP's own image features.
    np.testing.assert_allclose(specialist._run(inputs["pixel_values"])[0, 0], pooled[0], atol=1e-5)


@pytest.mark.parametrize("side", [224, 301])
@pytest.mark.parametrize(
    ("name", "cls", "extra", "patch"),
    [
        ("dinov2", Dino, 1, 14),
        ("registers", Dino, 5, 14),
        ("dinov3", Dino, 5, 16),
        ("siglip", Clip, 0, 16),
    ],
)
def test_a_square_image_gives_what_the_model_gives(
    folder: Callable[[str], str], name: str, cls: type[Dino] | type[Clip], extra: int, patch: int, side: int
) -> None:
    path, image = folder(name), noise(side, side)
    model: Any = transformers.AutoModel.from_pretrained(path).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    pixels = processor(images=image, size={"height": 224, "width": 224}, do_center_crop=False, return_tensors="pt")
    with torch.inference_mode():
        tokens = getattr(model, "vision_model", model)(**pixels).last_hidden_state[0].numpy()
    n = 224 // patch
    assert len(tokens) == extra + n * n
    assert_same(label(ready(cls(weights=path)), image), tokens[extra:].reshape(n, n, -1))
    if extra:
        assert_same(label(ready(DinoGlobal(weights=path)), image), tokens[0])


def test_siglip2_of_any_grid_gives_what_the_model_gives(folder: Callable[[str], str]) -> None:
    path, image = folder("siglip2"), noise(224, 448)
    model: Any = transformers.Siglip2Model.from_pretrained(path).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    inputs = processor(images=image, max_num_patches=14 * 28, return_tensors="pt")
    assert inputs["spatial_shapes"].tolist() == [[14, 28]], "no resizing between the image and the network"
    with torch.inference_mode():
        tokens = model.vision_model(**inputs).last_hidden_state
    assert_same(label(ready(Clip(weights=path, size=224)), image), tokens[0].reshape(14, 28, -1).numpy())


@pytest.mark.parametrize(("name", "cls"), [("clip", Clip), ("siglip2", Clip), ("dinov2", Dino), ("dinov3", Dino)])
def test_features_stand_where_the_image_changed(
    folder: Callable[[str], str], name: str, cls: type[Dino] | type[Clip]
) -> None:
    specialist = ready(cls(weights=folder(name)))
    image = noise(200, 420)
    for axis, half in ((1, 210), (0, 100)):
        other = image.copy()
        other[(slice(None),) * axis + (slice(half),)] //= 4
        change = np.abs(label(specialist, other).astype(np.float32) - label(specialist, image)).mean(axis=2)
        first, second = np.array_split(change, 2, axis=axis)
        assert first.shape[axis] in (second.shape[axis], second.shape[axis] + 1)
        assert first.mean() > 2 * second.mean()


@pytest.mark.parametrize(("name", "cls"), [("clip", Clip), ("siglip2", Clip), ("registers", DinoGlobal)])
def test_neighbours_do_not_matter(folder: Callable[[str], str], name: str, cls: type[Dino] | type[Clip]) -> None:
    specialist = ready(cls(weights=folder(name)))
    images = [noise(*size, seed=i) for i, size in enumerate([(224, 224), (90, 300), (300, 90), (224, 224), (91, 301)])]
    together = specialist(items(*images))
    for image, made in zip(images, together, strict=True):
        assert_same(made, label(specialist, image).astype(np.float32))
    again = ready(cls(weights=folder(name)))(items(*images))
    assert all(np.array_equal(a, b) for a, b in zip(together, again, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (3, 50), (2, 3), (3, 3)])
def test_extreme_sizes(folder: Callable[[str], str], size: tuple[int, int]) -> None:
    found = label(ready(Clip(weights=folder("clip"), max_tokens=400)), noise(*size))
    assert found.shape[:2] == grid(*size, short=14, most=400) and np.isfinite(found).all()


def test_dense_and_global_features_cost_one_pass(folder: Callable[[str], str]) -> None:
    dense, whole = ready(Dino(weights=folder("dinov2"))), ready(DinoGlobal(weights=folder("dinov2")))
    assert dense._backbone.model is whole._backbone.model, "one model in memory"
    passes: list[int] = []
    hook = dense._backbone.model.register_forward_hook(lambda *_: passes.append(1))
    batch = items(noise(224, 224), noise(100, 300), noise(224, 224, seed=1))
    first, second = whole(batch), dense(batch)
    assert len(passes) == 2, "one for each size of images"
    assert [made.shape for made in first] == [(32,)] * 3
    assert [made.shape for made in second] == [(16, 16, 32), (16, 48, 32), (16, 16, 32)]
    coarser = ready(DinoGlobal(weights=folder("dinov2"), size=112))
    passes.clear()
    assert not np.array_equal(coarser(batch)[0], first[0]) and len(passes) == 2, "other options, another pass"
    hook.remove()


def test_half_precision_is_close(folder: Callable[[str], str]) -> None:
    image = noise(224, 300)
    exact = label(ready(Dino(weights=folder("dinov2"))), image).astype(np.float32)
    close = label(ready(Dino(weights=folder("dinov2"), precision="bf16")), image).astype(np.float32)
    assert 0 < np.abs(exact - close).mean() < 0.02 * np.abs(exact).mean()


def test_imagenets_statistics_on_request(folder: Callable[[str], str]) -> None:
    grey = np.full((224, 224, 3), 128, np.uint8)
    for options, mean, std in (
        ({}, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ({"normalization": "imagenet"}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ):
        pixels = ready(Clip(weights=folder("clip"), **options))._pixels(grey)
        expected = (128 / 255 - np.array(mean)) / np.array(std)
        np.testing.assert_allclose(pixels.mean(dim=(1, 2)), expected, atol=1e-5)


def test_values_that_no_label_can_hold_are_rejects(folder: Callable[[str], str]) -> None:
    specialist, whole = ready(Dino(weights=folder("dinov2"))), ready(DinoGlobal(weights=folder("dinov2")))
    norm = specialist._backbone.model.layernorm.weight
    kept = norm.detach().clone()
    for scale, reason in ((1e6, "beyond the range of float16"), (float("nan"), "NaN or infinite")):
        norm.data.mul_(scale)
        batch = items(noise(224, 224))
        rejects = [*specialist(batch), *whole(batch)]
        norm.data.copy_(kept)
        assert [reject.reason.split(":")[0] for reject in rejects] == ["dinov2", "dinov2_global"]
        assert all(isinstance(reject, Reject) and reason in reject.reason for reject in rejects)


@pytest.mark.parametrize(
    ("specialist", "name", "message"),
    [
        (DinoGlobal, "siglip", "dinov2_global: .* expected at least 196 tokens and a class token"),
        (Dino, "t5", "dinov2: .* is a t5 without square patches, no model for image features"),
        (Clip, "clip_vision", "clip: .* lack 1 tensors .*visual_projection"),
    ],
)
def test_weights_of_another_kind_are_refused(
    folder: Callable[[str], str], specialist: type[Dino] | type[Clip], name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        specialist(weights=folder(name)).setup("cpu")


def vit(**options: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {**sizes, "image_size": 48, "patch_size": 8, **options}


def saved(path: Path, model: Any) -> str:
    """With weights that are not those of initialization, which leave biases zero and LayerNorms idle."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.eval().save_pretrained(path)
    transformers.ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(path)
    return str(path)


def network_pixels(image: np.ndarray) -> torch.Tensor:
    pixels: torch.Tensor = transformers.ViTImageProcessor(size={"height": 48, "width": 48})(
        images=image, return_tensors="pt"
    )["pixel_values"]
    return pixels


@pytest.mark.parametrize("kind", ["CLIP", "MetaClip2"])
def test_projection_width_comes_from_either_configuration(kind: str, tmp_path: Path) -> None:
    config = getattr(transformers, f"{kind}Config")(
        text_config=vit(vocab_size=64), vision_config=vit(), projection_dim=17
    )
    model = getattr(transformers, f"{kind}Model")(config)
    path, image = saved(tmp_path / kind, model), noise(48, 48)
    specialist = ready(Clip(weights=path))
    assert label(specialist, image).shape == (6, 6, 17)
    with torch.inference_mode():
        pooled = model.get_image_features(network_pixels(image)).pooler_output
        np.testing.assert_allclose(specialist._run(network_pixels(image))[0, 0], pooled[0], atol=1e-5)


@pytest.mark.parametrize("name", ["ViTForImageClassification", "DeiTForImageClassification", "BeitModel"])
def test_transformers_without_a_pooler(name: str, tmp_path: Path) -> None:
    kind = name.partition("For")[0].removesuffix("Model")
    config = getattr(transformers, f"{kind}Config")(**vit())
    model = getattr(transformers, name)(config, **({"add_pooling_layer": False} if name == "BeitModel" else {}))
    path, image = saved(tmp_path / kind, model), noise(48, 48)
    with torch.inference_mode():
        trunk = getattr(model, kind.lower(), model)
        tokens = trunk(network_pixels(image)).last_hidden_state[0]
    skipped = len(tokens) - 36
    assert_same(label(ready(Dino(weights=path)), image), tokens[skipped:].reshape(6, 6, -1).numpy())


def test_a_masked_autoencoder_sees_every_patch_in_its_place(tmp_path: Path) -> None:
    model = transformers.ViTMAEModel(transformers.ViTMAEConfig(**vit()))
    path, image = saved(tmp_path / "mae", model), noise(48, 96)
    plain = transformers.ViTModel(transformers.ViTConfig(**vit()), add_pooling_layer=False).eval()
    assert not plain.load_state_dict(model.state_dict(), strict=False).missing_keys
    specialist = ready(Dino(weights=path))
    with torch.inference_mode():
        tokens = plain(specialist._pixels(image)[None], interpolate_pos_encoding=True).last_hidden_state[0]
    found = label(specialist, image)
    assert_same(found, tokens[1:].reshape(6, 12, -1).numpy())
    assert np.array_equal(found, label(specialist, image)), "nothing is drawn"


@pytest.mark.parametrize("kind", ["ChineseCLIP", "AltCLIP", "CLIPSeg", "Blip"])
def test_image_towers_of_models_that_want_text_too(kind: str, tmp_path: Path) -> None:
    config = getattr(transformers, f"{kind}Config")(
        text_config=vit(vocab_size=64), vision_config=vit(), projection_dim=32
    )
    model = getattr(transformers, f"{kind}Model")(config)
    path, image = saved(tmp_path / kind, model), noise(48, 48)
    with torch.inference_mode():
        seen = model.vision_model(network_pixels(image))
    specialist = ready(Clip(weights=path))
    assert label(specialist, image).shape == (6, 6, 32)
    # What the model makes of its class token is its last LayerNorm's, of BLIP's twice.
    token = specialist._run(network_pixels(image))[:, 0]
    expected = seen.last_hidden_state[:, 0] if kind == "Blip" else seen.pooler_output
    np.testing.assert_allclose(token, expected, atol=1e-5)


def test_a_model_that_is_no_image_tower_is_refused(tmp_path: Path) -> None:
    config = transformers.ViltConfig(**vit(), vocab_size=64)
    path = saved(tmp_path / "vilt", transformers.ViltModel(config))
    with pytest.raises(ValueError, match=r"dinov2: .* is no model for image features: .*expected a vision transformer"):
        Dino(weights=path).setup("cpu")


def test_clip_without_its_projection(folder: Callable[[str], str]) -> None:
    path, image = folder("clip_vision"), noise(224, 224)
    model = transformers.CLIPVisionModel.from_pretrained(path).eval()
    inputs = transformers.CLIPImageProcessor.from_pretrained(path)(images=image, return_tensors="pt")
    with torch.inference_mode():
        tokens = model.post_layernorm(model(**inputs).last_hidden_state)[0, 1:].numpy()
    assert_same(label(ready(Clip(weights=path, projected=False)), image), tokens.reshape(14, 14, -1))


def test_the_size_is_the_processors_unless_told(folder: Callable[[str], str], tmp_path: Path) -> None:
    path = tiny.clip(tmp_path / "small", image_size=64)
    transformers.CLIPImageProcessor(size={"shortest_edge": 80}, crop_size=64).save_pretrained(path)
    image = noise(90, 300)
    assert usual_side(transformers.CLIPImageProcessor(crop_size=80)) == 80
    assert label(ready(Clip(weights=str(path))), image).shape[:2] == (4, 13)
    assert label(ready(Clip(weights=str(path), size=130)), image).shape[:2] == (8, 27)
    assert label(ready(Clip(weights=str(path))), noise(30, 300)).shape[:2] == (2, 20), "four times a square at most"
    assert label(ready(Clip(weights=str(path), max_tokens=200)), noise(30, 300)).shape[:2] == (4, 40)
    assert label(ready(Clip(weights=folder("siglip2"))), noise(50, 50)).shape[:2] == (16, 16)
    transformers.CLIPImageProcessor().save_pretrained(path)  # one for larger images than the network's positions
    assert label(ready(Clip(weights=str(path))), image).shape[:2] == (4, 13)


def test_missing_weights_and_a_size_beyond_the_budget(folder: Callable[[str], str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"672 px are 48 x 48 patches of 14 px, more than max_tokens, 1024; raise "):
        Dino(weights=folder("dinov2"), size=672, max_tokens=1024).setup("cpu")
    tiny.dinov2(tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="dinov2: "):
        Dino(weights=str(tmp_path / "cut")).setup("cpu")
