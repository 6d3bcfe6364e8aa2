"""Files that no result depends on do not stop work; at the least they are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from fourmill_tests import data, runs
from fourmill_tests.cases import require
from fourmill_tests.engine import inline

from fourmill.train.metrics import Metrics


def test_a_log_that_was_cut_does_not_stop_training(tmp_path: Path) -> None:
    """The last line of a run's log was cut by a crash (yolact#710)."""
    lines = [json.dumps({"step": step, "kind": "train", "loss": 7.5 - step / 100}) for step in range(2, 26, 2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines)[:-20])
    said = "metrics.jsonl"
    try:
        Metrics(str(tmp_path), 20).close()
    except ValueError as error:
        said = str(error)
    require("metrics.jsonl" in said, f"training cannot go on, and the file is not named: {said}")


def test_empty_wall_times_do_not_stop_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ROOT/ledger/stages/label.json was cut to nothing; the stage has made something by the time it is read."""
    inline(monkeypatch)
    (tmp_path / "out/ledger/stages").mkdir(parents=True)
    (tmp_path / "out/ledger/stages/label.json").write_bytes(b"")
    chosen = {"modalities": ["rgb"], "labels__keep": ["caption"], "generate__chains": []}
    settings = data.settings(tmp_path / "out", data.good_shards(tmp_path / "s", 1, 1), **chosen)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    said = ""
    try:
        status, _, said = runs.command("label", str(tmp_path / "recipe.yaml"))
    except ValueError as error:
        status, said = 1, str(error)
    require(status == 0 or "label.json" in said, f"the stage ends with {said!r}, which names no file")
