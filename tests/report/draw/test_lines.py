"""Series are drawn with axes: round numbers, names and units, none over another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import ImageDraw

from fourmill.report.draw import lines
from fourmill.sensors.sensor import Sensor

FLUX = {
    "member": "flux.npy", "kind": "series", "axis": {"wavelength": "l.npy", "unit": "angstrom"}, "unit": "nanomaggy",
    "grid": {"from": 3600, "to": 9800, "points": 200},
}  # fmt: skip
DAYS = {
    "member": "n.npy", "kind": "series", "axis": {"time": "d.json"},
    "grid": {"from": "2020-01-01", "to": "2020-12-31", "points": 47},
}  # fmt: skip
BANDS = {"member": "n.npy", "kind": "series", "length": 52, "bands": ["VV", "VH"], "unit": "dB"}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[float, float, float, float]]]:
    """What is written in a picture, and where: its box."""
    texts: list[tuple[str, tuple[float, float, float, float]]] = []
    before = ImageDraw.ImageDraw.text

    def text(self: Any, xy: Any, text: str, **options: Any) -> None:
        if text:
            texts.append((text, self.textbbox(xy, text, font=options["font"], anchor=options.get("anchor"))))
        before(self, xy, text, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts


@pytest.mark.parametrize("size", [192, 224, 320])
@pytest.mark.parametrize(
    ("sensor", "said"),
    [
        (FLUX, {"nanomaggy", "wavelength, angstrom", "4000"}),
        (DAYS, {"time", "2020-01-01", "0"}),
        (BANDS, {"dB", "VV", "VH", "0", "20", "40"}),
    ],
)
def test_words_of_a_plot_are_within_it_and_apart(
    sensor: dict[str, Any], said: set[str], size: int, written: Any
) -> None:
    made = Sensor.model_validate(sensor)
    values = np.random.default_rng(0).normal(0, 1e4, (made.points, made.width)).astype(np.float32)
    values[5:9] = np.nan
    picture = lines.plot(made, values, (float(np.nanmin(values)), float(np.nanmax(values))), size)
    assert picture.shape[1] == size and said <= {text for text, _ in written}
    for number, (text, (left, top, right, bottom)) in enumerate(written):
        assert left >= 0 and top >= 0 and right <= size and bottom <= picture.shape[0], text
        for other, box in written[:number]:
            assert right <= box[0] or left >= box[2] or bottom <= box[1] or top >= box[3], (text, other)


def test_a_line_is_where_values_are_and_breaks_without() -> None:
    made = Sensor.model_validate({"member": "n.npy", "kind": "series", "length": 101})
    values = np.linspace(0, 1, 101, dtype=np.float32)[:, None]
    values[40:60] = np.nan
    inked = (lines.plot(made, values, (0.0, 1.0), 320) != lines.plot(made, values * np.nan, (0.0, 1.0), 320)).any(
        axis=2
    )
    down, across = np.nonzero(inked)
    share = (across - across.min()) / (across.max() - across.min())
    np.testing.assert_allclose((down.max() - down) / (down.max() - down.min()), share, atol=0.02)
    assert not ((share > 0.41) & (share < 0.58)).any() and (share < 0.38).any() and (share > 0.62).any()
