"""The test of the modality in ocr.py: where lines are, what is read of them, and that a recipe takes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fourmill import modalities, recipe
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists import registry
from fourmill.pipelines.specialists.base import Item


@pytest.fixture(scope="module")
def ocr() -> Iterator[ModuleType]:
    """The module as a recipe imports it; other tests in this process do not see what it declares."""
    tables: tuple[dict[str, Any], ...] = (modalities.LABELS, modalities.MODALITIES, modalities.TOKENIZERS)
    before = [dict(table) for table in tables]
    sys.path.insert(0, str(Path(__file__).parent))
    modalities.import_modules(["ocr"])
    yield sys.modules["ocr"]
    sys.path.remove(str(Path(__file__).parent))
    del sys.modules["ocr"]
    for table, old in zip(tables, before, strict=True):
        table.clear()
        table.update(old)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random TrOCR that knows a few letters."""
    from tokenizers import Tokenizer, models

    hf: Any = pytest.importorskip("transformers")

    folder = tmp_path_factory.mktemp("trocr")
    words = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnop"]
    tokenizer: Any = hf.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>")),
        bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
    )  # fmt: skip
    torch.manual_seed(2)
    eye = hf.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32)
    mouth = hf.TrOCRConfig(
        vocab_size=len(words), d_model=16, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16,
        max_position_embeddings=32, cross_attention_hidden_size=16, pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    config: Any = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(eye, mouth)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 0, 1, 2
    model: Any = hf.VisionEncoderDecoderModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    model.generation_config.suppress_tokens = [0, 1, 3]  # random weights like them
    model.save_pretrained(folder)
    processor: Any = hf.TrOCRProcessor(hf.ViTImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    processor.save_pretrained(folder)
    return str(folder)


def sign(*lines: str) -> np.ndarray:
    image = np.full((60 + 60 * len(lines), 480, 3), 255, np.uint8)
    for i, line in enumerate(lines):
        cv2.putText(image, line, (30, 70 + 60 * i), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (0, 0, 0), 3)
    return image


def test_lines_are_found_from_the_top(ocr: ModuleType) -> None:
    image = sign("open daily", "nine to five", "no dogs")
    lines = ocr.find_lines(image, 16)
    assert len(lines) == 3
    for line in lines:
        assert 20 < line.shape[0] < 60 < line.shape[1] and line.min() == 0
    widths = [np.ptp(np.flatnonzero(image[60 * i + 30 : 60 * i + 90].min((0, 2)) < 128)) + 1 for i in range(3)]
    assert [line.shape[1] for line in lines] == pytest.approx(widths, abs=10)
    assert len(ocr.find_lines(image, 2)) == 2
    assert ocr.find_lines(np.full((50, 50, 3), 128, np.uint8), 16) == []


def test_text_is_read_line_by_line(ocr: ModuleType, weights: str) -> None:
    torch.set_num_threads(1)
    specialist = ocr.Ocr(weights=weights, min_confidence=0, max_tokens=6)
    specialist.setup("cpu")
    items = [
        Item(str(i), image, None)
        for i, image in enumerate([sign("open daily", "no dogs"), sign(), sign("no dogs allowed")])
    ]
    both, none, one = specialist(items)
    assert isinstance(both, str) and set(both) <= set("abcdefghijklmnop ") and both.strip()
    assert isinstance(none, Reject)
    assert isinstance(one, str) and [both, one] == [specialist([item])[0] for item in (items[0], items[2])]
    strict = ocr.Ocr(weights=weights, min_confidence=1)
    strict.setup("cpu")
    assert isinstance(strict([items[0]])[0], Reject)


def test_a_recipe_takes_it(ocr: ModuleType, weights: str) -> None:
    run = recipe.parse(
        {
            "root": "out",
            "samples": "a.tar",
            "modules": ["ocr"],
            "modalities": ["rgb", "caption", "ocr"],
            "labels": {"keep": ["ocr"], "specialists": {"ocr": {"weights": weights, "min_confidence": 0.5}}},
        }
    )
    built = registry.build(run.modalities, run.labels, run.modules)["ocr"]
    assert isinstance(built, ocr.Ocr) and built.min_confidence == 0.5
    assert [spec.max_tokens for spec in run.specs() if spec.name == "ocr"] == [64]
