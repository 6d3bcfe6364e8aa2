"""recipes/terramesh.yaml, galaxies.yaml and landscape.yaml need paths alone, and have the published sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from fourmill_tests.tiny import landscape

from fourmill import recipe
from fourmill.modalities import Kind

FOLDER = Path(recipe.__file__).parent / "recipes"


def test_terramesh_has_terraminds_tokenizers() -> None:
    with landscape.forgotten():
        made = recipe.load(str(FOLDER / "terramesh.yaml"), ["root=out"])
        specs = {spec.name: spec for spec in made.specs()}
        assert {name: specs[name].vocab_size for name in specs if specs[name].kind is Kind.GRID} == {
            "tok_s2": 15_360, "tok_s1": 15_360, "tok_dem": 15_360, "tok_ndvi": 15_360, "tok_lulc": 4_375,
        }  # fmt: skip
        assert {spec.max_tokens for spec in specs.values()} == {196} and specs["s2"].input_dim == 12 * 16 * 16
        assert made.sensors["lulc"].width == 1 and len(made.sensors["lulc"].class_names) == 10
        assert len(made.samples.train["S1RTC"]) == 1 and set(made.samples.val) == set(made.samples.train)
        assert "rgb" not in specs


def test_galaxies_have_the_codes_of_aion() -> None:
    with landscape.forgotten():
        made = recipe.load(str(FOLDER / "galaxies.yaml"), [])
        specs = {spec.name: (spec.vocab_size, spec.max_tokens) for spec in made.specs()}
        assert specs["tok_image"] == (10_000, 576) and specs["tok_spectrum"] == (1_024, 272)
        assert {specs[name] for name in specs if not name.startswith("tok_")} == {(1_024, 1)}


@pytest.mark.parametrize("name", ["terramesh", "galaxies", "landscape"])
def test_recipes_of_sensors_are_short(name: str) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert max(map(len, lines)) <= 120 and len(lines) <= 85
    with landscape.forgotten():
        made = recipe.load(str(FOLDER / f"{name}.yaml"), [])
        assert made.evaluate.inputs and set(made.evaluate.inputs) <= set(made.modalities)
