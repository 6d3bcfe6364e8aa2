"""Recipes that do not say what their author means."""

from __future__ import annotations

from pathlib import Path

from fourmill_tests.cases import NOTHING_WRONG, mended_by, require

from fourmill import recipe as recipes


@mended_by(NOTHING_WRONG)
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
