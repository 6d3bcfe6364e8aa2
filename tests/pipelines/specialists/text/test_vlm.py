"""Captions by vision-language models: the words of the publishers' own classes and processors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from fourmill_tests.pictures import items, noise, ready
from fourmill_tests.tiny import beyond
from fourmill_tests.tiny.once import once
from PIL import Image

from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.text.vlm import VlmCaptions

MAKERS: dict[str, Callable[[Path], Path]] = {"smolvlm": beyond.smolvlm, "blip": beyond.blip}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    return once(tmp_path_factory.mktemp("vlm"), MAKERS)


def published(path: str, image: np.ndarray, question: str, tokens: int) -> str:
    """The answer as the models' pages ask for it: of BLIP without a question, of SmolVLM in a chat."""
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(path).eval()
    processor = transformers.AutoProcessor.from_pretrained(path)
    picture = Image.fromarray(image)
    if not question:
        with torch.inference_mode():
            ids = model.generate(**processor(picture, return_tensors="pt"), max_new_tokens=tokens)
        return str(processor.decode(ids[0], skip_special_tokens=True))
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    prompt = processor.apply_chat_template(turns, add_generation_prompt=True)
    inputs = processor(text=prompt, images=[picture], return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    return str(processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0])


@pytest.mark.parametrize(("name", "question"), [("smolvlm", "what is it?"), ("blip", "")])
def test_captions_are_those_of_the_publishers_class(folder: Callable[[str], str], name: str, question: str) -> None:
    images = [noise(60, 100), noise(97, 41, seed=1), noise(60, 100, seed=2)]
    specialist = ready(VlmCaptions(weights=folder(name), prompt=question or None, max_tokens=9))
    found = specialist(items(*images))
    assert len(set(found)) == 3, "captions of the image, not of the question"
    assert found == [" ".join(published(folder(name), image, question, 9).split()) for image in images]
    assert found == [specialist(items(image))[0] for image in images], "neighbours do not matter"


def test_a_processor_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    """Florence-2's asks its tokenizer for a token that this one has not."""
    tokenizer = beyond.letters_tokenizer(["<image>"])
    tokenizer.image_token, tokenizer.image_token_id = "<image>", 3
    transformers.Florence2Processor(transformers.CLIPImageProcessor(), tokenizer).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "florence2"}')
    with pytest.raises(ValueError, match=r"vlm_caption: .* has no AutoProcessor of its own: .*image_token"):
        VlmCaptions(weights=str(tmp_path)).processor("AutoProcessor")


def test_other_questions_other_captions_and_silence(folder: Callable[[str], str]) -> None:
    image = noise(60, 100)
    asked = [ready(VlmCaptions(weights=folder("smolvlm"), prompt=p, max_tokens=9))(items(image)) for p in ("a?", "b?")]
    assert asked[0] != asked[1]
    specialist = ready(VlmCaptions(weights=folder("blip"), max_tokens=9))
    specialist._processor = type("Silent", (), {
        "__call__": lambda self, **inputs: {"pixel_values": torch.zeros(1, 3, 32, 32)},
        "batch_decode": lambda self, ids, **options: [" \n"] * len(ids),
    })()  # fmt: skip
    (silent,) = specialist(items(image))
    assert isinstance(silent, Reject) and silent.reason == "vlm_caption: the model wrote nothing"
