"""The report of a run: one self-contained HTML page from `ReportData`; what `fourmill demo` shows at its end.

Generated modalities stand beside the truth, chosen by position in the validation set and not by looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

from ...modalities import MODALITIES
from ..bands import NAMES
from ..draw import labels as draw
from . import chart, page
from .chart import Series
from .gallery import NOT_KEPT, GallerySample, SampleCard, draw_sample, label_title

_PLAIN = 224  # grey


@dataclass(frozen=True)
class Fact:
    """A number with its name, e.g. ("samples", "1,234", "of 38 photos")."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class StageTime:
    """A stage of the run: seconds of wall clock, and its outputs ("samples", 1234)."""

    name: str
    seconds: float
    count: int = 0
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class CreditedPhoto:
    """A photo the corpus was made of, uint8 (H, W, 3), with its attribution; `split` is "train" or "validation"."""

    name: str
    image: np.ndarray
    author: str
    licence: str
    source: str = ""
    split: str = ""


@dataclass(frozen=True)
class Reconstruction:
    """A label in the frame of its crop, what its tokens give back, and their distance, e.g. ("PSNR", 24.1).

    `truth` is None where the label is not kept.
    """

    key: str
    truth: Any
    decoded: Any
    error: tuple[str, float] | None = None
    backdrop: np.ndarray | None = None


@dataclass(frozen=True)
class TokenizerResult:
    """A tokenizer: what was measured when it was fitted, reconstructions, and the use of its codes in the columns.

    Attributes:
        facts: measures of the samples that `note` names.
        counts: how often each code occurs in the tokens that `counted` names, (vocabulary,). These are other tokens
            than those that were measured: a code that validation samples do not use may well occur here.
        bands: of a sensor, a title and a row for each band: the statistics that it was fitted with.
    """

    modality: str
    facts: Sequence[Fact] = ()
    reconstructions: Sequence[Reconstruction] = ()
    counts: np.ndarray | None = None
    counted: str = "in the token store"
    note: str = ""
    bands: tuple[str, Sequence[Sequence[str]]] = ("", ())


@dataclass(frozen=True)
class Curve:
    """The loss of one modality (or of all), nats a token; `chance` is the loss of a uniform guess, log(vocabulary)."""

    title: str
    train: Series
    validation: Series | None = None
    chance: float | None = None


@dataclass(frozen=True)
class GridColumn:
    """A column of a generation grid: the label it shows, and whether it was given, generated, is the stored label, or
    the truth."""

    label: str
    role: Literal["given", "generated", "label", "truth"]
    note: str = ""


@dataclass(frozen=True)
class GenerationRow:
    """A validation sample: one label for each column (None: nothing), and the crop that boxes are drawn on.

    What is made without the image is drawn on a plain ground.
    """

    key: str
    cells: Sequence[Any]
    backdrop: np.ndarray | None = None


@dataclass(frozen=True)
class GenerationGrid:
    """Generations under one condition, e.g. "from RGB to everything", with the settings in `note`."""

    title: str
    columns: Sequence[GridColumn]
    rows: Sequence[GenerationRow]
    note: str = ""


@dataclass(frozen=True)
class ResultCell:
    """A number of an evaluation, what stands below it, and how dark its ground is, 0 to 1."""

    value: str
    note: str = ""
    shade: float = 0.0


@dataclass(frozen=True)
class ResultTable:
    """Results of an evaluation: a title, what was measured, the names of columns, and rows with a name each.

    plots: pictures below it, each with its title.
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[ResultCell]]]
    plots: Sequence[tuple[str, Markup]] = ()


@dataclass(frozen=True)
class RejectCount:
    """A reason and how often it occurred, with one key to look at."""

    output: str
    reason: str
    count: int
    example: str = ""


@dataclass(frozen=True)
class Command:
    """Something to try next."""

    command: str
    purpose: str


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything a report shows. Only `title` is required."""

    title: str
    subtitle: str = ""
    about: str = ""  # date, version, machine
    facts: Sequence[Fact] = ()
    stages: Sequence[StageTime] = ()
    corpus_note: str = ""
    mosaic: Sequence[tuple[str, np.ndarray]] = ()  # (key, uint8 (H, W, 3))
    photos: Sequence[CreditedPhoto] = ()
    labels_note: str = ""
    samples: Sequence[GallerySample] = ()
    tokenizers: Sequence[TokenizerResult] = ()
    training_note: str = ""
    training_facts: Sequence[Fact] = ()
    curves: Sequence[Curve] = ()
    validation_note: str = "Validation is on photos that training has not seen."
    generation_note: str = ""
    generations: Sequence[GenerationGrid] = ()
    evaluations: Sequence[ResultTable] = ()
    rejects: Sequence[RejectCount] = ()
    caveats: Sequence[str] = ()
    commands: Sequence[Command] = ()
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # lists of the recipe's own, by label


@dataclass(frozen=True)
class Usage:
    """How the codes of a tokenizer are used, drawn: how many of them, and in which tokens they were counted."""

    svg: Markup
    used: str
    counted: str


@dataclass(frozen=True)
class TokenizerCard:
    """A tokenizer, drawn."""

    title: str
    modality: str
    result: TokenizerResult
    pairs: list[tuple[str, draw.Panel, draw.Panel, str]]  # (key, truth, decoded, error)
    usage: Usage | None


@dataclass(frozen=True)
class GridCard:
    """A generation grid, drawn: what is given on the left, and for each target what is generated above what is so.

    given, targets: titles and notes of the columns. samples: the key, the panels of what was given, and a row for each
        role with a panel for each target, None where it has none.
    """

    grid: GenerationGrid
    given: list[tuple[str, str]]
    targets: list[tuple[str, str]]
    samples: list[tuple[str, list[draw.Panel], list[tuple[str, list[draw.Panel | None]]]]]


@dataclass(frozen=True)
class CurveCard:
    """A curve, drawn."""

    title: str
    svg: Markup
    last: list[tuple[str, str, str]]  # (class of the line, name, last value)


def render_report(data: ReportData) -> str:
    """The report as one self-contained HTML page; write it as UTF-8.

    Raises:
        ValueError: a row of a generation grid has not one cell for each column, or a curve's steps and values differ.
    """
    # A section without data is left out, and so is its link: nothing is shown that was not measured.
    sections = [  # what came out first: who looks for ten seconds sees that
        ("generation", "Generation", data.generations),
        ("evaluation", "Evaluation", data.evaluations),
        ("corpus", "Corpus", data.mosaic or data.photos),
        ("labels", "Labels", data.samples),
        ("tokenizers", "Tokenizers", data.tokenizers),
        ("training", "Training", data.curves or data.training_facts),
        ("rejects", "Rejects", data.rejects),
        ("caveats", "What to keep in mind", data.caveats),
        ("next", "What to try next", data.commands),
    ]
    return page.render(
        "report.html",
        styles=("base.css", "report.css"),
        data=data,
        sections=[(anchor, title) for anchor, title, content in sections if len(content)],
        total_seconds=sum(stage.seconds for stage in data.stages),
        longest=max((stage.seconds for stage in data.stages), default=0.0) or 1.0,
        mosaic=[draw.draw_rgb(square(image), size=112, alt=key) for key, image in data.mosaic],
        photos=[(photo, draw.draw_rgb(square(photo.image), size=64, alt="")) for photo in data.photos],
        samples=[_label_card(sample) for sample in data.samples],
        tokenizers=[_tokenizer_card(result, data.classes) for result in data.tokenizers],
        curves=[_curve_card(curve) for curve in data.curves],
        grids=[_grid_card(grid, data.classes) for grid in data.generations],
        bands_names=list(NAMES.values()),
    )


def square(image: np.ndarray) -> np.ndarray:
    """The largest central square of an image, (H, W, 3) -> (s, s, 3)."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _label_card(sample: GallerySample) -> SampleCard:
    return draw_sample(replace(sample, tokens=(), crops=()))


def _tokenizer_card(result: TokenizerResult, classes: Mapping[str, tuple[str, ...]]) -> TokenizerCard:
    modality = MODALITIES.get(result.modality)
    label = modality.label if modality else result.modality
    pairs = []
    for one in result.reconstructions:
        truth: draw.Panel = NOT_KEPT
        if one.truth is not None:
            truth = draw.draw(label, one.truth, one.backdrop, size=192, classes=classes)
        decoded = draw.draw(label, one.decoded, one.backdrop, size=192, like=one.truth, classes=classes)
        pairs.append((one.key, truth, decoded, f"{one.error[0]} {one.error[1]:.4g}" if one.error else ""))
    usage = None
    if result.counts is not None:
        counts = np.asarray(result.counts)
        used = f"{int((counts > 0).sum()):,} of {counts.size:,}"
        about = f"Use of the codebook of {result.modality}: {used} codes"
        usage = Usage(chart.usage_chart(counts, label=about), used, result.counted)
    return TokenizerCard(label_title(label), result.modality, result, pairs, usage)


def _curve_card(curve: Curve) -> CurveCard:
    # Training and validation in one plot, beside the loss of a uniform guess: learning by heart is plain to see.
    series = [curve.train] + ([curve.validation] if curve.validation else [])
    last = [(f"line-{i}", one.name, "-" if one.last is None else f"{one.last:.3f}") for i, one in enumerate(series)]
    if curve.chance is not None:
        last.append(("chance", "chance", f"{curve.chance:.3f}"))
    label = f"Loss of {curve.title}: " + ", ".join(f"{name} ends at {value}" for _, name, value in last)
    return CurveCard(curve.title, chart.line_chart(series, label=label, chance=curve.chance), last)


def _ground(grid: GenerationGrid, column: GridColumn, row: GenerationRow) -> np.ndarray | None:
    """What a cell is drawn on: the image, except for what the model read or made without it, which would seem right."""
    is_seen = any(one.role == "given" and one.label == "rgb" for one in grid.columns)
    if row.backdrop is None or is_seen or column.role in ("label", "truth"):
        return row.backdrop
    return np.full_like(row.backdrop, _PLAIN)


def _grid_card(grid: GenerationGrid, classes: Mapping[str, tuple[str, ...]]) -> GridCard:
    given = [i for i, column in enumerate(grid.columns) if column.role == "given"]
    # A generated column, and those after it that say what is so.
    targets: list[dict[str, int]] = []
    for i, column in enumerate(grid.columns):
        if column.role == "generated":
            targets.append({})
        if column.role != "given" and targets:
            targets[-1][column.role] = i
    roles = [role for role in ("generated", "label", "truth") if any(role in target for target in targets)]
    samples = []
    for row in grid.rows:
        if len(row.cells) != len(grid.columns):
            got = f"{len(row.cells)} cells for {len(grid.columns)} columns"
            raise ValueError(f"{grid.title}, {row.key}: got {got}; expected one for each, None where there is nothing")
        cells = zip(grid.columns, row.cells, strict=True)
        panels = [
            draw.draw(column.label, cell, _ground(grid, column, row), size=224, classes=classes)
            for column, cell in cells
        ]
        lines = [(role, [panels[one[role]] if role in one else None for one in targets]) for role in roles]
        samples.append((row.key, [panels[i] for i in given], lines))

    def head(places: Sequence[int]) -> list[tuple[str, str]]:
        """The title of each column, and what is to be said of any of its roles."""
        columns = [grid.columns[i] for i in places]
        return [(label_title(column.label), column.note) for column in columns]

    heads = [head(list(target.values())) for target in targets]
    titles = [(one[0][0], "; ".join(dict.fromkeys(note for _, note in one if note))) for one in heads]
    return GridCard(grid, head(given), titles, samples)
