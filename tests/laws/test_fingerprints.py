"""A new option at its default changes no fingerprint: those of e78cebb, the first release, still hold.

fingerprints.json was written by the code of that commit. A corrected label raises the version of its specialist; then
its lines in that file are replaced, in the same commit, and the message says why.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fourmill import recipe as recipes
from fourmill.infra.fingerprint import fingerprint, hashed
from fourmill.modalities import MODALITIES, TEXT
from fourmill.pipelines.outputs import Fitted
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.train import settings as train_settings
from fourmill.train.data import order

ROOT = Path(__file__).parents[2]
RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "fingerprints.json").read_text())


def _load(name: str) -> Recipe:
    match name:
        case "defaults":
            return recipes.parse({"root": "out", "samples": "a.tar"})
        case "every modality":
            every = [name for name in MODALITIES if name in RECORDED["every modality"]["modalities"]]
            return recipes.parse({"root": "out", "samples": "a.tar", "modalities": every, "generate": {"chains": []}})
        case _:
            return recipes.load(ROOT / name, ["root=out", "samples.train=a.tar", "samples.val=[]"])


def _fingerprints(recipe: Recipe) -> dict[str, Any]:
    """All that is hashed for a recipe, with tokenizers that are fitted to fixed contents."""
    project = Project(recipe)
    fitted = {}
    for name in project.fit_fingerprints:
        size = recipe.tokenizers.text.vocab_size if name == TEXT else recipe.tokenizer(name).codebook_size
        fitted[name] = Fitted(f"fitted-{name}", size)
    project.fitted = fitted
    outputs = project.label_outputs | project.token_outputs
    settings = hashed(recipe.train, train_settings.OPERATIONS | train_settings.DERIVED)
    specs = [output.spec.plain() for output in outputs.values() if output.spec]
    return {
        "modalities": list(recipe.modalities),
        "labels": project.label_prints.current,
        "outputs": {name: output.fingerprint for name, output in outputs.items()},
        "fits": project.fit_fingerprints,
        "train": fingerprint("train", order.FORMAT, settings, specs, recipe.seed),
    }


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_fingerprints_are_those_of_the_first_release(name: str) -> None:
    assert _fingerprints(_load(name)) == RECORDED[name]
