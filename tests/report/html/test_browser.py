"""The pages in a real browser: they load, nothing is fetched, nothing of a caption runs, filter and pager work."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fourmill_tests.browser import Browser

from fourmill.report.html.chart import Series
from fourmill.report.html.gallery import Gallery, GallerySample, render_gallery
from fourmill.report.html.generated import GeneratedPage, GeneratedSample, Shown, render_generated
from fourmill.report.html.report import (
    CreditedPhoto,
    Curve,
    Fact,
    GenerationGrid,
    GenerationRow,
    GridColumn,
    ReportData,
    render_report,
)

ATTACK = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory, sample: GallerySample) -> Path:
    """Ten samples in pages of four: 000 to 009, of which 002 and 007 have rejects and 002 is hostile."""
    assert sample.image is not None
    image = sample.image.repeat(2, axis=0).repeat(2, axis=1)  # wider than a telephone
    samples = [
        replace(
            sample,
            image=image,
            key=f"{i:03d}",
            caption=f"photo number {i} {ATTACK if i == 2 else ''} {'w' * 200 if i == 1 else 'long ' * 200 * (i == 3)}",
            rejects={"labels/det": ATTACK} if i % 5 == 2 else {},
        )
        for i in range(10)
    ]
    path = tmp_path_factory.mktemp("gallery") / "gallery.html"
    path.write_text(render_gallery(Gallery("ten samples", samples, page_size=4)), "utf-8")
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, sample: GallerySample) -> Path:
    image = sample.image
    assert image is not None
    columns = [
        GridColumn("rgb", "given"),
        *(GridColumn(label, "generated") for label in ("canny_edge", "det", "caption") * 3),
    ]
    cells = [image, *[sample.labels["canny_edge"], sample.labels["det"], ATTACK] * 3]
    data = ReportData(
        title="a run",
        facts=[Fact("samples", "1,200")] * 7,
        photos=[CreditedPhoto("coffee", image, ATTACK, "CC0", "scikit-image " * 5, "train")],
        samples=[sample],
        curves=[Curve("RGB tokens", Series("train", range(50), np.linspace(7, 3, 50)), chance=6.9)],
        generations=[GenerationGrid("all", columns, [GenerationRow("k", cells, image)])],
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(data), "utf-8")
    return path


# Pictures load when they are scrolled to; a test does not scroll.
DECODES = "(image) => { image.loading = 'eager'; return image.decode().then(() => true, () => false); }"
VISIBLE = "Array.from(document.querySelectorAll('.sample:not([hidden]) .key'), (key) => key.textContent).join(' ')"


def test_gallery_loads_quietly_and_runs_nothing_of_its_data(browser: Browser, gallery: Path) -> None:
    browser.problems.clear()
    browser.requests.clear()
    browser.open(gallery)
    assert browser.value(VISIBLE) == "000 001 002 003"
    assert browser.value("document.title") == "ten samples"
    assert browser.value("document.querySelectorAll('script').length") == 1
    assert browser.value("document.querySelector('[src=x]')") is None
    assert browser.value("document.querySelectorAll('.caption')[2].textContent").strip().endswith(ATTACK)
    assert browser.problems == []
    assert browser.requests == [gallery.as_uri()]


def test_the_policy_stops_what_escaping_might_let_through(browser: Browser, gallery: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw.html"
    page = gallery.read_text("utf-8")
    raw.write_text(page.replace("photo number 0", ATTACK), "utf-8")
    browser.problems.clear()
    browser.open(raw)
    assert browser.value("document.title") == "ten samples"
    assert any("Content Security Policy" in problem for problem in browser.problems)
    assert browser.value(VISIBLE) == "000 001 002 003"


def test_filter_and_pager(browser: Browser, gallery: Path) -> None:
    browser.open(gallery, "#rejects=1")
    assert browser.value(VISIBLE) == "002 007"
    browser.open(gallery, "#page=3")
    assert browser.value(VISIBLE) == "008 009"
    browser.value("find('query').value = 'NUMBER 7'; find('query').dispatchEvent(new Event('input'))")
    assert browser.value(VISIBLE) == "007"
    assert browser.value("location.hash") == "#q=NUMBER+7"
    browser.value("find('query').value = 'absent'; find('query').dispatchEvent(new Event('input'))")
    assert browser.value(VISIBLE) == ""
    assert browser.value("find('nothing').hidden") is False
    browser.value("find('query').value = ''; find('query').dispatchEvent(new Event('input')); find('next').click()")
    assert browser.value(VISIBLE) == "004 005 006 007"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory, sample: GallerySample) -> Path:
    image = sample.image
    assert image is not None
    given = [Shown("rgb", "rgb", image, "a note " * 20), Shown("caption", "caption", ATTACK + "w" * 200)]
    made = [Shown(name, f"tok_{name}", sample.labels[name]) for name in ("canny_edge", "det", "metadata")]
    samples = [GeneratedSample(ATTACK, given, [("0000", made * 3), ("0001", made)], image)]
    page = GeneratedPage("from RGB", "model /a/run " + "x" * 200, [("tok_det", "roar, 2 steps")] * 3, samples, {})
    path = tmp_path_factory.mktemp("generated") / "index.html"
    path.write_text(render_generated(page), "utf-8")
    return path


def test_a_page_of_own_inputs_loads_quietly(browser: Browser, generated: Path) -> None:
    browser.problems.clear()
    browser.requests.clear()
    browser.open(generated)
    assert browser.value("document.title") == "from RGB"
    assert browser.value(f"Promise.all(Array.from(document.images, {DECODES})).then((all) => all.every(Boolean))")
    assert browser.problems == [] and browser.requests == [generated.as_uri()]
    # What was given stands at the left of what came of it.
    left = "document.querySelector('{}').getBoundingClientRect().left"
    assert browser.value(left.format(".given")) < browser.value(left.format(".outcome"))


def test_report_loads_quietly(browser: Browser, report: Path) -> None:
    browser.problems.clear()
    browser.requests.clear()
    browser.open(report)
    assert browser.value("document.title") == "a run"
    assert browser.value(f"Promise.all(Array.from(document.images, {DECODES})).then((all) => all.every(Boolean))")
    # The line of the chart is as wide as its plot: SVG and style sheet work together.
    assert browser.value("document.querySelector('polyline').getBoundingClientRect().width") > 200
    assert browser.problems == []
    assert browser.requests == [report.as_uri()]


def test_thumbnails_of_photos_can_be_seen(browser: Browser, report: Path) -> None:
    for width in (1280, 400):
        browser.resize(width, 800)
        browser.open(report)
        assert browser.value("document.querySelector('.thumb img').getBoundingClientRect().width") >= 48
    browser.resize(1280, 720)


# The element that reaches farthest to the right; what scrolls by itself may.
WIDEST = """Array.from(document.querySelectorAll("body *"))
  .filter((element) => !element.closest(".wide, nav, .skip, svg"))
  .map((element) => [element, element.getBoundingClientRect()])
  .map(([element, box]) => [Math.max(box.right, box.left + element.scrollWidth), element.outerHTML.slice(0, 90)])
  .reduce((widest, other) => (other[0] > widest[0] ? other : widest))"""


@pytest.mark.parametrize("name", ["gallery", "report", "generated"])
def test_nothing_overflows_on_a_telephone(browser: Browser, name: str, request: pytest.FixtureRequest) -> None:
    browser.resize(400, 800)
    browser.open(request.getfixturevalue(name))
    page_width = browser.value("document.documentElement.scrollWidth")
    right, element = browser.value(WIDEST)
    browser.resize(1280, 720)
    assert page_width == 400
    assert right <= 400.5, element


@pytest.mark.parametrize("name", ["gallery", "report", "generated"])
def test_dark_mode_follows_the_reader(browser: Browser, name: str, request: pytest.FixtureRequest) -> None:
    brightness = []
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        browser.open(request.getfixturevalue(name))
        color = browser.value("getComputedStyle(document.body).backgroundColor")
        brightness.append(sum(int(part) for part in re.findall(r"\d+", color)[:3]))
    browser.prefer(None)
    assert brightness[0] > 700
    assert brightness[1] < 150
