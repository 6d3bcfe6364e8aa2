"""One shard through a shard worker, without Ray: bad inputs become rows with reasons, and nothing else moves."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fourmill_tests import data
from fourmill_tests.small import SmallRoot
from PIL import Image

from fourmill.infra import ledger, storage
from fourmill.infra.ledger import Record
from fourmill.modalities import Storage
from fourmill.pipelines.worker.reject_run import RejectRun
from fourmill.recipe import Recipe
from fourmill.tokenize import labels as label_files
from fourmill.tokenize import store

FROM_CAPTIONS = {"labels/caption", "tokens/caption"}
FROM_ANYTHING = {"samples", "labels/metadata", "tokens/metadata"}


def keys_of(small_root: SmallRoot, output: str, shard: str) -> list[str]:
    path = small_root.root / output / f"{shard}.parquet"
    if output.startswith("labels/"):
        return label_files.read_labels(str(path))[0]
    keys: list[str] = store.read(str(path)).keys.to_pylist()
    return keys


def test_every_output_of_every_shard_is_there(small_root: SmallRoot) -> None:
    names = {name for name, _ in small_root.records}
    assert len(names) == 13 and len(small_root.records) == 13 * 4


@pytest.mark.parametrize(("shard", "keys"), [("bad", data.BAD_KEYS), ("empty", [])])
def test_rows_never_move(small_root: SmallRoot, shard: str, keys: list[str]) -> None:
    for output, name in small_root.records:
        if name == shard and output != "samples":
            assert keys_of(small_root, output, shard) == keys, output


def test_counts_add_up(small_root: SmallRoot) -> None:
    for (output, shard), record in small_root.records.items():
        if output == "samples":
            continue
        assert record.rows == len(keys_of(small_root, output, shard)) == small_root.records["samples", shard].rows
        assert record.nulls == len(record.rejects) == len({reject["key"] for reject in record.rejects})
        if output.startswith("tokens/"):
            valid = store.read(str(small_root.root / output / f"{shard}.parquet")).valid
            assert int((~valid).sum()) == record.nulls
        else:
            values = label_files.read_labels(str(small_root.root / output / f"{shard}.parquet"))[1]
            assert sum(value is None for value in values) == record.nulls


def test_every_reject_has_its_reason(small_root: SmallRoot) -> None:
    for (output, shard), record in small_root.records.items():
        if shard != "bad":
            continue
        reasons = {reject["key"]: reject["reason"] for reject in record.rejects}
        if output == "samples":
            expected = data.BAD_ENTRIES
        elif output in FROM_CAPTIONS:
            expected = data.BAD_CAPTIONS
        else:
            expected = {} if output in FROM_ANYTHING else data.BAD_IMAGES
        assert list(reasons) == [key for key in (*data.BAD_KEYS, "") if key in expected], output
        assert all(reasons[key].startswith(start) for key, start in expected.items()), (output, reasons)


def test_a_truncated_tar_keeps_what_can_be_read(small_root: SmallRoot) -> None:
    record = small_root.records["samples", "cut"]
    assert 1 <= record.rows < 4
    assert record.rejects[-1]["key"] == "" and "truncated" in record.rejects[-1]["reason"]
    assert keys_of(small_root, "tokens/tok_rgb", "cut") == [f"{i:06d}" for i in range(20, 20 + record.rows)]


def test_values_are_those_of_the_samples(small_root: SmallRoot) -> None:
    captions = dict(zip(*label_files.read_labels(str(small_root.root / "labels/caption/bad.parquet")), strict=True))
    assert captions["attack"] == data.ATTACK
    assert captions["apart"] == "The text of this one comes last."
    assert captions["sidecar"] == "From the sidecar."
    assert len(captions["endless"]) == 100_000
    metadata = dict(zip(*label_files.read_labels(str(small_root.root / "labels/metadata/bad.parquet")), strict=True))
    assert metadata["sidecar"]["original_width"] == 640 and "watermark_score" not in metadata["sidecar"]
    assert metadata["turned"]["original_width"] == 80  # EXIF says it stands on its side
    assert metadata["zero"] == {"caption_n_chars": 20, "caption_n_words": 4, "caption_n_sentences": 1}
    edges = dict(zip(*label_files.read_labels(str(small_root.root / "labels/canny_edge/bad.parquet")), strict=True))
    assert edges["turned"].shape == (120, 80) and not edges["black"].any()
    long = store.read(str(small_root.root / "tokens/caption/bad.parquet"))
    assert len(long.crop(data.BAD_KEYS.index("endless"), 0)) == 256


def test_pixels_are_the_centre_of_the_image(small_root: SmallRoot) -> None:
    column = store.read(str(small_root.root / "tokens/rgb/bad.parquet"))
    crop = Image.open(io.BytesIO(bytes(column.crop(data.BAD_KEYS.index("good"), 0))))
    expected = Image.fromarray(data.picture(40)).crop((12, 0, 108, 96)).resize((64, 64), Image.Resampling.BOX)
    assert crop.size == (64, 64)
    assert np.abs(np.asarray(crop, int) - np.asarray(expected, int)).mean() < 8


@pytest.mark.parametrize(
    "changes",
    [{"engine__batch_size": 1}, {"engine__batch_size": 64, "engine__decode_threads": 1}, {"engine__decode_threads": 7}],
)
def test_batches_and_threads_change_no_byte(small_root: SmallRoot, tmp_path: Path, changes: dict[str, Any]) -> None:
    again(small_root, tmp_path, changes, stored=())
    assert data.columns(tmp_path) == data.columns(small_root.root)


def test_stored_labels_give_the_same_tokens_as_new_ones(small_root: SmallRoot, tmp_path: Path) -> None:
    """The first run of the fixture read its labels from storage; this one makes them again, in the same pass."""
    records = again(small_root, tmp_path, {}, stored=())
    assert data.columns(tmp_path) == data.columns(small_root.root)
    for record in records:
        if record.output in ("tokens/rgb", "tokens/tok_rgb", "samples", "labels/det"):
            assert record.rejects == small_root.records[record.output, record.shard].rejects


def again(small_root: SmallRoot, root: Path, changes: dict[str, Any], stored: tuple[str, ...]) -> list[Record]:
    """Everything at once in another root, with the same tokenizers."""
    shutil.copytree(small_root.root / "tokenizers", root / "tokenizers")
    shutil.copytree(small_root.root / "ledger" / "tokenizers", root / "ledger" / "tokenizers")
    recipe = data.recipe(root, small_root.recipe.samples.train, **changes)
    return data.make(recipe, data.outputs(recipe), stored)


def test_labels_read_from_storage_are_the_ones_used(small_root: SmallRoot, tmp_path: Path) -> None:
    """Marked labels show that tokens really come from storage, their rejects included."""
    again(small_root, tmp_path, {}, stored=())
    shard = "train-00000"
    path = tmp_path / "labels" / "caption" / f"{shard}.parquet"
    keys, captions = label_files.read_labels(str(path))
    captions[0], captions[1] = "another caption altogether", None
    storage = label_files.Storage.JSON
    marked = label_files.encode_labels("caption", storage, keys, captions)
    committed = ledger.read(str(tmp_path), "labels/caption", shard)
    assert committed is not None
    ledger.commit(str(tmp_path), committed, marked)
    for column in ("caption", "tok_canny_edge"):
        (tmp_path / "ledger" / "tokens" / column / f"{shard}.json").unlink()
    recipe = data.recipe(tmp_path, small_root.recipe.samples.train)
    records = {r.output: r for r in data.make(recipe, data.outputs(recipe), stored=("caption", "canny_edge"))}
    assert set(records) == {"tokens/caption", "tokens/tok_canny_edge"}
    assert [reject["key"] for reject in records["tokens/caption"].rejects] == [keys[1]]
    new = store.read(str(tmp_path / "tokens" / "caption" / f"{shard}.parquet"))
    old = store.read(str(small_root.root / "tokens" / "caption" / f"{shard}.parquet"))
    assert new.crop(0, 0).tolist() != old.crop(0, 0).tolist()
    assert new.crop(2, 0).tolist() == old.crop(2, 0).tolist()


def test_stored_labels_of_other_bytes_are_not_mixed(small_root: SmallRoot, tmp_path: Path) -> None:
    """The shard was replaced after the plan. Where its labels cannot be made again it fails, and says what to do."""
    (shard,) = data.good_shards(tmp_path / "s", 1, 3)
    for folder in ("tokenizers", "ledger/tokenizers"):
        shutil.copytree(small_root.root / folder, tmp_path / "out" / folder)
    recipe = data.recipe(tmp_path / "out", [shard])
    data.make(recipe, data.outputs(recipe, tokens=False))
    worker, (task,) = data.worker_of(recipe, data.outputs(recipe), ("caption", "canny_edge"))
    path = Path(shard)
    path.with_suffix(".new").write_bytes(data.tar(data.good_entries(50, 3)))
    path.with_suffix(".new").rename(path)
    del worker.job.specialists["canny_edge"]
    with pytest.raises(ValueError, match="changed since the plan was made; run the same command again"):
        worker.run(task)
    assert not (tmp_path / "out" / "ledger" / "tokens").exists()


def test_records_say_where_and_by_what_they_were_made(small_root: SmallRoot) -> None:
    record = small_root.records["tokens/tok_rgb", "train-00000"]
    others = [one for (_, shard), one in small_root.records.items() if shard == "train-00000"]
    assert record.footer and record.content and {one.keys for one in others} == {record.keys}
    assert {"fourmill", "torch", "device", "host", "time", "attempt"} <= record.made.keys()
    assert record.made["tokenizers"]["tok_rgb"] == {"precision": "fp32"}
    assert len({one.made["attempt"] for one in others}) == 2, "labels, and then columns"


# specialists that misbehave


def odd(tmp_path: Path, count: int = 16, **changes: Any) -> Recipe:
    shard = data.good_shards(tmp_path / "s", 1, count)
    options = {"modalities": ["rgb"], "labels__keep": ["det", "metadata"], "generate__chains": []}
    specialists = {"det": {"specialist": "fourmill_tests.specialists:Odd"}}
    return data.recipe(tmp_path / "out", shard, **(options | {"labels__specialists": specialists} | changes))


def test_bad_label_rejects_that_sample_alone(tmp_path: Path) -> None:
    recipe = odd(tmp_path)
    records = {record.output: record for record in data.make(recipe, data.outputs(recipe, tokens=False))}
    reasons = {reject["key"]: reject["reason"] for reject in records["labels/det"].rejects}
    starts = {
        0: "det: the specialist returned nothing",
        1: "det: not JSON: Out of range float values",
        3: "det: not JSON: Object of type object",
        4: "det: RuntimeError: this image only",
    }
    assert {key: reasons[key].split(" are")[0].split(" is not")[0] for key in reasons} == {
        f"{i:06d}": starts[i % 8] for i in range(16) if i % 8 in starts
    }
    keys, metadata = label_files.read_labels(f"{recipe.root}/labels/metadata/train-00000.parquet")
    assert records["labels/metadata"].nulls == 0
    counts = dict(zip(keys, (value.get("n_humans") for value in metadata), strict=True))
    assert counts["000000"] is None and counts["000005"] == 0 and counts["000006"] == 1


def test_files_say_how_their_label_is_stored(tmp_path: Path) -> None:
    recipe = odd(tmp_path, 2, labels__keep=["canny_edge", "det"])
    records = {record.output: record for record in data.make(recipe, data.outputs(recipe, tokens=False))}
    for name, kind in (("canny_edge", label_files.Storage.IMAGE), ("det", label_files.Storage.JSON)):
        file = Path(recipe.root, "labels", name, "train-00000.parquet").read_bytes()
        assert label_files.read_cells(file)[0] is kind
        assert records[f"labels/{name}"].bytes == len(file)
    assert (records["samples"].bytes, records["samples"].sha256) == (0, "")  # its record is all of it


def test_what_a_sentence_cannot_say_is_null_in_its_column_alone(tmp_path: Path) -> None:
    recipe = odd(tmp_path, 8, modalities=["det"])
    data.fit(recipe)
    records = {record.output: record for record in data.make(recipe, data.outputs(recipe))}
    assert {reject["key"] for reject in records["tokens/det"].rejects} == {f"{i:06d}" for i in (0, 1, 2, 3, 4)}
    (unicorn,) = (reject["reason"] for reject in records["tokens/det"].rejects if reject["key"] == "000002")
    assert "unicorn" in unicorn
    assert "000002" not in {reject["key"] for reject in records["labels/det"].rejects}


def test_a_run_of_rejects_stops_the_job_and_names_shard_and_key(tmp_path: Path) -> None:
    specialists = {"canny_edge": {"specialist": "fourmill_tests.specialists:Failing"}}
    changes = {"labels__keep": ["canny_edge"], "labels__specialists": specialists, "engine__max_reject_run": 3}
    recipe = odd(tmp_path, 6, **changes)
    with pytest.raises(RejectRun, match=r"3 rejects in a row, .* shard train-00000, key 000002: .*weights are broken"):
        data.make(recipe, data.outputs(recipe, tokens=False))
    assert not list(Path(recipe.root).rglob("*.json"))


@pytest.mark.parametrize(
    ("content", "expected"), [(b"", "not a tar"), (b"x" * 2000, "not a tar"), (None, "no such file")]
)
def test_a_shard_that_cannot_be_read_raises_and_leaves_nothing(
    tmp_path: Path, content: bytes | None, expected: str
) -> None:
    recipe = odd(tmp_path, 2)
    outputs = data.outputs(recipe, tokens=False)
    shard = Path(recipe.samples.train[0])
    task = data.Project(recipe).plan(outputs).missing[0]
    shard.unlink() if content is None else shard.write_bytes(content)
    worker = data.ShardWorker(data.Project(recipe).shard_job({}, outputs))
    with pytest.raises((OSError, ValueError), match=expected):
        worker.run(task)
    assert not Path(recipe.root).exists()


def test_records_tell_what_they_stand_for(small_root: SmallRoot) -> None:
    record = json.loads((small_root.root / "ledger/tokens/tok_canny_edge/bad.json").read_text())
    assert record["identity"]["codec"] == "vq" and record["identity"]["crops"]["size"] == 64
    assert record["source"]["size"] == Path(small_root.recipe.samples.train[1]).stat().st_size
    assert record["bytes"] == (small_root.root / "tokens/tok_canny_edge/bad.parquet").stat().st_size


def test_rows_of_another_reading_of_a_tar_are_made_again(tmp_path: Path) -> None:
    """The first release took KEY.image.jpg and KEY.caption.txt for two samples: its labels have other rows."""
    parts = [("0.image.jpg", data.encode(data.picture(0))), ("0.caption.txt", b"a caption")]
    (tmp_path / "s.tar").write_bytes(data.tar(parts))
    recipe = data.recipe(
        tmp_path / "out", str(tmp_path / "s.tar"), modalities=["rgb"], labels__keep=["canny_edge", "caption"],
        generate__chains=[],
    )  # fmt: skip
    outputs = data.outputs(recipe)
    data.make(recipe, outputs)
    root = recipe.root
    for output in ("labels/canny_edge", "labels/caption"):  # as if the first release had made them
        record = ledger.read(root, output, "s")
        assert record is not None
        content = label_files.encode_labels("caption", Storage.JSON, ["0.image", "0.caption"], [None, None])
        storage.delete(ledger.record_url(root, output, "s"))
        ledger.commit(root, replace(record, rows=2, keys=""), content)
    storage.delete(ledger.record_url(root, "tokens/rgb", "s"))
    assert [record.output for record in data.make(recipe, outputs)] == ["tokens/rgb"]
    again = {record.output: record.rows for record in data.make(recipe, outputs)}
    assert again == {"labels/canny_edge": 1, "labels/caption": 1}
