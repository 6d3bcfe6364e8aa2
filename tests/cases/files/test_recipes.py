"""Recipes that do not say what their author means."""

from __future__ import annotations

from pathlib import Path

import pytest
from fourmill_tests.cases import require

from fourmill import recipe as recipes


def test_section_or_field_twice_is_a_mistake(tmp_path: Path) -> None:
    """YAML 1.2 forbids it; PyYAML takes the last one (pyyaml#165, yacs#17)."""
    texts = {
        "train twice": "train:\n  steps: 5000\n  batch_size: 64\nseed: 1\ntrain:\n  base_lr: 2.0e-4\n",
        "labels twice": "labels: {keep: [det]}\nlabels: {keep: [caption]}\n",
        "a field twice": "train: {steps: 5000, base_lr: 1.0e-4, steps: 50}\n",
        "a specialist twice": "labels:\n  specialists:\n    canny_edge: {low: 10}\n    canny_edge: {high: 300}\n",
    }
    taken = []
    for name, text in texts.items():
        (tmp_path / "recipe.yaml").write_text("root: out\nsamples: data/\n" + text)
        try:
            recipes.load(tmp_path / "recipe.yaml")
        except recipes.RecipeError:
            continue
        taken.append(name)
    require(not taken, f"settings are lost without a word: {taken}")


@pytest.mark.parametrize(
    ("part", "overrides", "said"),
    [
        (
            "train: {steps: 5}\ntrain: {steps: 6}\n",
            [],
            "part.yaml: line 2, column 1: train is there twice, first in line 1",
        ),
        ("seed: 1\n", ["train={steps: 5, steps: 6}"], "--set train=.*steps is there twice"),
        ("seed: 1\n", ["seed=1", "seed=2"], "--set seed is there twice, with 1 and with 2; keep one"),
        ("1: a\n'1': b\n01: c\n", [], "line 3, column 1: 1 is there twice, first in line 1"),
    ],
)
def test_names_twice_elsewhere(tmp_path: Path, part: str, overrides: list[str], said: str) -> None:
    (tmp_path / "part.yaml").write_text(part)
    (tmp_path / "recipe.yaml").write_text("include: part.yaml\nroot: out\nsamples: data/\n")
    with pytest.raises(recipes.RecipeError, match=said):
        recipes.load(tmp_path / "recipe.yaml", overrides)


def test_a_merged_mapping_may_be_overridden(tmp_path: Path) -> None:
    text = "root: out\nsamples: data/\ntrain: &t {steps: 5, name: a}\n"
    (tmp_path / "recipe.yaml").write_text(text.replace("&t", "") + "seed: 3\n")
    (tmp_path / "merged.yaml").write_text(
        "root: &r out\nsamples: data/\ntrain: {<<: {steps: 4, name: a}, steps: 5}\nseed: 3\n"
    )
    assert recipes.load(tmp_path / "recipe.yaml") == recipes.load(tmp_path / "merged.yaml")
