"""Scores that stand on CLIP: the aesthetic head's layout, the embedding that it takes, and caption-image similarity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests import data
from fourmill_tests.tiny import features
from safetensors.torch import save_file
from torch import nn

from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.base import ImageItem, Item
from fourmill.pipelines.specialists.curation.aesthetic import AestheticHead
from fourmill.pipelines.specialists.curation.similarity import ClipSimilarity
from fourmill.pipelines.specialists.features.clip_global import ClipGlobal
from fourmill.pipelines.specialists.features.features import Clip


def plain(values: list[Any]) -> list[Any]:
    """Values, and of what was rejected the reason."""
    return [value.reason if isinstance(value, Reject) else value for value in values]


class Predictor(nn.Module):
    """The improved aesthetic predictor, as its authors define it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2), nn.Linear(128, 64),
            nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def written(folder: Path, kind: str, width: int = 768) -> tuple[Predictor, str]:
    torch.manual_seed(0)
    model = Predictor(width).eval()
    path = folder / f"head.{kind}"
    if kind == "safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return model, str(path)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_the_aesthetic_head_is_that_of_its_authors(tmp_path: Path, kind: str) -> None:
    model, path = written(tmp_path, kind)
    head = AestheticHead(weights=path, allow_pickle=kind == "pth")
    head.setup("cpu")
    vectors = np.random.default_rng(0).normal(size=(3, 768)).astype(np.float16)
    found = head([Item(str(i), None, None, labels={"clip_global": one}) for i, one in enumerate(vectors)])
    x = torch.from_numpy(vectors).float()
    expected = model(x / x.norm(dim=1, keepdim=True))[:, 0].tolist()
    assert found == pytest.approx(expected, abs=1e-5) and head.needs == ("clip_global",)
    small = head([Item("a", None, None, labels={"clip_global": np.ones(512, np.float16)})])
    assert plain(small) == ["aesthetic: clip_global has 512 numbers, the head takes 768"]


def test_a_pickled_head_is_read_only_where_it_is_trusted(tmp_path: Path) -> None:
    _, path = written(tmp_path, "pth")
    with pytest.raises(ValueError, match="a pickle, which can run any code"):
        AestheticHead(weights=path).setup("cpu")


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"weight": (1, 8), "bias": (1,)}, ""),  # the first predictor: one layer
        ({"0.weight": (4, 8), "0.bias": (4,), "2.weight": (1, 4), "2.bias": (1,)}, ""),
        ({"layers.0.weight": (4, 8), "layers.0.bias": (4,)}, "the last one gives one number"),
        (
            {"layers.0.weight": (4, 8), "layers.1.weight": (1, 4), "layers.1.bias": (1,)},
            "layer 0 has no weight and bias",
        ),
        ({"0.weight": (4, 8), "0.bias": (4,), "1.weight": (1, 5), "1.bias": (1,)}, "which fit nothing"),
        ({"conv.kernel": (3, 3)}, "got 0 layers"),
    ],
)
def test_heads_of_other_layouts(tmp_path: Path, tensors: dict[str, tuple[int, ...]], said: str) -> None:
    save_file({name: torch.ones(shape) for name, shape in tensors.items()}, tmp_path / "h.safetensors")
    head = AestheticHead(weights=str(tmp_path / "h.safetensors"))
    if said:
        with pytest.raises(ValueError, match=said):
            head.setup("cpu")
        return
    head.setup("cpu")
    (score,) = head([Item("a", None, None, labels={"clip_global": np.ones(8, np.float16)})])
    assert np.isfinite(score)


def tokenizer(folder: Path) -> None:
    """A CLIP tokenizer of single letters, within the 64 words of the tiny text tower."""
    import transformers as hf

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{one}</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    hf.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = features.clip(tmp_path_factory.mktemp("clip"))
    tokenizer(folder)
    return folder


def pictures(*texts: str | None) -> list[ImageItem]:
    return [ImageItem(str(i), data.picture(i, 120, 90), text) for i, text in enumerate(texts)]


def test_the_embedding_is_clips_own(clip: Path) -> None:
    import transformers as hf

    one = ClipGlobal(weights=str(clip))
    one.setup("cpu")
    items = pictures("a", "b")
    found = one(items)
    model, processor = hf.CLIPModel.from_pretrained(clip).eval(), hf.CLIPImageProcessor.from_pretrained(clip)
    with torch.inference_mode():
        pixels = processor(images=[item.image for item in items], return_tensors="pt")["pixel_values"]
        expected: Any = model.get_image_features(pixel_values=pixels)
    expected = getattr(expected, "pooler_output", expected).numpy()
    assert found[0].shape == (24,) and found[0].dtype == np.float16
    np.testing.assert_allclose(np.stack(found).astype(np.float32), expected, atol=2e-3, rtol=2e-3)


def test_dense_features_have_a_pass_of_their_own(clip: Path) -> None:
    dense, whole = Clip(weights=str(clip)), ClipGlobal(weights=str(clip))
    dense.setup("cpu")
    whole.setup("cpu")
    (item,), (alone,) = pictures("a"), pictures("a")
    assert dense([item])[0].ndim == 3
    np.testing.assert_array_equal(whole([item])[0], whole([alone])[0])
    with pytest.raises(ValueError, match="size and max_tokens have no meaning"):
        ClipGlobal(weights=str(clip), size=64)


def test_similarity_is_the_cosine_of_both_towers(clip: Path) -> None:
    import transformers as hf

    one = ClipSimilarity(weights=str(clip))
    one.setup("cpu")
    items = pictures("a dog", None, "x " * 50)
    found = plain(one(items))
    assert found[1] == "similarity: there is no caption"
    model, processor = hf.CLIPModel.from_pretrained(clip).eval(), hf.CLIPImageProcessor.from_pretrained(clip)
    words = hf.AutoTokenizer.from_pretrained(clip)
    for i in (0, 2):
        text = words([items[i].caption], truncation=True, max_length=8, padding="max_length", return_tensors="pt")
        with torch.no_grad():
            logits = model(**text, pixel_values=processor(images=items[i].image, return_tensors="pt")["pixel_values"])
        assert found[i] == pytest.approx(float(logits.logits_per_image / model.logit_scale.detach().exp()), abs=1e-4)
    assert one(items[2:]) == pytest.approx(found[2:], abs=1e-6)  # its neighbours do not count
    assert plain(one([items[1]])) == [found[1]]


def test_similarity_needs_both_towers(tmp_path: Path) -> None:
    one = ClipSimilarity(weights=str(features.dinov2(tmp_path)))
    with pytest.raises(ValueError, match="expected CLIP or SigLIP with both towers"):
        one.setup("cpu")
