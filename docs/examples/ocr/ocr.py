"""A modality of your own: the text that an image shows.

Everything is in this file: what is declared, and the specialist that makes the label. A recipe uses it with

    modules: [ocr]                   # PYTHONPATH holds this folder
    modalities: [rgb, caption, ocr]

Lines of text are found by their shape with OpenCV, and read by TrOCR (Li et al. 2021), which reads one line at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
from pydantic import Field, PrivateAttr

from fourmill import Form, Item, Kind, Label, Modality, Reject, Storage, declare
from fourmill.pipelines.specialists.pretrained import Pretrained

declare(
    Label("ocr", Storage.JSON, Form.RECORD, "ocr:Ocr", "the text that the image shows"),
    Modality("ocr", "ocr", Kind.SEQUENCE, "wordpiece", 30_000, 64, "text in the image", spatial=False),
)


class Ocr(Pretrained):
    """Text as one string, line by line from the top; a Reject where none is found."""

    label: ClassVar[str] = "ocr"
    task: ClassVar[str] = "reading a line of text"
    licence: ClassVar[str] = "MIT"
    memory_gb: ClassVar[float] = 2.5

    weights: str = Field("microsoft/trocr-base-printed", description="Hub id or folder of a TrOCR.")
    min_confidence: float = Field(0.6, ge=0, le=1, description="Mean probability of a line's tokens, at least.")
    max_lines: int = Field(16, ge=1, description="In each image, the largest.")
    max_tokens: int = Field(48, ge=2, description="Of a line.")

    _model: Any = PrivateAttr(default=None)
    _processor: Any = PrivateAttr(default=None)

    def setup(self, device: str) -> None:
        self._model = self.load("AutoModelForImageTextToText", device)
        self._processor = self.processor("AutoProcessor")

    def __call__(self, items: Sequence[Item]) -> list[str | Reject]:
        lines = [find_lines(item.image, self.max_lines) for item in items]
        read = iter(self._read([line for part in lines for line in part]))
        sure = [
            [text for text, confidence in (next(read) for _ in part) if self._is_sure(text, confidence)]
            for part in lines
        ]
        return [" ".join(part) or Reject("ocr: no text that can be read") for part in sure]

    def _is_sure(self, text: str, confidence: float) -> bool:
        return confidence >= self.min_confidence and any(map(str.isalnum, text))

    def _read(self, lines: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """Text and mean probability of its tokens for each uint8 (h, w, 3) line."""
        import torch

        found: list[tuple[str, float]] = []
        for start in range(0, len(lines), self.batch_size):
            images = list(lines[start : start + self.batch_size])
            pixels = self._processor(images=images, input_data_format="channels_last", return_tensors="pt").pixel_values
            with torch.inference_mode():
                out = self._model.generate(
                    pixels.to(self._model.device, self._model.dtype),
                    max_new_tokens=self.max_tokens,
                    num_beams=1,
                    do_sample=False,
                    output_scores=True,
                    return_dict_in_generate=True,
                )
                scores = self._model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
            tokens = out.sequences[:, -scores.shape[1] :]
            counts = tokens != self._processor.tokenizer.pad_token_id  # lines that ended before the longest
            confidence = (scores.exp() * counts).sum(1) / counts.sum(1).clamp(min=1)
            texts = self._processor.batch_decode(out.sequences, skip_special_tokens=True)
            found += zip(map(str.strip, texts), confidence.tolist(), strict=True)
        return found


def find_lines(image: np.ndarray | None, most: int) -> list[np.ndarray]:
    """Wide regions full of strokes, from the top and from the left: crops of a uint8 (H, W, 3) image."""
    assert image is not None, "items without an image are rejected before the call"
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    strokes = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    _, strokes = cv2.threshold(strokes, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    gap = max(9, image.shape[1] // 20)  # between letters and words of a line
    joined = cv2.morphologyEx(strokes, cv2.MORPH_CLOSE, np.ones((1, gap), np.uint8))
    contours, _ = cv2.findContours(joined, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    boxes = [cv2.boundingRect(contour) for contour in contours]
    boxes = [
        (x, y, w, h) for x, y, w, h in boxes if h >= 8 and w >= 1.5 * h and strokes[y : y + h, x : x + w].mean() > 50
    ]
    largest = sorted(boxes, key=lambda box: (-box[2] * box[3], box))[:most]
    pad = 3
    return [
        np.ascontiguousarray(image[max(0, y - pad) : y + h + pad, max(0, x - pad) : x + w + pad])
        for x, y, w, h in sorted(largest, key=lambda box: (box[1] + box[3] // 2, box[0]))
    ]
