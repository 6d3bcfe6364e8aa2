"""A run of rejects that stopped a job stops it again, until its cause is gone or the user says that it is expected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fourmill_tests import data, runs
from fourmill_tests.engine import inline
from fourmill_tests.tiny import dense as tiny_dense
from safetensors.torch import load_file, save_file

from fourmill.infra import ledger


class Job:
    """A recipe of three shards whose specialist refuses all samples until a marker is there."""

    def __init__(self, folder: Path) -> None:
        self.root, self.marker, self.file = folder / "out", folder / "mended", folder / "recipe.yaml"
        refusing = {"specialist": "fourmill_tests.specialists:Refusing", "marker": str(self.marker)}
        self.settings = data.settings(
            self.root, data.good_shards(folder / "s", 3, 4), modalities=["rgb"], labels__keep=["canny_edge"],
            generate__chains=[], labels__specialists={"canny_edge": refusing}, engine__max_reject_run=9,
        )  # fmt: skip

    def label(self, **changes: Any) -> tuple[int, str]:
        self.file.write_text(yaml.safe_dump(self.settings))
        overrides = [f"--set={name.replace('__', '.')}={value}" for name, value in changes.items()]
        status, out, said = runs.command("label", str(self.file), *overrides)
        return status, out + said

    def done(self) -> int:
        """Shards whose labels `status` calls made."""
        _, out, _ = runs.command("status", str(self.file), "--json")
        (row,) = (row for row in json.loads(out)["outputs"] if row["output"] == "labels/canny_edge")
        return int(row["done"])

    def nulls(self) -> list[int]:
        records = [ledger.read(str(self.root), "labels/canny_edge", f"train-{i:05d}") for i in range(3)]
        return [record.nulls for record in records if record]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    inline(monkeypatch)
    job = Job(tmp_path)
    status, said = job.label()
    assert status == 2 and "9 rejects in a row" in said and job.nulls() == [4, 4]
    return job


def test_a_network_that_broke_stops_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it sees, it says one direction: a label that no check of shapes and types would find."""
    inline(monkeypatch)
    folder = tiny_dense.segformer(tmp_path / "model", dict(enumerate("xyz")))
    state = {
        name: value * ("classifier" not in name) for name, value in load_file(folder / "model.safetensors").items()
    }
    state["decode_head.classifier.bias"] = torch.tensor([0.0, 1.0, 0.0])
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    recipe = tmp_path / "recipe.yaml"
    normal = {"weights": str(folder), "frame": "x right, y up, z toward"}
    recipe.write_text(
        yaml.safe_dump(
            data.settings(
                tmp_path / "out", data.good_shards(tmp_path / "s", 2, 4), modalities=["rgb"], labels__keep=["normal"],
                generate__chains=[], labels__specialists={"normal": normal}, engine__max_reject_run=4,
            )
        )
    )  # fmt: skip
    status, out, err = runs.command("label", str(recipe))
    assert status == 2 and "4 rejects in a row" in out + err and "the same" in out + err


def test_it_stops_again(job: Job) -> None:
    assert job.done() == 0
    status, out, err = runs.command("check", str(job.root))
    assert status == 0, out + err
    for _ in range(2):
        status, said = job.label()
        assert status == 2 and "9 rejects in a row" in said


def test_shards_in_doubt_are_missing(job: Job) -> None:
    """What is left is too little for another run of rejects: it is made again, and not called complete."""
    job.settings["samples"]["train"] = job.settings["samples"]["train"][:2]
    status, said = job.label()
    assert status == 1 and "2 shards are null again; an earlier job stopped: labels/canny_edge: 9 rejects" in said
    assert job.done() == 0


def test_a_cause_that_is_gone_leaves_no_trace(job: Job) -> None:
    job.marker.touch()
    assert job.label()[0] == 0 and job.nulls() == [0, 0, 0]
    assert not list((job.root / "ledger" / "stops").glob("*"))
    assert job.label()[0] == 0 and job.done() == 3


def test_the_user_may_say_that_the_data_are_so(job: Job) -> None:
    status, _ = job.label(engine__max_reject_run=20)
    assert status == 0 and job.nulls() == [4, 4, 4]


def test_another_specialist_is_another_matter(job: Job) -> None:
    job.settings["labels"]["specialists"]["canny_edge"] = {"specialist": "canny"}
    assert job.label()[0] == 0 and job.nulls() == [0, 0, 0]
