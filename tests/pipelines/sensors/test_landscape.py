"""A landscape of sensors and no photo: from tars to labels, tokenizers, tokens, 4M, generation and pages."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from fourmill_tests import data, runs, training
from fourmill_tests.earth import ground
from fourmill_tests.tiny import landscape
from rasterio.transform import Affine

from fourmill import recipe as recipes
from fourmill.infra.ledger import Record
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.tokenize import codecs, store
from fourmill.tokenize.sensors import pixels
from fourmill.train.downstream import generation
from fourmill.train.pretrain.weights import load_model

pytestmark = pytest.mark.slow


class Land:
    """A root of two training shards and one of validation, with one label kept."""

    def __init__(self, folder: Path) -> None:
        train = [landscape.write(folder / "s" / f"train-{i}.tar", range(16 * i, 16 * i + 16)) for i in range(2)]
        val = [landscape.write(folder / "s" / "val-0.tar", range(100, 108))]
        self.folder = folder
        self.recipe: Recipe = recipes.parse(
            landscape.recipe(folder, train, val, labels={"keep": ["dem", "lulc", "agb"]})
        )
        self.records: list[Record] = data.make(self.recipe, data.outputs(self.recipe, tokens=False))
        data.fit(self.recipe)
        self.records += data.make(self.recipe, data.outputs(self.recipe, labels=False))
        self.path = folder / "recipe.yaml"
        self.path.write_text(recipes.dump(self.recipe))

    def column(self, name: str, shard: str) -> Any:
        return store.read(str(self.folder / "out" / "tokens" / name / f"{shard}.parquet"))

    def codec(self, name: str) -> Any:
        project = Project(self.recipe)
        (spec,) = [one for one in self.recipe.specs() if one.name == name]
        return codecs.load(spec, project.codec_options(), str(self.folder / "out"))


@pytest.fixture(scope="module")
def land(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Land]:
    with landscape.forgotten():
        yield Land(tmp_path_factory.mktemp("land"))


def test_every_key_is_a_sample_and_gaps_are_ordinary(land: Land) -> None:
    nulls = {(record.output, record.shard): record.nulls for record in land.records}
    assert {name for name, _ in nulls} == {
        "samples", "labels/dem", "labels/lulc", "labels/agb", *(f"tokens/{name}" for name in landscape.MODALITIES),
    }  # fmt: skip
    gaps = sum(number % landscape.GAP == 2 for number in range(16))
    for (name, shard), count in nulls.items():
        assert shard != "train-0" or count == (gaps if name in ("labels/dem", "tokens/tok_dem") else 0), name
    (record,) = [one for one in land.records if (one.output, one.shard) == ("tokens/tok_dem", "train-0")]
    assert record.rows == 16 and record.rejects[0] == {"key": "000002", "reason": "dem: tif: there is none"}


def test_pixels_are_the_bands_that_were_declared(land: Land) -> None:
    crop = land.codec("s2").decode(land.column("s2", "val-0").crop(0, 0))
    true = landscape.scene(100)["s2"][[2, 3]].transpose(1, 2, 0) * 1e-4
    there = (true > 0).all(2)
    assert not there.all()
    np.testing.assert_allclose(crop[there], true[there], atol=2e-3)


def test_a_number_is_one_token_of_its_own_vocabulary(land: Land) -> None:
    column, codec = land.column("agb", "val-0"), land.codec("agb")
    assert column.values.shape == (8, 1, 1) and column.spec.vocab_size == 32
    known = [landscape.scene(number)["biomass"] for number in range(32)]
    for row in range(8):
        true = landscape.scene(100 + row)["biomass"]
        (found,) = codec.decode(column.crop(row, 0))
        if min(known) <= true <= max(known):
            share = abs(np.mean(np.array(known) < found) - np.mean(np.array(known) < true))
            assert share <= 0.1


def test_tokenizers_say_what_they_were_fitted_by(land: Land) -> None:
    config = json.loads((land.folder / "out/tokenizers/tok_dem/config.json").read_text())
    found = config["statistics"]
    trained = [landscape.scene(number)["dem"] for number in range(32) if number % landscape.GAP != 2]
    known = np.array(trained)[np.array(trained) > -9999]
    assert found["unit"] == "m" and 0.98 < found["valid"][0] < 1
    assert abs(found["mean"][0] - known.mean()) < known.std() / 3  # of random crops
    assert config["quality"].keys() >= {"rmse", "mae", "r2"}
    assert json.loads((land.folder / "out/tokenizers/tok_lulc/config.json").read_text())["classes"] == landscape.CLASSES


def test_another_reading_is_another_label(land: Land) -> None:
    before = Project(land.recipe)
    for change, others in (({"scale": 2.0}, True), ({"unit": "km"}, False), ({"stretch": "p1-p99"}, False)):
        sensors = landscape.SENSORS | {"dem": landscape.SENSORS["dem"] | change}
        changed = Project(recipes.parse(land.recipe.model_dump(mode="json") | {"sensors": sensors}))
        prints = changed.label_prints.current
        assert (prints["dem"] != before.label_prints.current["dem"]) is others
        assert prints["lulc"] == before.label_prints.current["lulc"]
    recipes.parse(land.recipe.model_dump(mode="json"))  # as they were


def test_a_model_is_trained_and_generates_without_any_photo(land: Land) -> None:
    losses = training.train(Project(land.recipe).train_job)
    assert losses.step == 6
    project = Project(land.recipe)
    generation.run(project.generate_job, load_model)
    (folder,) = (land.folder / "out").glob("runs/4m/*/generated/*/chain-0")
    assert np.load(folder / "agb" / "0000.npy").shape == (1,)
    assert np.load(folder / "tok_ndvi" / "0000.npy").shape == (24, 2)
    assert len(list((folder / "tok_lulc").glob("*.png"))) == 2
    for number in range(2):  # generated maps go back to the place of their sample
        with rasterio.open(folder / "tok_lulc" / f"{number:04d}.tif") as file:
            about = landscape.place(100 + number)
            np.testing.assert_allclose(tuple(file.transform)[:6], about["transform"], rtol=0, atol=1e-9)
            assert file.crs.to_string() == about["crs"] and file.tags(1)["CLASS_0"] == "water"
    _generates_from_a_file_of_ones_own(land.folder, folder.parents[2])
    for verb in ("view", "report"):
        status, _, said = runs.command(verb, str(land.path))
        assert status == 0, said
    page = (land.folder / "out/gallery.html").read_text()
    assert "Mg/ha" in page and "(dark) to" in page and "water" in page and "cannot be drawn" not in page


def _generates_from_a_file_of_ones_own(folder: Path, run: Path) -> None:
    """From a GeoTIFF of an instrument to maps of the same place, with how much the members of an ensemble differ."""
    about, out = landscape.place(100), folder / "own"
    tif = ground.raster(folder / "mine.tif", landscape.scene(100)["s2"], Affine(*about["transform"]), about["crs"])
    asked = ("--input", f"s2={tif}", "--to", "tok_lulc,agb", "--ensemble", "2", "--seed", "0", "--out", str(out))
    status, _, said = runs.command("generate", str(run), *asked)
    assert status == 0, said
    for name, bands in (("tok_lulc", 1), ("tok_lulc.probability", 4)):
        with rasterio.open(out / "0000" / f"{name}.tif") as file:
            np.testing.assert_allclose(tuple(file.transform)[:6], about["transform"], rtol=0, atol=1e-9)
            assert (file.count, file.width, file.crs.to_string()) == (bands, 32, about["crs"])
    shares = np.load(out / "0000" / "tok_lulc.probability.npy")
    assert set(np.unique(shares)) <= {0, 0.5, 1} and (shares.sum(axis=-1) <= 1).all()  # the rest is of no class
    _generates_a_map_of_a_scene(folder, run)
    assert np.load(out / "0000/agb.npy").dtype == np.float32 and np.load(out / "0000/agb.std.npy").shape == (1,)


def _generates_a_map_of_a_scene(folder: Path, run: Path) -> None:
    """Tiles of a scene that is larger than the model's are blended into one map, with the place of the scene."""
    parts = [landscape.scene(100 + i)["s2"] for i in range(6)]
    pixels = np.concatenate([np.concatenate(parts[i : i + 3], axis=2) for i in (0, 3)], axis=1)[:, :50, :90]
    place = Affine(*landscape.place(7)["transform"])
    tif = ground.raster(folder / "scene.tif", pixels, place, nodata=0)
    asked = (
        "--input",
        f"s2={tif}",
        "--to",
        "tok_lulc",
        "--tile",
        "32",
        "--ensemble",
        "2",
        "--out",
        str(folder / "map"),
    )
    status, said, wrong = runs.command("generate", str(run), *asked)
    assert status == 0 and said.splitlines() == [
        str(folder / f"map/{name}.tif") for name in ("tok_lulc", "tok_lulc.probability")
    ], wrong
    with rasterio.open(folder / "map/tok_lulc.tif") as file:
        assert (file.width, file.height, file.transform) == (90, 50, place)
        ids = file.read(1)
    with rasterio.open(folder / "map/tok_lulc.probability.tif") as file:
        shares = file.read()
        assert (shares.sum(axis=0) < 1 + 1e-5).all() and set(np.unique(ids)) <= {0, 1, 2, 3, 255}
        assert (shares.argmax(axis=0) == ids)[ids < 255].all() and (ids < 255).mean() > 0.5
    status, _, wrong = runs.command("generate", str(run), *asked[:3], "agb", *asked[4:])
    assert status == 2 and "agb is no map" in wrong


def test_the_model_is_evaluated_in_the_units_of_sensors(land: Land) -> None:
    status, _, said = runs.command(
        "evaluate", str(land.path), "--set=evaluate.draws=20", "--set=evaluate.ensemble=2", "--set=evaluate.samples=8"
    )
    assert status == 0, said
    table = json.loads((land.folder / "out/reports/evaluation.json").read_text())
    assert table["inputs"] == ["s2"] and table["classes"] == "lulc" and "tok_s2" in " ".join(table["notes"])
    columns = {one["label"]: one for one in table["columns"]}
    assert list(columns) == ["lulc", "dem", "ndvi", "agb"] and columns["dem"]["unit"] == "m"
    made = {"another", "step", "chain", "ensemble", "bound", "constant"}
    assert set(columns["dem"]["cells"]) == made | {"class_means", "labels"}
    assert set(columns["ndvi"]["cells"]) == made and "rmse spread" in columns["ndvi"]["measures"]
    assert columns["lulc"]["cells"]["labels"]["miou"]["value"] == 1 == columns["agb"]["cells"]["labels"]["r2"]["value"]
    # By hand: what the classes of training say of the heights of validation.
    known = {number: landscape.scene(number) for number in (*range(32), *range(100, 108))}
    whole = {number: np.where(one["dem"] > -9999, one["dem"], np.nan) for number, one in known.items()}
    there = [number for number in range(32) if number % landscape.GAP != 2]
    means = np.array(
        [np.nanmean(np.concatenate([whole[n][known[n]["lulc"] == of] for n in there] + [[np.nan]])) for of in range(4)]
    )
    errors = [means[known[n]["lulc"]] - whole[n] for n in range(100, 108) if n % landscape.GAP != 2]
    rmse = np.sqrt(np.nanmean(np.square(errors)))
    assert columns["dem"]["cells"]["class_means"]["rmse"]["value"] == pytest.approx(rmse, rel=1e-5)
    # By hand: what the tokenizer makes of the true heights.
    codec, keys = land.codec("tok_dem"), land.column("tok_dem", "val-0").keys.to_pylist()
    bound = []
    for row, key in enumerate(keys):
        if int(key) % landscape.GAP != 2:
            bound.append(codec.decode(land.column("tok_dem", "val-0").crop(row, 0))[..., 0] - whole[int(key)])
    found = columns["dem"]["cells"]["bound"]
    assert found["rmse"]["value"] == pytest.approx(np.sqrt(np.nanmean(np.square(bound))), rel=1e-4)
    assert found["mae"]["value"] == pytest.approx(np.nanmean(np.abs(bound)), rel=1e-4)
    likelihoods = json.loads((land.folder / "out/reports/likelihoods.json").read_text())
    assert {(*cell["inputs"], cell["target"]) for cell in likelihoods["cells"]} >= {("s2", "agb"), ("agb", "tok_dem")}
    assert runs.command("report", str(land.path))[0] == 0
    page = (land.folder / "out/report.html").read_text()
    assert "dem: RMSE, m (lower is better)" in page and "mean of each class of lulc" in page


def test_numbers_and_maps_are_predicted_from_any_columns(land: Land, tmp_path: Path) -> None:
    """`fourmill transfer` on the recipe: by hand what a constant is worth."""
    more = ["--epochs=2", "--batch-size=8", "--lr=1e-3"]
    biomass = ["transfer", str(land.path), "--inputs", "s2", "tok_lulc", "tok_ndvi", "--target", "agb"]
    status, out, err = runs.command(*biomass, "--out", str(tmp_path / "agb"), *more)
    assert status == 0, err
    assert "agb, in Mg/ha, from s2, tok_lulc, tok_ndvi: 32 training and 8 validation samples" in out
    said = json.loads((tmp_path / "agb/config.json").read_text())["result"]["rows"]
    known, true = ([landscape.scene(n)["biomass"] for n in numbers] for numbers in (range(32), range(100, 108)))
    rmse = np.sqrt(np.mean((np.mean(known) - np.array(true)) ** 2))
    assert said["constant"]["rmse"]["value"] == pytest.approx(rmse, rel=1e-5)
    assert set(said) == {"constant", "another", "transfer"}
    before = (tmp_path / "agb/model.safetensors").stat().st_mtime_ns
    assert runs.command(*biomass, "--out", str(tmp_path / "agb"), *more)[:2] == (0, out)
    assert (tmp_path / "agb/model.safetensors").stat().st_mtime_ns == before
    heights = ["transfer", str(land.path), "--inputs", "s2", "--target", "dem", "--scratch", "--samples=16"]
    status, out, err = runs.command(*heights, "--out", str(tmp_path / "dem"), *more)
    gaps = [sum(number % landscape.GAP == 2 for number in numbers) for numbers in (range(16), range(100, 108))]
    assert status == 0 and f"{16 - gaps[0]} training and {8 - gaps[1]} validation samples" in out, err
    assert f"({sum(gaps)} samples have no dem, and are left out)" in out
    for arguments, sentence in (
        (["--inputs", "tok_lulc", "--target", "lulc"], "--inputs: tok_lulc is the target, lulc, itself"),
        (["--inputs", "s2", "--target", "agc"], "--target: there is no sensor 'agc'; did you mean 'agb'?"),
        (["--inputs", "s3", "--target", "agb"], "evaluate.inputs: "),
        (["--inputs", "tok_ndvi", "--target", "lulc"], "lulc is a map, and tok_ndvi have no place in it"),
        (["--inputs", "s2"], "--target: it is needed with a recipe"),
    ):
        status, _, err = runs.command("transfer", str(land.path), *arguments, "--out", str(tmp_path / "x"), *more)
        assert status == 2 and sentence in err, err


def test_files_are_explained_where_no_recipe_was_read(land: Land) -> None:
    with landscape.forgotten():
        for name in ("s2", "tok_dem", "agb"):
            status, out, said = runs.command("inspect", str(land.folder / f"out/tokens/{name}/val-0.parquet"))
            assert status == 0 and "has no modality" not in out, said


def test_pixels_of_sensors_are_measured_and_exported(land: Land, tmp_path: Path) -> None:
    """They are bands, and no pictures as those of photos."""
    root = str(land.folder / "out")
    _, out, err = runs.command("stats", root, "--outputs", "tokens/s2")
    assert "tokens/s2" in out and "unreadable" not in out + err
    status, _, err = runs.command("export", root, "--to", "webdataset", "--columns", "s2", "--out", str(tmp_path))
    assert status == 0, err
    (name,) = tmp_path.rglob("*val-0*.tar")
    with tarfile.open(name) as archive:
        (member,) = [one for one in archive if one.name.startswith("000100.s2")]
        file = archive.extractfile(member)
        assert member.name == "000100.s2.npy" and file is not None
        exported = np.load(io.BytesIO(file.read()))
    column = land.column("s2", "val-0")
    of = column.spec
    crops = np.stack([pixels.pixels(column.crop(0, crop), of.length, of.dim) for crop in range(of.crops)])
    np.testing.assert_array_equal(exported, crops.squeeze(0) if of.crops == 1 else crops)


def test_a_plan_before_anything_is_fitted(tmp_path: Path) -> None:
    train = [landscape.write(tmp_path / "s" / "0.tar", range(4))]
    with landscape.forgotten():
        (tmp_path / "recipe.yaml").write_text(json.dumps(landscape.recipe(tmp_path, train, [])))
        status, out, said = runs.command("plan", str(tmp_path / "recipe.yaml"))
        assert status == 0, said
        assert "tok_ndvi" in out and "sensor" in out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sensors": {"s2": {"member": "tif", "band": ["a"]}}}, "sensors.s2.band: no such field; did you mean 'bands'"),
        ({"sensors": {"s2": {"bands": ["a"]}}}, "sensors.s2: say where its values are: member, or column"),
        ({"sensors": {"rgb": {"member": "tif"}}}, "rgb: there is another declaration"),
        ({"modalities": ["s3"]}, "there is no 's3'; did you mean"),
        ({"images": {"trim_borders": True}}, "images.trim_borders: it cuts photos"),
        ({"classes": {"lulc": ["a"]}}, "say the classes in sensors.lulc.classes"),
        ({"tokenizers": {"each": {"agb": {"steps": 5}}}}, "agb: steps has no meaning for numbers"),
    ],
)
def test_recipes_that_are_wrong(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with landscape.forgotten(), pytest.raises(ValueError, match=said):
        recipes.parse(landscape.recipe(tmp_path, ["a.tar"], []) | change)
