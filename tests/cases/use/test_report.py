"""What a report shows is so."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from fourmill_tests import first, runs

from fourmill.report import results


def test_a_mapping_of_ones_own_has_a_cell() -> None:
    """A modality of one's own whose label is a mapping: every mapping was taken for 4M's metadata."""
    assert "0.31" in results._short({"ndvi": 0.31, "temp_k": 281.0})


def test_codes_used_are_those_of_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below "measured on validation samples" stands what was measured on them."""
    root = first.copy(tmp_path)
    monkeypatch.chdir(root)
    status, _, err = runs.command("report", "recipe.yaml", "--out", str(tmp_path / "report.html"))
    assert status == 0, err
    page = re.sub(r"(?s)<(style|script).*?</\1>", "", (tmp_path / "report.html").read_text())
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())
    quality = json.loads((root / "out/tokenizers/tok_rgb/config.json").read_text())["quality"]
    shown = re.search(r"tok_rgb .*?codes used ([\d,]+) of ([\d,]+)", text)
    assert shown is not None, text
    used, size = (int(number.replace(",", "")) for number in shown.groups())
    assert used / size == pytest.approx(quality["codes_used"], abs=0.01)
