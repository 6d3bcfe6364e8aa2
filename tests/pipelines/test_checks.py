"""Keys that several shards have are found, with the names of these shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourmill.infra import ledger, storage
from fourmill.pipelines.checks import shared_keys
from fourmill.tokenize import labels
from fourmill.tokenize.labels import Storage


def write(root: Path, **shards: list[str]) -> list[str]:
    """Files of one label with these keys; returns the names of the shards."""
    for name, keys in shards.items():
        file = labels.encode_labels("caption", Storage.JSON, keys, ["text"] * len(keys))
        storage.put(ledger.output_url(str(root), "labels/caption", name), file)
    return list(shards)


def test_keys_of_several_shards_are_named_with_them(tmp_path: Path) -> None:
    shards = write(tmp_path, a=["1", "2", "3"], b=["4", "2", "5"], c=[], d=["5", "2"])
    assert dict(shared_keys(str(tmp_path), "labels/caption", shards)) == {"2": ["a", "b", "d"], "5": ["b", "d"]}


@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_more_than_asked_for(tmp_path: Path, most: int) -> None:
    shards = write(tmp_path, a=["1", "2", "3"], b=["3", "1", "2"])
    assert len(shared_keys(str(tmp_path), "labels/caption", shards, most)) == most


def test_keys_that_are_unique_are_none(tmp_path: Path) -> None:
    assert shared_keys(str(tmp_path), "labels/caption", write(tmp_path, a=["1"], b=["2"])) == []
    assert shared_keys(str(tmp_path), "labels/caption", []) == []
