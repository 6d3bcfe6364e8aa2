"""The same line on a real S3 server: the same columns, each committed by one conditional PUT."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from fourmill_tests import data
from fourmill_tests.runs import Run
from fourmill_tests.s3 import S3, Request

from fourmill import recipe as recipes
from fourmill.infra import storage
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.verbs.make import label, tokenize

# The first test waits for the whole run; Ray Train alone may take a minute to start.
pytestmark = pytest.mark.timeout(1200)
BUCKET = "fourmill"


@pytest.fixture(scope="module")
def milled(ray_cluster: str, whole_run: Run, s3: S3) -> tuple[Recipe, list[Request]]:
    """Shards and tokenizers of the local run on S3, labelled and tokenized there; the requests that this took."""
    bucket = s3.bucket(BUCKET)
    for path in sorted((whole_run.folder / "s").iterdir()):
        storage.put(storage.join(bucket, "s", path.name), path.read_bytes())
    for folder in ("tokenizers", "ledger/tokenizers"):
        for path in (whole_run.root / folder).rglob("*.*"):
            storage.put(storage.join(bucket, "out", str(path.relative_to(whole_run.root))), path.read_bytes())
    samples = [f"samples.train={bucket}/s/train-*.tar", f"samples.val={bucket}/s/val-00000.tar"]
    recipe = recipes.load(whole_run.recipe, [*samples, f"root={bucket}/out"])
    seen = len(s3.requests)
    for stage in (label.make, tokenize.make):
        summary = stage(Project(recipe))
        assert summary.complete and summary.made
    return recipe, s3.requests[seen:]


def test_the_columns_are_those_of_the_local_run(milled: tuple[Recipe, list[Request]], whole_run: Run) -> None:
    recipe, _ = milled
    for name, content in data.columns(whole_run.root).items():
        assert storage.read_bytes(storage.join(recipe.root, name)) == content, name


def test_a_commit_is_one_conditional_put_and_nothing_is_renamed(
    milled: tuple[Recipe, list[Request]], whole_run: Run
) -> None:
    _, requests = milled
    written = [request for request in requests if request.method in ("PUT", "POST", "DELETE")]
    assert not any(request.copies or "uploads" in request.query for request in written)
    puts = Counter(request.path for request in written if request.method == "PUT")
    data_puts = {path: count for path, count in puts.items() if path.endswith(".parquet")}
    assert data_puts == {f"/{BUCKET}/out/{name}": 1 for name in data.columns(whole_run.root)}
    beside = ("/stages/", "/drivers/", "/shards/")  # what is no record
    ledger = [r for r in written if "/out/ledger/" in r.path and not any(folder in r.path for folder in beside)]
    shards = 4 * (len(data_puts) // 4 + 1)  # every file's record, and the samples of each shard
    assert len(ledger) == shards
    assert {(request.method, request.if_none_match) for request in ledger} == {("PUT", "*")}
    (names,) = (request for request in written if "/ledger/shards/" in request.path)
    assert (names.method, names.if_none_match) == ("PUT", "*")
    assert {request.method for request in written if "/ledger/drivers/" in request.path} == {"PUT", "DELETE"}


def test_a_record_follows_its_data(milled: tuple[Recipe, list[Request]]) -> None:
    _, requests = milled
    puts = [request.path for request in requests if request.method == "PUT"]
    for path in puts:
        if path.endswith(".parquet"):
            record = path.replace("/out/", "/out/ledger/").removesuffix(".parquet") + ".json"
            assert puts.index(path) < puts.index(record)


def test_a_second_run_on_s3_writes_nothing(milled: tuple[Recipe, list[Request]], s3: S3) -> None:
    recipe, _ = milled
    seen = len(s3.requests)
    summary = tokenize.make(Project(recipe))
    assert summary.made == 0 and summary.existed == 4 * (7 + 4 + 1)
    assert {request.method for request in s3.requests[seen:]} <= {"GET", "HEAD"}


def test_an_unwritable_root_is_found_before_any_work(whole_run: Run, s3: S3, tmp_path: Path) -> None:
    recipe = recipes.load(whole_run.recipe, ["root=s3://no-such-bucket-here/out"])
    with pytest.raises(ValueError, match="root: cannot write below s3://no-such-bucket-here/out"):
        label.make(Project(recipe))
