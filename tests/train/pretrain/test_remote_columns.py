"""Training on columns in an object store: which it has read is noted, and they stay on this machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fourmill_tests import training
from fourmill_tests.s3 import S3

from fourmill.infra import footers, storage
from fourmill.pipelines.removal import seen
from fourmill.train.data.groups import ShardRows
from fourmill.train.pretrain.trainer import Trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A run on columns of this machine."""
    return training.train(training.job(tmp_path_factory.mktemp("whole")))


def test_a_run_says_which_shards_it_reads(whole: Trainer) -> None:
    assert seen.read(whole.job.folder) == ["train", "val"]


def test_columns_on_s3_are_kept_on_this_machine(whole: Trainer, s3: S3, tmp_path: Path) -> None:
    root = f"{s3.bucket('trainer-cache')}/out"
    for path in Path(whole.job.root, "tokens").rglob("*.parquet"):
        storage.put(storage.join(root, str(path.relative_to(whole.job.root))), path.read_bytes())

    def shards(given: tuple[ShardRows, ...]) -> tuple[ShardRows, ...]:
        """With the sums of their footers, as the ledger has them."""
        (one,) = given
        urls = {spec.name: f"{whole.job.root}/tokens/{spec.name}/{one.name}.parquet" for spec in training.SPECS}
        return (replace(one, footers={name: footers.digest_at(url) for name, url in urls.items()}),)

    def train(name: str, **cache: float) -> Trainer:
        recipe = training.recipe_of(root, name=name, cache={"folder": str(tmp_path), **cache})
        job = training.job_of(recipe, training.SPECS, shards(whole.job.shards), shards(whole.job.val_shards))
        return training.train(job)

    first = train("first")
    seen = len(s3.requests)
    # Full from the start: what is there is read all the same.
    second = train("second", gigabytes=1e-6)
    assert not [request for request in s3.requests[seen:] if "/tokens/" in request.path]
    expected = whole.model.state_dict()
    for one in (first, second):
        actual = one.model.state_dict()
        assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert not first.notes and not second.notes
