"""The evaluation table: what the model's answers are worth, beside the best answer without looking, the model without
its input, the labels it was trained on, and what its tokenizers lose (4M-21, table 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ....infra.explain import listing
from ....model.fourm import FourM
from ....sensors.declared import SENSORS
from ....tokenize.text.instance_sentences import MASK_TOKENS
from ....tokenize.text_codecs import Boxes as BoxCodec
from ....tokenize.text_codecs import Instances as InstanceCodec
from ...measures.resample import Value, draw, measure
from .. import samples as chosen
from ..samples import Samples
from ..settings import ChainStep
from . import recall
from .columns import Column, columns
from .instances import GivenBoxes
from .job import EvaluateJob
from .made import Made, Question, likeliest
from .records import Boxes, Instances, People
from .references import Reference
from .sensors import ClassMeans, Values
from .table_files import Measured, Table
from .vectors import Neighbours

MADE = ("another", "step", "chain", "ensemble")  # the rows that the model makes, those of chains last
SHOWN_AS_PAIRS = MADE[1:]  # the last of these that there is

Post = Callable[[float], None]


def compute(job: EvaluateJob, samples: Samples, load: Callable[[], FourM], post: Post = lambda done: None) -> Table:
    """The table of a job.

    Args:
        samples: validation samples that have the inputs, with the tokens of all modalities.
        load: gives the model; called only where an answer is not there yet.
        post: is called with the number of answers that are made or found; `answers` says how many there are.
    """
    (of, notes), made = columns(job), made_of(job, samples, load, post)
    draws = draw(len(samples.places), job.settings.draws, job.settings.seed)
    maker = _Maker(job, samples, of, made, draws)
    measured = [maker.column(column) for column in of]
    if lost := maker.here.unopened():
        maker.notes.append(f"The tars of {listing(lost[:5])} cannot be opened: truth and boxes are of other shards.")
    return Table(
        run=job.generation.title,
        inputs=list(job.inputs),
        samples=len(samples.places),
        subset=maker.chained if maker.chained < len(samples.places) else None,
        ensemble=job.settings.ensemble,
        draws=job.settings.draws,
        seed=job.settings.seed,
        columns=[one for one in measured if one.cells],
        classes=next((one.classes.label for one in of if one.classes is not None), ""),
        retrieval=recall.compute(job, samples, made[0], draws),
        notes=[*notes, *maker.notes],
    )


def samples_of(job: EvaluateJob, needed: tuple[str, ...] | None = None, most: int | None = None) -> Samples:
    """The validation samples that have the inputs, or what is needed. ValueError if there are none."""
    generation, needed = job.generation, job.inputs if needed is None else needed
    count = min(job.settings.samples, most or job.settings.samples)
    samples = chosen.read(generation.root, generation.specs, generation.splits["val"], count, needed)
    if not samples.places:
        lacks = f"none of the validation samples has {' and '.join(needed)}" if needed else "there are none"
        raise ValueError(f"evaluate: {lacks}; see `fourmill status`")
    return samples


def made_of(
    job: EvaluateJob, samples: Samples, load: Callable[[], FourM], post: Post = lambda done: None
) -> tuple[Made, Made]:
    """Answers to all samples, and to those of chains; see `compute`."""
    first = samples.first(job.settings.subset or len(samples.places))
    return Made(job, samples, load, post), Made(job, first, load, post)


def questions(job: EvaluateJob, samples: Samples) -> list[tuple[bool, Question, int]]:
    """What the model is asked, each once: whether of the samples of chains alone, the question, and the member of an
    ensemble."""
    of, _ = columns(job)
    steps, whole = chain(job, of), len(samples.places) > 1
    found: dict[tuple[bool, Question, int], None] = {}
    for column in of:
        if isinstance(column.judge, Instances):
            continue
        rows = [("step", 0), *([("another", 0)] if whole else [])]
        rows += [("chain", member) for member in range(job.settings.ensemble)]
        for row, member in rows:
            if (question := question_of(job, steps, column, row)) is not None:
                found[row == "chain", question, member] = None
    found |= dict.fromkeys(_of_boxes(job, samples, [one for one in of if isinstance(one.judge, Instances)], steps))
    for target, name in recall.questions(job, samples):
        if not any(one is None for one in samples.tokens[target.name]):
            found[False, recall.question(target, name), 0] = None
    return list(found)


def _of_boxes(
    job: EvaluateJob, samples: Samples, of: Sequence[Column], steps: tuple[ChainStep, ...]
) -> Iterator[tuple[bool, Question, int]]:
    """Questions for masks of instances, which go on from true boxes."""
    if not of:
        return
    here, made = Reference(job, samples, of), made_of(job, samples, never)
    rows = [("step", 0), *([("another", 0)] if len(samples.places) > 1 else [])]
    rows += [("chain", member) for member in range(job.settings.ensemble)]
    for column in of:
        references = here.of(column)
        if all(one is None for one in references):
            continue
        for row, member in rows:
            answers = made[row == "chain"]
            asker = _Asker(column, steps, answers, here, references[: len(answers.samples.places)])
            if (question := asker.question(row)) is not None:
                yield row == "chain", question, member


def never() -> FourM:
    raise AssertionError("who only looks loads no model")


def question_of(job: EvaluateJob, steps: tuple[ChainStep, ...], column: Column, row: str) -> Question | None:
    """What is asked for a row of a column; None if nothing is. An ensemble goes on with the chain, `steps`."""
    if row in ("chain", "ensemble"):
        row = "chain"
    else:
        steps = likeliest(column.target, things=isinstance(column.judge, Boxes | People))
    if all(step.target != column.target for step in steps):
        return None
    return Question(row, job.inputs, steps, row == "another")


def answers(job: EvaluateJob, samples: Samples) -> int:
    """What `compute` posts at most: a sample for each column, question and member of an ensemble."""
    whole, targets = len(samples.places), len(columns(job)[0])
    chained = min(whole, job.settings.subset or whole) * job.settings.ensemble
    return targets * (whole * (1 + (whole > 1)) + chained) + whole * len(recall.questions(job, samples))


def chain(job: EvaluateJob, of: Sequence[Column]) -> tuple[ChainStep, ...]:
    """How the model generates: as the recipe says, or all columns in order, one after the other.

    Masks of instances are asked for by themselves, as their boxes are given: they are not in it unless named.
    """
    asked = [column.target for column in of if not isinstance(column.judge, Instances)]
    return tuple(job.settings.chain or [ChainStep(target=target) for target in asked])


def _training(job: EvaluateJob, of: Sequence[Column]) -> Reference:
    """The training samples that the constant answer is made of."""
    generation = job.generation
    targets = {column.target for column in of}
    specs = [spec for spec in generation.specs if spec.name in targets]
    count = job.settings.training_samples
    return Reference(job, chosen.read(generation.root, specs, generation.splits["train"], count, ()), of)


class _Maker:
    """Makes one column after another: its answers are large, and forgotten when they are measured.

    Attributes:
        chained: of how many samples chains are asked.

    Args:
        made: answers to all samples, and to those of chains.
    """

    def __init__(
        self, job: EvaluateJob, samples: Samples, of: Sequence[Column], made: tuple[Made, Made], draws: np.ndarray
    ) -> None:
        self.job, self.samples, self.made, self.draws = job, samples, made, draws
        self.chained = len(made[1].samples.places)
        self.here, self.train = Reference(job, samples, of), _training(job, of)
        self.chain, self.notes = chain(job, of), list[str]()

    def column(self, column: Column) -> Measured:
        """A column; without cells if nothing of it can be measured, which `notes` say."""
        references = self.here.of(column)
        cells: dict[str, dict[str, Value]] = {}
        pairs, paired = dict[str, list[list[float]]](), ""
        asker = _Asker(column, self.chain, self.made[0], self.here, references)
        chained = _Asker(column, self.chain, self.made[1], self.here, references[: self.chained])
        if any(one is not None for one in references):
            for row, answer in self._rows(column, asker, chained, references).items():
                given = answer()
                if values := self._measured(column, given, references):
                    cells[row] = values
                    if row in SHOWN_AS_PAIRS and isinstance(column.judge, Values):
                        pairs, paired = column.judge.pairs(given, references), row
            if column.given is not None and "labels" not in cells and column.label not in SENSORS:
                self.notes.append(f"The label {column.label} is not stored (labels.keep): its row is empty.")
            if "chain" not in cells:
                self.notes.append(f"evaluate.chain does not generate {column.target}.")
        else:
            self.notes.append(f"No sample has {column.reference}: {column.target} has no column.")
        return Measured(
            target=column.target,
            label=column.label,
            measures=list(column.judge.measures),
            reference=column.reference,
            truth=column.given is not None,
            samples=sum(one is not None for one in references),
            chained=sum(one is not None for one in references[: self.chained]),
            answers=asker.folders(row for row in MADE[:2] if row in cells)
            | chained.folders(row for row in MADE[2:] if row in cells),
            cells=cells,
            unit=column.unit,
            pairs=pairs,
            paired=paired if pairs else "",
        )

    def _rows(
        self, column: Column, asker: _Asker, chained: _Asker, references: Sequence[Any]
    ) -> dict[str, Callable[[], Sequence[Any]]]:
        """Row -> what gives its answers to all samples, [] if it has none."""
        # A label that is itself the reference would be compared with itself.
        own = column.given is None
        boxes = asker.boxes
        return {
            "constant": lambda: self._constant(column, boxes),
            "class_means": lambda: self._class_means(column),
            "another": lambda: asker.answers("another") if len(self.samples.places) > 1 else [],
            "step": lambda: asker.answers("step"),
            "chain": lambda: self._whole(chained.answers("chain")),
            "ensemble": lambda: self._whole(chained.ensemble()),
            "labels": lambda: [] if own else self._labels(column, boxes),
            "bound": lambda: boxes.coded() if boxes else self.here.coded(column, references),
        }

    def _whole(self, answers: Sequence[Any]) -> Sequence[Any]:
        """Answers to the first samples, and none to the others."""
        return [*answers, *[None] * (len(self.samples.places) - len(answers))] if answers else []

    def _labels(self, column: Column, boxes: GivenBoxes | None) -> Sequence[Any]:
        labels = self.here.labels(column)
        return boxes.matched(labels) if boxes and labels else labels

    def _constant(self, column: Column, boxes: GivenBoxes | None) -> Sequence[Any]:
        known = self.train.of(column)
        if isinstance(column.judge, Neighbours):
            column.judge.learn(self.train.decoded(column), known)
        references = [one for one in known if one is not None]
        if not references:
            return []
        constant = column.judge.constant(references)
        return boxes.filled(constant) if boxes else [constant] * len(self.samples.places)

    def _class_means(self, column: Column) -> Sequence[Any]:
        """What the true class of each pixel says of it, by the training samples."""
        if column.classes is None:
            return []
        means = ClassMeans(self.train.of(column), self.train.of(column.classes))
        return means.answers(self.here.of(column.classes))

    def _measured(self, column: Column, given: Sequence[Any], references: Sequence[Any]) -> dict[str, Value]:
        if not any(one is not None for one in given):
            return {}
        statistic = column.judge.statistic(given, references)
        if statistic is None:
            return {}
        values = measure(statistic, self.draws)
        return {name: values[name] for name in column.judge.measures}


class _Asker:
    """Asks the model for one column. Masks of instances are asked for one by one, each with its true box."""

    def __init__(
        self, column: Column, chain: tuple[ChainStep, ...], made: Made, here: Reference, references: Sequence[Any]
    ) -> None:
        self.column, self.chain, self.made, self.here = column, chain, made, here
        codec = here.codec(column)
        self.boxes = GivenBoxes(codec, references) if isinstance(codec, InstanceCodec) else None
        self._first: Sequence[Any] = []  # answers of the chain, the first member of its ensemble

    def question(self, row: str) -> Question | None:
        """What is asked for a row of the table; None if nothing is."""
        job, target = self.here.job, self.column.target
        if self.boxes is None:
            return question_of(job, self.chain, self.column, row)
        alone = likeliest(target)
        if row in ("chain", "ensemble"):  # an ensemble goes on with the chain
            row, alone = (
                "chain",
                tuple(one for one in self.chain if one.target == target) or (ChainStep(target=target),),
            )
        step = alone[0].model_copy(update={"max_tokens": MASK_TOKENS})
        return Question(f"{row}-boxes", job.inputs, (step,), row == "another", self.boxes.begun)

    def folders(self, rows: Iterable[str]) -> dict[str, str]:
        """Where the answers of rows are."""
        asked = {row: self.question(row) for row in rows}
        return {row: self.made.folder(one, self.column.target) for row, one in asked.items() if one is not None}

    def answers(self, row: str, member: int = 0) -> Sequence[Any]:
        """Of all samples, or [] if nothing is asked."""
        question = self.question(row)
        if question is None:
            return []
        target, codec = self.column.target, self.here.codec(self.column)
        if self.boxes:
            found = self.boxes.answers(self.made.tokens(question, target, member))
        elif isinstance(codec, BoxCodec):
            texts = self.made.texts(question, target, member)
            found = [self.column.judge.of_label(codec.scored(ids, probability)) for ids, probability in texts]
        else:
            found = self.here.answers(self.column, self.made.tokens(question, target, member))
        if row == "chain":
            self._first = found
        return found

    def ensemble(self) -> Sequence[Any]:
        members = range(1, self.here.job.settings.ensemble)
        if not members or not self._first:
            return []
        each = [self._first, *(self.answers("ensemble", member) for member in members)]
        together = self.column.judge.together
        return [None if one[0] is None else together(one) for one in zip(*each, strict=True)]
