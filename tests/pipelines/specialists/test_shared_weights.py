"""Weights of the hub, kept beside a root: a node without a way out copies them from there, whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from fourmill_tests import data
from fourmill_tests.s3 import S3
from fourmill_tests.tiny.hub import COMMIT
from huggingface_hub import constants
from pydantic import Field
from safetensors.numpy import save

from fourmill.infra import storage
from fourmill.pipelines.specialists import shared_weights
from fourmill.pipelines.specialists.kept_weights import FILES
from fourmill.pipelines.specialists.pretrained import Pretrained
from fourmill.project import Project
from fourmill.verbs import stage

CONTENT = {
    "config.json": b"{}",
    "model.safetensors": save({"a": np.zeros(3, np.float32)}),
    "onnx/model.onnx": b"not asked for",
}


class Probe(Pretrained):
    label: ClassVar[str] = "depth"
    task: ClassVar[str] = "monocular depth estimation"
    licence: ClassVar[str] = "MIT"

    weights: str = Field("org/depth")


class Reader(Probe):
    """Of the same repository, with one file more."""

    def patterns(self) -> tuple[str, ...]:
        return (*super().patterns(), "*.onnx")


@pytest.fixture(autouse=True)
def no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is out of reach."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(params=["local", "s3"])
def weights(request: pytest.FixtureRequest, tmp_path: Path, s3: S3) -> str:
    return (
        str(tmp_path / "shared")
        if request.param == "local"
        else s3.bucket("weights-" + tmp_path.name.replace("_", "-"))
    )


def node(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, with_files: bool = False) -> Path:
    """From now on this process is a node with a cache of its own; returns where it has the snapshot."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / name))
    snapshot = folder / name / "models--org--depth" / "snapshots" / COMMIT
    for file, content in CONTENT.items() if with_files else ():
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / file).write_bytes(content)
    return snapshot


def probe(weights: str, cls: type[Probe] = Probe) -> Probe:
    one = cls(revision=COMMIT)
    shared_weights.apply(weights, [one])
    return one


def test_a_node_copies_what_another_has_fetched(tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    node(tmp_path, monkeypatch, "driver", with_files=True)
    shared_weights.keep(weights, [Probe(revision=COMMIT)])
    snapshot = node(tmp_path, monkeypatch, "worker")
    one = probe(weights)
    assert one.fetched() is None
    one.setup_on_node()
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == {
        name: content for name, content in CONTENT.items() if "onnx" not in name
    }
    assert one.folder() == snapshot
    (snapshot / "config.json").write_bytes(b"")  # a node that was killed while it copied
    one.setup_on_node()
    assert (snapshot / "config.json").read_bytes() == b"{}"


def test_what_is_not_whole_is_not_taken(tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No list of files, a file that is missing, damaged, or another one: nothing of it comes into the cache."""
    node(tmp_path, monkeypatch, "driver", with_files=True)
    shared_weights.keep(weights, [Probe(revision=COMMIT)])
    folder = storage.join(weights, "org--depth", COMMIT)
    listed = storage.read_bytes(storage.join(folder, FILES))
    snapshot = node(tmp_path, monkeypatch, "worker")

    def refused() -> None:
        with pytest.raises(ValueError, match="the weights 'org/depth' cannot be fetched"):
            probe(weights).setup_on_node()
        assert not snapshot.exists() or not list(snapshot.iterdir())

    storage.put(storage.join(folder, "model.safetensors"), save({"a": np.ones(3, np.float32)}))
    refused()
    storage.delete(storage.join(folder, "model.safetensors"))
    refused()
    storage.put(storage.join(folder, FILES), listed[:-30])
    refused()
    escaping = json.dumps({"files": {"../../x": [1, "0"]}, "patterns": ["*"]}).encode()
    storage.put(storage.join(folder, FILES), escaping)
    refused()


def test_files_that_another_specialist_needs_are_added(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node(tmp_path, monkeypatch, "driver", with_files=True)
    shared_weights.keep(weights, [Probe(revision=COMMIT)])
    snapshot = node(tmp_path, monkeypatch, "worker")
    with pytest.raises(ValueError, match="cannot be fetched"):
        probe(weights, Reader).setup_on_node()
    node(tmp_path, monkeypatch, "driver")
    shared_weights.keep(weights, [Probe(revision=COMMIT), Reader(revision=COMMIT)])
    node(tmp_path, monkeypatch, "worker")
    probe(weights, Reader).setup_on_node()
    assert (snapshot / "onnx/model.onnx").read_bytes() == b"not asked for"


def test_what_the_driver_cannot_fetch_is_left_to_the_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node(tmp_path, monkeypatch, "driver")
    shared_weights.keep(str(tmp_path / "shared"), [Probe(revision=COMMIT)])
    assert "the nodes try it by themselves" in caplog.text and not (tmp_path / "shared").exists()


def test_where_weights_are_kept(tmp_path: Path) -> None:
    assert shared_weights.place("s3://b/out", "root", None) == "s3://b/out/weights"
    assert shared_weights.place("/nfs/out", "root", "auto") == "/nfs/out/weights"
    assert shared_weights.place("/data/out", "root", None) == "", "one machine has its own cache"
    assert shared_weights.place("s3://b/out", None, None) == ""
    assert shared_weights.place("s3://b/out", "s3://models/hub", None) == "s3://models/hub"


def test_a_stage_keeps_what_its_workers_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node(tmp_path, monkeypatch, "driver", with_files=True)
    options = {"depth": {"weights": "org/depth", "revision": COMMIT, "predicts": "depth"}}
    recipe = data.recipe(
        tmp_path / "out", data.good_shards(tmp_path / "s", 1, 2), modalities=["rgb", "tok_depth"],
        labels__keep=["depth"], labels__specialists=options, generate__chains=[],
        engine__weights=str(tmp_path / "shared"),
    )  # fmt: skip
    project = Project(recipe)
    stage.pin_weights(project, project.specialists, [])
    job = project.shard_job(project.specialists, {})
    snapshot = node(tmp_path, monkeypatch, "worker")
    depth = job.specialists["depth"]
    assert isinstance(depth, Pretrained)
    shutil.rmtree(tmp_path / "driver")
    depth.setup_on_node()
    assert (snapshot / "model.safetensors").read_bytes() == CONTENT["model.safetensors"]


def test_a_download_that_was_cut_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = node(tmp_path, monkeypatch, "driver", with_files=True)
    (snapshot / "model.safetensors").write_bytes(CONTENT["model.safetensors"][:-4])
    shared_weights.keep(str(tmp_path / "shared"), [Probe(revision=COMMIT)])
    assert "is cut short or broken" in caplog.text and not (tmp_path / "shared").exists()
