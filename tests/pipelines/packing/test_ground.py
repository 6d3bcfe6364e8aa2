"""Many files and many areas: found by place as one by one, and cut in the order in which they lie."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourmill.pipelines.engine.job import Hints
from fourmill.pipelines.geo import georeference
from fourmill.pipelines.geo.georeference import Georeference, Transform
from fourmill.pipelines.packing.files import Info
from fourmill.pipelines.packing.overlaps import Listed
from fourmill.pipelines.packing.settings import Pack
from fourmill.pipelines.packing.tiles import Area, Tile
from fourmill.pipelines.packing.worker import PackJob, PackWorker, Task


def info(number: int, transform: Transform, crs: str = "EPSG:32633") -> Info:
    return Info(f"{number}.tif", (1, 64, 48), "uint8", georeference=Georeference(crs, transform))


def test_files_are_found_by_place_as_one_by_one() -> None:
    rng = np.random.default_rng(0)
    infos = []
    for number in range(60):
        x, y = rng.uniform(400_000, 404_000), rng.uniform(5_200_000, 5_204_000)
        turned = (6.0, 8.0, x, 8.0, -6.0, y) if number % 5 == 0 else (10.0, 0.0, x, 0.0, -10.0, y)
        infos.append(info(number, turned, "EPSG:32632" if number % 7 == 0 else "EPSG:32633"))
    listed = Listed([("", one) for one in infos])
    for _ in range(40):
        place = Georeference("EPSG:32633", (10.0, 0.0, rng.uniform(399_000, 404_000), 0.0, -10.0, 5_202_000.0))
        expected = [
            one
            for one in infos
            if one.georeference
            and georeference.covering_window(one.georeference, one.shape[1:], place, 64, 64, 0) is not None
        ]
        assert listed.there(place, 64, 64) == expected


def test_files_are_found_by_the_name_of_their_area() -> None:
    one, other = info(0, (1, 0, 0, 0, -1, 0)), info(1, (1, 0, 0, 0, -1, 0))
    listed = Listed([("a b", one), ("", other)])
    assert listed.named == {"a-b": [one]} and listed.others == [other]


class _Noted(PackWorker):
    """What is cut is a tile's key; in which order is noted."""

    def __init__(self, job: PackJob) -> None:
        super().__init__(job)
        self.order: list[tuple[int, int, int]] = []

    def _tile(self, area: Area, tile: Tile) -> tuple[dict[str, bytes], list[str]]:
        self.order.append((tile.area, tile.row, tile.col))
        return ({"json": tile.key.encode()}, []) if tile.col else ({}, [])


def test_tiles_are_cut_as_they_lie_and_written_mixed(tmp_path: Path) -> None:
    described: Any = {"out": str(tmp_path), "layers": {"dem": {"files": "*.tif"}}, "size": 8}
    worker = _Noted(PackJob(Pack.model_validate(described), {"dem": 8}, {}, ""))
    tiles = [Tile(f"{area}_{row}_{col}", area, col, row) for area in (0, 1) for row in range(4) for col in range(4)]
    mixed = tuple(tiles[i] for i in np.random.default_rng(1).permutation(len(tiles)))
    areas = {number: Area(str(number), None, (0, 0), (4, 4), {}) for number in (0, 1)}
    stats = worker.run(Task("train-00000", mixed, areas), Hints())
    assert worker.order == sorted(worker.order)
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "train-00000.tar").read_bytes())) as tar:
        assert tar.getnames() == [f"{tile.key}.json" for tile in mixed if tile.col]
        member = tar.extractfile(tar.getnames()[3])
        assert member is not None and member.read().decode() == tar.getnames()[3].removesuffix(".json")
    assert stats.tiles == 24 and sum(stats.left_out.values()) == 8


def test_some_files_without_a_georeference_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rasterio = pytest.importorskip("rasterio")
    from fourmill.pipelines.packing import plan

    monkeypatch.chdir(tmp_path)
    place = rasterio.transform.from_origin(0, 640, 10, 10)
    for name, where in (
        ("s2", {"crs": "EPSG:32633", "transform": place}),
        ("a", {"crs": "EPSG:32633", "transform": place}),
        ("b", {}),
    ):
        with rasterio.open(
            f"{name}.tif", "w", driver="GTiff", width=64, height=64, count=1, dtype="uint8", **where
        ) as out:
            out.write(np.ones((1, 64, 64), np.uint8))
    pack = Pack.model_validate({
        "out": "tiles", "size": 32, "split": {"val": 0, "guard": 0},
        "layers": {"s2": {"files": "s2.tif"}, "dem": {"files": ["a.tif", "b.tif"]}},
    })  # fmt: skip
    with pytest.raises(ValueError, match=r"layers.dem: .*b.tif has no georeference, and others have; give it one"):
        plan.make(pack)
