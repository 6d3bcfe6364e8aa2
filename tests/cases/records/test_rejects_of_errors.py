"""Errors of a machine or a service are no rejects: what failed by them is made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from fourmill_tests import data, runs
from fourmill_tests.cases import require
from fourmill_tests.engine import inline

from fourmill import recipe as recipes
from fourmill.infra import ledger
from fourmill.recipe import Recipe


def _edges(folder: Path, shards: list[str], specialist: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return data.settings(
        folder / "out", shards, modalities=["tok_canny_edge"], labels__keep=["canny_edge"], generate__chains=[],
        labels__specialists={"canny_edge": specialist}, **changes,
    )  # fmt: skip


def _nulls(recipe: Recipe, shards: list[str]) -> int:
    """Samples that are recorded as null for good."""
    records = [ledger.read(recipe.root, "labels/canny_edge", Path(shard).stem) for shard in shards]
    return sum(record.nulls for record in records if record is not None)


def test_rejects_of_a_dead_accelerator_are_made_again(tmp_path: Path) -> None:
    """After one sample every call of the process fails; the shards after it are small, so that no run of rejects stops
    the job, and are recorded as done, all null."""
    marker = tmp_path / "repaired"
    poisoned = {"specialist": "fourmill_tests.specialists:Poisoned", "key": "000003", "marker": str(marker)}
    shards = data.good_shards(tmp_path / "s", 3, 4)
    recipe = recipes.parse(_edges(tmp_path, shards, poisoned))
    data.make(recipe, data.outputs(recipe, tokens=False))
    marker.touch()  # the same command on a good accelerator
    data.make(recipe, data.outputs(recipe, tokens=False))
    require(not _nulls(recipe, shards), f"{_nulls(recipe, shards)} good samples are null for ever, and nothing says so")


def test_rejects_of_a_transient_error_are_made_again(tmp_path: Path) -> None:
    """Name resolution, memory of the accelerator, NFS: away for a while."""
    marker = tmp_path / "network-is-down"
    marker.touch()
    flaky = {"specialist": "fourmill_tests.specialists:Flaky", "marker": str(marker)}
    shards = data.good_shards(tmp_path / "s", 1, 4)
    recipe = recipes.parse(_edges(tmp_path, shards, flaky))
    data.make(recipe, data.outputs(recipe, tokens=False))
    marker.unlink()
    data.make(recipe, data.outputs(recipe, tokens=False))
    require(not _nulls(recipe, shards), f"{_nulls(recipe, shards)} samples are null for ever")


def test_a_stop_by_rejects_is_not_complete_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken specialist stops the first run; the same command again must not call the rest a complete dataset."""
    inline(monkeypatch)
    failing = {"specialist": "fourmill_tests.specialists:Failing"}
    settings = _edges(tmp_path, data.good_shards(tmp_path / "s", 3, 4), failing, engine__max_reject_run=9)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    first, second = (runs.command("label", str(tmp_path / "recipe.yaml"))[0] for _ in range(2))
    if first == 0:
        raise RuntimeError("the first run was not stopped")
    require(second != 0, "a dataset that is all null is called complete, exit status 0")
