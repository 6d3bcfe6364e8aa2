"""Parquet files as shards: rows are samples, columns are members, and what is wrong is said."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fourmill_tests import data
from fourmill_tests.s3 import S3
from fourmill_tests.sky import galaxies
from fourmill_tests.tiny import landscape

from fourmill import recipe as recipes
from fourmill.infra import storage
from fourmill.infra.configuration import RecipeError
from fourmill.pipelines import patterns, source
from fourmill.pipelines.reject import Reject
from fourmill.pipelines.removal import removal
from fourmill.pipelines.sensors import parallel, places, readers, rows, values
from fourmill.project import Project
from fourmill.sensors.reading import Reading
from fourmill.tokenize import labels


@contextmanager
def opened(path: Path, key: str = "") -> Iterator[source.Shard]:
    with source.open_shard(str(path), path.parent / "scratch", True, key) as shard:
        yield shard


@contextmanager
def table(folder: Path, key: str = "", **columns: Any) -> Iterator[source.Shard]:
    pq.write_table(pa.table(columns), folder / "t.parquet")
    with opened(folder / "t.parquet", key) as shard:
        yield shard


def value(shard: source.Shard, name: str, row: int = 0) -> Any:
    return readers.read(shard.member_bytes(shard.samples[row], name), Reading(column=name))


def reason(shard: source.Shard, name: str, row: int = 0) -> str:
    with pytest.raises(Reject) as error:
        shard.member_bytes(shard.samples[row], name)
    return error.value.reason


def test_a_row_is_a_sample_and_a_column_a_member(tmp_path: Path) -> None:
    galaxies.write(tmp_path / "000.parquet", range(6), compression="zstd")
    with opened(tmp_path / "000.parquet", "object_id") as shard:
        assert [sample.key for sample in shard.samples] == [f"39{i:06d}" for i in range(6)] and shard.is_table
        for row in (5, 0, 3):  # forth, back, and into the other row group
            true = galaxies.galaxy(row)
            found = value(shard, "image.flux", row)
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, true["image"]["flux"])
            assert value(shard, "Z", row) == true["Z"]
        assert shard.info(shard.samples[1])["TYPE"] == "EXP" and "spectrum" not in shard.info(shard.samples[1])
        assert json.loads(shard.member_bytes(shard.samples[0], "image.band")) == galaxies.BANDS
        assert reason(shard, "spectrum.flux", 3) == "spectrum.flux: there is none"
        assert reason(shard, "spectrum.flx") == "spectrum.flx: there is no such column; did you mean 'spectrum.flux'?"
        assert shard.ignored["image.ivar"] == 6 and "Z" not in shard.ignored
    with opened(tmp_path / "000.parquet") as shard:
        assert [sample.key for sample in shard.samples][:2] == ["000-000000", "000-000001"]


def test_lists_of_structs_are_read_as_structs_of_lists(tmp_path: Path) -> None:
    """`datasets` writes the one or the other, by its version."""
    cells = [[{"band": "g", "flux": [[1.0, 2.0]]}, {"band": "r", "flux": [[3.0, 4.0]]}], None]
    kind = pa.list_(pa.struct([("band", pa.string()), ("flux", pa.list_(pa.list_(pa.float32())))]))
    with table(tmp_path, image=pa.array(cells, kind)) as shard:
        np.testing.assert_array_equal(value(shard, "image.flux"), np.array([[[1, 2]], [[3, 4]]], np.float32))
        assert reason(shard, "image.flux", 1) == "image.flux: there is none"


def test_values_of_every_kind(tmp_path: Path) -> None:
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(6, dtype=np.int16).reshape(1, 2, 3))
    with table(
        tmp_path,
        gaps=pa.array([[1, None, 3]], pa.list_(pa.int32())),
        flags=pa.array([[True, False]]),
        half=pa.array([np.array([0.5], np.float16)], pa.list_(pa.float16())),
        fixed=pa.array([[1.0, 2.0]], pa.list_(pa.float64(), 2)),
        tensor=tensor,
        nothing=pa.array([[]], pa.list_(pa.float32())),
        price=pa.array([pa.scalar("1.5").cast(pa.decimal128(4, 2))]),
        day=pa.array([datetime.date(2020, 2, 1)]),
        days=pa.array([[datetime.date(2020, 2, 1)]]),
        raw=pa.array([b"\x00\x01"]),
        word=pa.array(["abc"]).dictionary_encode(),
    ) as shard:
        np.testing.assert_array_equal(value(shard, "gaps"), [1, np.nan, 3])
        assert value(shard, "flags").dtype == bool and value(shard, "half").dtype == np.float16
        np.testing.assert_array_equal(value(shard, "fixed"), [1, 2])
        np.testing.assert_array_equal(value(shard, "tensor"), [[0, 1, 2], [3, 4, 5]])
        assert value(shard, "nothing").shape == (0,) and value(shard, "price") == 1.5
        assert shard.member_bytes(shard.samples[0], "raw") == b"\x00\x01"
        assert shard.member_bytes(shard.samples[0], "word") == b"abc"
        assert json.loads(shard.member_bytes(shard.samples[0], "days")) == ["2020-02-01"]
        assert shard.info(shard.samples[0]) == {"price": 1.5, "day": "2020-02-01", "word": "abc"}


def test_what_is_wrong_with_a_row_is_its_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = pa.array([{"bytes": None, "path": "a.jpg"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    with table(
        tmp_path,
        ragged=pa.array([[[1.0, 2.0], [3.0]]]),
        hole=pa.array([[[1.0, 2.0], None]]),
        text=pa.array(["J1234"]),
        photo=file,
        wide=pa.array([[1.0] * 64]),
    ) as shard:
        assert reason(shard, "ragged") == "ragged: lists of 2 and of 1 values in it, expected equally many"
        assert reason(shard, "hole") == "hole: a list in it is null"
        with pytest.raises(Reject, match="holds the path of a file, and not the file"):
            shard.image(shard.samples[0])
        with pytest.raises(ValueError, match="holds text such as 'J1234', expected numbers; if it holds files"):
            value(shard, "text")
        monkeypatch.setattr("fourmill.pipelines.members.MAX_BYTES", 100)
        assert reason(shard, "wide") == "wide: 512 bytes a row, expected at most 100"


def test_keys_that_are_no_keys(tmp_path: Path) -> None:
    with table(tmp_path, "id", id=pa.array([7, 7, None, 9])) as shard:
        assert [sample.key for sample in shard.samples] == ["7", "9"]
        assert shard.rejects == [("7", "duplicate key: row 1 is ignored"), ("", "id: row 2 has no key")]
    for key, said in (("ident", "no column 'ident' for the keys"), ("z", "holds double, and keys are texts")):
        with pytest.raises(ValueError, match=said), table(tmp_path, key, id=pa.array([1]), z=pa.array([0.5])):
            pass


def test_damage_is_found_where_it_is(tmp_path: Path) -> None:
    path = Path(
        galaxies.write(
            tmp_path / "0.parquet", range(8), write_page_checksum=True, compression="none", use_dictionary=False
        )
    )
    whole = path.read_bytes()
    at = pq.ParquetFile(path).metadata.row_group(0)
    (chunk,) = [at.column(i) for i in range(at.num_columns) if at.column(i).path_in_schema == "Z"]
    spoilt = bytearray(whole)
    spoilt[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 255
    path.write_bytes(spoilt)
    with opened(path) as shard:
        assert "rows are damaged" in reason(shard, "Z")
        assert value(shard, "Z", 7) == galaxies.galaxy(7)["Z"]
        assert shard.info(shard.samples[0]) == {} and "damaged" in shard.rejects[0][1]
        np.testing.assert_array_equal(value(shard, "image.flux"), galaxies.galaxy(0)["image"]["flux"])
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"0\.parquet: not Parquet that can be read"), opened(path):
        pass


def test_few_rows_are_in_memory_and_threads_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_BATCH_BYTES", 3 * 8 * 100)
    cells = pa.array([[float(i)] * 100 for i in range(200)])
    with table(tmp_path, flux=cells) as shard, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: value(shard, "flux", row)[0], [*range(200), 5, 150]))
        assert found == [*range(200), 5, 150]
        (window,) = shard._contents._windows.values()  # type: ignore[attr-defined]
        assert sum(batch.num_rows for _, batch in window._kept) <= 3 * rows._KEPT


def test_names_of_files_that_are_shards(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", "README.md"):
        (tmp_path / name).write_bytes(b"")
    assert source.expand(str(tmp_path)) == [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]
    (tmp_path / "c.tar").write_bytes(b"")  # img2dataset leaves a table beside each tar
    assert source.expand(str(tmp_path)) == [str(tmp_path / "c.tar")]
    assert source.expand("s3://b/{0..1}.parquet") == ["s3://b/0.parquet", "s3://b/1.parquet"]
    assert patterns.stem("s3://b/train-00.parquet") == "train-00"
    assert places.aligned({"a": ["x/0.tar"], "b": ["y/0.parquet"]}) == [
        places.join({"a": "x/0.tar", "b": "y/0.parquet"})
    ]


def recipe(folder: Path, train: Any, **changes: Any) -> dict[str, Any]:
    settings = landscape.recipe(folder, [], [], sensors=galaxies.SENSORS, labels={"keep": list(galaxies.SENSORS)})
    return settings | {
        "samples": {"train": train, "key": "object_id"}, "generate": {},
        "tokenizers": {"common": settings["tokenizers"]["common"]},
        "modalities": ["image", "tok_image", "tok_spectrum", "redshift"], "images": {"size": 24, "patch_size": 8},
        **changes,
    }  # fmt: skip


def test_labels_of_a_remote_table_and_its_records(tmp_path: Path, s3: S3) -> None:
    galaxies.write(tmp_path / "000.parquet", range(8))
    url = f"{s3.bucket('sky-rows')}/000.parquet"
    storage.put(url, (tmp_path / "000.parquet").read_bytes())
    with landscape.forgotten():
        one = recipes.parse(recipe(tmp_path, [url]))
        records = {r.output: r for r in data.make(one, data.outputs(one, tokens=False))}
    assert records["labels/spectrum"].nulls == 2 and records["labels/image"].nulls == 0
    assert records["labels/spectrum"].rejects[0] == {
        "key": "39000003", "reason": "spectrum: spectrum.flux: there is none"
    }  # fmt: skip
    assert {record.shard for record in records.values()} == {"000"}
    assert "no specialist reads .image.band (8), .image.ivar (8)" in records["samples"].rejects[-1]["reason"]
    keys, found = labels.read_labels(str(tmp_path / "out/labels/image/000.parquet"))
    assert keys[2] == "39000002"
    np.testing.assert_array_equal(found[2], galaxies.galaxy(2)["image"]["flux"].transpose(1, 2, 0))


def test_tables_and_tars_beside_each_other(tmp_path: Path) -> None:
    """Joined by their keys, in whatever order they lie."""
    galaxies.write(tmp_path / "a" / "0.parquet", [3, 1, 2])
    name, member = "39000002.extra.npy", landscape.npy(np.arange(4.0))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "0.tar").write_bytes(data.tar([(name, member)]))
    place = places.join({"a": str(tmp_path / "a/0.parquet"), "b": str(tmp_path / "b/0.tar")})
    with parallel.open_shard(place, tmp_path, key="object_id") as shard:
        sample = next(one for one in shard.samples if one.key == "39000002")
        assert shard.member_bytes(sample, "b/extra.npy") == member
        np.testing.assert_array_equal(
            readers.read(shard.member_bytes(sample, "a/image.flux"), Reading(column="image.flux")),
            galaxies.galaxy(2)["image"]["flux"],
        )
        assert shard.rejects == [("", "b: 2 of 3 samples are not in its tar")]


def test_another_column_of_keys_is_another_output(tmp_path: Path) -> None:
    path = galaxies.write(tmp_path / "0.parquet", range(2))
    with landscape.forgotten():
        by_id = Project(recipes.parse(recipe(tmp_path, [path])))
        by_row = Project(recipes.parse(recipe(tmp_path, [path], samples={"train": [path]})))
        assert by_id.label_prints.current["image"] != by_row.label_prints.current["image"]
        assert by_id.label_outputs["samples"].fingerprint != by_row.label_outputs["samples"].fingerprint
        with pytest.raises(RecipeError, match=r"sensors\.image: say where its values are: member, or column"):
            recipes.parse(recipe(tmp_path, [path], sensors={"image": {"bands": ["g"]}}))


def test_photos_and_their_captions(tmp_path: Path) -> None:
    """As Hugging Face `datasets` write them; a preview of another name is no photo."""
    pictures = [data.encode(data.picture(i), kind) for i, kind in enumerate(("JPEG", "PNG"))]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    files = pa.array([{"bytes": one, "path": None} for one in pictures], kind)
    with table(tmp_path, preview=files, image=files, text=pa.array(["a cat", None])) as shard:
        assert [shard.image(sample) for sample in shard.samples] == pictures
        assert [shard.caption(sample) for sample in shard.samples] == ["a cat", None]
        assert set(shard.samples[0].members) == {"json", "jpg"} and shard.ignored == {"preview": 2}
    one = data.recipe(
        tmp_path / "r",
        [str(tmp_path / "t.parquet")],
        modalities=["color_palette"],
        generate={},
        labels={"keep": ["color_palette"]},
    )
    (record,) = data.make(one, {"labels/color_palette": data.outputs(one, tokens=False)["labels/color_palette"]})
    assert (record.rows, record.nulls) == (2, 0)


def test_rows_are_removed_by_their_url(tmp_path: Path) -> None:
    """And are called by their keys, whatever these are."""
    urls = [f"https://sky.org/{i}" for i in range(3)]
    pq.write_table(pa.table({"id": ["a", "b", "c"], "url": urls, "x": [1, 2, 3]}), tmp_path / "t.parquet")
    root = str(tmp_path / "root")
    outcome = removal.run(root, [], urls[1:2], {"t": str(tmp_path / "t.parquet")}, str(tmp_path), (True, "id"))
    assert outcome.found == {"t": {"b"}} and not outcome.unread


@pytest.mark.parametrize("listed", [True, False], ids=["list of structs", "struct of lists"])
def test_catalogues_lie_in_structs(tmp_path: Path, listed: bool) -> None:
    sky: list[Any] = [[{"x": 1.0, "mag": 20.0}, {"x": 2.0, "mag": None}], [{"x": 3.0, "mag": 22.0}], None]
    if not listed:
        sky = [None if one is None else {name: [row[name] for row in one] for name in ("x", "mag")} for one in sky]
    reading = Reading(column="sky", fields=["x", "mag"], kind="catalogue", rows=5)
    with table(tmp_path, sky=pa.array(sky), taken=pa.array([datetime.datetime(2021, 5, 3, 10), None, None])) as shard:
        found = [shard.member_bytes(sample, "sky") for sample in shard.samples[:2]]
        assert values.label(readers.read(found[0], reading), reading) == [{"x": 1, "mag": 20}, {"x": 2, "mag": None}]
        assert values.label(readers.read(found[1], reading), reading) == [{"x": 3, "mag": 22}]
        assert reason(shard, "sky", 2) == "sky: there is none"
        assert "sky" not in shard.ignored and shard.problems({"sky", "taken"}) == []
        when = Reading(column="taken", kind="time", hour=True)
        assert values.label(readers.read(shard.member_bytes(shard.samples[0], "taken"), when), when)["hour"] == 10
