"""How well a caption fits its image: the cosine of CLIP's embeddings of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import PrivateAttr

from ...reject import Reject
from ..base import ImageItem
from ..host import OnHost, sent
from ..pretrained import Pretrained


class ClipSimilarity(Pretrained):
    """The cosine, -1 to 1, by a CLIP or SigLIP of transformers with both towers. `weights` is needed: scores of
    different weights cannot be compared (COYO's and LAION's are of OpenAI's ViT-B/32 and L/14).

    Image and caption go through the weights' own preprocessing: CLIP sees the middle square, and the first 77 tokens.
    """

    name: ClassVar[str] = "clip_similarity"
    label: ClassVar[str] = "similarity"
    task: ClassVar[str] = "similarity of images and texts"
    licence: ClassVar[str] = ""
    gpu_precision: ClassVar[Literal["fp32", "fp16", "bf16"]] = "fp16"
    gpus: ClassVar[float] = 0.25
    memory_gb: ClassVar[float] = 2.0

    _model: Any = PrivateAttr(default=None)
    _pictures: Any = PrivateAttr(default=None)
    _words: Any = PrivateAttr(default=None)
    _length: int = PrivateAttr(default=0)

    def setup(self, device: str) -> None:
        """Load both towers and their preprocessing. ValueError if the weights have none."""
        model = self.load("AutoModel", device)
        if not (hasattr(model, "get_text_features") and hasattr(model, "get_image_features")):
            raise ValueError(
                f"{self.label}: {self.weights} is a {model.config.model_type}, no model for {self.task}; expected CLIP "
                "or SigLIP with both towers, in the layout of transformers"
            )
        self._model, self._pictures, self._words = model, self.processor(), self.processor("AutoTokenizer")
        self._length = int(model.config.text_config.max_position_embeddings)

    def prepare(self, items: Sequence[ImageItem]) -> tuple[list[int], dict[str, Any]]:
        """The items that have a caption, and what the towers take of them."""
        there = [i for i, item in enumerate(items) if item.caption and item.caption.strip()]
        if not there:
            return there, {}
        texts = [str(items[i].caption) for i in there]
        # To one length: of a shorter batch the same text would have the same features, but for the last digit.
        words = self._words(texts, padding="max_length", truncation=True, max_length=self._length, return_tensors="pt")
        pictures = [
            self._pictures(images=items[i].image, input_data_format="channels_last", return_tensors="pt")[
                "pixel_values"
            ]
            for i in there
        ]
        import torch

        device, dtype = self._model.device, self._model.dtype
        made = {"pixel_values": sent(torch.cat(pictures), device, dtype)}
        # SigLIP was trained without a mask: its padding is text, too.
        names = [n for n in words if n == "input_ids" or not self._model.config.model_type.startswith("siglip")]
        return there, made | {name: sent(words[name], device, words[name].dtype) for name in names}

    def infer(self, prepared: tuple[list[int], dict[str, Any]]) -> tuple[list[int], OnHost]:
        import torch

        there, inputs = prepared
        if not there:
            return there, OnHost([])
        words = {name: value for name, value in inputs.items() if name != "pixel_values"}
        with torch.inference_mode():
            image = _pooled(self._model.get_image_features(pixel_values=inputs["pixel_values"])).float()
            text = _pooled(self._model.get_text_features(**words)).float()
            return there, OnHost([torch.nn.functional.cosine_similarity(image, text)])

    def finish(self, items: Sequence[ImageItem], inferred: tuple[list[int], OnHost]) -> list[float | Reject]:
        """The cosine of each item; a Reject where there is no caption, or it is not finite."""
        there, copies = inferred
        found: list[float | Reject] = [Reject(f"{self.label}: there is no caption") for _ in items]
        for i, value in zip(there, [v for tensor in copies.tensors() for v in tensor.tolist()], strict=True):
            finite = value == value and abs(value) <= 1.001
            found[i] = float(value) if finite else Reject(f"{self.label}: the features are not finite")
        return found


def _pooled(features: Any) -> Any:
    """The embeddings, (B, D): of releases of transformers that give them in an object as well."""
    return getattr(features, "pooler_output", features)
