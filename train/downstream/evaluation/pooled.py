"""The answers of an evaluation, made by the actors of a cluster: chunks that `Made` finds afterwards."""

from __future__ import annotations

from typing import NamedTuple

from ...pretrain.weights import load_model
from ..pool import ModelJob, ModelWorker, Where, make
from ..samples import Samples
from . import table
from .job import EvaluateJob
from .made import Question


class Chunk(NamedTuple):
    """Some answers to a question. chained: it is asked of the samples of chains alone. start: number of the first."""

    chained: bool
    question: Question
    member: int
    start: int


class Answers(ModelWorker[EvaluateJob, Chunk, int]):
    """Makes chunks of answers."""

    def setup(self, device: str) -> None:
        generation = self.of.generation
        model, samples = load_model(generation.run, device, generation.step), table.samples_of(self.of)
        self.made = table.made_of(self.of, samples, lambda: model)

    def make(self, task: Chunk) -> int:
        return self.made[task.chained].make(task.question, task.member, task.start)


def missing(job: EvaluateJob, samples: Samples) -> dict[str, Chunk]:
    """The chunks that are not there yet, by a name."""
    made = table.made_of(job, samples, table.never)
    chunks = {}
    for chained, question, member in table.questions(job, samples):
        for start in made[chained].missing(question, member):
            name = f"{question.name} {question.steps[-1].target}, member {member}, from {start}"
            chunks[name] = Chunk(chained, question, member, start)
    return chunks


def answer(job: EvaluateJob, samples: Samples, where: Where) -> None:
    """Let a cluster make what is missing. ValueError if a chunk cannot be made."""
    if chunks := missing(job, samples):
        make(ModelJob(job, job.generation.run, where), Answers, chunks, "evaluate", "chunks of answers")
