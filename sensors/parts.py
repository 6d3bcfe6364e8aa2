"""Parts of what a recipe says of a sensor: its fields if its label is a record (coordinates, a time, a catalogue), the
spectrogram of a sound, the common grid of a series."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from ..infra.fields import Section
from ..modalities import Form

QUARTER = 0.25  # degrees, TerraMind's step of coordinates
EARTH = ((-180.0, 180.0), (-90.0, 90.0))  # longitudes and latitudes
VALUE_WORDS = 1_000  # v0=0 .. v0=999 of sentences, and so of each other axis
MOST_WORDS = 2_000  # of a sentence
MOST_POINTS = 1_000_000  # of a grid
_EPOCH = datetime.date(1970, 1, 1)
FORMS = {"coordinates": Form.COORDINATES, "time": Form.TIME, "catalogue": Form.CATALOGUE}

# The kinds of sensors that fields have a meaning for.
_ONLY_OF = {
    "resolution": ("coordinates",), "wrap": ("coordinates",), "ranges": ("coordinates", "catalogue"),
    "hour": ("time",), "rows": ("catalogue",), "order_by": ("catalogue",), "centre": ("catalogue",),
}  # fmt: skip


def as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) or value is None else [value]


class Records(Section):
    """The fields of coordinates, times and catalogues.

    ranges: of coordinates and catalogues, the least and largest value of a field; of longitude and latitude they are
        known. resolution: of coordinates, in their unit. wrap: longitudes beyond them are counted on from the other
        end. hour: of a time, whether the hour counts.
    rows: of a catalogue, how many are kept: the first by `order_by`, a field (the largest first: "-flux") or two, whose
        distance from `centre` counts; in the order of the file without.
    """

    kind: str | None = None
    fields: list[str] = []
    ranges: dict[str, tuple[float, float]] = {}
    resolution: Annotated[float, Field(gt=0)] = QUARTER
    wrap: bool = False
    hour: bool = False
    rows: Annotated[int, Field(gt=0, le=1000)] | None = None
    order_by: Annotated[list[str], BeforeValidator(as_list)] = []
    centre: tuple[float, float] = (0.0, 0.0)

    @property
    def names(self) -> list[str]:
        """What the values of a record are called: the last parts of dotted fields, if they differ."""
        last = [name.rpartition(".")[2] for name in self.fields] or ["lon", "lat"]
        return last if len(set(last)) == len(last) else list(self.fields)

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """Of coordinates, the eastern one first: the least and largest value."""
        return {name: self.ranges.get(name, limits) for name, limits in zip(self.names, EARTH, strict=True)}

    def check_only(self) -> None:
        """ValueError for a field that means nothing for its kind."""
        for name, kinds in _ONLY_OF.items():
            if self.kind not in kinds and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: it is of {' and '.join(kinds)}; say kind: {kinds[0]}, or leave it out")

    def check_record(self, field: str | None, is_json: bool) -> None:
        """ValueError if it cannot be a place, a time or a catalogue.

        Args:
            field: the one field that is named. is_json: whether its member is a JSON.
        """
        if self.kind == "time" and (self.fields or (is_json and not field)):
            raise ValueError("time: name one field that holds it, field: date; of other files than a JSON an array")
        if self.kind == "coordinates":
            self._check_place(field, is_json)
        if self.kind == "catalogue":
            self._check_catalogue()
        for name, (low, high) in self.ranges.items():
            if low >= high:
                raise ValueError(f"ranges: {name}: {low:g} is not below {high:g}")

    def _check_place(self, field: str | None, is_json: bool) -> None:
        if field or len(self.fields) not in ((2,) if is_json else (0, 2)):
            raise ValueError("coordinates: name two fields, the eastern one first: fields: [lon, lat], or [x, y]")
        east, north = (name.lower() for name in self.names)
        if east.startswith("lat") or north.startswith(("lon", "lng")):
            raise ValueError(f"fields: name the eastern one first: [{self.names[1]}, {self.names[0]}]")
        if self.ranges and set(self.ranges) != set(self.names):
            raise ValueError(f"ranges: name both of {self.names[0]} and {self.names[1]}, or none")
        steps = max(high - low for low, high in self.limits.values()) / self.resolution
        if steps >= VALUE_WORDS**2:
            raise ValueError(f"resolution: {self.resolution:g} makes {steps:.3g} steps, expected at most 1e6")

    def _check_catalogue(self) -> None:
        if not self.fields or self.rows is None:
            raise ValueError("catalogue: say its rows and their fields: rows: 100, fields: [x, y, mag]")
        if self.rows * len(self.fields) >= MOST_WORDS:
            raise ValueError(f"rows: {self.rows} of {len(self.fields)} fields, expected fewer than {MOST_WORDS} values")
        order = [name.removeprefix("-") for name in self.order_by]
        if len(order) > 2:
            raise ValueError("order_by: name a field, or two whose distance from the centre counts")
        for what, names in (("order_by", order), ("ranges", self.ranges)):
            if unknown := [name for name in names if name not in self.names]:
                raise ValueError(f"{what}: there is no field {unknown[0]}; it has {', '.join(self.names)}")


class Mel(Section):
    """A log-mel spectrogram of a sound: power in dB in triangular bands, even on HTK's mel scale, high tones first.

    The defaults are those of AST and AudioMAE: 128 bands from 20 Hz to 8 kHz, Hann windows of 25 ms every 10 ms.
    window, hop: seconds, whatever the rate of the file. low, high: Hz. frames: as many windows, evenly over the sound,
        in place of one every `hop`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bins: Annotated[int, Field(gt=0, le=1024)] = 128
    window: Annotated[float, Field(gt=0, le=1)] = 0.025
    hop: Annotated[float, Field(gt=0)] = 0.01
    low: Annotated[float, Field(ge=0)] = 20.0
    high: Annotated[float, Field(gt=0)] = 8_000.0
    frames: Annotated[int, Field(gt=1)] | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low: {self.low:g} Hz is not below high, {self.high:g} Hz")
        return self


class Grid(Section):
    """The common grid of series whose values lie at places of their own.

    from, to: its first and last point, numbers or dates. step: between points, of dates in days; or points: how many.
    reach: two values that are farther apart have none between them; twice the step, or twice the usual distance of a
        sample's own values if that is more, unless given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)

    from_: float | datetime.date = Field(alias="from")
    to: float | datetime.date
    step: Annotated[float, Field(gt=0)] | None = None
    points: Annotated[int, Field(gt=1, le=MOST_POINTS)] | None = None
    reach: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _is_a_grid(self) -> Self:
        if isinstance(self.from_, datetime.date) != isinstance(self.to, datetime.date):
            raise ValueError("from and to: one is a date and the other is not")
        if self.start >= self.stop:
            raise ValueError(f"from: {self.from_} is not below to, {self.to}")
        if (self.step is None) == (self.points is None):
            raise ValueError("say step, or points, and not both")
        if not 1 < self.count <= MOST_POINTS:
            raise ValueError(f"it has {self.count} points, expected 2 to {MOST_POINTS}; see step")
        return self

    @property
    def is_of_dates(self) -> bool:
        return isinstance(self.from_, datetime.date)

    @property
    def start(self) -> float:
        """Of dates in days since 1970."""
        return _number(self.from_)

    @property
    def stop(self) -> float:
        return _number(self.to)

    @property
    def count(self) -> int:
        return self.points or int((self.stop - self.start) / (self.step or 1) + 1e-6) + 1

    @property
    def step_size(self) -> float:
        return self.step or (self.stop - self.start) / (self.count - 1)


def _number(value: float | datetime.date) -> float:
    return float((value - _EPOCH).days) if isinstance(value, datetime.date) else value
