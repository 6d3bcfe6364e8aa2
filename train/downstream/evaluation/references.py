"""What is known of samples beside the model's answers: the truth, the stored labels, the stored tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ....infra import ledger
from ....modalities import LABELS, WINDOW, height_width
from ....sensors.declared import window_of
from ....tokenize import codecs, labels
from ....tokenize.codec import Codec, Labelled
from ....tokenize.crops import Crop, crops
from ..samples import Samples
from . import truth
from .columns import Column
from .job import EvaluateJob
from .records import Instances
from .sensors import ClassMap, Values, reference
from .truth import Frame, Members

_FRAMED = ("det", "sam_instance", "human_poses")  # labels whose boxes are shares of the image: its size is needed
_BATCH = 64  # of what is decoded at a time


class Reference:
    """Truth, stored labels and decoded tokens of some samples, in the forms of the judges; None where there is none.

    Args:
        columns: whose truth is read, in one pass over the tars.
    """

    def __init__(self, job: EvaluateJob, samples: Samples, columns: Sequence[Column]) -> None:
        self.job, self.samples, self.columns = job, samples, columns
        self._codecs: dict[str, Codec] = {}

    @cached_property
    def _needed(self) -> set[str]:
        """The members that are read, by their extensions."""
        names = {name for column in self.columns for name in column.members}
        framed = any(column.label in _FRAMED for column in self.columns)
        return names | set(truth.IMAGES) if framed else names

    @cached_property
    def _members(self) -> dict[tuple[str, str], Members]:
        return (
            truth.members(self.job.sources, self.samples.places, self._needed, self.job.column) if self._needed else {}
        )

    def unopened(self) -> list[str]:
        """The shards whose tars were needed and cannot be opened."""
        there = {shard for shard, _ in self._members}
        return list(dict.fromkeys(shard for shard, _, _ in self.samples.places if self._needed and shard not in there))

    def frame(self, column: Column, row: int) -> Frame | None:
        """The image of a sample; None if it cannot be read, 1 x 1 where nobody needs it."""
        if (part := self._windows[row]) is not None:
            return part
        if column.label not in _FRAMED:
            return Frame(1, 1)
        shard, key, _ = self.samples.places[row]
        size = truth.image_size(self._members.get((shard, key), {}))
        return None if size is None else Frame(*size)

    @cached_property
    def _windows(self) -> list[Frame | None]:
        """Of samples whose images had bars cut off, what is left, as was recorded with them; None for others."""
        if WINDOW not in self.job.kept:
            return [None] * len(self.samples.places)
        return [None if one is None else _frame(one) for one in self._stored(WINDOW)]

    def of(self, column: Column) -> list[Any]:
        """What the answers are compared with."""
        return self._true(column) if column.given is not None else self.labels(column) or self.decoded(column)

    def _true(self, column: Column) -> list[Any]:
        assert column.given is not None
        name, found = column.given.member, list[Any]()
        for row, (shard, key, _) in enumerate(self.samples.places):
            members = self._members.get((shard, key), {})
            data, frame = members.get(name), self.frame(column, row)
            try:
                if isinstance(column.judge, Values | ClassMap):
                    found.append(reference(column.judge, members))
                    continue
                found.append(None if data is None or frame is None else column.judge.of_truth(data, frame))
            except ValueError as error:
                raise ValueError(f"evaluate: shard {shard}, sample {key!r}, {error}") from None
        return found

    def labels(self, column: Column) -> list[Any]:
        """The stored labels; [] if the recipe does not keep this one."""
        if column.label not in self.job.kept:
            return []
        codec = self.codec(column)
        found: list[Any] = []
        for row, value in enumerate(self._stored(column.label)):
            # Maps have the frame of their image.
            is_map = isinstance(value, np.ndarray) and value.ndim > 1
            frame = Frame(value.shape[1], value.shape[0]) if is_map else self.frame(column, row)
            if value is None or frame is None:
                found.append(None)
                continue
            size = frame.labelled
            if isinstance(column.judge, Instances):
                found.append(column.judge.of_frame(value))
                continue
            key = self.samples.places[row][1]
            found.append(
                column.judge.of_label(codec.truth(Labelled(key, value, _windows(key, size, column.label), size), 0))
            )
        return found

    def _stored(self, label: str) -> list[Any]:
        """As specialists made them, in the frame of the image."""
        places = self.samples.places
        values: list[Any] = [None] * len(places)
        for shard in dict.fromkeys(shard for shard, _, _ in places):
            rows = [row for row, place in enumerate(places) if place[0] == shard]
            groups = sorted({places[row][2] // labels.ROW_GROUP for row in rows})
            root, output = self.job.generation.root, f"labels/{label}"
            record = ledger.read(root, output, shard)
            footer = record.footer if record is not None else ""
            _, keys, cells = labels.read_cells(ledger.output_url(root, output, shard), groups, footer)
            by_key = dict(zip(keys, cells, strict=True))
            for row in rows:
                cell = by_key[places[row][1]]
                values[row] = None if cell is None else labels.decode_cell(LABELS[label].storage, cell)
        return values

    def decoded(self, column: Column) -> list[Any]:
        """What the stored tokens decode to."""
        return self.answers(column, self.samples.tokens[column.target])

    def answers(self, column: Column, tokens: Sequence[np.ndarray | None]) -> list[Any]:
        """Answers of tokens, in the form of a column or of `generate`."""
        values = decode(self.codec(column), tokens)
        return [None if value is None else column.judge.of_label(value) for value in values]

    def coded(self, column: Column, references: Sequence[Any]) -> list[Any]:
        """References after they went through the tokenizer; what the stored tokens say where it cannot read them."""
        codec, asked = self.codec(column), [None if one is None else column.judge.as_label(one) for one in references]
        if column.given is None or not any(one is not None for one in asked):
            return self.decoded(column)
        return self.answers(column, encode(codec, asked))

    def codec(self, column: Column) -> Codec:
        """The codec of a column, loaded once."""
        if column.target not in self._codecs:
            generation = self.job.generation
            loaded = codecs.load(column.spec, generation.options, generation.root, self.job.device)
            self._codecs[column.target] = loaded
        return self._codecs[column.target]


def _frame(window: dict[str, int]) -> Frame | None:
    """A stored label `window`; None if it is the whole image."""
    part = window["left"], window["top"], window["width"], window["height"]
    whole = part[2:] == (window["image_width"], window["image_height"])
    return None if whole else Frame(window["image_width"], window["image_height"], part)


def _windows(key: str, size: tuple[int, int], label: str) -> list[Crop]:
    """The centre crop of a label in its frame."""
    return crops(0, key, *size, 1, shape=window_of(label))


def decode(codec: Codec, tokens: Sequence[np.ndarray | None]) -> list[Any]:
    """Labels of tokens, in the frame of the crop."""
    if not isinstance(codec, codecs.Grid):
        return [None if one is None else codec.decode(one) for one in tokens]
    return _batched(tokens, lambda rows: list(codec.decode_many(np.stack(rows))))


def encode(codec: Codec, values: Sequence[Any]) -> list[Any]:
    """Tokens of labels in the frame of the crop; None for what cannot be encoded."""
    if isinstance(codec, codecs.Grid):
        return _batched(values, lambda rows: list(codec.tokenizer.encode(np.stack(rows))))
    height, width = height_width(codec.image_size)

    def of_texts(rows: Sequence[Any]) -> Sequence[Any]:
        whole = crops(0, "", width, height, 1, shape=(height, width))
        coded = codec.encode([Labelled("", row, whole, (width, height)) for row in rows])
        return [None if isinstance(one, Exception) else one[0] for one in coded]

    return _batched(values, of_texts)


def _batched(values: Sequence[Any], call: Callable[[Sequence[Any]], Sequence[Any]]) -> list[Any]:
    """`call` on what is there, some at a time."""
    there = [i for i, value in enumerate(values) if value is not None]
    results: list[Any] = [None] * len(values)
    for start in range(0, len(there), _BATCH):
        here = there[start : start + _BATCH]
        for i, result in zip(here, call([values[i] for i in here]), strict=True):
            results[i] = result
    return results
