"""`fourmill evaluate` on a finished root, and what it says where it cannot measure."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from fourmill_tests import first, runs

REPORTS = (
    "evaluation.csv", "evaluation.json", "evaluation.md", "evaluation.png",
    "likelihoods.csv", "likelihoods.json", "likelihoods.md", "likelihoods.png",
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the root of the first release, where the process stands."""
    copy = first.copy(tmp_path)
    monkeypatch.chdir(copy)
    return copy


def evaluate(*overrides: str) -> tuple[int, str]:
    status, out, err = runs.command("evaluate", "recipe.yaml", *(f"--set={one}" for one in overrides))
    return status, out + err


def reports(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "out/reports").iterdir())}


def test_a_finished_root_is_measured_the_same_twice(root: Path) -> None:
    settings = (
        "evaluate.combinations=[[caption, tok_canny_edge]]",
        "evaluate.samples=4",
        "evaluate.draws=20",
        "evaluate.ensemble=2",
    )
    assert evaluate(*settings)[0] == 0
    made = reports(root)
    assert tuple(made) == REPORTS and made["likelihoods.png"].startswith(b"\x89PNG")
    said = json.loads(made["likelihoods.json"])
    assert (said["samples"], said["draws"]) == (4, 20) and said["run"].startswith("4m/")
    table = json.loads(made["evaluation.json"])
    assert (table["samples"], table["inputs"]) == (4, ["rgb"]) and made["evaluation.png"].startswith(b"\x89PNG")
    assert ["caption", "tok_canny_edge"] in [cell["inputs"] for cell in said["cells"]]
    for path in (root / "out/reports").iterdir():
        path.unlink()
    assert evaluate(*settings)[0] == 0
    assert reports(root) == made


def test_the_report_shows_what_was_measured(root: Path) -> None:
    assert evaluate("evaluate.draws=0", "evaluate.samples=4", "evaluate.ensemble=1")[0] == 0
    cells = json.loads((root / "out/reports/likelihoods.json").read_text())["cells"]
    assert runs.command("report", "recipe.yaml")[0] == 0
    page = (root / "out/report.html").read_text()
    section = re.search(r'(?s)<section id="evaluation">.*?</section>', page)
    assert section is not None and "Who knows what" in section[0] and "What answers are worth" in section[0]
    for cell in cells:
        assert f"{cell['given']['value']:.3f}" in section[0]
    # The evaluation of another run is not shown as this one's.
    path = root / "out/reports/likelihoods.json"
    path.write_text(path.read_text().replace('"run": "4m/', '"run": "other/'))
    other = root / "out/reports/evaluation.json"
    other.write_text(other.read_text().replace('"run": "4m/', '"run": "other/'))
    assert runs.command("report", "recipe.yaml")[0] == 0
    assert '<section id="evaluation">' not in (root / "out/report.html").read_text()


def test_what_is_missing_is_said_in_one_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for overrides, sentence in (
        (("samples.val=[]",), "evaluate: the recipe has no validation samples; name their shards in samples.val"),
        (("train.steps=3",), "the model of this recipe is not trained; run `fourmill train` first"),
        (("evaluate.combinations=[[caption, tok_depth]]",), "evaluate.combinations: tok_depth is not among"),
        (("evaluate.combinations=[[caption]]",), "evaluate.combinations"),
    ):
        status, said = evaluate(*overrides)
        assert status == 2 and sentence in said and "Traceback" not in said, said
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, said = evaluate()
    assert status == 2 and "pip install 'fourmill[evaluate]'" in said
    assert not (root / "out/reports").exists()
