from __future__ import annotations

import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fourmill.report import terminal
from fourmill.report.html.gallery import GallerySample, TokenView


def printed(view: object, *, color: bool = False, width: int = 100) -> str:
    system = "truecolor" if color else None
    console = Console(file=io.StringIO(), width=width, force_terminal=color, color_system=system, legacy_windows=False)
    if isinstance(view, GallerySample):
        terminal.print_sample(view, console)
    else:
        console.print(view)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_half_blocks_carry_two_pixels_each() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2], image[2:] = (255, 0, 0), (0, 0, 255)
    text = terminal.image_text(image, width=4)
    assert text.plain == "\n".join([terminal.HALF_BLOCK * 4] * 2)
    out = printed(text, color=True)
    assert "38;2;255;0;0;48;2;255;0;0" in out.split("\n")[0]
    assert "38;2;0;0;255;48;2;0;0;255" in out.split("\n")[1]


def test_without_color_an_image_is_ascii_shades() -> None:
    ramp = np.linspace(0, 255, 100).astype(np.uint8)[None].repeat(10, 0)
    text = terminal.image_text(ramp, width=10, color=False).plain
    assert text == terminal.SHADES
    assert text.isascii()


@pytest.mark.parametrize(
    ("shape", "columns", "lines"), [((100, 100), 48, 24), ((1000, 10), 1, 40), ((10, 1000), 48, 1)]
)
def test_an_image_fits_its_box_and_keeps_its_aspect(shape: tuple[int, int], columns: int, lines: int) -> None:
    rows = terminal.image_text(np.zeros(shape, np.uint8), width=48, height=40).plain.split("\n")
    assert (len(rows[0]), len(rows)) == (columns, lines)


def test_an_image_of_floats_is_refused() -> None:
    with pytest.raises(ValueError, match=r"float64 \(2, 2\)"):
        terminal.image_text(np.zeros((2, 2)))


@given(st.text())
def test_no_text_can_steer_the_terminal(text: str) -> None:
    shown = terminal.plain(text)
    assert len(shown) == len(text)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


def test_long_text_is_cut_with_its_length_named() -> None:
    assert terminal.plain("x" * 10, 4) == "xxxx ... (10 characters)"
    assert terminal.plain("x" * 4, 4) == "xxxx"


def test_a_sample_shows_all_it_has(sample: GallerySample, attack: str) -> None:
    out = printed(sample)
    for text in (
        "000000_coffee",
        "00003",
        "300 x 200",
        "cup 0.93",
        "Brightness",
        "120.0 of 255",
        "bin 23",
        "#fa0050",
        "49 tokens, 49 different, PSNR 21.46",
        "v0=200 v1=100",
        "rejected",
        "<b>empty</b>",
        "Rachel Michetti",
    ):
        assert text in out, text
    assert "\x1b" not in out
    assert "\x1b[38;2;" in printed(sample, color=True)


def test_hostile_text_is_shown_not_obeyed() -> None:
    evil = "\x1b[2J\x07[bold]x[/bold] \u202etxt"
    sample = GallerySample(
        evil,
        evil,
        None,
        evil,
        {"caption": evil, "note": evil},
        credit=evil,
        rejects={evil: evil},
        tokens=[TokenView(evil, np.arange(3), text=evil)],
    )
    out = printed(sample)
    assert "[bold]x[/bold]" in out
    assert not set(out) & {"\x1b", "\x07", "\u202e"}


def test_bars_are_in_proportion_and_never_hide_a_small_value() -> None:
    lines = printed(terminal.bars([("a", 100.0), ("b", 50.0), ("c", 0.001), ("d", 0.0)], width=20)).splitlines()
    assert [line.count(terminal.BAR) for line in lines] == [20, 10, 1, 0]
    with pytest.raises(ValueError, match="x: bars show values >= 0"):
        terminal.bars([("x", -1.0)])
    assert printed(terminal.bars([])).strip() == ""


def test_a_histogram_counts_everything_once() -> None:
    out = printed(terminal.histogram([0, 1, 1, 2, 10, np.nan, np.inf], bins=5))
    counts = [int(line.split()[-1]) for line in out.splitlines()]
    assert counts == [3, 1, 0, 0, 1, 2]
    assert "not finite" in out
