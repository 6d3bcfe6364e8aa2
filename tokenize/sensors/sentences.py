"""Codecs of a sensor's sentences: coordinates, times and catalogues, see text/sensor_sentences.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...modalities import ModalitySpec
from ...sensors.declared import SENSORS
from ..codec import FittedTokenizer, Labelled, Options
from ..text import sensor_sentences as sentences
from ..text.wordpiece import WordPiece
from ..text_codecs import Coded, Text


class OfSensor(Text):
    """Base: a sentence of the sensor whose label the modality has, in the words that the vocabulary has.

    Subclasses write (`said`) and read (`read`) it in the words v0 .. v3.
    """

    def __init__(self, spec: ModalitySpec, options: Options, wordpiece: WordPiece) -> None:
        super().__init__(spec, options, wordpiece)
        self.sensor = SENSORS[self.modality.label]
        if why := sentences.problem(wordpiece):
            raise ValueError(f"{spec.name}: the text tokenizer: {why}")

    def texts(self, sample: Labelled) -> list[str]:
        return [sentences.spelt(self.said(sample.value), self.wordpiece)]

    def parse(self, text: str) -> Any:
        return self.read(sentences.unspelt(text))

    def said(self, value: Any) -> str:
        raise NotImplementedError

    def read(self, text: str) -> Any:
        raise NotImplementedError


class Coordinates(OfSensor):
    """{name: number}; what is read is {} if the sentence is broken."""

    name = "coordinates"

    def __init__(self, spec: ModalitySpec, options: Options, wordpiece: WordPiece) -> None:
        super().__init__(spec, options, wordpiece)
        self._steps = sentences.steps_of(self.sensor)
        self._degrees = sentences.has_degrees(wordpiece, self.sensor)

    def said(self, value: Any) -> str:
        return sentences.place_to_text(value, self._steps, self._degrees)

    def read(self, text: str) -> dict[str, float]:
        return sentences.text_to_place(text, self._steps)


class Time(OfSensor):
    """{"time": ISO 8601, "year", "day", and "hour"}; what is read is {} if the sentence is broken."""

    name = "time"

    def said(self, value: Any) -> str:
        return sentences.time_to_text(value)

    def read(self, text: str) -> dict[str, Any]:
        return sentences.text_to_time(text, self.sensor.hour)


class Catalogue(Coded):
    """A list of {name: number or None}, each value as the id of its quantile."""

    name = "catalogue"

    def __init__(self, spec: ModalitySpec, options: Options, wordpiece: WordPiece, tokenizer: FittedTokenizer) -> None:
        super().__init__(spec, options, wordpiece, tokenizer)
        self.names = SENSORS[self.modality.label].names
        if why := sentences.problem(wordpiece):
            raise ValueError(f"{spec.name}: the text tokenizer: {why}")

    def encode_one(self, sample: Labelled) -> list[Any]:
        return [self.subject(sample, 0)]  # of the whole sample

    def subject(self, sample: Labelled, crop: int) -> np.ndarray:
        return sentences.table_of(sample.value, self.names)

    def coded(self, subject: np.ndarray) -> np.ndarray:
        statistics = self.tokenizer.model.config.statistics
        assert statistics is not None
        # The table reads numbers alone; what stands for a missing one is written as `none`.
        return np.where(np.isnan(subject), np.array(statistics.median, np.float32), subject)

    def chunks(self, sample: Labelled, crop: int, subject: np.ndarray, ids: np.ndarray) -> list[str]:
        chunks = sentences.rows_to_chunks(ids, ~np.isnan(subject))
        return [sentences.spelt(chunk, self.wordpiece) for chunk in chunks]

    def parse(self, text: str) -> list[dict[str, float | None]]:
        codes, known = sentences.text_to_rows(sentences.unspelt(text), len(self.names))
        if not len(codes):
            return []
        codes = codes.clip(max=self.tokenizer.model.config.codebook_size - 1)  # a vocabulary has words for 1,000
        values = self.tokenizer.decode(codes)
        return [
            {name: float(value) if there else None for name, value, there in zip(self.names, *row, strict=True)}
            for row in zip(values, known, strict=True)
        ]
