"""One small root with good and bad shards, labelled, fitted and tokenized without Ray; shared by the whole session."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml

from fourmill import recipe as recipes
from fourmill.infra.ledger import Record
from fourmill.recipe import Recipe

from . import data


@dataclass(frozen=True)
class SmallRoot:
    """A root in FOLDER/out, made from the shards in FOLDER/s: `train-00000` (8 good samples), `bad`, `empty`, `cut`."""

    folder: Path
    recipe: Recipe
    records: dict[tuple[str, str], Record]  # by (output, shard)

    @property
    def root(self) -> Path:
        return self.folder / "out"


CHAIN = {"inputs": ["caption"], "to": [{"target": "det", "max_tokens": 4}]}


def copied(small: SmallRoot, folder: Path, checkpoint_every: int) -> Path:
    """The recipe FOLDER/recipe.yaml on a copy of a small root and its shards in FOLDER/small, which may be changed.

    It asks for one short generation, and 8 steps of training.
    """
    shutil.copytree(small.folder, folder / "small")
    settings = yaml.safe_load((small.root / "recipe.yaml").read_text())
    settings["root"] = str(folder / "small/out")
    settings["samples"]["train"] = [str(folder / "small/s" / Path(url).name) for url in settings["samples"]["train"]]
    settings["generate"] |= {"samples": 1, "chains": [CHAIN]}
    settings["train"] |= {"steps": 8, "checkpoint_every": checkpoint_every}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return folder / "recipe.yaml"


def build(folder: Path) -> SmallRoot:
    """Good samples, one of everything that goes wrong, an empty shard and one that is cut off."""
    shards = data.good_shards(folder / "s", 1, 8)
    contents = {
        "bad": data.tar(data.bad_entries()),
        "empty": data.tar([]),
        "cut": data.tar(data.good_entries(20, 4))[:-15_000],
    }
    for name, content in contents.items():
        (folder / "s" / f"{name}.tar").write_bytes(content)
        shards.append(str(folder / "s" / f"{name}.tar"))
    recipe = data.recipe(folder / "out", shards)
    records = data.make(recipe, data.outputs(recipe, tokens=False))
    data.fit(recipe)
    records += data.make(recipe, data.outputs(recipe, labels=False))
    (folder / "out" / "recipe.yaml").write_text(recipes.dump(recipe))
    return SmallRoot(folder, recipe, {(record.output, record.shard): record for record in records})
