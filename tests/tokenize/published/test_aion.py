"""AION-1's codecs: parity with polymathic-aion's own classes on recorded numbers, and what a recipe takes of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests.sky import aion as tiny

import fourmill
from fourmill import recipe as recipes
from fourmill.project import Project
from fourmill.recipe import RecipeError
from fourmill.sensors import declared
from fourmill.tokenize import codec, tokenizer
from fourmill.tokenize.networks.spectra import Spectra
from fourmill.tokenize.networks.tables import Table
from fourmill.train.tokenizers import adopt


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return tiny.expected()


def inputs(name: str, expected: dict[str, np.ndarray]) -> np.ndarray:
    begin = f"{name}/weights/"
    lists = [v for k, v in expected.items() if k.startswith(begin) and k.endswith(("_index_to_val", "buckets"))]
    return np.stack([tiny.numbers(f"{name} {i}", one) for i, one in enumerate(lists)], 1)


@pytest.mark.parametrize("name", ["plain", "logarithm", "grid", "several"])
def test_numbers_are_coded_as_its_classes_do(tmp_path: Path, expected: dict[str, np.ndarray], name: str) -> None:
    """Every id, at the very numbers where ids change too; every decoded value, to the bit."""
    model = fourmill.load_tokenizer(tiny.save(name, tmp_path))
    assert isinstance(model, Table)
    x = inputs(name, expected)
    ids = model.encode(torch.from_numpy(x)).numpy()
    assert np.array_equal(ids, expected[f"{name}/ids"].reshape(ids.shape))
    assert len(np.unique(ids)) > 12
    codes = torch.arange(model.config.codebook_size)[:, None].expand(-1, x.shape[1])
    decoded = model.decode(codes).numpy()
    assert np.array_equal(decoded, expected[f"{name}/decoded"].reshape(decoded.shape))


def test_published_files_name_the_quantizer_otherwise(tmp_path: Path) -> None:
    """And older configs do not say where logarithms begin: the modality does."""
    ours = fourmill.load_tokenizer(tiny.save("logarithm", tmp_path / "a"))
    config = {key: value for key, value in tiny.configs()["logarithm"].items() if key != "min_log_value"}
    older = fourmill.load_tokenizer(tiny.save("logarithm", tmp_path / "b", config, prefix="quantizer"))
    assert isinstance(ours, Table) and isinstance(older, Table) and torch.equal(ours.edges, older.edges)
    plain = fourmill.load_tokenizer(tiny.save("logarithm", tmp_path / "c", {**config, "modality": "EBV"}))
    assert isinstance(plain, Table) and not torch.equal(ours.edges, plain.edges)


@pytest.fixture
def flux() -> Iterator[dict[str, Any]]:
    """A recipe of a sensor of one number."""
    yield {
        "samples": "a.tar", "modalities": ["flux"],
        "sensors": {"flux": {"member": "json", "field": "flux_g", "unit": "nmgy"}},
    }  # fmt: skip
    declared.forget("flux")


def test_a_recipe_takes_one_for_its_numbers(
    tmp_path: Path, expected: dict[str, np.ndarray], flux: dict[str, Any]
) -> None:
    folder = tiny.save("logarithm", tmp_path / "codec")
    data = {"root": str(tmp_path / "out"), **flux, "tokenizers": {"each": {"flux": {"weights": str(folder)}}}}
    recipe = Project(recipes.parse(data)).recipe
    (spec,) = recipe.specs()
    assert (spec.vocab_size, spec.max_tokens) == (24, 1)
    facts = adopt.bring("flux", recipe.tokenizer("flux"), 32, str(tmp_path / "kept"))
    assert facts["vocab_size"] == 24 and facts["sha256"] == tokenizer.fingerprint(tmp_path / "kept")
    fitted = codec.FittedTokenizer("flux", str(tmp_path / "kept"), "cpu")
    x = inputs("logarithm", expected)
    assert np.array_equal(fitted.encode(x), expected["logarithm/ids"][:, None])
    assert np.array_equal(fitted.decode(np.arange(24)[:, None]).ravel(), expected["logarithm/decoded"])


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("several", {}, "it is of 3 numbers, flux has 1"),
        ("plain", {"codebook_size": 25}, "its codebook_size is 25, and a list of it has 24 values"),
        ("several", {"compression_fns": ["load"]}, "it compresses by 'load'; known are arcsinh"),
    ],
)  # fmt: skip
def test_one_that_does_not_fit_is_refused(
    tmp_path: Path, flux: dict[str, Any], name: str, change: dict[str, Any], error: str
) -> None:
    folder = tiny.save(name, tmp_path / "codec", tiny.configs()[name] | change)
    data = {"root": str(tmp_path / "out"), **flux, "tokenizers": {"each": {"flux": {"weights": str(folder)}}}}
    with pytest.raises(RecipeError, match=error):
        Project(recipes.parse(data))


def test_a_table_is_no_tokenizer_of_bands(tmp_path: Path) -> None:
    folder = tiny.save("plain", tmp_path / "codec")
    data = {
        "root": str(tmp_path / "out"), "samples": "a.tar", "modalities": ["tok_radar"],
        "sensors": {"radar": {"member": "npy", "bands": ["a"], "unit": "dB"}},
        "tokenizers": {"each": {"tok_radar": {"weights": str(folder)}}},
    }  # fmt: skip
    try:
        with pytest.raises(RecipeError, match="it is a table of quantiles, and tok_radar needs a network"):
            Project(recipes.parse(data))
    finally:
        declared.forget("radar")


@pytest.mark.parametrize("survey", tiny.SURVEYS)
def test_images_are_coded_as_its_class_does(tmp_path: Path, expected: dict[str, np.ndarray], survey: str) -> None:
    bands = tiny.SURVEYS[survey]
    model = tokenizer.load(tiny.save_network("images", tmp_path), said={"bands": bands})
    x = torch.from_numpy(tiny.flux(survey, len(bands)))
    ids = model.encode(x)
    assert ids.shape == (2, 24, 24) and len(ids.unique()) > 50
    assert np.array_equal(ids.flatten(1).numpy(), expected[f"images/ids/{survey}"])
    decoded = model.decode(ids[:1])[..., tiny.SHOWN, tiny.SHOWN].numpy()
    there = expected[f"images/decoded/{survey}"]
    np.testing.assert_allclose(decoded, there, rtol=1e-5, atol=1e-5 * np.abs(there).max())


def test_a_recipe_takes_one_for_its_bands(tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    """Fluxes come to it as they are, in the order of the sensor's bands, whose names say which they are."""
    data: dict[str, Any] = {
        "root": str(tmp_path / "out"), "samples": "a.tar", "modalities": ["tok_sky"], "images": {"size": 96},
        "sensors": {"sky": {"member": "npy", "bands": tiny.SURVEYS["HSC"], "unit": "nmgy"}},
        "tokenizers": {"each": {"tok_sky": {"weights": str(tiny.save_network("images", tmp_path / "codec"))}}},
    }  # fmt: skip
    try:
        recipe = Project(recipes.parse(data)).recipe
        (spec,) = recipe.specs()
        assert (spec.vocab_size, spec.max_tokens) == (240, 576)
        adopt.bring("tok_sky", recipe.tokenizer("tok_sky"), 96, str(tmp_path / "kept"))
        fitted = codec.FittedTokenizer("tok_sky", str(tmp_path / "kept"), "cpu")
        x = tiny.flux("HSC", 5)
        x[0, 2, 5, 7] = np.nan  # no value counts as none, 0
        ids = fitted.encode(np.moveaxis(x, 1, -1))
        assert np.array_equal(ids[1], expected["images/ids/HSC"][1])
        assert np.mean(ids[0] == expected["images/ids/HSC"][0]) > 0.9
        shown = fitted.decode(ids[1:], 24)
        assert shown.shape == (1, 96, 96, 5) and np.isfinite(shown).all()
        data["sensors"]["sky"]["bands"] = ["g", "r", "i", "z"]
        with pytest.raises(RecipeError, match="got the band 'g'; it knows HSC-G, HSC-R"):
            Project(recipes.parse(data))
        data["sensors"]["sky"]["bands"] = ["HSC-G", "DES-R"]
        with pytest.raises(RecipeError, match=r"got bands of two surveys \(HSC-G, DES-R\)"):
            Project(recipes.parse(data))
    finally:
        declared.forget("sky")


def test_spectra_are_coded_as_its_class_does(tmp_path: Path, expected: dict[str, np.ndarray]) -> None:
    """On wavelengths of their own, with gaps, and a dark one."""
    folder = tiny.save_network("spectra", tmp_path)
    model = fourmill.load_tokenizer(folder)
    assert isinstance(model, Spectra)
    x, wavelength = tiny.spectrum()
    ids = model.encode(x, wavelength)
    assert len(ids[:, 1:].unique()) > 8 and len(ids[:, 0].unique()) == 4
    assert np.array_equal(ids.numpy(), expected["spectra/ids"])
    at = torch.from_numpy(wavelength)
    for decoded, name in ((model.decode(ids), "decoded"), (model.decode(ids, at), "decoded there")):
        there = expected[f"spectra/{name}"]
        np.testing.assert_allclose(decoded.numpy(), there, rtol=1e-5, atol=1e-5 * np.abs(there).max())
    with pytest.raises(ValueError, match=r"got spectra \(4, 2, 410\) at 320 wavelengths"):
        model.encode(x)
    with pytest.raises(ValueError, match=r"codec of spectra, which fourmill\.load_tokenizer reads; a recipe takes"):
        tokenizer.read_settings(folder)


def test_a_codec_that_is_not_read_says_so(tmp_path: Path) -> None:
    folder = tiny.save("plain", tmp_path, {"encoder_output_dim": 512})
    with pytest.raises(ValueError, match="it is AION-1's codec of segmentation maps; a recipe takes its codecs of"):
        fourmill.load_tokenizer(folder)
