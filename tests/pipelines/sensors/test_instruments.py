"""Files of instruments: HDF5, FITS and sound, and what is wrong with some."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import tifffile

from fourmill.pipelines.sensors import checks, readers, sound, values
from fourmill.sensors.parts import Mel
from fourmill.sensors.reading import Reading

CUBE = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4) + 1


def label(data: bytes, unit: str = "", **reading: Any) -> np.ndarray:
    one = Reading.model_validate(reading)
    return values.label(readers.read(data, one, unit), one)


def hdf5(fill: Any = None, **attributes: str) -> bytes:
    import h5py

    sink = io.BytesIO()
    with h5py.File(sink, "w") as file:
        bands = file.create_dataset("sensors/bands", data=CUBE, chunks=(1, 3, 4), compression="gzip")
        bands.attrs.update(attributes)
        file["names"] = np.array([b"a", b"b"])
        file["elsewhere"] = h5py.ExternalLink("/etc/other.h5", "x")
        lacking = file.create_dataset("lacking", (4, 4), "f4", chunks=(2, 4), fillvalue=fill)
        lacking[:2] = 5
    return sink.getvalue()


def fits() -> bytes:
    from astropy.io import fits as files

    image = files.ImageHDU(CUBE.astype(">i2"), name="SCI")
    image.header["BUNIT"], image.header["BLANK"] = "Jy", 3
    flux = files.Column("flux", "6E", unit="nm", array=np.arange(12.0).reshape(2, 6)[:1])
    ragged = files.Column("lines", "PE()", array=np.array([np.arange(2.0)], object))
    redshift = files.Column("z", "1E", array=np.array([0.25]))
    table = files.BinTableHDU.from_columns([flux, ragged, redshift], name="SPEC")
    sink = io.BytesIO()
    files.HDUList([files.PrimaryHDU(), image, table]).writeto(sink)
    return sink.getvalue()


def wav(samples: np.ndarray, rate: int, kind: str = "WAV") -> bytes:
    import soundfile

    sink = io.BytesIO()
    soundfile.write(sink, samples, rate, format=kind)
    return sink.getvalue()


def test_datasets_of_hdf5() -> None:
    found = label(hdf5(units="meters"), "m", member="h5", array="/sensors/bands", bands=["a", "b"])
    np.testing.assert_array_equal(found, CUBE.transpose(1, 2, 0))
    known = label(hdf5(fill=-1), member="hdf5", array="lacking", nodata=-1)
    assert np.isfinite(known[:2]).all() and np.isnan(known[2:]).all()


def test_images_and_tables_of_fits_are_big_endian() -> None:
    for array in ("SCI", "1", None):
        found = label(fits(), "Jy", member="fits", array=array, bands=["a", "b"])
        assert found.dtype == np.dtype("=f4") and np.isnan(found[0, 2, 0]) and found[0, 3, 0] == 4
    series = label(fits(), member="fits", field="flux", kind="series", length=6)
    np.testing.assert_array_equal(series[:, 0], np.arange(6))
    assert label(fits(), member="fits", field="z", kind="scalar") == [0.25]
    with pytest.raises(ValueError, match="expected 1 numbers"):
        label(fits(), member="fits", field="flux", kind="scalar")


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_a_sound_is_a_series_or_its_tones(kind: str) -> None:
    """A tone of 1,000 Hz at half of the full amplitude is -6 dB in the bands around it, at any rate."""
    for rate in (16_000, 44_100):
        seconds = np.arange(rate) / rate
        tone = 0.5 * np.sin(2 * np.pi * 1000 * seconds)
        series = label(wav(tone, rate, kind), member=kind.lower(), kind="series", length=rate)
        np.testing.assert_allclose(series[:, 0], tone, atol=1e-4)
        both = wav(np.stack([tone, 0 * tone], 1), rate, kind)
        found = label(both, member=kind.lower(), mel={}, bands=["left", "right"])
        assert found.shape == (128, 98, 2) and found.dtype == np.float32 and (found[..., 1] == -100).all()
        edges = 1127 * np.log1p(np.array([20, 8000]) / 700)
        centres = 700 * np.expm1(np.linspace(*edges, 130)[1:-1] / 1127)[::-1]
        loudest = int(found[:, 50, 0].argmax())
        assert abs(centres[loudest] - 1000) < 40 and abs(found[loudest, 50, 0] + 6) < 3
    assert label(wav(tone, rate), member="wav", mel={"frames": 64}).shape == (128, 64, 1)


@pytest.mark.parametrize(
    ("data", "reading", "said"),
    [
        (hdf5, {"member": "h5"}, "holds the arrays lacking, names, sensors/bands; say which one"),
        (hdf5, {"member": "h5", "array": "elsewhere"}, "has no array 'elsewhere'"),  # another file is never opened
        (hdf5, {"member": "h5", "array": "names"}, "expected numbers"),
        (hdf5, {"member": "h5", "array": "lacking"}, "1 of 2 chunks are missing, and their fill value 0 is no nodata"),
        (fits, {"member": "fits", "array": "ERR"}, "it has 0 extensions 'ERR', but 1 SCI"),
        (fits, {"member": "fits", "field": "ivar", "kind": "series", "length": 6}, "the table has no column 'ivar'"),
        (fits, {"member": "fits", "field": "lines", "kind": "series", "length": 2}, "arrays of different lengths"),
        (lambda: b"nothing", {"member": "h5", "array": "x"}, "not HDF5"),
        (lambda: b"nothing", {"member": "fits"}, "not FITS"),
        (lambda: b"nothing", {"member": "wav", "mel": {}}, "not sound"),
        (lambda: hdf5()[:-900], {"member": "h5", "array": "sensors/bands"}, "not HDF5"),
        (lambda: wav(np.zeros(100), 16_000), {"member": "wav", "mel": {}}, "shorter than the window of 0.025 s"),
        (lambda: wav(np.zeros(8_000), 8_000), {"member": "wav", "mel": {}}, "of 8000 Hz, in which there is nothing"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(data: Any, reading: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        label(data(), **reading)


def test_sizes_are_checked_before_values_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_BYTES", 64)
    for data, reading in (
        (hdf5(), {"member": "h5", "array": "sensors/bands", "bands": ["a", "b"]}),
        (fits(), {"member": "fits", "bands": ["a", "b"]}),
        (wav(np.zeros(400), 16_000), {"member": "wav", "mel": {}}),
    ):
        with pytest.raises(ValueError, match="expected at most 64"):
            label(data, **reading)


SPELLINGS = (
    ("meter", "m"), ("metres", "Meter"), ("db", "dB"), ("Decibels", "db"), ("degrees_celsius", "degC"),
    ("\u00b0C", "degC"), ("m**2", "m^2"), ("Angstrom", "\u00e5"), ("\u00b5m", "um"),
    ("t/ha", "Mg ha-1"), ("reflectance", "1"),
)  # fmt: skip


def test_units_of_files_and_of_recipes() -> None:
    reading = {"member": "h5", "array": "sensors/bands", "bands": ["a", "b"]}
    for said, declared in (("K", "kelvin"), ("m", ""), ("", "m"), ("1", "unitless"), *SPELLINGS):
        label(hdf5(units=said), declared, **reading)
    label(hdf5(units="DN"), "m", **reading, scale=0.1)  # what is scaled has another unit than its file
    with pytest.raises(ValueError, match="the file says its unit is 'feet', and the recipe says 'm'"):
        label(hdf5(units="feet"), "m", **reading)


@pytest.mark.parametrize("data", [b"II*\0", b"II*\0\x08", b"MM\0*\0\0\0\x08\0\x01", b"II*\0" + b"\xff" * 40])
def test_a_tiff_that_is_cut_off_is_a_sentence(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a TIFF file that can be read"):
        label(data, member="tif")


def test_the_unit_of_a_geotiff_counts() -> None:
    xml = '<GDALMetadata><Item name="UNITTYPE" sample="0" role="unittype">feet</Item></GDALMetadata>'
    file = io.BytesIO()
    tifffile.imwrite(file, np.ones((4, 4), np.float32), extratags=[(42112, 2, None, xml, True)])
    label(file.getvalue(), "ft", member="tif")
    with pytest.raises(ValueError, match="the file says its unit is 'feet', and the recipe says 'm'"):
        label(file.getvalue(), "m", member="tif")


def test_each_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for member, package in (("h5", "h5py"), ("x.fits", "astropy"), ("flac", "soundfile"), ("zarr.zip", "zarr")):
        said = readers.missing_package(member)
        assert package in said and "fourmill[sensors]" in said
    assert not readers.missing_package("profits") and not readers.missing_package("npy")


def test_bands_of_tones_follow_the_scale() -> None:
    """Each is 1 at its centre, and they add up to 1 between the outermost centres."""
    filters = sound._triangles(1 << 16, 16_000, Mel(bins=20))
    tones = np.arange(filters.shape[1]) * 16_000 / (1 << 16)
    low, high = (1127 * math.log1p(hertz / 700) for hertz in (20, 8000))
    centres = 700 * np.expm1(np.linspace(low, high, 22) / 1127)
    inside = (tones >= centres[1]) & (tones <= centres[-2])
    np.testing.assert_allclose(filters.sum(0)[inside], 1, atol=1e-9)
