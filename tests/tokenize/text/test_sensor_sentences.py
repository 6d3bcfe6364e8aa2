"""Coordinates, times and catalogues as sentences, and back."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest

from fourmill.sensors.reading import Reading
from fourmill.tokenize.text import sensor_sentences as sentences
from fourmill.tokenize.text.sensor_sentences import Steps

EARTH = Reading(member="json", fields=["lon", "lat"], kind="coordinates")
TERRAMIND = {"lat=0.00", "lon=0.00", "xmin=0"}


@pytest.mark.parametrize(
    ("lon", "lat", "text"),
    [
        (7.5, 45.25, "v0=541 v2=375 v3=0"),
        (7.75, 45.25, "v0=541 v2=375 v3=1"),
        (-180, -90, "v0=0 v2=0 v3=0"),
        (180, 90, "v0=720 v2=720 v3=0"),
        (0.13, -0.12, "v0=360 v2=360 v3=1"),
    ],
)
def test_coordinates_are_written_in_quarters_of_a_degree(lon: float, lat: float, text: str) -> None:
    steps = sentences.steps_of(EARTH)
    assert sentences.place_to_text({"lon": lon, "lat": lat}, steps) == text
    read = sentences.text_to_place(text, steps)
    assert abs(read["lon"] - lon) <= 0.125 and abs(read["lat"] - lat) <= 0.125


def test_a_finer_step_takes_more_words_and_is_read_as_it_was() -> None:
    reading = EARTH.model_copy(update={"resolution": 0.01})
    steps = sentences.steps_of(reading)
    rng = np.random.default_rng(0)
    for lon, lat in zip(rng.uniform(-180, 180, 200), rng.uniform(-90, 90, 200), strict=True):
        text = sentences.place_to_text({"lon": lon, "lat": lat}, steps)
        assert len(text.split()) == 4 and all(int(word[3:]) < 1000 for word in text.split())
        read = sentences.text_to_place(f"[EOS] {text} v1=3", steps)
        assert abs(read["lon"] - lon) <= 0.005001 and abs(read["lat"] - lat) <= 0.005001


def test_every_step_of_a_range_has_words_of_its_own() -> None:
    steps = Steps(100, 6_100, 1.5)
    texts = [" ".join(steps.words(100 + 1.5 * i, 0)) for i in range(steps.count)]
    assert steps.count == 4_001 and len(set(texts)) == steps.count
    with pytest.raises(ValueError, match="6101 is not in 100 to 6100"):
        steps.words(6_101, 0)


@pytest.mark.parametrize("text", ["", "v0=3", "v0=999 v2=3 v3=0", "v0=3 v2=3 v3=9", "v2=3 v3=1 v0=4", "none"])
def test_broken_coordinates_are_none(text: str) -> None:
    assert sentences.text_to_place(text, sentences.steps_of(EARTH)) == {}


@pytest.mark.parametrize(
    ("lon", "lat", "text"),
    [
        (7.51, 45.3, "lat=45.25 lon=7.50"),
        (-0.1, -89.99, "lat=-90.00 lon=0.00"),  # never -0.00, for which there is no word
        (7.625, 0.125, "lat=0.00 lon=7.50"),  # half to even, as torch rounds
    ],
)
def test_terraminds_words_are_its_own(lon: float, lat: float, text: str) -> None:
    assert sentences.has_degrees(TERRAMIND, EARTH)
    steps = sentences.steps_of(EARTH)
    assert sentences.place_to_text({"lon": lon, "lat": lat}, steps, degrees=True) == text
    assert sentences.text_to_place(text, steps) == {
        "lon": float(text.split("lon=")[1]),
        "lat": float(text[4:].split()[0]),
    }
    for change in ({"resolution": 0.5}, {"ranges": {"lon": (0, 20), "lat": (40, 50)}}):
        assert not sentences.has_degrees(TERRAMIND, EARTH.model_copy(update=change))


def test_words_of_values_may_be_spelt_as_in_the_paper() -> None:
    assert sentences.spelt("v0=1 v3=22 none", TERRAMIND) == "xmin=1 ymax=22 none"
    assert sentences.unspelt("xmin=1 ymax=22 none") == "v0=1 v3=22 none"
    assert sentences.spelt("v0=1", {"v0=0", "xmin=0"}) == "v0=1"
    assert "no words for values" in sentences.problem({"a"}) and not sentences.problem(TERRAMIND)


@pytest.mark.parametrize("hour", [False, True])
def test_times_are_years_days_and_hours(hour: bool) -> None:
    for when in (datetime(2021, 5, 3, 14, 59), datetime(1900, 1, 1), datetime(2000, 12, 31, 23), datetime(2899, 6, 1)):
        label = sentences.time_label(when, hour)
        text = sentences.time_to_text(label)
        read = sentences.text_to_time(text, hour)
        assert datetime.fromisoformat(read["time"]) == when.replace(minute=0, hour=when.hour if hour else 0)
        assert {**read, "time": 0} == {**label, "time": 0}
    assert sentences.time_to_text(sentences.time_label(datetime(2021, 5, 3, 14), True)) == "v0=121 v1=123 v2=14"
    with pytest.raises(ValueError, match="the year 1850, expected 1900 to 2899"):
        sentences.time_label(datetime(1850, 1, 1), hour)


@pytest.mark.parametrize("text", ["v0=121", "v0=121 v1=0", "v0=121 v1=366", "v0=121 v1=3 v2=24", "v1=3 v0=121", ""])
def test_broken_times_are_none(text: str) -> None:
    assert sentences.text_to_time(text, hour="v2" in text) == {}
    assert sentences.text_to_time("v0=124 v1=366", hour=False)["time"] == "2024-12-31"  # a leap year


def test_rows_are_written_and_read() -> None:
    codes = np.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
    known = np.array([[True] * 5, [True, False, True, True, False]])
    chunks = sentences.rows_to_chunks(codes, known)
    assert chunks == ["v0=1 v1=2 v2=3 v3=4 v3=5", "v0=6 none v2=8 v3=9 none"]
    read, there = sentences.text_to_rows(" ".join(chunks), 5)
    assert (there == known).all() and (read[known] == codes[known]).all()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("v0=1 v1=2 v0=3 v1=4 v2=5 v0=6", [[3, 4, 5]]),  # the first row is broken, the last is cut
        ("v1=2 v2=3 word v0=3 v1=4 v2=5", [[3, 4, 5]]),
        ("none", []),
        ("none none none v0=1 v1=2 v2=3", [[1, 2, 3]]),
        ("", []),
    ],
)
def test_what_is_whole_of_a_broken_catalogue_is_read(text: str, rows: list[list[int]]) -> None:
    codes, known = sentences.text_to_rows(text, 3)
    assert codes.tolist() == rows and known.all()


def test_no_rows_are_one_word() -> None:
    assert sentences.rows_to_chunks(np.zeros((0, 3), int), np.zeros((0, 3), bool)) == ["none"]
