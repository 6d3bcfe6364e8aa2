"""T5 embeddings of the caption (4M's `t5_caption`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from ...reject import Reject
from ..base import Item
from ..pretrained import Pretrained, batches


class T5Embeddings(Pretrained):
    """The encoder's output for each token of the caption, end-of-sequence included; T5 1.1 XXL, as in 4M.

    The caption goes in as it is: T5's vocabulary knows case and punctuation. The default weights are the encoder of
    google/t5-v1_1-xxl as safetensors; Google's own repository holds pickles (`allow_pickle: true`), decoder included.
    """

    name: ClassVar[str] = "t5"
    label: ClassVar[str] = "t5_caption"
    task: ClassVar[str] = "text encoding"
    licence: ClassVar[str] = "none stated by its repository; Google's T5 1.1 is Apache-2.0"
    gpu_precision: ClassVar[Literal["fp32", "fp16", "bf16"]] = "bf16"
    sees_image: ClassVar[bool] = False
    needs_image: ClassVar[bool] = False
    memory_gb: ClassVar[float] = 11.0  # 4.8 billion parameters in bfloat16
    batch_size: ClassVar[int] = 64

    weights: str = Field(
        "city96/t5-v1_1-xxl-encoder-bf16", description="Hub id or folder of a T5 encoder and its tokenizer."
    )
    max_tokens: int = Field(77, ge=2, le=512, description="Longer captions are cut; 4M's models have 77 positions.")

    _model: Any = PrivateAttr(default=None)
    _tokenizer: Any = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _no_half(self) -> Self:
        if self.precision == "fp16":
            raise ValueError(
                "t5_caption: T5's activations leave the range of fp16 and turn into infinities; say bf16 or fp32"
            )
        return self

    def setup(self, device: str) -> None:
        """Load encoder and tokenizer. ValueError if the weights are no text encoder."""
        self._model = self.load("AutoModelForTextEncoding", device)
        self._tokenizer = self.processor("AutoTokenizer")

    def __call__(self, items: Sequence[Item]) -> list[np.ndarray | Reject]:
        """float16 (n, D) for each item, n <= max_tokens; a Reject if there is no caption but white space."""
        assert self._model is not None, "call setup first"
        out: list[np.ndarray | Reject] = [Reject("t5_caption: there is no caption")] * len(items)
        asked = [i for i, item in enumerate(items) if item.caption and item.caption.strip()]
        texts = [items[i].caption for i in asked]
        if texts:
            for i, embedding in zip(asked, self._embed(texts), strict=True):
                out[i] = embedding
        return out

    def _embed(self, texts: Sequence[str | None]) -> list[np.ndarray | Reject]:
        import torch

        encoded = self._tokenizer(list(texts), max_length=self.max_tokens, truncation=True)["input_ids"]
        ids = [torch.tensor(row, dtype=torch.int64) for row in encoded]
        found: dict[int, np.ndarray | Reject] = {}
        # Captions of equal length together: nothing is padded, so that nothing depends on a neighbour.
        for indices, batch in batches(ids, self.batch_size):
            with torch.inference_mode():
                hidden = self._model(input_ids=batch.to(self._model.device)).last_hidden_state
            found |= zip(indices, map(_half, hidden.float().cpu().numpy()), strict=True)
        return [found[i] for i in range(len(ids))]


def _half(embedding: np.ndarray) -> np.ndarray | Reject:
    """As float16, if it fits."""
    largest = float(np.abs(embedding).max())
    if not largest <= float(np.finfo(np.float16).max):  # NaN neither
        return Reject(f"t5_caption: an embedding of magnitude {largest:.3g}, expected what float16 holds")
    return embedding.astype(np.float16)
