"""The base class of all settings, and the types of their fields."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


UrlList = Annotated[list[str], BeforeValidator(_as_list)]


def sized(height: int, width: int) -> int | tuple[int, int]:
    """Both sides of a size as they are written: of a square one."""
    return height if height == width else (height, width)


def _as_pixels(size: Any) -> Any:
    """A square in words, [64, 64], is one: 64."""
    sides = size if isinstance(size, list | tuple) else [size, size]
    if len(sides) != 2 or any(type(one) is not int or one < 1 for one in sides):
        raise ValueError(f"got {size}; expected pixels along a side, 96, or height and width, [96, 192]")
    return sized(*sides)


Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Pixels = Annotated[int | tuple[int, int], BeforeValidator(_as_pixels)]  # along a side, or (height, width)
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Alpha = Annotated[float, Field(ge=0, le=1e6)]  # MAX_ALPHA of train/masking/budgets.py


class Section(BaseModel):
    """A part of a recipe: fields that it does not know are refused, and nothing can be set later.

    later: fields that came after the first release, with their default at that time, see `infra.fingerprint.hashed`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    later: ClassVar[dict[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, value: Any) -> Any:
        # YAML reads a section whose fields are all commented out as null.
        return {} if value is None else value


def check_heads(dim: int, heads: int) -> None:
    """ValueError if attention heads do not share a width evenly."""
    if dim % heads:
        raise ValueError(f"dim: {dim} does not divide among {heads} heads")
