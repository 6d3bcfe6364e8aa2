"""Statistics of a sensor's bands are frozen with its tokenizer, and shown by `inspect`, `view` and the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fourmill.report import bands
from fourmill.report.html.gallery import Gallery, render_gallery
from fourmill.report.html.report import ReportData, TokenizerResult, render_report
from fourmill.tokenize.sensors.statistics import BINS, Statistics, measure

ROWS = np.random.default_rng(0).normal([5, -12], [1, 3], (40, 8, 8, 2)).astype(np.float32)


@pytest.fixture
def known() -> Statistics:
    rows = ROWS.copy()
    rows[:10, ..., 1] = np.nan
    return measure(rows, ["VV", "VH"], "dB")


def test_a_histogram_is_of_the_values_within_its_percentiles(known: Statistics) -> None:
    assert [len(one) for one in known.histogram] == [BINS, BINS]
    for band, values in enumerate((ROWS[..., 0], ROWS[10:, ..., 1])):
        inside = (values >= known.low[band]) & (values <= known.high[band])
        assert sum(known.histogram[band]) == pytest.approx(inside.mean(), abs=1e-4)
        assert np.argmax(known.histogram[band]) in range(BINS // 3, BINS - BINS // 3)


def test_statistics_of_before_are_hashed_as_before(known: Statistics) -> None:
    before = {name: value for name, value in known.model_dump(mode="json").items() if name != "histogram"}
    assert Statistics.model_validate(before).model_dump(mode="json") == before


def test_a_row_for_each_band_on_pages_and_terminals(
    known: Statistics, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "tokenizers" / "tok_s1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"statistics": known.model_dump(mode="json")}))
    found = bands.rows(json.loads((folder / "config.json").read_text()))
    assert [one["band"] for one in found] == ["VV", "VH"] and found[1]["valid"] == 0.75
    title, cells = bands.table(str(tmp_path), "tok_s1")
    assert title == "tok_s1: dB, 40 examples" and cells[1][0] == "VH" and "75%" in cells[1]
    pages = (
        render_gallery(Gallery("a", [], bands=[(title, cells)])),
        render_report(ReportData(title="a", tokenizers=[TokenizerResult("tok_rgb", bands=(title, cells))])),
    )
    for page in pages:
        assert title in page and "98 %" in page and cells[0][-1] in page
    (folder / "config.json").write_text("{}")
    assert [bands.table(str(tmp_path), name) for name in ("tok_rgb", "tok_s1")] == [("", [])] * 2
    assert bands.rows({}) == [] and not caplog.messages
