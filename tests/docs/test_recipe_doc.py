"""docs/recipe.md names every field of the recipe with its default, and none that does not exist."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from fourmill import stages
from fourmill.recipe import GridTokenizer, Recipe

# A row of a table: | `a.b` | default | meaning | changes |
_ROW = re.compile(r"^\| `([\w.\[\]]+)` \| ([^|]*) \|.*\| ([^|]*) \|$", re.MULTILINE)


def _model(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section that a field holds, if any, and whether it holds a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for inner in get_args(annotation):
        if (found := _model(inner)[0]) is not None:
            return found, getattr(annotation, "__origin__", None) is list
    return None, False


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, default) of every field that is no section; lists of sections are written `chains[]`."""
    for name, field in model.model_fields.items():
        section, many = _model(field.annotation)
        if f"{prefix}{name}" == "tokenizers.grid":
            section = GridTokenizer  # kept as a mapping, so that `grids` can override it field by field
        if section is not None:
            yield from _fields(section, f"{prefix}{name}{'[]' if many else ''}.")
        else:
            yield f"{prefix}{name}", field.get_default(call_default_factory=True)


FIELDS = dict(_fields(Recipe))


@pytest.fixture(scope="module")
def rows(guide: Callable[[str], Any]) -> dict[str, tuple[str, str]]:
    found = _ROW.findall(guide("recipe").text)
    names = [name for name, _, _ in found]
    assert len(set(names)) == len(names), "a field stands twice"
    return {name: (default.strip(), changes.strip()) for name, default, changes in found}


def test_every_field_is_documented_and_nothing_else(rows: dict[str, tuple[str, str]]) -> None:
    assert set(FIELDS) - set(rows) == set(), "fields that the guide does not name"
    assert set(rows) - set(FIELDS) == set(), "the guide names fields that do not exist"


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_the_default_is_the_real_one(rows: dict[str, tuple[str, str]], name: str) -> None:
    written, default = rows[name][0], FIELDS[name]
    if default is PydanticUndefined:
        assert written == "needed"
        return
    match = re.fullmatch(r"`(.*)`", written)
    assert match, f"{name}: the default is code, got {written!r}"
    assert yaml.safe_load(match[1]) == _plain(default)


def test_the_last_column_says_what_is_made_again(rows: dict[str, tuple[str, str]]) -> None:
    """Fields of operation say "nothing", and only those."""
    operation = {f"train.{name}" for name in stages.TRAIN_OPERATIONS} - {"train.name"}
    operation |= {name for name in FIELDS if name.startswith(("engine.", "fit."))}
    operation |= {"tokenizers.grid.checkpoint_every"}
    assert {name for name, (_, changes) in rows.items() if changes == "nothing"} == operation
