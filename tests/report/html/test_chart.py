from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourmill.report.draw.ticks import tick_label, ticks
from fourmill.report.html import chart
from fourmill.report.html.chart import Series


def points(svg: str, style: str) -> list[tuple[float, float]]:
    """The corners of the lines of one class."""
    root = ElementTree.fromstring(svg)
    lines = [line.get("points", "") for line in root.iter("polyline") if line.get("class") == style]
    return [(float(x), float(y)) for line in lines for x, y in re.findall(r"([\d.]+),([\d.]+)", line)]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_within_range_and_few(low: float, span: float) -> None:
    values = ticks(low, low + span)
    assert 1 <= len(values) <= 6
    assert all(low - 1e-6 * span <= value <= low + span * (1 + 1e-6) for value in values)
    if len(values) > 1:
        step = values[1] - values[0]
        mantissa = step / 10 ** np.floor(np.log10(step * 1.0001))
        assert min(abs(mantissa - round_one) for round_one in (1, 2, 5)) < 1e-2


def test_tick_labels_are_short() -> None:
    assert [tick_label(x) for x in (0, 0.25, 7, 2_500, 3e6, -4e9, 1e-20)] == [
        "0",
        "0.25",
        "7",
        "2.5k",
        "3M",
        "-4G",
        "0",
    ]


def test_a_falling_loss_falls_on_the_page() -> None:
    svg = chart.line_chart([Series("train", [0, 10, 20], [4.0, 2.0, 1.0])], label="Loss & more", chance=5.0)
    line = points(svg, "line-0")
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert [y for _, y in line] == sorted(y for _, y in line)  # y grows downwards
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == "Loss & more"
    chance = next(element for element in root.iter("line") if element.get("class") == "chance")
    assert float(chance.get("y1", "inf")) < min(y for _, y in line)


def test_gaps_split_a_line_and_lone_points_are_dots() -> None:
    values = [1.0, 2.0, np.nan, 3.0, np.inf, 4.0, 5.0]
    svg = chart.line_chart([Series("train", range(7), values)], label="")
    root = ElementTree.fromstring(svg)
    assert [len(line.get("points", "").split()) for line in root.iter("polyline")] == [2, 2]
    assert len(list(root.iter("circle"))) == 1
    assert Series("train", range(3), [1.0, 2.0, np.nan]).last == 2.0


@pytest.mark.parametrize("series", [[], [Series("train", [], [])], [Series("train", [1], [np.nan])]])
def test_nothing_to_draw_is_said(series: list[Series]) -> None:
    assert "no finite points" in chart.line_chart(series, label="")


def test_steps_and_values_must_agree() -> None:
    with pytest.raises(ValueError, match=r"train: .*\(2,\) and \(3,\)"):
        chart.line_chart([Series("train", [1, 2], [1, 2, 3])], label="")


def test_thinning_keeps_the_mean_and_the_order() -> None:
    steps, values = np.arange(1_200.0), np.random.default_rng(0).normal(size=1_200)
    few_steps, few = chart.thin(steps, values)
    assert few.shape == (chart.MAX_POINTS,)
    assert np.isclose(few.mean(), values.mean())
    assert np.all(np.diff(few_steps) > 0)
    assert chart.thin(steps[:5], values[:5])[1].tolist() == values[:5].tolist()


def test_usage_of_half_a_codebook_fills_half_of_the_width() -> None:
    counts = np.zeros(100)
    counts[::2] = 30
    root = ElementTree.fromstring(chart.usage_chart(counts, label=""))
    area = next(root.iter("polygon")).get("points", "")
    right = max(float(pair.split(",")[0]) for pair in area.split())
    middle = chart.LEFT + (chart.WIDTH - chart.LEFT - chart.RIGHT) / 2
    assert right == pytest.approx(middle, abs=0.2)
    assert "no tokens" in chart.usage_chart(np.zeros(4), label="")


def test_a_scatter_has_true_answers_on_its_line() -> None:
    svg = chart.scatter_chart([(1, 1), (5, 5), (2, 4), (float("nan"), 3)], label="Biomass")
    root = ElementTree.fromstring(svg)
    (line,) = [one for one in root.iter("line") if one.get("class") == "chance"]
    x1, y1, x2, y2 = (float(line.get(name, "")) for name in ("x1", "y1", "x2", "y2"))
    off = [
        (float(one.get("cy", "")) - y1) - (float(one.get("cx", "")) - x1) * (y2 - y1) / (x2 - x1)
        for one in root.iter("circle")
    ]
    assert len(off) == 3 and max(map(abs, off[:2])) < 0.2 and off[2] < -5  # above the line: too much
    assert "no finite points" in chart.scatter_chart([], label="")
