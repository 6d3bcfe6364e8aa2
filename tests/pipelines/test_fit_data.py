"""What tokenizers are fitted on: the same crops at every call, of the labels, in fair shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fourmill_tests import data

from fourmill import stages
from fourmill.pipelines import fit_data as fit_data_module
from fourmill.pipelines import plan as plans
from fourmill.pipelines.fit_data import FitData


def fit_data(root: Path, shards: list[str], **changes: Any) -> FitData:
    recipe, specialists = stages.prepare(data.recipe(root, shards, **changes))
    plan = plans.make(recipe, {})
    return FitData(stages.mill_job(recipe, specialists, {}), tuple(plan.tasks.values()))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("fit-data")
    bad = folder / "bad.tar"
    bad.write_bytes(data.tar(data.bad_entries()))
    return [*data.good_shards(folder, 2, 5), str(bad)]


def crops(source: FitData, count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    return list(source.crops(("rgb", "canny_edge"), count, 32, 0.8, 0.5, seed))


def test_crops_are_of_the_labels_and_the_same_at_every_call(tmp_path: Path, shards: list[str]) -> None:
    source = fit_data(tmp_path, shards)
    made = crops(source, 30)
    assert len(made) == 30
    for one in made:
        assert one["rgb"].shape == (32, 32, 3) and one["canny_edge"].shape == (32, 32)
        assert one["rgb"].dtype == one["canny_edge"].dtype == np.uint8
        assert set(np.unique(one["canny_edge"])) <= {0, 255}
    for left, right in zip(made, crops(source, 30), strict=True):
        assert all((left[label] == right[label]).all() for label in left)
    assert any((left["rgb"] != right["rgb"]).any() for left, right in zip(made, crops(source, 30, seed=1), strict=True))


def test_a_small_shard_gives_several_views_of_each_sample_and_they_differ(tmp_path: Path, shards: list[str]) -> None:
    made = [one["rgb"] for one in crops(fit_data(tmp_path, shards[:1]), 15)]
    assert len(made) == 15 and len({one.tobytes() for one in made}) > 10  # of few pixels two may be equal


def test_batches_and_threads_change_no_crop(tmp_path: Path, shards: list[str]) -> None:
    one = crops(fit_data(tmp_path, shards), 24)
    other = crops(fit_data(tmp_path, shards, engine__batch_size=1, engine__decode_threads=5), 24)
    assert all((a["rgb"] == b["rgb"]).all() for a, b in zip(one, other, strict=True))


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
