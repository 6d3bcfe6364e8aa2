from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from fourmill.report.draw import labels as draw
from fourmill.report.html.gallery import (
    Gallery,
    GallerySample,
    TokenView,
    crop_image,
    draw_sample,
    draw_token_view,
    render_gallery,
)
from fourmill.tokenize.crops import Crop

VOID = {"meta", "img", "input", "br", "link"}


class Outline(HTMLParser):
    """Tags and text as a browser reads them; `open` is empty at the end of a well-formed page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_everything_of_a_sample_is_on_the_page(sample: GallerySample, attack: str) -> None:
    page = Outline(render_gallery(Gallery("samples", [sample], total=1_234, facts=[("seed", "7")])))
    assert page.open == []
    words = " ".join(page.text.split())
    for text in (
        "1 sample of 1,234",
        "seed 7",
        "000000_coffee",
        "00003",
        "300 x 200",
        attack,
        "Canny edge",
        "Boxes",
        "Colour palette",
        "Metadata",
        "bin 23",
        "PSNR 21.46",
        "49 tokens",
        "v0=200 v1=100 v2=700 v3=800 cup",
        "an espresso [EOS]",
        "1 reject",
        "tokens/tok_canny_edge",
        f"canny_edge: <b>empty</b> {attack}",
        "rejected",
        "Rachel Michetti; CC0",
        "crop, flipped",
    ):
        assert text in words, text


def test_data_becomes_no_markup_and_nothing_is_fetched(sample: GallerySample, attack: str) -> None:
    hostile = GallerySample(
        attack,
        attack,
        sample.image,
        attack,
        {attack: attack},
        credit=attack,
        rejects={attack: attack},
        tokens=[TokenView(attack, np.arange(2), text=attack, error=(attack, 1.0))],
    )
    page = Outline(render_gallery(Gallery(attack, [hostile, sample], facts=[(attack, attack)])))
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/webp;base64,")
            assert attributes["alt"]
        assert tag not in ("link", "iframe", "object", "base")


def test_long_captions_are_folded_and_kept_whole() -> None:
    caption = "word " * 20_000 + "end."
    html = render_gallery(
        Gallery("g", [GallerySample("a", "0", None, caption), GallerySample("b", "0", None, "short")])
    )
    page = Outline(html)
    assert caption in page.text
    assert "100,004 characters" in page.text
    assert len(draw_sample(GallerySample("a", "0", None, caption)).folded) <= 280
    assert draw_sample(GallerySample("b", "0", None, "short")).folded == ""


def test_text_that_is_no_utf_8_can_still_be_written() -> None:
    html = render_gallery(
        Gallery("g", [GallerySample("\ud800", "0", None, "lone \udfff and \u05e9\u05dc\u05d5\u05dd")])
    )
    assert "\u05e9\u05dc\u05d5\u05dd".encode() in html.encode("utf-8")


def test_a_sample_without_image_caption_or_labels_is_shown() -> None:
    page = Outline(render_gallery(Gallery("g", [GallerySample("k", "0", rejects={"labels/rgb": "image: 0 bytes"})])))
    assert "no image" in page.text
    assert "no caption" in page.text
    assert "image: 0 bytes" in page.text


def test_the_outline_lies_where_the_crop_is(sample: GallerySample) -> None:
    assert draw_sample(sample).crops == [("left:16.67%;top:0.00%;width:66.67%;height:100.00%", "crop, flipped")]


def test_crop_image_is_the_window_mirrored(photo: np.ndarray) -> None:
    sample = GallerySample("k", "0", photo, crops=[Crop(10, 20, 30, 40, False), Crop(10, 20, 30, 40, True)])
    assert np.array_equal(crop_image(sample, 0), photo[20:60, 10:40])
    assert np.array_equal(crop_image(sample, 1), photo[20:60, 10:40][:, ::-1])
    assert crop_image(sample, None) is photo


def test_boxes_of_a_crop_are_drawn_on_the_crop(sample: GallerySample) -> None:
    card = draw_token_view(sample.tokens[1], sample)
    assert isinstance(card.truth, draw.Picture)
    assert card.truth.width == card.truth.height
    assert card.grid is None
    assert card.crop == ""


def test_crops_are_told_apart_when_there_are_several(sample: GallerySample) -> None:
    two = GallerySample("k", "0", sample.image, crops=[Crop(0, 0, 9, 9), Crop(5, 5, 9, 9)])
    assert draw_token_view(TokenView("tok_rgb", np.arange(4), crop=1), two).crop == "crop 2"
    assert [name for _, name in draw_sample(two).crops] == ["1", "2"]


def test_samples_of_a_page_have_distinct_ids(sample: GallerySample) -> None:
    html = render_gallery(Gallery("g", [sample, sample]))
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_labels_that_are_not_kept_say_how_to_keep_them(sample: GallerySample) -> None:
    views = [TokenView("tok_depth", np.arange(4), decoded=np.zeros((8, 8), np.float32), crop=0)]
    bare = replace(sample, labels={}, tokens=views, not_kept=["depth", "normal"])
    html = render_gallery(Gallery("g", [bare]))
    assert "Not kept: depth, normal. Add them to `labels.keep` in the recipe" in html
    assert html.count(">not kept<") == 1  # in place of what went in
    assert "not kept" not in render_gallery(Gallery("g", [sample])).lower()


def test_page_size_is_checked() -> None:
    with pytest.raises(ValueError, match="at least 1; got 0"):
        render_gallery(Gallery("g", [], page_size=0))
