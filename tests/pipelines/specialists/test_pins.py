"""A root reads the commit of a hub repository that it read first, whatever its branch has become."""

from __future__ import annotations

import hashlib
import pickle as pickles
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from fourmill_tests import data
from fourmill_tests.tiny import hub as hubs
from fourmill_tests.tiny.hub import Hub, Model
from pydantic import Field

from fourmill.pipelines.specialists import pins
from fourmill.pipelines.specialists.pretrained import Pretrained
from fourmill.project import Project
from fourmill.verbs import stage

FIRST, SECOND = hubs.COMMIT, "beef" + "0" * 36
FILES = {"config.json": 2, "pytorch_model.bin": 9}


class Probe(Pretrained):
    label: ClassVar[str] = "depth"
    task: ClassVar[str] = "monocular depth estimation"
    licence: ClassVar[str] = "MIT"

    weights: str = Field("org/depth")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hubs.alone(tmp_path, monkeypatch) as server:
        server.models["org/depth"] = Model(FILES, sums={"pytorch_model.bin": "ab" * 32})
        yield server


def snapshot(folder: Path, commit: str, branch: str = "") -> Path:
    """A commit in the cache, and what a branch stands for."""
    place = folder / "cache" / "models--org--depth" / "snapshots" / commit
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    if branch:
        refs = place.parents[1] / "refs"
        refs.mkdir()
        (refs / branch).write_text(commit)
    return place


def pinned(root: Path, one: Probe) -> str:
    pins.apply(str(root), [one])
    return one._commit


def test_the_first_commit_counts_from_then_on(tmp_path: Path, hub: Hub) -> None:
    root = tmp_path / "out"
    assert pinned(root, Probe()) == ""
    pins.keep(str(root), [Probe()], {})
    hub.models["org/depth"].commit = SECOND
    pins.keep(str(root), [Probe()], {})
    one = Probe()
    assert pinned(root, one) == FIRST and one._sums == {"pytorch_model.bin": "ab" * 32}
    assert (root / "ledger" / "weights" / "org--depth.json").exists() and len(hub.requests) == 1
    for commit in (SECOND, FIRST):  # only the pinned one is taken from the cache
        assert one.fetched() is None
        place = snapshot(tmp_path, commit)
    assert one.fetched() == place


def test_what_labels_were_made_with_counts_before_the_hub(tmp_path: Path, hub: Hub) -> None:
    hub.models["org/depth"].revisions = ("main", SECOND)
    for used in (SECOND, "0" * 40):  # one that the hub has, and one that is gone
        root = tmp_path / used
        pins.keep(str(root), [Probe()], {"org/depth": used})
        assert pinned(root, Probe()) == used


def test_offline_the_cache_is_pinned(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pins.keep(str(tmp_path / "out"), [Probe()], {})
    assert pinned(tmp_path / "out", Probe()) == ""  # nobody knows it yet
    snapshot(tmp_path, SECOND, "main")
    pins.keep(str(tmp_path / "out"), [Probe()], {})
    assert pinned(tmp_path / "out", Probe()) == SECOND


def test_revisions_are_pinned_apart_and_commits_not_at_all(tmp_path: Path, hub: Hub) -> None:
    hub.models["org/depth"].revisions = ("main", "refs/pr/1")
    every = [Probe(), Probe(revision="refs/pr/1"), Probe(revision=SECOND)]
    pins.keep(str(tmp_path), every, {})
    names = sorted(path.name for path in (tmp_path / "ledger" / "weights").iterdir())
    assert names == ["org--depth.json", "org--depth@refs--pr--1.json"]
    assert [pinned(tmp_path, one) for one in every] == [FIRST, FIRST, ""]


def test_a_damaged_pin_is_passed_over(tmp_path: Path, hub: Hub) -> None:
    pins.keep(str(tmp_path), [Probe()], {})
    one = Probe()
    before = one.fingerprint_parts()
    assert pinned(tmp_path, one) == FIRST and one.fingerprint_parts() == before
    Path(pins.url_of(str(tmp_path), "org/depth", "")).write_text('{"weights": 1}')
    assert pinned(tmp_path, Probe()) == ""


def test_a_stage_pins_what_its_workers_read(tmp_path: Path, hub: Hub) -> None:
    options = {"depth": {"weights": "org/depth", "predicts": "depth"}}
    recipe = data.recipe(
        tmp_path / "out", data.good_shards(tmp_path / "s", 1, 2), modalities=["rgb", "tok_depth"],
        labels__keep=["depth"], labels__specialists=options, generate__chains=[],
    )  # fmt: skip
    project = Project(recipe)
    before = project.label_prints.current
    stage.pin_weights(project, project.specialists, [])
    hub.models["org/depth"].commit = SECOND
    later = Project(recipe)
    sent = pickles.loads(pickles.dumps(later.shard_job(later.specialists, {})))
    assert sent.specialists["depth"].read_revision == FIRST and later.label_prints.current == before


@pytest.fixture
def pickle(tmp_path: Path) -> Path:
    torch.save({"a": torch.ones(3)}, file := tmp_path / "model.ckpt")
    return file


def test_a_pickle_of_a_named_sum_is_read_as_tensors(pickle: Path) -> None:
    found = hashlib.sha256(pickle.read_bytes()).hexdigest()
    one = Probe(weights=str(pickle), sha256=found)
    one.setup_on_node()
    assert torch.equal(one.state_dict()["a"], torch.ones(3)) and "*.ckpt" in one.patterns()
    with pytest.raises(ValueError, match="is a pickle"):
        Probe(weights=str(pickle)).setup_on_node()
    with pytest.raises(ValueError, match=f"the SHA-256 of .*model.ckpt is {found}, expected {'0' * 64}"):
        Probe(weights=str(pickle), sha256="0" * 64).setup_on_node()
    assert one.fingerprint_parts() == Probe(weights=str(pickle), allow_pickle=True).fingerprint_parts()


def test_a_pinned_pickle_that_is_another_is_refused(pickle: Path) -> None:
    one = Probe(weights=str(pickle), allow_pickle=True)
    one.setup_on_node()
    one.pin(FIRST, {"model.ckpt": "0" * 64})
    with pytest.raises(ValueError, match="expected 0000"):
        one.setup_on_node()
