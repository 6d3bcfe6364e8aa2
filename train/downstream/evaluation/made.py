"""What the model answered, kept as it is made: a run that was killed goes on where it stopped.

RUN/evaluation/QUESTION-FINGERPRINT/TARGET/MEMBER-CHUNK.parquet, a column of the target's tokens for each `CHUNK`
answers, whose keys are SHARD/KEY of the sample (SHARD/KEY/NUMBER where a sample has several). The fingerprint is of
everything that the tokens depend on. A file is put in one step: one that is there is whole. Beside the column of a text
lies MEMBER-CHUNK.npy, float32: the probability that each of its ids was drawn with, one answer after the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ....infra import storage
from ....infra.fingerprint import fingerprint, hashed
from ....infra.formats import npy
from ....modalities import Kind, ModalitySpec
from ....model.fourm import FourM
from ....model.generation.generate import Generated, generate
from ....tokenize import store
from ....tokenize.labels import encode_array
from ....tokenize.table_file import Damaged
from ...settings import in_bf16
from ..generation import MEMBER_STRIDE, model_step, special_ids
from ..pairing import others
from ..samples import Samples
from ..settings import ChainStep
from .job import EvaluateJob

logger = logging.getLogger(__name__)

CHUNK = 256  # answers of a file: what a run that is killed may lose

Asked = tuple[int, int, tuple[int, ...]]  # sample, number of its answer, ids that the answer goes on from


@dataclass(frozen=True)
class Question:
    """What the model is asked about each sample.

    name: for people. steps: a chain; all of its results are kept. another: the input is that of another sample.
    begun: of each sample the texts that its answers go on from, of the last target; one answer without any if None.
    """

    name: str
    inputs: tuple[str, ...]
    steps: tuple[ChainStep, ...]
    another: bool = False
    begun: tuple[tuple[tuple[int, ...], ...], ...] | None = None

    def asked(self, samples: int) -> list[Asked]:
        """Every answer that is expected."""
        if self.begun is None:
            return [(i, 0, ()) for i in range(samples)]
        return [(i, n, text) for i, texts in enumerate(self.begun) for n, text in enumerate(texts)]


def likeliest(target: str, things: bool = False) -> tuple[ChainStep, ...]:
    """The likeliest tokens: of a grid all at once, of a text one after the other; sentences of things (boxes, people)
    end where that is likelier than any further thing."""
    return (ChainStep(target=target, steps=1, temperature=0.0, ends_above=0.5 if things else None),)


class Made:
    """Answers of the model to the inputs of some samples.

    Args:
        load: gives the model; called only if an answer is not there yet.
        post: is called with how many answers were made or found: as many as samples by each call of `tokens`.
    """

    def __init__(
        self, job: EvaluateJob, samples: Samples, load: Callable[[], FourM], post: Callable[[float], None]
    ) -> None:
        self.job, self.samples, self._load, self._post = job, samples, load, post
        self._specs: dict[str, ModalitySpec] = {spec.name: spec for spec in job.generation.specs}

    @cached_property
    def _model(self) -> FourM:
        return self._load()

    def folder(self, question: Question, target: str) -> str:
        """Where the answers to a question are, of one target of its chain."""
        settings, steps = self.job.settings, [hashed(step) for step in question.steps]
        said = [question.inputs, question.another, question.begun, len(self.samples.places)]
        print_ = fingerprint("evaluate", self.job.fingerprint, steps, *said, settings.seed, settings.precision)
        return storage.join(self.job.generation.run, "evaluation", f"{question.name}-{print_}", target)

    def tokens(self, question: Question, target: str, member: int = 0) -> list[np.ndarray]:
        """The answers, as ids of a column.

        Args:
            member: of an ensemble; each draws other random numbers.
        """
        asked = question.asked(len(self.samples.places))
        found: list[np.ndarray] = []
        for start in range(0, len(asked), CHUNK):
            name = _name(member, start)
            url = storage.join(self.folder(question, target), name)
            if not storage.exists(url):
                self._make(question, member, start, asked[start : start + CHUNK], name)
            try:
                column = store.read(url)
            except Damaged as error:
                logger.warning("%s; it is made again", error)
                storage.delete(url)
                self._make(question, member, start, asked[start : start + CHUNK], name)
                column = store.read(url)
            found += [column.crop(i, 0).copy() for i in range(len(column))]
            self._post(len(column) / len(asked) * len(self.samples.places))
        return found

    def texts(self, question: Question, target: str, member: int = 0) -> list[tuple[list[int], list[float]]]:
        """The answers in a text: their ids, without ends, and the probability that each was drawn with."""
        folder, eos = self.folder(question, target), special_ids(self.job.generation).eos
        starts = range(0, len(question.asked(len(self.samples.places))), CHUNK)
        kept = {start: _array(storage.join(folder, _name(member, start, "npy"))) for start in starts}
        lacking = [start for start, part in kept.items() if part is None]
        for start in lacking:  # made before probabilities were kept, or not at all: ids and probabilities are made
            storage.delete(storage.join(folder, _name(member, start)))
        rows = [ids[ids != eos] for ids in self.tokens(question, target, member)]
        kept |= {start: _array(storage.join(folder, _name(member, start, "npy"))) for start in lacking}
        probability = np.concatenate([np.zeros(0, np.float32), *(part for part in kept.values() if part is not None)])
        ends = np.cumsum([len(ids) for ids in rows])
        if len(ends) and ends[-1] != len(probability):
            raise ValueError(f"{folder} is damaged; delete it, and run the same command again")
        return [(ids.tolist(), probability[end - len(ids) : end].tolist()) for ids, end in zip(rows, ends, strict=True)]

    def missing(self, question: Question, member: int) -> list[int]:
        """The numbers of the first answers of chunks of which a target is not there yet."""
        folders = [set(storage.list_names(self.folder(question, step.target))) for step in question.steps]
        starts = range(0, len(question.asked(len(self.samples.places))), CHUNK)
        return [start for start in starts if any(_name(member, start) not in names for names in folders)]

    def make(self, question: Question, member: int, start: int) -> int:
        """Make one chunk of answers; returns how many it has."""
        asked = question.asked(len(self.samples.places))[start : start + CHUNK]
        self._make(question, member, start, asked, _name(member, start))
        return len(asked)

    def _make(self, question: Question, member: int, start: int, asked: Sequence[Asked], name: str) -> None:
        """A chunk of answers, of all targets of the chain: what was generated on the way is kept as well."""
        made, probability = self._generate(question, member, start, asked)
        for target, rows in made.items():
            url = storage.join(self.folder(question, target), name)
            if target in probability:  # first: where there is a column, they are there
                flat = np.concatenate([np.zeros(0, np.float32), *(np.float32(row) for row in probability[target])])
                storage.put(url.removesuffix("parquet") + "npy", encode_array(flat))
            # A run that was killed between two targets makes the first again, which are the same tokens.
            if not storage.exists(url):
                storage.put(url, self._column(question, target, asked, rows))

    @cached_property
    def _others(self) -> np.ndarray:
        return others(len(self.samples.places), self.job.settings.seed)

    def _generate(
        self, question: Question, member: int, start: int, asked: Sequence[Asked]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Target -> the ids of each answer; and of texts their probabilities."""
        settings, size = self.job.settings, self.job.settings.batch_size
        steps = [model_step(step, self._specs[step.target]) for step in question.steps]
        special, device = special_ids(self.job.generation), self._model.device.type
        parts: list[Generated] = []
        for first in range(0, len(asked), size):
            here = asked[first : first + size]
            rows = np.array([row for row, _, _ in here])
            given = self.samples.given(question.inputs, self._others[rows] if question.another else rows)
            begun = None if question.begun is None else {steps[-1].target: [text for _, _, text in here]}
            # Random numbers follow from seed, answer and member: how answers are batched changes no token.
            ids = [member * MEMBER_STRIDE + start + first + i for i in range(len(here))]
            more: dict[str, Any] = {"seed": settings.seed, "sample_ids": ids, "special": special, "begun": begun}
            with torch.autocast(device, torch.bfloat16, enabled=in_bf16(settings.precision, device)):
                parts.append(generate(self._model, given, steps, **more))
        ids_of = {step.target: [row for part in parts for row in part[step.target]] for step in steps}
        texts = parts[0].probability
        return ids_of, {target: [row for part in parts for row in part.probability[target]] for target in texts}

    def _column(self, question: Question, target: str, asked: Sequence[Asked], made: Sequence[Any]) -> bytes:
        spec = self._specs[target]
        if spec.kind is Kind.SEQUENCE:
            # As the store has it: with the end token, unless the sequence fills the whole table.
            eos = special_ids(self.job.generation).eos
            rows = [[np.array([*ids, eos][: spec.max_tokens], np.uint16)] for ids in made]
        else:
            rows = [ids[None] for ids in made]
        keys = []
        for row, number, _ in asked:
            shard, key, _ = self.samples.places[row]
            keys.append(f"{shard}/{key}" + ("" if question.begun is None else f"/{number}"))
        of = store.ColumnSpec(target, spec.kind, 1, spec.max_tokens, spec.vocab_size, width=spec.columns)
        return store.encode_column(of, keys, rows)


def _name(member: int, start: int, kind: str = "parquet") -> str:
    """The file of a chunk."""
    return f"{member:02d}-{start // CHUNK:04d}.{kind}"


def _array(url: str) -> np.ndarray | None:
    """The numbers of a file; None if it is not there, or damaged."""
    try:
        return npy.read(storage.read_bytes(url))
    except (FileNotFoundError, ValueError):
        return None
