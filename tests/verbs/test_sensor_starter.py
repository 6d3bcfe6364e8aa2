"""`init` on shards without photos writes the section of sensors, with what it saw, and the recipe runs."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import yaml
from fourmill_tests import runs
from fourmill_tests.sky import galaxies
from fourmill_tests.tiny import landscape

from fourmill import recipe as recipes
from fourmill.project import Project


def test_init_finds_sensors(tmp_path: Path) -> None:
    landscape.write(tmp_path / "s" / "000.tar", range(8))
    with landscape.forgotten():
        status, text, said = runs.command("init", f"--samples={tmp_path}/s/", f"--root={tmp_path}/out", "--for=cpux2")
        assert status == 0, said
        found = yaml.safe_load(text)
        assert found["sensors"] == {
            "s2": {"member": "s2.npy", "bands": ["b1", "b2", "b3", "b4"]},
            "tif": {"member": "tif", "nodata": -9999.0},
            "lulc": {"member": "lulc.npy", "classes": [f"class {i}" for i in range(4)]},
            "ndvi": {"member": "ndvi.npy", "kind": "series", "length": 24, "bands": ["b1", "b2"]},
            "biomass_mg_ha": {"member": "json", "field": "biomass.mg_ha"},
        }
        assert found["images"]["size"] == landscape.SIDE and found["modalities"][0] == "s2"
        assert "uint16 (4, 32, 32) in 8 of 8 samples" in text and "are 0: nodata?" in text
        assert "float32 (32, 32) in 6 of 8 samples" in text
        Project(recipes.parse(found))


def test_init_finds_sets_and_names_what_it_does_not_understand(tmp_path: Path) -> None:
    for name, members in (("optical", ("s2.npy",)), ("terrain", ("tif",))):
        landscape.write(tmp_path / name / "000.tar", range(4), *members)
    with tarfile.open(tmp_path / "optical" / "000.tar", "a") as tar:
        for name, content in (("000000.flux.npy", landscape.npy(np.arange(5000.0))), ("000000.cloud.xyz", b"?")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    sets = [f"{name}={tmp_path}/{name}/" for name in ("optical", "terrain")]
    with landscape.forgotten():
        status, text, said = runs.command("init", "--samples", *sets, f"--root={tmp_path}/out", "--for=cpux2")
        assert status == 0, said
        found = yaml.safe_load(text)
        assert found["samples"]["train"] == {name: f"{tmp_path}/{name}/" for name in ("optical", "terrain")}
        assert found["sensors"]["s2"]["from"] == "optical"
        assert found["sensors"]["terrain"] == {"from": "terrain", "member": "tif", "nodata": -9999.0}
        assert found["sensors"]["flux"] == {"from": "optical", "member": "flux.npy", "kind": "series", "length": 5000}
        assert "optical/cloud.xyz, 1 of 4 samples: nothing reads such a file" in text
        Project(recipes.parse(found))


def test_init_finds_columns_of_parquet(tmp_path: Path) -> None:
    galaxies.write(tmp_path / "s" / "train-000.parquet", range(8))
    with landscape.forgotten():
        status, text, said = runs.command("init", f"--samples={tmp_path}/s/", f"--root={tmp_path}/out", "--for=cpux2")
        assert status == 0, said
        found = yaml.safe_load(text)
        assert found["samples"]["key"] == "object_id" and found["modalities"][0] == "image_flux"
        assert found["sensors"] == {
            "image_flux": {"column": "image.flux", "bands": galaxies.BANDS, "weight": "image.ivar"},
            "spectrum_flux": {
                "column": "spectrum.flux",
                "kind": "series",
                "length": galaxies.LENGTH,
                "weight": "spectrum.ivar",
            },
            "z": {"column": "Z", "kind": "scalar"},
        }
        assert "float32 (96,) in 6 of 8 samples" in text and "name the bands" not in text
        for left in ("TYPE, 8 of 8 samples: the column holds text such as 'EXP'", "ZWARN, bool () in 8 of 8 samples"):
            assert left in text
        Project(recipes.parse(found))


def test_init_puts_series_with_axes_of_their_own_on_a_grid(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number in range(4):
            wave = np.linspace(400 + number, 700, 90 + number % 2)
            for name, array in (("flux", np.sin(wave)), ("ivar", wave / wave), ("wavelength", wave)):
                content = landscape.npy(array)
                entry = tarfile.TarInfo(f"{number:04d}.{name}.npy")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    with landscape.forgotten():
        status, text, said = runs.command(
            "init", f"--samples={tmp_path}/0.tar", f"--root={tmp_path}/out", "--for=cpux2"
        )
        assert status == 0, said
        found = yaml.safe_load(text)
        assert found["sensors"] == {
            "flux": {
                "member": "flux.npy", "kind": "series", "weight": "ivar.npy", "axis": {"wavelength": "wavelength.npy"},
                "grid": {"from": 400.0, "to": 700.0, "points": 90},
            }
        }  # fmt: skip
        assert Project(recipes.parse(found)).specialists["flux_weight"].reads()
