"""What tokenizers are fitted on: the same crops at every call, of the labels, in fair shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from fourmill_tests import data

from fourmill.pipelines import fit_data as fit_data_module
from fourmill.pipelines.fit_data import FitData
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.specialists.base import Item, Specialist
from fourmill.project import Project
from fourmill.tokenize import masks


def fit_data(root: Path, shards: list[str], **changes: Any) -> FitData:
    project = Project(data.recipe(root, shards, **changes))
    return FitData(project.shard_job(project.specialists, {}), tuple(project.plan({}).tasks.values()))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("fit-data")
    bad = folder / "bad.tar"
    bad.write_bytes(data.tar(data.bad_entries()))
    return [*data.good_shards(folder, 2, 5), str(bad)]


SIZES = {"tok_rgb": 32, "tok_canny_edge": 32}


def examples(source: FitData, count: int, seed: int = 0, sizes: dict[str, int] = SIZES) -> dict[str, np.ndarray]:
    """All rows of each tokenizer."""
    rows: dict[str, list[np.ndarray]] = {}
    for name, part in source.examples(sizes, count, 0.8, 0.5, seed):
        rows.setdefault(name, []).append(part)
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def test_examples_are_of_the_labels_and_the_same_at_every_call(tmp_path: Path, shards: list[str]) -> None:
    source = fit_data(tmp_path, shards)
    made, again, other = examples(source, 30), examples(source, 30), examples(source, 30, seed=1)
    assert made["tok_rgb"].shape == (30, 32, 32, 3) and made["tok_canny_edge"].shape == (30, 32, 32)
    assert made["tok_rgb"].dtype == made["tok_canny_edge"].dtype == np.uint8
    assert set(np.unique(made["tok_canny_edge"])) == {0, 255}
    assert all(np.array_equal(made[name], again[name]) for name in SIZES)
    assert not np.array_equal(made["tok_rgb"], other["tok_rgb"])


def test_small_shard_gives_several_views_of_each_sample(tmp_path: Path, shards: list[str]) -> None:
    made = examples(fit_data(tmp_path, shards[:1]), 15)["tok_rgb"]
    assert len(made) == 15 and len({one.tobytes() for one in made}) > 10  # of few pixels two may be equal


def test_batches_and_threads_change_no_example(tmp_path: Path, shards: list[str]) -> None:
    one = examples(fit_data(tmp_path, shards), 24)
    other = examples(fit_data(tmp_path, shards, engine__batch_size=1, engine__decode_threads=5), 24)
    assert all(np.array_equal(one[name], other[name]) for name in SIZES)


class Rare(Specialist):
    """Masks in every third image: two in each."""

    label: ClassVar[str] = "sam_instance"
    seen: ClassVar[list[str]] = []

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        self.seen.extend(item.key for item in items)
        return [self._of(item) for item in items]

    def _of(self, item: Item) -> Any:
        if int(item.key) % 3:
            return Reject("sam_instance: nothing found")
        assert item.image is not None
        mask = np.triu(np.ones(item.image.shape[:2], np.uint8))
        box = {"box": [0.1, 0.1, 0.9, 0.9], "mask": masks.encode(mask), "area": 0.2, "iou": 0.9, "stability": 0.9}
        return [box | {"point": [0.4, 0.4]}] * 2


class Flat(Specialist):
    label: ClassVar[str] = "depth"
    seen: ClassVar[list[str]] = []

    def __call__(self, items: Sequence[Item]) -> list[Any]:
        self.seen.extend(item.key for item in items)
        return [np.full(item.image.shape[:2], 0.5, np.float16) for item in items if item.image is not None]


def test_each_tokenizer_stops_when_it_has_its_rows(tmp_path: Path) -> None:
    """Two masks in every third image: those take all 24 samples, depth the first ones of each shard."""
    shards = data.good_shards(tmp_path / "s", 2, 12)
    source = fit_data(tmp_path / "out", shards, engine__batch_size=2)
    specialists = {"sam_instance": Rare(), "depth": Flat()}
    source = replace(source, job=replace(source.job, specialists=specialists))
    Rare.seen.clear(), Flat.seen.clear()
    made = examples(source, 9, sizes={"sam_mask": 0, "tok_depth": 16})
    assert {name: len(rows) for name, rows in made.items()} == {"sam_mask": 9, "tok_depth": 9}
    assert made["sam_mask"].shape == (9, 64, 64) and set(np.unique(made["sam_mask"])) == {0, 1}
    assert made["tok_depth"].dtype == np.float16
    assert len(Rare.seen) > 12 and len(Flat.seen) < 12
    assert len(set(Rare.seen)) == len(Rare.seen)  # no sample is labelled twice
    few = examples(source, 100, sizes={"sam_mask": 0})
    assert 0 < len(few["sam_mask"]) <= 100  # what there is, and no endless search


def test_who_shares_the_pass_does_not_change_the_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks never get their share, so that in later shards they take more views of a sample than pictures do."""
    monkeypatch.setattr(fit_data_module, "LEAST_PER_SHARD", 8)
    source = fit_data(tmp_path / "out", data.good_shards(tmp_path / "s", 3, 4))
    source = replace(source, job=replace(source.job, specialists=source.job.specialists | {"sam_instance": Rare()}))
    for count in (20, 25):  # of 25 the last shard gives pictures 7, in two views a sample, and masks 9, in three
        alone = examples(source, count, sizes={"tok_rgb": 16})
        shared = examples(source, count, sizes={"tok_rgb": 16, "sam_mask": 0})
        assert np.array_equal(alone["tok_rgb"], shared["tok_rgb"])


def test_workers_share_the_shards(tmp_path: Path, shards: list[str]) -> None:
    source = fit_data(tmp_path, shards)
    parts = [source.part(rank, 2) for rank in range(2)]
    assert [task.shard for task in parts[0].tasks] == ["train-00000", "bad"]
    assert [task.shard for task in parts[1].tasks] == ["train-00001"]


def test_captions_are_those_of_the_shards_without_rejects(tmp_path: Path, shards: list[str]) -> None:
    everything = list(fit_data(tmp_path, shards).captions(1000))
    assert len(everything) == 5 + 5 + len(data.BAD_KEYS) - len(data.BAD_CAPTIONS)
    assert data.ATTACK in everything
    # Few are taken from as few shards as hold them, and from the next one if they do not.
    assert list(fit_data(tmp_path, shards).captions(4)) == everything[:4]
    assert list(fit_data(tmp_path, shards).captions(6)) == everything[:6]


def test_stored_labels_load_no_specialist(tmp_path: Path, shards: list[str]) -> None:
    recipe = data.recipe(tmp_path / "out", shards[:2], labels__keep=["canny_edge"])
    assert "canny_edge" in Project(recipe).fit_job(["tok_canny_edge"]).train.job.specialists
    data.make(recipe, data.outputs(recipe, tokens=False))
    job = Project(recipe).fit_job(["tok_rgb", "tok_canny_edge"]).train
    assert not job.job.specialists
    made = examples(job, 10)
    assert len(made["tok_canny_edge"]) == len(made["tok_rgb"]) == 10


def test_many_are_taken_evenly_from_shards_over_the_whole_list(
    tmp_path: Path, shards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_data_module, "LEAST_PER_SHARD", 2)
    everything = list(fit_data(tmp_path, shards).captions(1000))
    few = list(fit_data(tmp_path, shards).captions(6))
    assert len(few) == 6 and few[:2] == everything[:2] and few[2:4] == everything[5:7]


def test_a_shard_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    shards = data.good_shards(tmp_path / "s", 2, 3)
    source = fit_data(tmp_path / "out", shards)
    Path(shards[0]).write_bytes(b"no tar")
    assert len(list(source.captions(100))) == 3
