"""CLIP in OpenCLIP's layout gives what OpenCLIP's own classes gave for the same tensors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fourmill_tests.pictures import items, noise, ready
from fourmill_tests.tiny import features as tiny_features
from fourmill_tests.tiny import open_clip as tiny
from safetensors.torch import load_file, save_file

from fourmill.pipelines.specialists.features import open_clip
from fourmill.pipelines.specialists.features.features import Clip

# mlfoundations/open_clip 89fb801, VisionTransformer(32, 8, 32, 2, 2, 4.0, output_dim=12, output_tokens=True) with
# `tiny.drawn` tensors, on `tiny.pixels()`: the class token after ln_post and proj, patch 5 likewise, the sums of all
# patches; and six numbers of patch 3 before proj.
GOLDEN = {
    True: {
        "pooled": [
            1.233738, 0.840438, -0.360336, 0.256958, 0.898522, -0.486093, 0.332858, -0.973485, 0.063124, -0.297379,
            -0.619878, 0.139434,
        ],
        "fifth": [
            0.742729, -0.503581, -1.153937, -0.030168, 0.47723, -1.315149, 2.851412, -2.049061, -0.799007, -1.944783,
            0.061153, -0.874964,
        ],
        "sums": [
            -2.63202, 2.05985, 5.43035, 5.42019, 5.45036, -4.53813, -5.78176, -5.50733, 2.73599, 0.14235, 1.69781,
            0.9774, 1.89823, 1.36302, -1.28273, -2.65251,
        ],
        "raw": [
            0.612505, -0.899041, 1.302714, -0.043521, 0.681786, 1.384775,
        ],
    },
    False: {
        "pooled": [
            1.229133, 0.837239, -0.360419, 0.260954, 0.897454, -0.465612, 0.318574, -0.975115, 0.061939, -0.302126,
            -0.635438, 0.140439,
        ],
        "fifth": [
            0.754594, -0.509459, -1.145707, -0.012841, 0.470571, -1.326474, 2.85915, -2.045721, -0.798662, -1.956992,
            0.062709, -0.869178,
        ],
        "sums": [
            -2.63185, 2.06129, 5.40222, 5.40172, 5.50217, -4.51801, -5.78394, -5.54633, 2.79677, 0.10019, 1.69348,
            0.97715, 1.93142, 1.38418, -1.29279, -2.66778,
        ],
        "raw": [
            0.621194, -0.907501, 1.304388, -0.045317, 0.669897, 1.381314,
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_tokens_are_those_of_open_clip(tmp_path: Path, quick_gelu: bool) -> None:
    folder, golden = str(tiny.write(tmp_path / "clip", quick_gelu)), GOLDEN[quick_gelu]
    tokens = ready(Clip(weights=folder))._run(tiny.pixels())[0].numpy()
    assert tokens.shape == (17, tiny.EMBED)
    np.testing.assert_allclose(tokens[0], golden["pooled"], atol=2e-5)
    np.testing.assert_allclose(tokens[6], golden["fifth"], atol=2e-5)
    np.testing.assert_allclose(tokens[1:].sum(1), golden["sums"], atol=2e-4)
    plain = ready(Clip(weights=folder, projected=False))._run(tiny.pixels())[0].numpy()
    np.testing.assert_allclose(plain[4, :6], golden["raw"], atol=2e-5)


def test_an_image_goes_through_the_stated_preprocessing(tmp_path: Path) -> None:
    specialist = ready(Clip(weights=str(tiny.write(tmp_path / "clip"))))
    (label,) = specialist(items(noise(32, 48)))
    assert isinstance(label, np.ndarray) and label.shape == (4, 6, tiny.EMBED)
    grey = specialist._pixels(np.full((32, 32, 3), 102, np.uint8))[:, 0, 0]
    expected = (0.4 - torch.tensor([0.48, 0.46, 0.41])) / torch.tensor([0.27, 0.26, 0.28])
    torch.testing.assert_close(grey, expected, atol=1e-5, rtol=0)


def test_a_folder_of_both_layouts_is_that_of_transformers(tmp_path: Path) -> None:
    folder = tiny.write(tiny_features.clip(tmp_path / "clip"))
    assert not open_clip.is_layout(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"architecture": "vit", "num_classes": config["projection_dim"]}))
    assert open_clip.is_layout(folder)  # timm's own configuration


@pytest.mark.parametrize(
    ("setting", "value"),
    [("timm_model_name", "vit_b"), ("attentional_pool", True), ("no_ln_pre", True), ("pool_type", "avg")],
)
def test_other_architectures_are_refused(tmp_path: Path, setting: str, value: object) -> None:
    folder = tiny.write(tmp_path / "clip", **{setting: value})
    with pytest.raises(ValueError, match=f"clip: .* is no plain vision transformer of CLIP: {setting}"):
        Clip(weights=str(folder)).setup("cpu")


def test_tensors_that_lack_or_are_not_known_are_refused(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "clip")
    file = folder / "open_clip_model.safetensors"
    whole = load_file(file)
    for changed, part in (
        ({n: t for n, t in whole.items() if "ln_post" not in n}, "post_layernorm"),
        (whole | {"visual.extra.weight": torch.zeros(2)}, r"has no tensor visual\.extra\.weight"),
        (whole | {"visual.proj": torch.zeros(3, 4)}, "size mismatch"),
    ):
        save_file(changed, file)
        with pytest.raises(ValueError, match=part):
            Clip(weights=str(folder)).setup("cpu")
    file.unlink()
    with pytest.raises(ValueError, match="holds no weights"):
        Clip(weights=str(folder)).setup("cpu")


def test_the_default_keeps_its_first_fingerprint() -> None:
    default, named = Clip(), Clip(weights="openai/clip-vit-base-patch16")
    assert default.fingerprint_parts() == named.fingerprint_parts()
    assert (default.part().version, named.part().version) == (2, 1)
    assert Clip(weights="google/siglip2-base-patch16-224").fingerprint_parts() != default.fingerprint_parts()
    assert default.patterns() == ("*.json", "open_clip*.safetensors") and "*.txt" in named.patterns()
