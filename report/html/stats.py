"""The page of `fourmill stats`: findings first, then each output with its distributions, and samples to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from ...modalities import MODALITIES
from ..draw import labels as draw
from ..stats.findings import Finding
from ..stats.outliers import Outlier
from . import chart, page
from .gallery import GallerySample, TitledPanel

CHANNELS_SHOWN, FEATURES_SHOWN, COUNTS_SHOWN = 6, 12, 16
_SIDE = 200  # pixels of a thumbnail


@dataclass(frozen=True)
class Chart:
    """A chart with its title, and the numbers below it."""

    title: str
    svg: Markup
    note: str


@dataclass(frozen=True)
class OutputCard:
    """An output, drawn. counts: (name, count) of what occurs most, and how long its bar is, 0 to 1."""

    name: str
    facts: list[tuple[str, str]]
    charts: list[Chart]
    counts: list[tuple[str, str, float]]
    nulls: list[tuple[str, str]]


@dataclass(frozen=True)
class OutlierCard:
    """A sample that is far from the others: what is unusual, where it is, and how it looks."""

    said: str
    where: str
    panels: list[TitledPanel]


@dataclass(frozen=True)
class StatsPage:
    """What the page shows.

    outputs: facts of each output, as `--json` has them. codes: counts of ids by output. distances: of each output, of
    its shards in the order of their names. samples: of the outliers, None for those that cannot be read.
    """

    root: str
    made: str
    findings: Sequence[Finding]
    outputs: Mapping[str, Mapping[str, Any]]
    codes: Mapping[str, np.ndarray]
    distances: Mapping[str, np.ndarray]
    outliers: Sequence[tuple[Outlier, GallerySample | None]]


def render_stats(data: StatsPage) -> str:
    """The page as one self-contained HTML text; write it as UTF-8."""
    return page.render(
        "stats.html",
        styles=("base.css", "report.css", "generated.css"),
        data=data,
        alarms=[one for one in data.findings if one.is_alarm],
        remarks=[one for one in data.findings if not one.is_alarm],
        cards=[_card(name, facts, data) for name, facts in data.outputs.items()],
        outliers=[_outlier(one, sample) for one, sample in data.outliers],
    )


def _card(name: str, facts: Mapping[str, Any], data: StatsPage) -> OutputCard:
    shown = [("rows", f"{facts['rows']:,}"), ("null", f"{facts['nulls']:,}"), ("shards", f"{facts['shards']:,}")]
    charts = [_histogram(f"channel {one['channel']}", one) for one in list(facts.get("channels", ()))[:CHANNELS_SHOWN]]
    charts += [_histogram(feature, one) for feature, one in list(facts["samples"].items())[:FEATURES_SHOWN]]
    if codes := facts.get("codes"):
        shown += [
            ("codes used", f"{codes['used']:,} of {codes['size']:,}"),
            ("perplexity", page.brief(codes["perplexity"])),
        ]
    if name in data.codes:
        charts.insert(
            0, Chart("use of codes", chart.usage_chart(data.codes[name], label=f"Use of the codes of {name}"), "")
        )
    far = data.distances.get(name)
    if far is not None and np.isfinite(far).any():
        series = chart.Series("distance", np.arange(len(far)), far)
        label = f"How far the shards of {name} are from most of them"
        note = "standard deviations between samples, of the feature that differs most; shards by name"
        charts.append(Chart("shards", chart.line_chart([series], label=label), note))
    counts = list(facts.get("counts", {}).items())[:COUNTS_SHOWN]
    most = max((count for _, count in counts), default=1) or 1
    bars = [(text, f"{count:,}", count / most) for text, count in counts]
    nulls = [(reason, f"{count:,}") for reason, count in facts["nulls_by_reason"].items()]
    return OutputCard(name, shown, charts, bars, nulls)


def _histogram(title: str, one: Mapping[str, Any]) -> Chart:
    def said(name: str) -> str:
        return "-" if one.get(name) is None else f"{one[name]:.4g}"

    note = f"mean {said('mean')}, std {said('std')}, p2 {said('p2')}, p98 {said('p98')}, {said('min')} to {said('max')}"
    if one.get("valid") is not None and one["valid"] < 1:
        note += f", {one['valid']:.1%} valid"
    svg = chart.histogram_chart(one["edges"], one["counts"], label=f"Distribution of {title}: {note}")
    return Chart(title, svg, note)


def _outlier(one: Outlier, sample: GallerySample | None) -> OutlierCard:
    said = f"{one.output}: {one.feature} is {one.value:.4g}, usually {one.usual:.4g}"
    if sample is None:
        return OutlierCard(said, f"{one.shard}, row {one.row}", [])
    name = one.output.partition("/")[2]
    label = name if one.output.startswith("labels/") or name not in MODALITIES else MODALITIES[name].label
    panels = []
    if sample.image is not None:
        panels.append(TitledPanel("image", draw.draw_rgb(sample.image, size=_SIDE, alt=sample.key)))
    if label not in ("rgb",) and (value := sample.labels.get(label)) is not None:
        drawn = draw.draw(label, value, sample.image, size=_SIDE, classes=sample.classes)
        panels.append(TitledPanel(label, drawn))
    elif texts := [view.text for view in sample.tokens if view.modality == name and view.text]:
        panels.append(TitledPanel(name, draw.TextPanel(texts[0])))
    return OutlierCard(said, f"{sample.key} in {one.shard}, row {one.row}", panels)
