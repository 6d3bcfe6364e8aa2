"""T5 embeddings: whose numbers they are, for how many tokens, and that neighbours do not matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests.counted import labelling
from fourmill_tests.tiny import features as tiny_features
from fourmill_tests.tiny import t5 as tiny_t5
from pydantic import ValidationError
from transformers import AutoTokenizer, T5EncoderModel

from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.base import Item
from fourmill.pipelines.specialists.text.t5 import ON_GPU, T5Embeddings, _half, together

CAPTIONS = ["a cat", "A dog, and a cat!", "a cat on a mat " * 40, "dog", "a dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_t5.t5(tmp_path_factory.mktemp("t5") / "t5")


def ready(**options: Any) -> T5Embeddings:
    torch.set_num_threads(1)
    specialist = T5Embeddings(**options)
    specialist.setup("cpu")
    return specialist


def items(*captions: str | None) -> list[Item]:
    return [Item(str(i), None, caption) for i, caption in enumerate(captions)]


def test_embeddings_are_those_of_the_encoder_alone(folder: Path) -> None:
    model: Any = T5EncoderModel.from_pretrained(folder).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    for caption, label in zip(CAPTIONS, ready(weights=str(folder))(items(*CAPTIONS)), strict=True):
        ids = tokenizer(caption)["input_ids"]
        ids = [*ids[:76], ids[-1]] if len(ids) > 77 else ids
        assert ids[-1] == tokenizer.eos_token_id
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
        assert isinstance(label, np.ndarray) and label.dtype == np.float16
        assert label.shape == expected.shape == (len(ids), 16)
        np.testing.assert_allclose(label.astype(np.float32), expected, atol=2e-3, rtol=1e-3)


def test_long_captions_are_cut(folder: Path) -> None:
    (label,) = ready(weights=str(folder))(items(CAPTIONS[2]))
    (short,) = ready(weights=str(folder), max_tokens=9)(items(CAPTIONS[2]))
    assert isinstance(label, np.ndarray) and label.shape == (77, 16)
    assert isinstance(short, np.ndarray) and short.shape == (9, 16)


def test_batches_and_repetition_do_not_matter(folder: Path) -> None:
    specialist = ready(weights=str(folder))
    together = specialist(items(*CAPTIONS))
    for caption, label in zip(CAPTIONS, together, strict=True):
        (alone,) = specialist(items(caption))
        np.testing.assert_allclose(np.asarray(alone, np.float32), np.asarray(label, np.float32), atol=1e-4, rtol=1e-3)
    for first, second in zip(together, specialist(items(*CAPTIONS)), strict=True):
        np.testing.assert_array_equal(np.asarray(first), np.asarray(second))


def test_what_is_no_caption_is_a_reject(folder: Path) -> None:
    specialist = ready(weights=str(folder))
    none, blank, label = specialist(items(None, " \n", "a cat"))
    assert isinstance(none, Reject) and isinstance(blank, Reject) and isinstance(label, np.ndarray)
    assert specialist([]) == []


def test_what_float16_cannot_hold_is_a_reject() -> None:
    for value in (70_000, np.nan, np.inf):
        rejected = _half(np.array([[1, value]], np.float32))
        assert isinstance(rejected, Reject) and "float16" in rejected.reason
    assert isinstance(_half(np.array([[65_504, -65_504]], np.float32)), np.ndarray)


def test_bfloat16_is_near_and_fp16_is_refused(folder: Path) -> None:
    (exact,) = ready(weights=str(folder))(items("a cat"))
    (rough,) = ready(weights=str(folder), precision="bf16")(items("a cat"))
    np.testing.assert_allclose(np.asarray(rough, np.float32), np.asarray(exact, np.float32), atol=0.1)
    with pytest.raises(ValidationError, match="bf16 or fp32"):
        T5Embeddings(weights=str(folder), precision="fp16")
    assert T5Embeddings(weights=str(folder)).dtype("cuda:0") == torch.bfloat16


def test_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="text encoding"):
        ready(weights=str(tiny_features.dinov2(tmp_path / "dinov2")))


def test_passes_are_few(folder: Path) -> None:
    """For 1,000 captions of 3 to some 40 words, padded as on a GPU: each is what it is alone, but for rounding."""
    random = np.random.default_rng(0)
    words = 3 + random.gamma(2.0, 4.5, 1000).astype(int)
    captions = items(*(" ".join(random.choice(["a", "cat", "dog"], n)) for n in words))
    padded, alone = ready(weights=str(folder)), ready(weights=str(folder))
    padded._multiple = ON_GPU
    with labelling.counting(padded, padded._model) as counted:
        labels = labelling.label(padded, captions)
    assert counted.passes <= 25 and counted.waits <= 2 * counted.passes
    for found, caption in zip(labels[::40], captions[::40], strict=True):
        (expected,) = alone([caption])
        assert isinstance(expected, np.ndarray)
        np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), atol=2e-3, rtol=2e-3)


def test_captions_of_equal_length_go_together() -> None:
    assert together([3, 5, 3, 9, 5, 3], 1, 9) == [(3, [0, 2, 5]), (5, [1]), (5, [4]), (9, [3])]
    assert together([3, 5, 3, 9, 8], 8, 24) == [(8, [0, 1, 2]), (8, [4]), (16, [3])]
