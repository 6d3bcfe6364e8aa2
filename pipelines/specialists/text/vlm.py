"""Captions that a vision-language model writes (`vlm_caption`), which 4M-21 has not: a label beside `caption`.

By any model of transformers that answers with text to an image and a text. One with a chat template is asked as a user
asks; others (BLIP, BLIP-2, Florence-2) get the prompt as it is, which may be empty.

The likeliest words are taken one after the other: the same image gives the same caption. Only images that the model
sees with equally many tokens go through together, so that nothing is padded and nothing depends on a neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, PrivateAttr

from ....infra import faults
from ...reject import Reject
from ..base import ImageItem
from ..pretrained import Pretrained

_ASKED = "Describe this image in one or two sentences."
_OF_TASK = {"florence2": "<DETAILED_CAPTION>"}  # models that are asked by a name of a task


class VlmCaptions(Pretrained):
    """What the model writes of the whole image. The default is SmolVLM (Marafioti et al., 2025), 2.2 B parameters.

    Text that models put around their answer (roles, special tokens) is left out.
    """

    name: ClassVar[str] = "vlm_captions"
    label: ClassVar[str] = "vlm_caption"
    task: ClassVar[str] = "captioning"
    licence: ClassVar[str] = "Apache-2.0"
    memory_gb: ClassVar[float] = 6.0
    batch_size: ClassVar[int] = 8

    weights: str = Field("HuggingFaceTB/SmolVLM-Instruct", description="Hub id or local folder.")
    prompt: str | None = Field(
        None,
        description=f"What the model is asked. Unless given: of models that chat `{_ASKED}`, of Florence-2 "
        "`<DETAILED_CAPTION>`, of others nothing.",
    )
    max_tokens: int = Field(128, ge=1, le=4096, description="Tokens of the model that a caption has at most.")

    _model: Any = PrivateAttr(default=None)
    _processor: Any = PrivateAttr(default=None)
    _text: str = PrivateAttr(default="")

    def setup(self, device: str) -> None:
        """Load the model. ValueError if it does not answer to images, or its folder has no processor."""
        self._model = self.load("AutoModelForImageTextToText", device)
        self._processor = self.processor("AutoProcessor")
        chats = bool(getattr(self._processor, "chat_template", None))
        asked = self.prompt
        if asked is None:
            asked = _OF_TASK.get(self._model.config.model_type, _ASKED if chats else "")
        if chats:
            content = [{"type": "image"}, {"type": "text", "text": asked}]
            turns = [{"role": "user", "content": content}]
            asked = self._processor.apply_chat_template(turns, add_generation_prompt=True)
        self._text = asked

    def __call__(self, items: Sequence[ImageItem]) -> list[str | Reject]:
        """The caption of each item; a Reject if the model writes nothing, or cannot be shown the image."""
        assert self._model is not None, "call setup first"
        inputs = [self._inputs(item.image) for item in items]
        found: list[str | Reject] = [one if isinstance(one, Reject) else "" for one in inputs]
        groups: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
        for i, one in enumerate(inputs):
            if not isinstance(one, Reject):
                groups.setdefault(_shape(one), []).append((i, one))
        for group in groups.values():
            for start in range(0, len(group), self.batch_size):
                indices, part = zip(*group[start : start + self.batch_size], strict=True)
                for i, text in zip(indices, self._answers(part), strict=True):
                    found[i] = text or Reject(f"{self.label}: the model wrote nothing")
        return found

    def _inputs(self, image: np.ndarray) -> dict[str, Any] | Reject:
        from PIL import Image

        text = {"text": self._text} if self._text else {}
        try:
            made = self._processor(images=Image.fromarray(image), return_tensors="pt", **text)
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            if faults.of_place(error):
                raise
            height, width = image.shape[:2]
            return Reject(f"{self.label}: an image of {width} x {height} px cannot be prepared: {error}")
        return dict(made)

    def _answers(self, inputs: Sequence[dict[str, Any]]) -> list[str]:
        """Captions of images whose inputs have equal shapes."""
        import torch

        both = {name: torch.cat([one[name] for one in inputs]) for name in inputs[0]}
        both = {name: self._placed(value) for name, value in both.items()}
        with torch.inference_mode():
            # What a folder's generation_config.json says of drawing words at random is not meant here.
            ids = self._model.generate(
                **both, max_new_tokens=self.max_tokens, do_sample=False, num_beams=1, temperature=None, top_p=None,
                top_k=None,
            )  # fmt: skip
        asked = both.get("input_ids")
        # Models that continue the text of the question give it back before the answer.
        if asked is not None and ids.shape[1] >= asked.shape[1] and bool((ids[:, : asked.shape[1]] == asked).all()):
            ids = ids[:, asked.shape[1] :]
        texts = self._processor.batch_decode(ids, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def _placed(self, value: Any) -> Any:
        """A tensor on the model's device, pixels in its precision."""
        return value.to(self._model.device, self._model.dtype if value.is_floating_point() else value.dtype)


def _shape(inputs: dict[str, Any]) -> tuple[Any, ...]:
    return tuple((name, tuple(value.shape)) for name, value in sorted(inputs.items()))
