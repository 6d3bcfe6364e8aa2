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
