"""Scores that come with the data: numbers in the JSON of a sample, as COYO and LAION publish them."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from pydantic import Field

from ..members.member import Member

# The columns of COYO-700M first, then those of LAION-2B and of LAION-Aesthetics; img2dataset writes both into the JSON.
COLUMNS: dict[str, tuple[str, ...]] = {
    "watermark": ("watermark_score", "pwatermark"),
    "aesthetic": ("aesthetic_score_laion_v2", "aesthetic_score", "aesthetic", "AESTHETIC_SCORE"),
    "nsfw": ("nsfw_score_opennsfw2", "punsafe"),
    "similarity": ("clip_similarity_vitb32", "clip_similarity_vitl14", "similarity"),
}


class Score(Member):
    """Reads a number of each sample's JSON: the field that is named, or the first of the columns that COYO and LAION
    have for such a label."""

    name: ClassVar[str] = "score"

    member: str = Field("json", alias="name", description="The member's name without the key, KEY.json unless given.")

    def _columns(self) -> tuple[str, ...]:
        return COLUMNS.get(self.label, ()) if self.field is None else (self.field,)

    def why_not(self, others: Any) -> str:
        if self._columns():
            return ""
        return f"{self.label}: nothing says which column it is; name it in labels.specialists.{self.label}.field"

    def identity(self) -> dict[str, Any]:
        identity = super().identity()
        return {**identity, "options": identity["options"] | {"columns": list(self._columns())}}

    def _value(self, value: Any) -> float | int:
        """ValueError if there is no such number."""
        if not isinstance(value, dict):
            raise ValueError(f"{type(value).__name__}, expected an object")
        found = {column: self.within(value, column) for column in self._columns()}
        for number in found.values():
            if isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number):
                return number
        said = {column: one for column, one in found.items() if one is not None}
        if said:
            column, other = next(iter(said.items()))
            raise ValueError(f"{column} is {other!r:.60}, expected a number")
        raise ValueError(f"{' or '.join(found)}: there is no number")
