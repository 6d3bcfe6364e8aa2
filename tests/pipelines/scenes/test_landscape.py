"""Tiles of a landscape: what their files hold, that they say something of each other, and how much at best."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml

from fourmill import recipe
from fourmill.pipelines.scenes import shards
from fourmill.pipelines.scenes.landscape import clues, ground, instruments, tile
from fourmill.sensors.sensor import Sensor

OPTIONS = tile.Options(seed=3, size=32)
EXTENSIONS = ["s2.npy", "s1.npy", "dem.tif", "lulc.npy", "ndvi.npy", "spectrum.npy", "json"]


def read(name: str, data: bytes) -> Any:
    if name == "json":
        return json.loads(data)
    return tifffile.imread(io.BytesIO(data)) if name.endswith("tif") else np.load(io.BytesIO(data))


@pytest.fixture(scope="module")
def tiles() -> list[dict[str, Any]]:
    made = [tile.files(OPTIONS, "train", index)[1] for index in range(60)]
    return [{name: read(name, data) for name, data in parts.items()} for parts in made]


def test_members_have_the_types_that_are_documented(tiles: list[dict[str, Any]]) -> None:
    found = {
        name: {(one[name].dtype.name, one[name].shape) for one in tiles if name in one} for name in EXTENSIONS[:-1]
    }
    assert found == {
        "s2.npy": {("uint16", (6, 32, 32))}, "s1.npy": {("float32", (2, 32, 32))}, "dem.tif": {("float32", (32, 32))},
        "lulc.npy": {("uint8", (32, 32))}, "ndvi.npy": {("float32", (52,))}, "spectrum.npy": {("float32", (128,))},
    }  # fmt: skip
    assert all("json" in one and "s2.npy" in one for one in tiles)
    assert 0 < sum("s1.npy" not in one for one in tiles) < 12  # instruments that were not there
    assert any((one["s2.npy"] == 0).any() for one in tiles) and any(np.isnan(one["ndvi.npy"]).any() for one in tiles)
    assert any((one["dem.tif"] == -9999).any() for one in tiles)
    assert np.unique(np.concatenate([one["lulc.npy"].ravel() for one in tiles])).tolist() == [0, 1, 2, 3, 4, 5]
    assert all(((one["s2.npy"] > 0).all(0) | (one["s2.npy"] == 0).all(0)).all() for one in tiles)


def test_instruments_say_something_of_each_other(tiles: list[dict[str, Any]]) -> None:
    cover = np.concatenate([one["lulc.npy"].ravel() for one in tiles if "s1.npy" in one])
    bands = np.concatenate([one["s2.npy"].reshape(6, -1) for one in tiles if "s1.npy" in one], 1) / 1e4
    radar = np.concatenate([one["s1.npy"].reshape(2, -1) for one in tiles if "s1.npy" in one], 1)
    seen = (bands > 0).all(0)
    ndvi = (bands[3] - bands[2]) / np.maximum(bands[3] + bands[2], 1e-6)
    greens, backscatter = ([np.nanmean(values[seen & (cover == of)]) for of in range(6)] for values in (ndvi, radar[1]))
    assert set(np.argsort(greens)[-2:].tolist()) == {1, 3} and greens[0] < greens[2]
    assert backscatter[0] < min(backscatter[1:]) and backscatter[1] > backscatter[2] + 2
    there = [one for one in tiles if "ndvi.npy" in one]
    summer = [np.nanmean(one["ndvi.npy"][24:32]) for one in there]
    assert np.corrcoef(summer, [np.isin(one["lulc.npy"], (1, 2, 3)).mean() for one in there])[0, 1] > 0.7
    flat = [one for one in tiles if (one["dem.tif"] > -9999).all() and (one["lulc.npy"] == 0).sum() > 40]
    assert np.mean([one["dem.tif"][one["lulc.npy"] == 0].mean() < one["dem.tif"].mean() for one in flat]) > 0.8


def test_biomass_is_what_the_rasters_say_and_noise(tiles: list[dict[str, Any]]) -> None:
    """By hand, from the files alone."""
    pairs = []
    for one in (one for one in tiles if "s1.npy" in one):
        bands, cross, high = one["s2.npy"] / 1e4, one["s1.npy"][1].astype(float), one["dem.tif"].astype(float)
        known = (bands > 0).all(0) & np.isfinite(one["s1.npy"]).all(0) & (high > -9999)
        ndvi = (bands[3] - bands[2])[known] / (bands[3] + bands[2])[known]
        density = 330 / (1 + np.exp(-(cross[known] + 14.5) / 1.2)) * ((ndvi - 0.3) / 0.4).clip(0, 1)
        expected = np.mean(5 + density * np.exp(-high[known] / 2500))
        assert one["json"]["expected_mg_ha"] == pytest.approx(expected, rel=1e-5)
        pairs.append((one["json"]["biomass_mg_ha"], expected))
    factors = np.log([found / expected for found, expected in pairs])
    assert 0.17 < factors.std() < 0.33 and abs(factors.mean() + 0.03) < 0.1
    assert np.std([expected for _, expected in pairs]) > 20


def test_the_explainable_share_is_that_of_many_draws() -> None:
    rng = np.random.default_rng(0)
    expected = rng.gamma(2, 30, 400)
    share = instruments.explainable(len(expected), expected.sum(), np.square(expected).sum())
    noisy = np.array([[instruments.biomass(rng, one) for one in expected] for _ in range(60)])
    assert share == pytest.approx(1 - np.mean((noisy - expected) ** 2) / np.mean((noisy - noisy.mean()) ** 2), abs=0.02)


def test_training_and_validation_share_no_place() -> None:
    blocks: dict[str, set[tuple[int, int]]] = {}
    for split in ("train", "val"):
        places = [ground.place(np.random.default_rng(number), split) for number in range(400)]
        blocks[split] = {(int(np.floor(one.lon)), int(np.floor(one.lat))) for one in places}
        assert all(0.09 < one.lon % 1 < 0.91 and 0.09 < one.lat % 1 < 0.91 for one in places)
    assert len(blocks["train"]) > 300 and not blocks["train"] & blocks["val"]


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def test_parallel_tars_have_the_same_files(tmp_path: Path) -> None:
    counts = {"train": 6, "val": 2}
    shards.write(str(tmp_path / "one"), OPTIONS, counts, 4, 1)
    written = shards.write(str(tmp_path / "sets"), replace(OPTIONS, parallel=True), counts, 6, 1)
    assert written.made == ["train-00000.tar", "val-00000.tar"]
    whole = members(tmp_path / "one/train-00000.tar") | members(tmp_path / "one/train-00001.tar")
    sets = {of: members(tmp_path / "sets" / of / "train-00000.tar") for of in tile.SETS}
    assert set(sets["DEM"]) == {f"train-3-{i:07d}.dem.tif" for i in range(6)}
    assert {name: data for one in sets.values() for name, data in one.items()} == whole
    record = json.loads((tmp_path / "sets/landscape.json").read_text())
    expected = [json.loads(data)["expected_mg_ha"] for name, data in whole.items() if name.endswith(".json")]
    assert record["shards"]["train-00000.tar"]["squares"] == pytest.approx(np.square(expected).sum())
    assert written.sums == record["shards"] and 0 < tile.explainable(list(written.sums.values())) < 1


def test_a_set_that_lacks_a_tar_is_made_again(tmp_path: Path) -> None:
    options, counts = replace(OPTIONS, parallel=True), {"train": 3, "val": 1}
    shards.write(str(tmp_path), options, counts, 4, 1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.tar")}
    (tmp_path / "S1/train-00000.tar").unlink()
    assert shards.write(str(tmp_path), options, counts, 4, 1).made == ["train-00000.tar"]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.tar")} == before
    grown = shards.write(str(tmp_path), options, {"train": 5, "val": 1}, 4, 1)
    assert grown.made == ["train-00000.tar", "train-00001.tar"] and grown.sums["train-00000.tar"]["places"] == 4
    with pytest.raises(ValueError, match=r"other options \(parallel True\)"):
        shards.write(str(tmp_path), OPTIONS, {"train": 5, "val": 1}, 4, 1)


def test_the_recipe_declares_what_the_tiles_hold() -> None:
    path = Path(recipe.__file__).parent / "recipes/landscape.yaml"
    stated = yaml.safe_load(path.read_text())["sensors"]
    assert {name: Sensor.model_validate(one) for name, one in stated.items()} == {
        name: Sensor.model_validate(one) for name, one in tile.SENSORS.items()
    }
    assert len(path.read_text().splitlines()) < 90


def seen(size: int, tilt: float, height: float) -> ground.Ground:
    """A meadow that rises to the east by `tilt`, rise over run."""
    level = np.full((size, size), height) + tilt * ground.PIXEL * np.arange(size)
    across = np.full((size, size), tilt)
    flat, some = np.zeros((size, size)), np.full((size, size), 0.5)
    return ground.Ground(
        height=level, slope=np.abs(across), shade=ground._light(flat, across, 150, 45), facing=ground._facing(across),
        warmth=np.full((size, size), 15.0), wet=some, cover=np.full((size, size), ground.GRASS, np.uint8), green=some,
        stock=flat, needles=flat, snow=flat,
    )  # fmt: skip


def test_slopes_show_in_bands_and_radar() -> None:
    """Darker away from the sun, which stands in the south-east; brighter to the radar, which looks from the west."""
    found = {}
    for tilt in (-0.4, 0.0, 0.4):
        rng = np.random.default_rng(5)
        there = seen(48, tilt, 500)
        bands = instruments.bands(rng, there)
        found[tilt] = (bands[:, bands[0] > 0].mean(), np.nanmean(instruments.radar(rng, there)[0]))
    bands, radar = ([found[tilt][i] for tilt in (-0.4, 0.0, 0.4)] for i in range(2))
    assert bands[0] > 1.07 * bands[1] > 1.3 * bands[2]
    assert radar[0] + 1 < radar[1] < radar[2] - 2


def test_trees_and_snow_have_their_line() -> None:
    where = ground.Place(8.5, 46.5, 200)
    mountains = [ground.ground(np.random.default_rng(seed), where, 32) for seed in range(60)]
    height, cover, snow = (np.stack([getattr(one, of) for one in mountains]) for of in ("height", "cover", "snow"))
    assert (height > 2_500).mean() > 0.01
    assert not ((cover == ground.TREES) & (height > 2_000)).any()
    assert ((cover == ground.TREES) & (height < 1_200)).mean() > 0.2
    assert snow[height < 1_800].max() < 0.1 < 0.3 < snow[height > 2_500].mean()
    bare = cover == ground.BARE
    assert bare[height > 2_400].mean() > 0.8 > 0.5 > bare[height < 1_200].mean()


def test_a_fit_on_signs_tells_heights_of_new_places(tiles: list[dict[str, Any]]) -> None:
    """What `explained` says of the places of the fit holds, about, for others: it counts the fit's freedom."""
    rows = []
    for one in (one for one in tiles if "s1.npy" in one):
        part = clues.products(one["s2.npy"], one["s1.npy"], one["dem.tif"])
        if part is not None:
            rows.append(part)
            known = one["dem.tif"] > -9999
            assert part[0, 0] == 1 and part[0, -1] * 1_000 == pytest.approx(one["dem.tif"][known].mean(), rel=1e-5)
    assert len(rows) > 50 and clues.explained(clues.added(rows[:20])) is None
    found = clues.explained(clues.added(rows))
    assert found is not None and 0.3 < found < 0.98
    noise = np.random.default_rng(0).standard_normal((400, len(clues.SIGNS) + 2))
    noise[:, 0] = 1
    assert abs(clues.explained(np.einsum("ni,nj->ij", noise, noise)) or 1) < 0.08
    linear = np.concatenate([noise[:, :-1], noise[:, :-1].sum(1, keepdims=True)], 1)
    assert clues.explained(np.einsum("ni,nj->ij", linear, linear)) == pytest.approx(1)
