"""The guides as what they hold: fenced blocks and commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fourmill_tests.tiny import declared

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


@pytest.fixture(autouse=True)
def no_declarations() -> Iterator[None]:
    """Recipes of guides declare labels and modalities, which other tests of the process count."""
    with declared.forgotten():
        yield


@pytest.fixture(scope="session")
def guide() -> Callable[[str], Guide]:
    """A page by its path below docs/ without suffix, or by its name alone."""
    return lambda name: Guide(next(DOCS.rglob(f"{name}.md")))
