"""One small root with good and bad shards, labelled, fitted and tokenized without Ray; shared by the whole session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
