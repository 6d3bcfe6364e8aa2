"""What is wrong with a value that a person wrote, in sentences with the nearest right name; and reasons, counted."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

_NUMBER = re.compile(r"(?<![\w-])\d+(\.\d+)?")
_LONGEST_CLASS = 100  # characters of a reason's class; reasons may quote what they were given


def reason_class(reason: str) -> str:
    """A reason without its numbers, so that equal causes can be counted: "image: 0 bytes" -> "image: N bytes"."""
    text = _NUMBER.sub("N", reason)
    return text if len(text) <= _LONGEST_CLASS else text[:_LONGEST_CLASS].rpartition(" ")[0] + " ..."


def nearest(name: str, names: Iterable[object]) -> str:
    """`; did you mean 'x'?`, or what there is if nothing is near."""
    options = sorted(map(str, names))
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(options)}"


def listing(words: Sequence[str]) -> str:
    """Words as a sentence says them: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def explain(error: ValidationError, where: str, model: type[BaseModel], also: Iterable[str] = ()) -> str:
    """A pydantic error as sentences: one line for each mistake, with the nearest right field for unknown ones.

    Args:
        where: what was read, for example the recipe's path.
        model: what it was read as.
        also: names that are right besides the model's own fields.
    """
    lines = []
    for one in error.errors():
        path = one["loc"]
        place = ".".join(str(part) for part in path)
        if one["type"] == "extra_forbidden":
            text = f"{place}: no such field{nearest(str(path[-1]), [*_fields_at(model, path[:-1]), *also])}"
        elif one["type"] == "missing":
            text = f"{place}: this field is needed"
        elif one["type"] == "value_error":
            text = f"{place}: {one['ctx']['error']}" if place else str(one["ctx"]["error"])
        elif one["type"] in ("model_type", "dict_type", "model_attributes_type"):
            text = f"{place}: expected fields with values (a mapping), got {one['input']!r}"
        else:
            text = f"{place}: {one['msg']}, got {one['input']!r}"
        lines.append(text)
    return "\n".join(f"{where}: {line}" for line in lines)


def _fields_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """The names that are right at a place of a nested model."""
    here = model
    for part in path:
        if isinstance(part, int):  # the place in a list
            continue
        field = here.model_fields.get(part)
        if field is None:
            break
        here = _model_in(field.annotation) or here
    return [field.alias or name for name, field in here.model_fields.items() if not field.exclude]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if model := _model_in(inner):
            return model
    return None
