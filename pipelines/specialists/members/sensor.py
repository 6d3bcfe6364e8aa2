"""The label of a sensor: a member of each sample, as the recipe's section `sensors` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from ....infra import faults
from ....infra.versions import Part
from ....modalities import Form
from ....sensors.reading import Reading
from ...reject import Reject
from ...sensors import readers, values
from ...sensors.alarms import UNIT
from ..base import Item, Specialist


class FromSensor(Specialist):
    """Reads a member of each sample, whether the sample has an image or not.

    Rasters and class maps have a size of their own; several sensors of a sample show one place.
    """

    name: ClassVar[str] = "sensor"
    memory_gb: ClassVar[float] = 0.0
    version: ClassVar[int] = 2
    changes: ClassVar[dict[int, str]] = {2: "a class map without any class is a reject"}
    batch_size: ClassVar[int] = 64
    takes_bytes: ClassVar[bool] = True
    sees_image: ClassVar[bool] = False
    needs_image: ClassVar[bool] = False

    label: str = Field(exclude=True)  # type: ignore[misc]  # of an instance here: it makes any sensor's label
    reading: Reading = Field(description="Where the values are, and what they mean: of the recipe's `sensors`.")
    unit: str = Field("", exclude=True)  # of the values; the label does not depend on it
    of_weights: bool = Field(False, description="Whether the label is the weights of the values, and not the values.")

    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.reading.name, *(one.name for one in self.reading.beside.values()))))

    def identity(self) -> dict[str, Any]:
        options = {"reading": self.reading.plain()} | ({"of_weights": True} if self.of_weights else {})
        return {**super().identity(), "options": options, "form": str(self.reading.form)}

    def part(self) -> Part:
        """Only class maps have a second version."""
        part = super().part()
        return part if self.reading.form is Form.CLASSES else replace(part, version=self.first_version)

    def why_not(self, others: Mapping[str, Specialist]) -> str:
        if self.reading.reader:
            try:
                readers.own(self.reading.reader)
            except ValueError as error:
                return f"sensors.{self.label}: {error}"
            return ""
        files = (self.reading, *self.reading.beside.values())
        why = next(filter(None, (readers.missing_package(one.member) for one in files)), "")
        return f"sensors.{self.label}: {why}" if why else ""

    def __call__(self, items: Sequence[Item]) -> list[np.ndarray | Reject]:
        """The label of each item, or a Reject that says what is wrong with its member."""
        beside = self.reading.beside
        return [self._label(item, beside) for item in items]

    def _label(self, item: Item, files: Mapping[str, Reading]) -> np.ndarray | Reject:
        try:
            found, item.shared[UNIT, self.label] = readers.with_unit(
                item.raw[self.reading.name], self.reading, self.unit
            )
            beside = {what: readers.read(item.raw[one.name], one) for what, one in files.items()}
            if not self.of_weights:
                return values.label(found, self.reading, beside)
            weights = values.weighed(found, self.reading, beside)[1]
            return Reject(f"{self.label}: there are none") if weights is None else weights
        except Exception as error:  # files of instruments make their libraries raise about anything
            if faults.of_place(error):
                raise
            said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            return Reject(f"{self.label}: {self.reading.place}: {said}")
