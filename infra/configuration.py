"""YAML files of settings: read, included in one another, overridden from the command line, written again.

Nothing here knows what the settings mean. `RecipeError` is what every part raises for a mistake in them.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

PACKAGE = Path(__file__).parents[1]
Place = Path | str  # on this machine, or a URL


class RecipeError(ValueError):
    """The recipe cannot be used; the text says where, what it says there, and what would do."""


class _TwiceError(yaml.constructor.ConstructorError):
    """A name that stands twice in a mapping."""


class _Loader(yaml.SafeLoader):
    """YAML in which no name stands twice in a mapping: YAML 1.2 forbids it, and PyYAML would take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for name, _ in node.value:  # before what `<<` merges in, which may be overridden
            if not isinstance(name, yaml.ScalarNode):
                continue
            merges = name.tag == "tag:yaml.org,2002:merge"
            value, line = name.value if merges else self.construct_object(name), name.start_mark.line + 1
            if value in lines:
                lacking = f"first in line {lines[value]}; keep one"
                raise _TwiceError(lacking, None, f"{value} is there twice", name.start_mark)
            lines[value] = line
        return super().construct_mapping(node, deep)


def load(path: str | Path, overrides: list[str], missing: str) -> Any:
    """What a YAML file holds, with what it includes under its own fields, and with overrides of the form
    "train.steps=100" (the value is YAML) applied.

    Args:
        path: or a URL; what it includes lies beside it.
        missing: what to do if there is no such file, for the error.

    Raises:
        RecipeError: a file is missing, is no YAML or holds a name twice in one mapping, a field is overridden twice, an
            include or an override cannot be applied.
    """
    url = isinstance(path, str) and "://" in path
    place: Place = str(path) if url else Path(path)
    data = _read(place, missing)
    _check_twice(overrides)
    if isinstance(data, dict):  # what checks the settings says what is wrong with anything else
        # `include` first: the others are applied to what is included, too.
        for override in (o for o in overrides if o.startswith("include=")):
            _override(data, override)
        data = _with_included(data, place, ())
        for override in (o for o in overrides if not o.startswith("include=")):
            _override(data, override)
    return data


def parse_yaml(data: str | bytes) -> Any:
    """What a YAML file holds, from its text. yaml.YAMLError if they are none, or hold a name twice in one mapping."""
    loader = _Loader(data)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def yaml_mistake(error: yaml.YAMLError) -> str:
    """What the parser of YAML says in five lines, in one: "line 2, column 10: expected ..."."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return place + ", ".join(part for part in (error.problem, error.context) if part)


def of_texts(texts: Mapping[str, str]) -> dict[str, Any]:
    """Settings from the header of a safetensors file, which holds each as the text of a Python literal or as a word."""

    def value(text: str) -> Any:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text

    return {name: value(text) for name, text in texts.items()}


def dump(data: Any) -> str:
    """Settings as YAML, in their order."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _read(path: Place, missing: str) -> Any:
    """What one YAML file holds."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8") if isinstance(path, Path) else _fetched(path))
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe at {path}; {missing}") from None
    except IsADirectoryError:
        raise RecipeError(f"{path}: a recipe is a YAML text file, and this is a folder") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: a recipe is a YAML text file, and byte {error.start} is not UTF-8") from None
    except yaml.YAMLError as error:
        what = "" if isinstance(error, _TwiceError) else "this is no YAML: "
        raise RecipeError(f"{path}: {what}{yaml_mistake(error)}") from None


def _fetched(url: str) -> str:
    """The text of a file that is not on this machine. RecipeError if its storage cannot be asked."""
    from . import faults, storage
    from .secrets import public

    try:
        return storage.read_bytes(url).decode("utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        raise
    except Exception as error:
        if not (isinstance(error, OSError | ValueError) or faults.of_place(error) or faults.of_service(error)):
            raise
        raise RecipeError(f"{public(url)}: the recipe cannot be read: {faults.sentence(error)}") from None


def _beside(path: Place, name: str) -> Place:
    """A file that is named in another one: relative to its folder, or to the package (recipes/train/4m21_b.yaml)."""
    if isinstance(path, Path):
        return (
            path.parent / name if (path.parent / name).is_file() or not (PACKAGE / name).is_file() else PACKAGE / name
        )
    if (PACKAGE / name).is_file():
        return PACKAGE / name
    return name if "://" in name else f"{path.rpartition('/')[0]}/{name}"


def _whole(path: Place) -> Place:
    """The same file by one name."""
    return path.resolve() if isinstance(path, Path) else path


def _with_included(data: dict[str, Any], path: Place, including: tuple[Place, ...]) -> dict[str, Any]:
    """Settings with what they include under their own fields; of several files the later ones win.

    Args:
        path: of the file, which names in it are relative to.
        including: files whose include led here, so that a circle is seen.
    """
    names = data.get("include") or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RecipeError(f"{path}: include: expected a list of files, got {names!r}")
    merged: dict[str, Any] = {}
    for name in names:
        file = _beside(path, name)
        if _whole(file) in (_whole(path), *including):
            raise RecipeError(f"{path}: include: {name} includes itself")
        part = _read(file, f"{path} includes it")
        if not isinstance(part, dict):
            raise RecipeError(f"{path}: include: {name} is no part of a recipe, a mapping, but {type(part).__name__}")
        merged = merge(merged, _with_included(part, file, (_whole(path), *including)))
    return merge(merged, {name: value for name, value in data.items() if name != "include"})


def _check_twice(overrides: list[str]) -> None:
    """RecipeError if two overrides are of one field: one of them would be lost without a word."""
    values: dict[str, str] = {}
    for override in overrides:
        name, _, value = override.partition("=")
        if values.setdefault(name, value) != value:
            raise RecipeError(f"--set {name} is there twice, with {values[name]} and with {value}; keep one")


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Mappings field by field; of anything else the upper one counts; an empty section (null) changes nothing."""
    merged = dict(under)
    for name, value in over.items():
        lower = merged.get(name)
        if isinstance(lower, dict) and (value is None or isinstance(value, dict)):
            value = merge(lower, value or {})
        merged[name] = value
    return merged


def override(data: dict[str, Any], overrides: list[str]) -> None:
    """Apply overrides of the form "a.b=value" to settings, in place. RecipeError if one cannot be applied."""
    _check_twice(overrides)
    for one in overrides:
        _override(data, one)


def _override(data: dict[str, Any], override: str) -> None:
    """Apply "a.b=value" to nested mappings and lists, in place."""
    name, equals, value = override.partition("=")
    if not equals or not name:
        raise RecipeError(f"--set {override}: expected a.b=value, for example --set train.steps=100")
    *path, last = name.split(".")
    node: Any = data
    for part in path:
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        if not isinstance(node, dict | list):
            raise RecipeError(f"--set {override}: {part} is a single value and has no field {last}")
    try:
        parsed = parse_yaml(value)
    except yaml.YAMLError as error:
        what = "" if isinstance(error, _TwiceError) else "the value is no YAML: "
        raise RecipeError(f"--set {override}: {what}{yaml_mistake(error)}") from None
    if isinstance(node, list):
        if not last.isdigit() or int(last) >= len(node):
            raise RecipeError(f"--set {override}: {'.'.join(path)} is a list of {len(node)}; use its index")
        node[int(last)] = parsed
    else:
        node[last] = parsed
