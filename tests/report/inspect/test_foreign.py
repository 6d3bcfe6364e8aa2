"""Files of other programs: shown for what they are, and never called damaged, ours or something to delete."""

from __future__ import annotations

import datetime
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fourmill_tests import data as tars
from fourmill_tests.inspected import facts_of, printed
from fourmill_tests.tiny.landscape import npy
from safetensors.numpy import save

from fourmill.report.inspect import inspect


def parquet(**columns: list[object]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


DOWNLOADS = parquet(key=["000000000"], url=["http://example.org/a.jpg"], status=["success"])
STATISTICS = json.dumps({"count": 60, "successes": 55, "status_dict": {"success": 55}}).encode()
WEIGHTS = save({"weight": np.zeros((2, 2), np.float32)})
# What lies in folders that people name: of downloaders, of trainers, of data sets.
FOREIGN: dict[str, bytes] = {
    "00000_stats.json": STATISTICS,
    "00000.parquet": DOWNLOADS,
    "train-00000-of-00001.parquet": parquet(image=[b"x"], label=[3]),
    "annotations.json": b'[{"id": 1}]',
    "empty.json": b"",
    "empty.parquet": b"",
    "cut.json": b'{"count": 6',
    "cut.parquet": DOWNLOADS[:60],
    "no.parquet": b"not Parquet at all",
    "index.tar": b"not a tar at all",
    "samples.json": b"[1, 2]",
    "config.json": b'{"architectures": ["CLIPModel"]}',
    "tokenizer.json": b"{}",
    "complete.json": b"{}",
    "metrics.jsonl": b'{"epoch": 1, "loss": 2.5}\n',
    "model.safetensors": WEIGHTS,
    "broken/model.safetensors": WEIGHTS[:20],
    "clip/config.json": b'{"modalities": ["image", "text"]}',
    "clip/model.safetensors": WEIGHTS,
    "ledger/accounts/2026.json": b'{"output": 12, "shard": "x"}',
    "ledger/accounts/2027.json": b'{"output": 12',
    "labels/train/a.txt": b"0 0.5 0.5 1 1",
    "labels/train/a.json": b"{}",
    "checkpoints/epoch=1.ckpt": b"x",
    "docker-compose.yaml": b"services: {}",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_file_is_never_to_be_deleted(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(FOREIGN[name])
    for place in (path, path.parent, tmp_path):
        try:
            text = printed(place)
        except ValueError as error:
            text = str(error)
        assert "delete" not in text and "run the stage again" not in text
        assert "no ledger record" not in text and "do not count" not in text


def test_all_foreign_files_in_one_folder(tmp_path: Path) -> None:
    """Also beside each other, and whatever comes first."""
    for name, data in FOREIGN.items():
        if "/" not in name and name not in ("model.safetensors", "tokenizer.json", "index.tar", "metrics.jsonl"):
            (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=r"cut\.parquet|empty\.parquet|no\.parquet") as caught:
        inspect.look(str(tmp_path))
    assert "delete" not in str(caught.value)


def test_folder_of_img2dataset_shows_its_shards(shard: Path, tmp_path: Path) -> None:
    for number in range(2):
        shutil.copy(shard, tmp_path / f"{number:05d}.tar")
    alone = facts_of(tmp_path)
    for number in range(2):
        (tmp_path / f"{number:05d}_stats.json").write_bytes(STATISTICS)
        (tmp_path / f"{number:05d}.parquet").write_bytes(DOWNLOADS)
    facts = facts_of(tmp_path)
    assert facts["other_files"] == {"json": 2, "parquet": 2}
    assert facts | {"other_files": {}} == alone
    statistics = facts_of(tmp_path / "00001_stats.json")
    assert statistics["kind"] == "JSON of another program"
    assert statistics["notes"] == ["img2dataset wrote this file; the samples are in 00001.tar"]
    downloads = facts_of(tmp_path / "00001.parquet")
    assert (downloads["kind"], downloads["rows"]) == ("Parquet of another program", 1)
    assert downloads["notes"] == statistics["notes"]
    assert [row["column"] for row in downloads["columns"]] == ["key", "url", "status"]


def test_foreign_parquet_beside_columns_is_noted(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "tokens" / "caption", tmp_path / "caption")
    (tmp_path / "caption" / "0.parquet").write_bytes(DOWNLOADS)
    facts = facts_of(tmp_path / "caption")
    assert (facts["kind"], facts["rows"]) == ("columns", 10)
    assert "1 Parquet files of other programs lie here as well" in facts["notes"]


def test_dataset_of_another_layout_is_a_folder(tmp_path: Path) -> None:
    """YOLO's data sets have labels/ as well, and a ledger may be an accountant's."""
    for name in ("labels/train/a.txt", "ledger/accounts/2026.json", "checkpoints/epoch=1.ckpt", "annotations.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(FOREIGN[name])
    assert facts_of(tmp_path)["kind"] == "folder"
    assert facts_of(tmp_path / "ledger" / "accounts")["kind"] == "folder"


def test_large_json_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "huge.json", "wb") as file:
        file.truncate((1 << 26) + 1)
    with pytest.raises(ValueError, match="bytes of JSON; expected at most"):
        inspect.look(str(tmp_path / "huge.json"))


def test_columns_of_texts_and_times_are_shown(tmp_path: Path) -> None:
    image = [{"band": "g", "flux": [1.0]}, {"band": "r", "flux": [2.0]}]
    rows = [{"image": image, "when": datetime.datetime(2021, 5, 3)}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    found = {one["column"]: one["row 0"] for one in inspect.look(str(tmp_path / "t.parquet")).facts["columns"]}
    assert found["image.band"] == "['g', 'r']" and found["image.flux"] == "float64 (2, 1), 1 to 2"
    assert found["when"].startswith("2021-05-03")


def test_tars_of_sensors_have_their_samples(tmp_path: Path) -> None:
    entries = [(f"{i}.dem.npy", npy(np.random.default_rng(i).normal(size=(16, 16)))) for i in range(3)]
    (tmp_path / "0.tar").write_bytes(tars.tar(entries))
    facts = inspect.look(str(tmp_path / "0.tar")).facts
    assert facts["rows"] == 3 and facts["sample"]["bytes"] == {"dem.npy": len(entries[0][1])}
    assert facts["sensors"]["dem"].startswith("float64 (16, 16) in 3 of 3 samples")
    assert facts["ignored"] == {}, "what is a sensor is not ignored"
