"""Boxes of whatever a recipe names in words (`open_det`), which 4M-21 has not: a label beside `det`.

By OWLv2, OWL-ViT and Grounding DINO of transformers. Preprocessing, scores and the frame of boxes are those of the
weights' own processor: OWLv2's sees the image in a square with bars, and its boxes are of that square until they are
read.

Grounding DINO scores words, and its processor gives pieces of text back. Here each box has the query with the word
that scores highest; its score is the processor's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, PrivateAttr, field_validator

from ....infra import faults
from ...reject import Reject
from ..base import ImageItem, Specialist
from ..host import OnHost, sent
from ..pretrained import batches, without_checks
from .transformers import Detections, Detector, Prepared

_OWL, _GROUNDING = ("owlv2", "owlvit"), ("grounding-dino", "mm-grounding-dino")
_OWL_PROMPT = "a photo of a {}"  # as OWLv2's page words its queries
_SEPARATOR = "."  # between queries of Grounding DINO


class OpenBoxes(Detector):
    """Any OWL-ViT, OWLv2 or Grounding DINO. The default is OWLv2-B/16 (Minderer et al., 2023)."""

    name: ClassVar[str] = "open_detector"
    label: ClassVar[str] = "open_det"
    version: ClassVar[int] = 1
    first_version: ClassVar[int] = 1
    task: ClassVar[str] = "open-vocabulary detection"
    licence: ClassVar[str] = "Apache-2.0"
    gpus: ClassVar[float] = 0.5
    batch_size: ClassVar[int] = 4

    weights: str = Field("google/owlv2-base-patch16-ensemble", description="Hub id or local folder.")
    queries: tuple[str, ...] = Field((), description="What to look for, in words: [traffic sign, red car]. Needed.")
    prompt: str | None = Field(
        None,
        description="How a query is put to the model, {} in its place. Unless given `a photo of a {}` for OWL, and the "
        "query alone for Grounding DINO.",
    )
    min_score: float = Field(0.1, ge=0, lt=1, description="Boxes below this score are dropped.")

    _processor: Any = PrivateAttr(default=None)
    _text: dict[str, Any] = PrivateAttr(default_factory=dict)  # tensors of the queries, for one image
    _words: Any = PrivateAttr(default=None)  # of Grounding DINO: which query each token is of, -1 for none

    @field_validator("queries")
    @classmethod
    def _unlike(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        words = tuple(" ".join(query.split()) for query in value)
        if "" in words:
            raise ValueError("a query has no words; leave it out")
        if twice := next((one for one in words if [w.lower() for w in words].count(one.lower()) > 1), ""):
            raise ValueError(f"{twice!r} is there twice")
        return words

    @field_validator("prompt")
    @classmethod
    def _has_a_place(cls, value: str | None) -> str | None:
        if value is not None and value.count("{}") != 1:
            raise ValueError(f"got {value!r}; expected {{}} once, where the query goes")
        return value

    def why_not(self, others: Mapping[str, Specialist]) -> str:
        if not self.queries:
            return (
                f"{self.label}: nothing says what to look for; name it in labels.specialists.{self.label}.queries: "
                "[traffic sign, red car]"
            )
        return super().why_not(others)

    def setup(self, device: str) -> None:
        """Load the detector and read the queries. ValueError if it is none that takes words, or cannot take these."""
        if why := self.why_not({}):
            raise ValueError(why)
        without_checks()
        self._model = self.load("AutoModelForZeroShotObjectDetection", device)
        kind = self._model.config.model_type
        if kind not in (*_OWL, *_GROUNDING):
            raise ValueError(f"{self.label}: {self.weights} is {kind}; expected OWL-ViT, OWLv2 or Grounding DINO")
        self._processor = self.processor("AutoProcessor")
        texts = [(self.prompt or (_OWL_PROMPT if kind in _OWL else "{}")).format(query) for query in self.queries]
        self._names = list(self.queries)
        self._text = self._owl_text(texts) if kind in _OWL else self._grounding_text(texts)

    def _owl_text(self, texts: list[str]) -> dict[str, Any]:
        """ValueError if a query is too long, which would be cut off."""
        most = int(self._model.config.text_config.max_position_embeddings)
        lengths = map(len, self._processor.tokenizer(texts)["input_ids"])
        for query, length in zip(self.queries, lengths, strict=True):
            if length > most:
                raise ValueError(
                    f"{self.label}: the query {query!r} has {length} tokens as it is put, and {self.weights} takes "
                    f"{most}; say it shorter"
                )
        return dict(self._processor(text=[texts], return_tensors="pt"))

    def _grounding_text(self, texts: list[str]) -> dict[str, Any]:
        """Queries as one text with full stops between them; ValueError if that is too long."""
        import torch

        if bad := next((text for text in texts if _SEPARATOR in text), ""):
            raise ValueError(f"{self.label}: queries of Grounding DINO have no full stops; got {bad!r}")
        tokenizer, most = self._processor.tokenizer, int(self._model.config.max_text_len)
        encoded = tokenizer(" ".join(f"{text.lower()}{_SEPARATOR}" for text in texts), return_token_type_ids=True)
        ids = encoded["input_ids"]
        if len(ids) > most:
            raise ValueError(
                f"{self.label}: the queries have {len(ids)} tokens, and {self.weights} takes {most}; name fewer"
            )
        stop, special = tokenizer.convert_tokens_to_ids(_SEPARATOR), set(tokenizer.all_special_ids)
        of, query = [], 0
        for token in ids:
            of.append(-1 if token == stop or token in special else query)
            query += token == stop
        self._words = torch.tensor(of + [-1] * (most - len(of)))
        return {name: torch.tensor([values]) for name, values in encoded.items()}

    def prepare(self, items: Sequence[ImageItem]) -> Prepared:
        """Images of equal size together, each with the queries; those that cannot be prepared apart."""
        made = [self._pixels(item.image) for item in items]
        refused = {i: one for i, one in enumerate(made) if isinstance(one, Reject)}
        good = [i for i in range(len(made)) if i not in refused]
        device, groups = self._model.device, list[tuple[list[int], dict[str, Any]]]()
        for indices, pixels in batches([made[i] for i in good], self.batch_size):
            text = {
                name: sent(value.repeat(len(pixels), *[1] * (value.ndim - 1)), device, value.dtype)
                for name, value in self._text.items()
            }
            inputs = {"pixel_values": sent(pixels, device, self._model.dtype), **text}
            groups.append(([good[i] for i in indices], inputs))
        return groups, refused

    def read(
        self, items: Sequence[ImageItem], inferred: tuple[Prepared, list[Any], OnHost]
    ) -> list[Detections | Reject]:
        (groups, refused), every, copies = inferred
        found: list[Detections | Reject] = [refused.get(i) or self._not_finite() for i in range(len(items))]
        tensors = copies.tensors()
        for (members, _), outputs, logits, boxes in zip(groups, every, tensors[::2], tensors[1::2], strict=True):
            for row, i in enumerate(members):
                if not logits[row].isnan().any() and boxes[row].isfinite().all():
                    one = type(outputs)(logits=logits[row : row + 1], pred_boxes=boxes[row : row + 1])
                    found[i] = self._read(one, items[i].image.shape[:2])
        return found

    def _pixels(self, image: np.ndarray) -> Any:
        """What the network takes, (3, h, w); a Reject for an image that is too thin for the processor."""
        try:
            made = self._processor.image_processor(images=image, input_data_format="channels_last", return_tensors="pt")
        except (ValueError, RuntimeError) as error:
            if faults.of_place(error):
                raise
            height, width = image.shape[:2]
            return Reject(f"{self.label}: an image of {width} x {height} px cannot be prepared: {error}")
        return made["pixel_values"][0]

    def _read(self, outputs: Any, size: tuple[int, ...]) -> Detections:
        """Detections of one image of this height and width."""
        height, width = size
        options: dict[str, Any] = {"threshold": self.min_score, "target_sizes": [(height, width)]}
        if self._words is not None:
            options["input_ids"] = self._text["input_ids"]
        (part,) = self._processor.post_process_grounded_object_detection(outputs, **options)
        classes = part["labels"] if self._words is None else self._queries_of(outputs.logits[0])
        boxes = part["boxes"].numpy() / np.array([width, height, width, height])
        return boxes, part["scores"].numpy(), np.asarray(classes)

    def _queries_of(self, logits: Any) -> np.ndarray:
        """The query of each box that Grounding DINO's processor keeps, in its order."""
        import torch

        scores = torch.sigmoid(logits)
        kept = scores[scores.max(dim=-1)[0] > self.min_score]
        by_query = [kept[:, self._words == query].amax(dim=-1) for query in range(len(self.queries))]
        chosen: np.ndarray = torch.stack(by_query, dim=-1).argmax(dim=-1).numpy()
        return chosen
