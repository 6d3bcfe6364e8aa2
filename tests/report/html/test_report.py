from __future__ import annotations

import re
from typing import Literal

import numpy as np
import pytest

from fourmill.report.draw import labels as draw
from fourmill.report.html import report
from fourmill.report.html.chart import Series
from fourmill.report.html.gallery import GallerySample
from fourmill.report.html.report import ReportData, render_report


def full(sample: GallerySample, attack: str) -> ReportData:
    """A report with every section, hostile wherever text can be."""
    image = sample.image
    assert image is not None
    window = image[:, 50:250]
    grid = report.GenerationGrid(
        title=f"to everything {attack}",
        columns=[
            report.GridColumn("rgb", "given"),
            report.GridColumn("det", "generated", attack),
            report.GridColumn("det", "truth"),
        ],
        rows=[
            report.GenerationRow(attack, [window, sample.labels["det"], sample.labels["det"]], window),
            report.GenerationRow("b", [None] * 3),
        ],
        note=attack,
    )
    return ReportData(
        title=f"A run {attack}",
        subtitle=attack,
        about=attack,
        facts=[report.Fact("samples", "1,200", attack)],
        stages=[
            report.StageTime("label", 30.0, 600, "labels"),
            report.StageTime("train", 90.0, 1_000, "steps", attack),
        ],
        corpus_note=attack,
        mosaic=[(attack, image), ("b", image)],
        photos=[report.CreditedPhoto("coffee", image, attack, "CC0", "scikit-image", "train")],
        samples=[sample],
        tokenizers=[
            report.TokenizerResult(
                "tok_rgb",
                [report.Fact("PSNR", "21 dB")],
                [report.Reconstruction(attack, window, window // 2, ("PSNR", 21.4))],
                np.array([4, 4, 4, 4, 0, 0, 0, 0]),
                "in every second shard",
                attack,
            )
        ],
        curves=[report.Curve(attack, Series("train", [0, 1], [6.0, 2.5]), Series("validation", [1], [3.25]), 6.931)],
        training_facts=[report.Fact("budget", "64 tokens")],
        generations=[grid],
        evaluations=[report.ResultTable(attack, attack, ["a"], [(attack, [report.ResultCell(attack, attack, 0.5)])])],
        rejects=[report.RejectCount("labels/det", attack, 3, attack)],
        caveats=[attack],
        commands=[report.Command("fourmill view demo", attack)],
    )


def test_every_section_is_there_with_its_numbers(sample: GallerySample, attack: str) -> None:
    html = render_report(full(sample, attack))
    anchors = re.findall(r'<a href="#(\w+)">', html)
    others = ["rejects", "caveats", "next"]
    assert anchors == ["generation", "evaluation", "corpus", "labels", "tokenizers", "training", *others]
    assert re.findall(r'<section id="(\w+)"', html) == anchors
    for text in (
        "2 min 00 s",
        "600 labels",
        "PSNR 21.4",
        "3.250",
        "2.500",
        "6.931",
        "bin 23",
        "fourmill view demo",
    ):
        assert text in html, text
    assert re.findall(r"width:([\d.]+)%", html) == ["33.33", "100.00"]
    assert "in every second shard, most used first; dashed: even use. 4 of 8 occur." in html


def test_nothing_hostile_becomes_markup(sample: GallerySample, attack: str) -> None:
    html = render_report(full(sample, attack))
    assert html.count("&lt;script&gt;") >= 15
    assert "<script" not in html
    assert "<img src=x" not in html
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert all(source.startswith(("data:image/webp;base64,", "#")) for source in sources)


def test_an_empty_report_has_no_sections() -> None:
    html = render_report(ReportData(title="Nothing yet"))
    assert "<h1>Nothing yet</h1>" in html
    assert "<section" not in html
    assert "<nav" not in html


def test_a_row_with_a_missing_cell_is_refused() -> None:
    grid = report.GenerationGrid("g", [report.GridColumn("rgb", "given")] * 2, [report.GenerationRow("key7", [None])])
    with pytest.raises(ValueError, match="g, key7: got 1 cells for 2 columns"):
        render_report(ReportData(title="t", generations=[grid]))


def test_labels_that_are_not_kept_say_how_to_keep_them(sample: GallerySample) -> None:
    pair = report.Reconstruction("k", None, np.zeros((8, 8), np.float32))
    data = ReportData(title="t", tokenizers=[report.TokenizerResult("tok_depth", reconstructions=[pair])])
    assert ">not kept<" in render_report(data)


def test_square_is_the_centre() -> None:
    image = np.arange(4 * 10 * 3).reshape(4, 10, 3)
    assert np.array_equal(report.square(image), image[:, 3:7])
    assert np.array_equal(report.square(image.transpose(1, 0, 2)), image.transpose(1, 0, 2)[3:7])


def test_the_page_is_the_same_each_time(sample: GallerySample, attack: str) -> None:
    assert render_report(full(sample, attack)) == render_report(full(sample, attack))


def test_generated_stands_above_label_and_truth() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    columns = [
        report.GridColumn("rgb", "given"),
        *(report.GridColumn("semseg", role) for role in ("generated", "label", "truth")),
        *(report.GridColumn("caption", role) for role in ("generated", "label")),
    ]
    ids = np.zeros((8, 8), np.uint8)
    row = report.GenerationRow("key", [image, ids, ids, ids, "said", "written"], image)
    page = render_report(ReportData(title="t", generations=[report.GenerationGrid("g", columns, [row])]))
    assert re.findall(r'<th scope="row">(\w+)</th>', page) == ["generated", "label", "truth"]
    assert page.index("said") < page.index("written")
    assert 'rowspan="3"' in page


@pytest.mark.parametrize("given", ["rgb", "caption"])
def test_only_what_is_made_from_the_image_is_drawn_on_it(given: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    made, label = np.zeros((32, 32), np.uint8), np.ones((32, 32), np.uint8)
    roles: tuple[Literal["generated", "label"], ...] = ("generated", "label")
    columns = [report.GridColumn(given, "given"), *(report.GridColumn("semseg", role) for role in roles)]
    row = report.GenerationRow("key", [image if given == "rgb" else "a ball", made, label], image)
    page = render_report(ReportData(title="t", generations=[report.GenerationGrid("g", columns, [row])]))

    def is_shown(ids: np.ndarray) -> bool:
        panel = draw.draw("semseg", ids, image, size=224)
        assert isinstance(panel, draw.Picture)
        return panel.uri in page

    assert is_shown(label) and is_shown(made) == (given == "rgb")


def test_what_was_generated_comes_first() -> None:
    columns = [report.GridColumn("caption", "given"), report.GridColumn("caption", "generated")]
    grid = report.GenerationGrid("g", columns, [report.GenerationRow("key", ["a", "b"])])
    image = np.zeros((8, 8, 3), np.uint8)
    page = render_report(ReportData(title="t", generations=[grid], mosaic=[("one", image)]))
    assert page.index('id="generation"') < page.index('id="corpus"')
    assert page.index('href="#generation"') < page.index('href="#corpus"')
