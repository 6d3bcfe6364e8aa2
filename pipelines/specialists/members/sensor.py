"""The label of a sensor: a member of each sample, as the recipe's section `sensors` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from ....infra import faults
from ....sensors import Reading
from ...reject import Reject
from ...sensors import readers, values
from ..base import Item, Specialist


class FromSensor(Specialist):
    """Reads a member of each sample, whether the sample has an image or not.

    Rasters and class maps have a size of their own; several sensors of a sample show one place.
    """

    name: ClassVar[str] = "sensor"
    memory_gb: ClassVar[float] = 0.0
    batch_size: ClassVar[int] = 64
    takes_bytes: ClassVar[bool] = True
    sees_image: ClassVar[bool] = False
    needs_image: ClassVar[bool] = False

    label: str = Field(exclude=True)  # type: ignore[misc]  # of an instance here: it makes any sensor's label
    reading: Reading = Field(description="Where the values are, and what they mean: of the recipe's `sensors`.")

    def reads(self) -> tuple[str, ...]:
        return (self.reading.name,)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "options": {"reading": self.reading.plain()}, "form": str(self.reading.form)}

    def why_not(self, others: Mapping[str, Specialist]) -> str:
        if self.reading.reader:
            try:
                readers.own(self.reading.reader)
            except ValueError as error:
                return f"sensors.{self.label}: {error}"
            return ""
        why = readers.missing_package(self.reading.member)
        return f"sensors.{self.label}: {why}" if why else ""

    def __call__(self, items: Sequence[Item]) -> list[np.ndarray | Reject]:
        """The label of each item, or a Reject that says what is wrong with its member."""
        return [self._label(item) for item in items]

    def _label(self, item: Item) -> np.ndarray | Reject:
        try:
            return values.label(readers.read(item.raw[self.reading.name], self.reading), self.reading)
        except Exception as error:  # files of instruments make their libraries raise about anything
            if faults.of_place(error):
                raise
            said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            return Reject(f"{self.label}: {self.reading.place}: {said}")
