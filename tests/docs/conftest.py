"""The guides as what they hold: fenced blocks and commands; and a small root to try them on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from fourmill_tests import data

from fourmill import recipe as recipes
from fourmill.infra.ledger import Record
from fourmill.recipe import Recipe

DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True)
class Guide:
    """One page of docs/."""

    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def blocks(self, language: str) -> list[str]:
        """The fenced blocks of a language, in order."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)

    def block(self, language: str, first_line: str) -> str:
        """The only block that begins with this line."""
        (found,) = [block for block in self.blocks(language) if block.startswith(first_line + "\n")]
        return found


@pytest.fixture(scope="session")
def guide() -> Callable[[str], Guide]:
    """A page by its path below docs/ without suffix, or by its name alone."""
    return lambda name: Guide(next(DOCS.rglob(f"{name}.md")))


@dataclass(frozen=True)
class Milled:
    """A root in FOLDER/out, made without Ray from the shards in FOLDER/s."""

    folder: Path
    recipe: Recipe
    records: list[Record]


@pytest.fixture(scope="session")
def milled(tmp_path_factory: pytest.TempPathFactory) -> Milled:
    """Good shards and bad ones: labelled, fitted, tokenized. Look, and do not write below its root."""
    folder = tmp_path_factory.mktemp("docs")
    shards = data.good_shards(folder / "s", 1, 8)
    contents = {
        "bad": data.tar(data.bad_entries()),
        "empty": data.tar([]),
        "cut": data.tar(data.good_entries(20, 4))[:-15_000],
    }
    for name, content in contents.items():
        (folder / "s" / f"{name}.tar").write_bytes(content)
        shards.append(str(folder / "s" / f"{name}.tar"))
    modalities = ["rgb", "tok_rgb", "color_palette", "metadata", "caption", "det"]
    labels = ["canny_edge", "caption", "color_palette", "det", "metadata"]
    recipe = data.recipe(folder / "out", shards, modalities=modalities, labels__keep=labels, generate__chains=[])
    records = data.mill(recipe, data.outputs(recipe, tokens=False))
    data.fit(recipe)
    records += data.mill(recipe, data.outputs(recipe, labels=False))
    (folder / "out" / "recipe.yaml").write_text(recipes.dump(recipe))
    return Milled(folder, recipe, records)
