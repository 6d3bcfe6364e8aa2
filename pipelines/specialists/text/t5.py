"""T5 embeddings of the caption (4M's `t5_caption`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, PrivateAttr, model_validator

from ...reject import Reject
from .. import shapes
from ..base import Item
from ..host import OnHost, sent
from ..pretrained import Pretrained

if TYPE_CHECKING:
    import torch

ON_GPU = 8  # tokens, to a multiple of which captions are padded there


class Group(NamedTuple):
    """Captions that go through the encoder together: positions of their items, their ids, int64 (B, n), padded at the
    end, and how many of these count."""

    indices: list[int]
    ids: torch.Tensor
    lengths: list[int]


class T5Embeddings(Pretrained):
    """The encoder's output for each token of the caption, end-of-sequence included; T5 1.1 XXL, as in 4M.

    The caption goes in as it is: T5's vocabulary knows case and punctuation. The default weights are the encoder of
    google/t5-v1_1-xxl as safetensors; Google's own repository holds pickles (`allow_pickle: true`), decoder included.

    Each pass reads the weights once, 9.5 GB of XXL in bfloat16, so that passes should be few: captions of equal length
    go together, out of 1,024. On a GPU they are padded to multiples of 8 tokens, which no other token sees; on a CPU
    nothing is padded.
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
    groups: ClassVar[bool] = True

    weights: str = Field(
        "city96/t5-v1_1-xxl-encoder-bf16", description="Hub id or folder of a T5 encoder and its tokenizer."
    )
    max_tokens: int = Field(77, ge=2, le=512, description="Longer captions are cut; 4M's models have 77 positions.")

    _model: Any = PrivateAttr(default=None)
    _tokenizer: Any = PrivateAttr(default=None)
    _multiple: int = PrivateAttr(default=1)

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
        self._multiple = ON_GPU if shapes.as_on_gpu(device) else 1

    def prepare(self, items: Sequence[Item]) -> list[Group]:
        import torch

        assert self._model is not None, "call setup first"
        asked = [i for i, item in enumerate(items) if item.caption and item.caption.strip()]
        if not asked:
            return []
        texts = [items[i].caption for i in asked]
        encoded = self._tokenizer(texts, max_length=self.max_tokens, truncation=True)["input_ids"]
        made = []
        for length, rows in together([len(row) for row in encoded], self._multiple, self.batch_size * self.max_tokens):
            ids = torch.full((len(rows), length), self._model.config.pad_token_id or 0)
            for n, row in enumerate(rows):
                ids[n, : len(encoded[row])] = torch.tensor(encoded[row])
            made.append(Group([asked[row] for row in rows], ids, [len(encoded[row]) for row in rows]))
        return made

    def infer(self, prepared: list[Group]) -> tuple[list[Group], OnHost]:
        import torch

        with torch.inference_mode():
            return prepared, OnHost([self._encoded(group) for group in prepared])

    def _encoded(self, group: Group) -> torch.Tensor:
        import torch

        padded = {}
        if self._multiple > 1:
            shown = torch.arange(group.ids.shape[1]) < torch.tensor(group.lengths)[:, None]
            padded = {"attention_mask": sent(shown.long(), self._model.device, torch.int64)}
        ids = sent(group.ids, self._model.device, torch.int64)
        hidden: torch.Tensor = self._model(input_ids=ids, **padded).last_hidden_state
        return hidden.float()

    def finish(self, items: Sequence[Item], inferred: tuple[list[Group], OnHost]) -> list[np.ndarray | Reject]:
        """float16 (n, D) for each item, n <= max_tokens; a Reject if there is no caption but white space."""
        out: list[np.ndarray | Reject] = [Reject("t5_caption: there is no caption")] * len(items)
        groups, hidden = inferred
        for group, states in zip(groups, hidden.tensors(), strict=True):
            for i, length, state in zip(group.indices, group.lengths, states.numpy(), strict=True):
                out[i] = _half(state[:length])
        return out


def together(lengths: Sequence[int], multiple: int, most: int) -> list[tuple[int, list[int]]]:
    """Which captions go through the encoder together: (tokens of each, padding included; positions of the captions).

    A caption is padded to a multiple of tokens by its own length alone, whatever goes with it.

    Args:
        lengths: of the captions, in tokens. multiple: 1 for no padding.
        most: tokens at a time.
    """
    groups: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        groups.setdefault(-(-length // multiple) * multiple, []).append(i)
    made = []
    for length, members in groups.items():
        size = max(1, most // length)
        made += [(length, members[start : start + size]) for start in range(0, len(members), size)]
    return made


def _half(embedding: np.ndarray) -> np.ndarray | Reject:
    """As float16, if it fits."""
    largest = float(np.abs(embedding).max())
    if not largest <= float(np.finfo(np.float16).max):  # NaN neither
        return Reject(f"t5_caption: an embedding of magnitude {largest:.3g}, expected what float16 holds")
    return embedding.astype(np.float16)
