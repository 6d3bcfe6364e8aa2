"""A sample that kills its worker costs itself: the others of its shard keep their bytes, whatever it was that killed.

Workers die here without processes (`engine.inline`); test_stage.py has real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fourmill_tests import data, engine
from fourmill_tests.engine import Dead

from fourmill.infra import ledger
from fourmill.infra.ledger import Record
from fourmill.pipelines.borders import photo
from fourmill.pipelines.engine.job import StopJob
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.base import Item, Specialist
from fourmill.pipelines.worker import stage
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.tokenize.codec import Codec

COUNT = 20


class Frail(Specialist):
    """Says of each sample how many it saw together, and of which sizes. Dies at some keys, and refuses others."""

    label: ClassVar[str] = "metadata"
    batch_size: ClassVar[int] = 4

    deadly: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        if any(self._kills(item) for item in items):
            raise Dead("killed")
        pixels = sum(item.image.size for item in items if item.image is not None)
        said = {"original_width": len(items), "original_height": pixels}
        return [Reject("metadata: no") if item.key in self.refused else said for item in items]

    def _kills(self, item: Item) -> bool:
        return "*" in self.deadly or (item.key in self.deadly and item.image is not None and bool(item.image.any()))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return data.good_shards(tmp_path_factory.mktemp("killers"), 1, COUNT)


def recipe(root: Path, shards: list[str], **options: Any) -> Recipe:
    return data.recipe(
        root, shards, modalities=["rgb"], labels__keep=["metadata", "caption"], generate__chains=[],
        labels__specialists={"metadata": {"specialist": f"{__name__}:Frail", **options}}, engine__batch_size=8,
    )  # fmt: skip


def made(recipe: Recipe) -> tuple[stage.Outcome, dict[str, Record]]:
    project = Project(recipe)
    outputs = project.label_outputs | project.token_outputs
    plan = project.plan(outputs)
    outcome = stage.run(project.shard_job(project.specialists, outputs), plan.missing, "label")
    return outcome, {one.output: read(recipe.root, one) for one in outcome.records}


def read(root: str, entry: ledger.Entry) -> Record:
    record = ledger.read(root, entry.output, entry.shard)
    assert record is not None
    return record


def reasons(record: Record) -> dict[str, str]:
    return {reject["key"]: reject["reason"] for reject in record.rejects}


def left_over(root: str) -> list[Path]:
    return list(Path(root).rglob("ledger/calls/*"))


@pytest.mark.parametrize("deadly", [["000000"], ["000007"], ["000005", "000006"], ["000003", "000019"]])
def test_it_costs_itself_and_others_keep_their_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shards: list[str], deadly: list[str]
) -> None:
    ray = engine.inline(monkeypatch)
    outcome, records = made(recipe(tmp_path / "killed", shards, deadly=deadly))
    assert not outcome.failures and outcome.samples == COUNT
    assert list(reasons(records["labels/metadata"])) == deadly
    assert all(why.startswith("metadata: killed its worker") for why in reasons(records["labels/metadata"]).values())
    assert not records["labels/caption"].rejects and not records["tokens/rgb"].rejects
    assert not records["labels/metadata"].splits
    assert len(ray.actors) <= 1 + 4 * len(deadly) and not left_over(str(tmp_path))
    made(recipe(tmp_path / "refused", shards, refused=deadly))
    assert data.rows(tmp_path / "killed") == data.rows(tmp_path / "refused")


def dying(function: Callable[..., Any], kills: Callable[..., bool]) -> Callable[..., Any]:
    def called(*args: Any, **options: Any) -> Any:
        if kills(*args):
            raise Dead("killed")
        return function(*args, **options)

    return called


def test_an_image_that_kills_while_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shards: list[str]
) -> None:
    """As one broken from the start, but for the reason."""
    bad = data.encode(data.picture(9, 100 + 7 * (9 % 5), 90 + 11 * (9 % 3)), quality=90)
    engine.inline(monkeypatch)
    monkeypatch.setattr(photo, "decode", dying(photo.decode, lambda encoded, *_: encoded == bad))
    outcome, records = made(recipe(tmp_path / "out", shards))
    assert not outcome.failures
    expected = {"000009": "image: killed its worker 3 times"}
    assert reasons(records["labels/metadata"]) == reasons(records["tokens/rgb"]) == expected
    assert not records["labels/caption"].rejects

    def broken(encoded: bytes, *rest: Any) -> Any:
        if encoded == bad:
            raise Reject("image: 0 bytes")
        return whole(encoded, *rest)

    monkeypatch.undo()
    engine.inline(monkeypatch)
    whole = photo.decode
    monkeypatch.setattr(photo, "decode", broken)
    made(recipe(tmp_path / "broken", shards))
    assert data.rows(tmp_path / "out") == data.rows(tmp_path / "broken")


def test_a_label_that_kills_its_codec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shards: list[str]) -> None:
    engine.inline(monkeypatch)
    monkeypatch.setattr(
        Codec, "encode", dying(Codec.encode, lambda _, samples: any(one.key == "000011" for one in samples))
    )
    outcome, records = made(recipe(tmp_path / "out", shards))
    assert not outcome.failures and not records["labels/metadata"].rejects
    assert reasons(records["tokens/rgb"]) == {"000011": "tokens/rgb: killed its worker 3 times"}


def test_a_specialist_that_kills_at_every_sample_stops_the_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ray = engine.inline(monkeypatch)
    many = data.good_shards(tmp_path / "s", 3, 12)
    with pytest.raises(StopJob, match=r"metadata: its worker died at each of 3 samples.*worked at none: killed\. Look"):
        made(recipe(tmp_path / "out", many, deadly=["*"]))
    assert len(ray.actors) <= 12 and not left_over(str(tmp_path))
    assert not data.columns(tmp_path / "out") and not list((tmp_path / "out").rglob("ledger/labels/metadata/*"))


def test_a_sample_that_is_alone_in_its_job_is_not_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing says that it is not the specialist."""
    engine.inline(monkeypatch)
    one = data.good_shards(tmp_path / "s", 1, 1)
    outcome, records = made(recipe(tmp_path / "out", one, deadly=["*"]))
    assert not records and list(outcome.failures) == ["train-00000"]
    assert "no sample works, the first, 000000: metadata: killed its worker" in outcome.failures["train-00000"]
    assert ledger.read(str(tmp_path / "out"), "labels/metadata", "train-00000") is None
