from __future__ import annotations

import numpy as np
import pytest

from fourmill.report.draw import colormaps


@pytest.mark.parametrize(("table", "name"), [(colormaps.inferno, "inferno"), (colormaps.blue_to_red, "RdBu_r")])
def test_colors_are_those_of_matplotlib(table: object, name: str) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is in the extra [demo]")
    assert callable(table)
    for dtype in (np.float32, np.float64):
        shares = np.linspace(0, 1, 5_001, dtype=dtype)
        expected = np.rint(matplotlib.colormaps[name](shares)[:, :3] * 255)
        # A colour half way between two bytes may be rounded either way.
        assert np.abs(colormaps.colored(shares, table()) - expected).max() <= 1
        assert np.mean(colormaps.colored(shares, table()) != expected) < 0.01
