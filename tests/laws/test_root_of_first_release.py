"""A root that the first release made stays recognized: labels, columns, tokenizers, a run, and what it generated.

tests/roots/e78cebb was made by `fourmill run recipe.yaml` of that commit, in its folder; checkpoints, logs and pages
are left out, and so are the runs of its fits.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fourmill_tests import first as first_release
from fourmill_tests import runs

from fourmill.pipelines.engine import driver
from fourmill.train import workers


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, where the process stands. Ray must not start; shards have other times than the ledger says."""

    def refuse(*_: object) -> None:
        raise RuntimeError("Ray was started")

    for module in (driver, workers):
        monkeypatch.setattr(module, "cluster", refuse)
    root = first_release.copy(tmp_path)
    monkeypatch.chdir(root)
    return root


def test_its_status_is_complete(first: Path) -> None:
    status, out, err = runs.command("status", "recipe.yaml", "--json")
    said = json.loads(out)
    assert (status, said["missing"]) == (0, {}), out + err


def test_run_makes_nothing(first: Path) -> None:
    def files() -> dict[Path, bytes]:
        # The report is written once more by a fourmill that shows other things, and with it what its page shows.
        report = first / "out" / "ledger" / "report"
        kept = (path for path in (first / "out").rglob("*") if path.is_file() and path.suffix != ".html")
        return {path: path.read_bytes() for path in kept if path != report}

    before = files()
    status, out, err = runs.command("run", "recipe.yaml")
    assert status == 0, out + err
    assert files() == before
