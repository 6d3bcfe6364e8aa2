"""Samples are decoded ahead by threads, and come in batches in the order of the shard."""

from __future__ import annotations

from pathlib import Path

import pytest
from fourmill_tests import data

from fourmill.pipelines import source
from fourmill.pipelines.worker.decode import decoded
from fourmill.tokenize.crops import crops


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (64, [7])])
@pytest.mark.parametrize("threads", [1, 3])
def test_batches_are_full_and_in_order(batch: int, sizes: list[int], threads: int, tmp_path: Path) -> None:
    (path,) = data.good_shards(tmp_path / "s", 1, 7)
    job = data.job(data.recipe(tmp_path / "out", path, engine__batch_size=batch, engine__decode_threads=threads))
    with source.open_shard(path, tmp_path) as shard:
        batches = list(decoded(job, shard, shard.samples, wants_image=False))
        assert [len(one) for one in batches] == sizes
        samples = [sample for one in batches for sample in one]
        assert [sample.key for sample in samples] == [f"{i:06d}" for i in range(7)]
        assert all(sample.item.image is None and not sample.crops and not sample.reasons for sample in samples)


def test_a_sample_has_its_image_crops_and_reasons(tmp_path: Path) -> None:
    entries = [*data.good_entries(0, 1), ("bad.jpg", b"no image"), ("bad.txt", b"\xff"), ("none.txt", b"words")]
    (tmp_path / "s.tar").write_bytes(data.tar(entries))
    changes = {"images__crops": 3, "images__crop_scale": 0.5, "images__hflip": 0.3, "seed": 7}
    job = data.job(data.recipe(tmp_path / "out", str(tmp_path / "s.tar"), **changes))
    with source.open_shard(str(tmp_path / "s.tar"), tmp_path) as shard:
        ((good, bad, none),) = decoded(job, shard, shard.samples, wants_image=True)
    assert good.size == (100, 90) and not good.reasons
    assert good.crops == crops(7, "000000", 100, 90, 3, scale=(0.5, 1.0), hflip=0.3)
    assert bad.reasons == {"caption": "caption: not UTF-8", "rgb": "image: not a JPEG, PNG, WebP, GIF or BMP file"}
    assert none.item.caption == "words" and none.reasons == {"rgb": "image: there is none"} and not none.crops
