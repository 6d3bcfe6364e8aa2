"""An export opens in the programs that it is for, and holds what the root holds; its card names what binds users."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import duckdb
import lance
import mlcroissant
import numpy as np
import pandas
import polars
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml
from fourmill_tests import data, runs
from fourmill_tests.tables import measured

from fourmill.infra import removals
from fourmill.tokenize.open_store import open_store

COLUMNS = "tok_rgb,caption,rgb,labels/depth,labels/det,labels/semseg,labels/caption"
SAMPLES = 6


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards, the last one to validate; the depth of the second is null."""
    folder = tmp_path_factory.mktemp("exported")
    measured.write(folder / "out", 3, SAMPLES, {("labels/depth", 1): lambda rng, value: None})
    for shard in range(3):
        (folder / f"{shard:05d}.tar").write_bytes(data.tar([]))
    recipe = {
        "root": "out",
        "samples": {"train": str(folder / "{00000..00001}.tar"), "val": str(folder / "00002.tar")},
        "modalities": ["tok_rgb", "caption", "rgb"],
        "labels": {"keep": ["depth", "semseg"], "specialists": {"depth": {"weights": "someone/depth"}}},
    }
    (folder / "out/recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "out"


def export(root: Path, to: str, dest: Path, *more: str) -> tuple[int, str, str]:
    columns = () if "--columns" in more else ("--columns", COLUMNS)
    return runs.command("export", str(root), "--to", to, "--out", str(dest), *columns, *more)


@pytest.fixture(scope="module")
def parquet(root: Path) -> Path:
    status, _, err = export(root, "hf", root.parent / "hf")
    assert status == 0, err
    return root.parent / "hf"


def test_parquet_opens_everywhere_and_holds_the_columns(root: Path, parquet: Path) -> None:
    files = f"{parquet}/data/train/*.parquet"
    column = open_store(root).column("tok_rgb", "00001")
    ids = duckdb.sql(f"select tok_rgb from '{files}' where key = '00001-0002'").fetchall()
    assert list(ids[0][0]) == column.values[2, 0].tolist()
    assert polars.scan_parquet(files).select(polars.len()).collect().item() == 2 * SAMPLES
    frame = pandas.read_parquet(parquet / "data/train")
    assert frame["label_depth"].isna().sum() == SAMPLES and frame["shard"].nunique() == 2
    first = frame.iloc[0]
    depth = np.asarray(first["label_depth"]).reshape(first["label_depth_shape"])
    expected = measured.sample(np.random.default_rng(0))["labels/depth"]
    assert (depth == expected.astype(np.float32)).all()
    assert isinstance(json.loads(first["label_det"]), list) and first["rgb"][:2] == b"\xff\xd8"


@pytest.mark.slow
def test_the_hub_loads_the_folder(parquet: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(parquet), cache_dir=str(tmp_path))
    assert {name: split.num_rows for name, split in loaded.items()} == {"train": 2 * SAMPLES, "validation": SAMPLES}
    picture = loaded["train"].cast_column("rgb", datasets.Image())[0]["rgb"]
    assert picture.size == (32, 32)


def test_tars_hold_a_member_for_each_value(root: Path, tmp_path: Path) -> None:
    assert export(root, "webdataset", tmp_path / "wds")[0] == 0
    tars = [str(tmp_path / f"wds/data/train/0000{shard}.tar") for shard in (0, 1)]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [one["__key__"] for one in samples][:2] == ["00000-0000", "00000-0001"] and len(samples) == 2 * SAMPLES
    depth = np.load(io.BytesIO(samples[0]["label_depth.npy"]))
    assert depth.ndim == 2 and depth.dtype == np.float32 and "label_depth.npy" not in samples[-1]
    assert np.load(io.BytesIO(samples[0]["tok_rgb.npy"])).dtype == np.uint16
    assert {"rgb.jpg", "label_semseg.png", "label_caption.txt", "label_det.txt", "json"} <= set(samples[0])


def test_lance_has_each_row_once_however_often_it_is_called(root: Path, tmp_path: Path) -> None:
    dest = tmp_path / "lance"
    assert export(root, "lance", dest)[0] == 0
    (dest / ".fourmill/train/00001.json").unlink()  # as if it was killed between the rows and the note
    assert export(root, "lance", dest)[0] == 0
    table = lance.dataset(str(dest / "train.lance")).to_table(columns=["key", "tok_rgb"])
    assert sorted(table["key"].to_pylist()) == [f"0000{s}-000{r}" for s in (0, 1) for r in range(SAMPLES)]
    status, _, err = export(root, "lance", dest, "--columns", "tok_rgb")
    assert status == 2 and "has other columns" in err


def test_the_card_is_croissant(parquet: Path) -> None:
    card = mlcroissant.Dataset(jsonld=str(parquet / "croissant.json"))
    assert not card.metadata.ctx.issues.errors and not card.metadata.ctx.issues.warnings
    row = next(iter(card.records("val")))
    assert row["val/key"] == b"00002-0000" and len(row["val/tok_rgb"]) == 16


@pytest.mark.parametrize("to", ["webdataset", "lance"])
def test_cards_of_other_formats_are_croissant_too(root: Path, tmp_path: Path, to: str) -> None:
    assert export(root, to, tmp_path / to, "--columns", "tok_rgb")[0] == 0
    card = mlcroissant.Dataset(jsonld=str(tmp_path / to / "croissant.json"))
    assert not card.metadata.ctx.issues.errors and not card.metadata.ctx.issues.warnings


def test_the_card_names_what_is_not_free(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(root, folder)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["labels"]["keep"] += ["human_poses", "imagebind_global"]
    recipe["labels"]["specialists"] = {"depth": {"weights": "someone/depth-large"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    weights = {"weights": "someone/depth-large", "licence": "cc-by-nc-4.0", "commit": "abc"}
    (folder / "ledger/weights").mkdir()
    (folder / "ledger/weights/someone--depth-large.json").write_text(json.dumps(weights))
    for shard in ("00000", "00001", "00002"):
        measured.commit(folder, "labels/imagebind_global", shard, [np.ones(4, np.float16)] * SAMPLES)
        measured.commit(folder, "tokens/tok_depth", shard, [np.ones((1, 16), np.uint16)] * SAMPLES)
    columns = "tok_rgb,tok_depth,labels/depth,labels/imagebind_global"
    status, out, _ = export(folder, "hf", tmp_path / "hf", "--columns", columns, "--licence", "CC-BY-4.0")
    text = (tmp_path / "hf/README.md").read_text()
    assert status == 0 and "label_imagebind_global: imagebind" in out
    warned = text.partition("## To be known before use")[2].partition("## Columns")[0]
    assert [line.split("`")[1] for line in warned.splitlines() if line] == [
        "tok_depth", "label_depth", "label_imagebind_global",
    ]  # fmt: skip
    assert "not for commercial use (cc-by-nc-4.0)" in warned and "CC BY-NC-SA 4.0" in warned
    card = json.loads((tmp_path / "hf/croissant.json").read_text())
    assert card["license"][0] == "CC-BY-4.0" and "cc-by-nc-4.0" in card["license"]
    assert "tok_depth" in card["usageInfo"] and "tok_rgb" not in card["usageInfo"]


def test_licences_of_the_images_are_counted(tmp_path: Path) -> None:
    root = tmp_path / "out"
    keys = [f"{row:04d}" for row in range(3)]
    measured.commit(root, "tokens/tok_rgb", "00000", [np.ones((1, 16), np.uint16)] * 3, keys)
    said = [{"license": "CC-BY-NC 2.0"}, {"license": "CC0"}, {}]
    entries = [(f"{key}.json", json.dumps(info).encode()) for key, info in zip(keys, said, strict=True)]
    (tmp_path / "00000.tar").write_bytes(data.tar(entries))
    recipe = {"root": "out", "samples": str(tmp_path / "00000.tar"), "modalities": ["tok_rgb"]}
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert export(root, "hf", tmp_path / "hf", "--columns", "tok_rgb")[0] == 0
    text = (tmp_path / "hf/README.md").read_text()
    assert "licences of the images: CC-BY-NC 2.0 (1), CC0 (1), not stated (1)" in text
    assert "CC-BY-NC 2.0 is not for commercial use" in text


def test_what_was_removed_stays_out_and_goes_from_an_export(root: Path, tmp_path: Path) -> None:
    folder, dest = tmp_path / "copy", tmp_path / "hf"
    shutil.copytree(root, folder)
    assert export(folder, "hf", dest)[0] == 0
    removals.add(str(folder), ["00001-0002"])
    assert export(folder, "hf", dest)[0] == 0
    keys = [key for path in sorted(dest.rglob("*.parquet")) for key in pq.read_table(path)["key"].to_pylist()]
    assert len(keys) == 3 * SAMPLES - 1 and "00001-0002" not in keys


def test_a_second_export_writes_nothing(root: Path, parquet: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in parquet.rglob("*.parquet")}
    assert export(root, "hf", parquet)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in parquet.rglob("*.parquet")} == before
    path = parquet / "data/train/00000.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])  # another file than was written
    assert export(root, "hf", parquet)[0] == 0 and path.read_bytes() == whole


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--columns", "tok_dept"], "--columns: there is no tok_dept; there are"),
        (["--modalities", "tok_rgb"], "--modalities is of --to ml4m"),
    ],
)
def test_a_mistake_is_a_sentence(root: Path, tmp_path: Path, arguments: list[str], expected: str) -> None:
    status, _, err = export(root, "hf", tmp_path / "x", *arguments)
    assert status == 2 and expected in err and "Traceback" not in err


def test_other_files_are_not_written_over(root: Path, parquet: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    cases: list[tuple[str, Any, str]] = [
        ("hf", tmp_path, "holds other files (mine.txt)"),
        ("hf", root, "is the root itself"),
        ("webdataset", parquet, "holds an export as hf"),
    ]
    for to, dest, expected in cases:
        status, _, err = export(root, to, dest)
        assert status == 2 and expected in err, err
    assert tarfile.is_tarfile(root.parent / "00000.tar")


BRIGHT = "metadata.brightness > 0.5"


def bright(shard: int) -> list[bool]:
    rng = np.random.default_rng(shard)
    return [measured.sample(rng)["labels/metadata"]["brightness"] > 0.5 for _ in range(SAMPLES)]


def copied(root: Path, folder: Path, **changes: Any) -> Path:
    """The root, with a recipe that says more."""
    shutil.copytree(root, folder)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | changes))
    return folder


def test_what_is_trained_on_is_a_column_or_all(root: Path, tmp_path: Path) -> None:
    folder = copied(root, tmp_path / "out", train={"select": BRIGHT}, licence="CC-BY-NC-4.0")
    status, out, err = export(folder, "hf", tmp_path / "hf", "--columns", "tok_rgb")
    expected = [*bright(0), *bright(1)]
    assert status == 0 and f"{sum(expected)} of {len(expected)} training samples are true in the column" in out, err
    assert "images: CC-BY-NC-4.0 is not for commercial use" in out
    table = polars.read_parquet(tmp_path / "hf/data/train/*.parquet")
    assert table["selected"].to_list() == expected and 0 < sum(expected) < len(expected)
    validation = polars.read_parquet(tmp_path / "hf/data/val/*.parquet")
    assert validation["selected"].null_count() == SAMPLES  # nothing is selected there
    assert (
        BRIGHT.replace(">", "&gt;") in (tmp_path / "hf/README.md").read_text()
        or BRIGHT in (tmp_path / "hf/README.md").read_text()
    )
    card = mlcroissant.Dataset(jsonld=str(tmp_path / "hf/croissant.json"))
    assert not card.metadata.ctx.issues.errors
    assert export(folder, "webdataset", tmp_path / "wds", "--columns", "tok_rgb", "--selected")[0] == 0
    tars = [str(tmp_path / f"wds/data/train/0000{shard}.tar") for shard in (0, 1)]
    assert len(list(webdataset.WebDataset(tars, shardshuffle=False))) == sum(expected)
    assert len(list(webdataset.WebDataset(str(tmp_path / "wds/data/val/00002.tar"), shardshuffle=False))) == SAMPLES


def test_another_choice_writes_an_export_again(root: Path, tmp_path: Path) -> None:
    dest = tmp_path / "lance"
    for select, of in ((BRIGHT, bright), ("not (metadata.brightness > 0.5)", lambda n: [not one for one in bright(n)])):
        assert export(root, "lance", dest, "--columns", "tok_rgb", "--select", select)[0] == 0
        table = lance.dataset(str(dest / "train.lance")).to_table(columns=["key"])
        keys = [f"0000{n}-000{row}" for n in (0, 1) for row, one in enumerate(of(n)) if one]
        assert sorted(table["key"].to_pylist()) == keys


def test_a_choice_that_cannot_be_made(root: Path, tmp_path: Path) -> None:
    cases = [
        (root, ["--selected"], "has no train.select; give an expression with --select"),
        (root, ["--select", "aesthetic > 5"], "--select: the label aesthetic is not kept"),
        (root, ["--select", "brightnes > 5"], "--select: there is no label 'brightnes'"),
        (root, ["--select", "metadata.brightness >"], "--select"),
        (root, ["--select", "depth > 1"], "--select: depth is kept as an array"),
    ]
    for folder, arguments, expected in cases:
        status, _, err = export(folder, "hf", tmp_path / "x", "--columns", "tok_rgb", *arguments)
        assert status == 2 and expected in err and "Traceback" not in err, err
    folder = copied(root, tmp_path / "out", train={"select": "aesthetic > 5"})
    status, out, _ = export(folder, "hf", tmp_path / "hf", "--columns", "tok_rgb")
    assert status == 0 and "left out: the column selected: train.select: the label aesthetic is not kept" in out
    assert export(folder, "hf", tmp_path / "y", "--columns", "tok_rgb", "--selected")[0] == 2


def test_ml4m_gets_the_chosen_samples_alone(root: Path, tmp_path: Path) -> None:
    def exported(*more: str) -> tuple[list[str], str]:
        status, out, err = runs.command(
            "export", str(root), "--to", "ml4m", "--out", str(tmp_path), "--modalities", "tok_rgb", *more
        )
        assert status == 0, err
        of_split = {"train": [0, 1], "val": [2]}
        tars = [next(tmp_path.glob(f"{split}/tok_rgb*/0000{n}.tar")) for split, of in of_split.items() for n in of]
        return [name.split(".")[0] for tar in tars for name in tarfile.open(tar).getnames()], out

    def keys(of: dict[int, list[bool]]) -> list[str]:
        return [f"0000{n}-000{row}" for n, rows in of.items() for row, one in enumerate(rows) if one]

    whole = [True] * SAMPLES
    assert exported()[0] == keys({0: whole, 1: whole, 2: whole})
    dark = {n: [not one for one in bright(n)] for n in (0, 1)}
    for select, of in ((BRIGHT, {0: bright(0), 1: bright(1)}), (f"not ({BRIGHT})", dark)):  # written again
        found, out = exported("--select", select)
        assert found == keys(of | {2: whole})  # validation stays whole
        assert f"{sum(map(sum, of.values()))} of {2 * SAMPLES} training samples are selected: {select}" in out
    status, _, err = runs.command("export", str(root), "--to", "ml4m", "--out", str(tmp_path), "--selected")
    assert status == 2 and "has no train.select; give an expression with --select" in err


@pytest.mark.parametrize("to", ["hf", "webdataset"])
def test_where_tiles_lie_is_exported(tmp_path: Path, to: str) -> None:
    """As `fourmill pack` writes it beside them; null of a sample that says nothing."""
    place = {"crs": "EPSG:32633", "transform": [10.0, 0.0, 500_000.0, 0.0, -10.0, 5_300_040.0], "size": [64, 32]}
    measured.write(tmp_path / "out", 1, SAMPLES, {})
    keys = open_store(tmp_path / "out").column("tok_rgb", "00000").keys.to_pylist()
    members = [(f"{key}.json", json.dumps(place if i else {}).encode()) for i, key in enumerate(keys)]
    (tmp_path / "00000.tar").write_bytes(data.tar(members))
    recipe = {"root": "out", "samples": {"train": str(tmp_path / "00000.tar")}, "modalities": ["tok_rgb", "caption"]}
    (tmp_path / "out/recipe.yaml").write_text(yaml.safe_dump(recipe))
    status, _, err = export(tmp_path / "out", to, tmp_path / "there", "--columns", "tok_rgb")
    assert status == 0, err
    if to == "hf":
        found = pq.read_table(tmp_path / "there/data/train/00000.parquet").to_pylist()
        said = {row["key"]: row["georeference"] for row in found}
    else:
        with tarfile.open(tmp_path / "there/data/train/00000.tar") as tar:
            names = [name for name in tar.getnames() if name.endswith(".georeference.txt")]
            said = {name.partition(".")[0]: tar.extractfile(name).read().decode() for name in names}
    assert {key: json.loads(one) for key, one in said.items() if one} == dict.fromkeys(keys[1:], place)
    assert "`georeference` | string | where the frame" in (tmp_path / "there/README.md").read_text()
    assert "there before" in export(tmp_path / "out", to, tmp_path / "there", "--columns", "tok_rgb")[1]
