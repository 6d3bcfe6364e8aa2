"""The classes of a file, as a label's classes: what the option `classes` of `member` says."""

from __future__ import annotations

from collections.abc import Sequence

from ....infra.explain import nearest
from ....modalities import NO_CLASS

# The names of ids in order, or a mapping from ids or names; None stands for no class.
Given = list[str | int | None] | dict[str | int, str | int | None] | None


def numbers(given: Given, names: Sequence[str], count: int) -> dict[int, int] | None:
    """The label's class by the file's id, NO_CLASS for none; None if nothing is given.

    Args:
        names: of the label's classes, () if they have none.
        count: how many classes it has.

    Raises:
        ValueError: an id or name that the label does not have.
    """
    if given is None:
        return None
    pairs = dict(enumerate(given)) if isinstance(given, list) else given
    table = {}
    for key, value in pairs.items():
        if not isinstance(key, int) or not 0 <= key <= 0xFFFF:
            raise ValueError(f"classes: got {key!r}, expected an id of the file, 0 to {0xFFFF}")
        table[key] = NO_CLASS if value is None else _number(value, names, count)
    return table


def _number(value: str | int, names: Sequence[str], count: int) -> int:
    if isinstance(value, str):
        return list(names).index(_known(value, names))
    if not (0 <= value < count or value == NO_CLASS):
        raise ValueError(f"classes: got {value}, expected 0 to {count - 1}, or {NO_CLASS} for none")
    return value


def renamed(given: Given, names: Sequence[str]) -> dict[str, str | None]:
    """The label's name by the file's name, None for none. ValueError for a name that the label does not have."""
    if given is None:
        return {}
    if isinstance(given, list):
        raise ValueError("classes: got a list, expected a mapping from the file's names")
    return {str(key): None if value is None else _known(str(value), names) for key, value in given.items()}


def _known(name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise ValueError(f"classes: there is no {name!r}{nearest(name, names)}")
    return name
