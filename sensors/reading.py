"""What a recipe says of where a sensor's values are in the files, and what they mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from ..modalities import Form
from .parts import FORMS, Grid, Mel, Records, as_list

FITS = ("fits", "fit", "fts", "fz")
SOUNDS = ("wav", "flac", "ogg", "aiff")
DATES = {"time", "date", "dates", "day"}  # axes whose grid is one of dates, most likely
CHUNKED = ("zarr.zip", "h5", "hdf5")
OF_SEVERAL = ("npz", "h5", "hdf5", "zarr.zip", *FITS)  # files that may hold several arrays
_FILES = ("npy", "npz", "json", "tif", "tiff", "png", "h5", "hdf5", "zarr.zip", *FITS)  # that hold a weight or an axis


def is_of(member: str, kinds: Iterable[str]) -> bool:
    """Whether a member is a file of one of these kinds: "tif", and any name that ends so, of the kind "tif"."""
    return any(f".{member}".endswith(f".{kind}") for kind in kinds)


class Reading(Records):
    """Where the values of a sensor are, and what they mean: all that its label depends on.

    member: what follows the key in a member's name, "zarr.zip" of KEY.zarr.zip. column: of Parquet, dotted where
        structs lie in each other, "spectrum.flux"; one that holds bytes has a member too, which says how they are read.
    array: the array's name in a file that holds several; of FITS the extension's, or its number. field, fields: of a
        JSON, dotted where objects lie in each other; field also of a table in FITS. reader: a function of your own,
        "module:function", that gets the bytes and returns an array.
    bands: all of the file's, in its order; use: those that are kept, in this order. axes: where the bands are, if their
        number does not say it. dtype, shape: what the file must hold.
    nodata: values that stand for none, as they are in the file; NaN and infinite values always do. A value of the label
        is scale * (value of the file) + offset.
    length: of a series, how many values of each band it has; what has one, or an axis, is a series.
    axis, grid: of a series whose values lie at places of their own: the member or column that says where, by the name
        of the axis, and its unit, {wavelength: lambda.npy, unit: nm}; and the common grid that they are put on.
    weight: the member or column with the weights of the values, their inverse variance. A value whose weight is not
        above 0 is none.
    mel: of a sound: it is read as a log-mel spectrogram.
    sparse: of Zarr and HDF5: chunks that are not there are of the file's fill value, as many writers leave them out;
        else they count as lost.
    A weight or an axis that is no name of a file is an array, or a field, of the same file, if that holds several.
    classes: names by id, from 0 on, or a mapping from the file's ids to names; two ids may have one name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, serialize_by_alias=True)

    from_: str = Field("", alias="from")
    member: str = ""
    column: str = ""
    array: str | None = None
    field: str | None = None
    fields: list[str] = []
    reader: str | None = None
    kind: Literal[
        "raster", "classes", "scalar", "vector", "series", "coordinates", "time", "catalogue"
    ] | None = None  # fmt: skip
    bands: list[str] = []
    use: list[str] = []
    axes: Literal["chw", "hwc"] | None = None
    dtype: str | None = None
    shape: list[int] | None = None
    length: Annotated[int, Field(gt=1)] | None = None
    axis: dict[str, str] = {}
    grid: Grid | None = None
    weight: str = ""
    mel: Mel | None = None
    sparse: bool = False
    nodata: Annotated[list[float], BeforeValidator(as_list)] = []
    scale: float = 1.0
    offset: float = 0.0
    classes: list[str] | dict[int, str] = []

    @model_validator(mode="before")
    @classmethod
    def _is_a_series(cls, value: Any) -> Any:
        """What has a length, or an axis and a grid, is a series without saying so."""
        if (
            isinstance(value, dict)
            and not value.get("kind")
            and any(value.get(one) for one in ("length", "axis", "grid"))
        ):
            return {**value, "kind": "series"}
        return value

    @field_validator("member")
    @classmethod
    def _is_an_extension(cls, member: str) -> str:
        if member.startswith((".", "/")) or "/" in member:
            raise ValueError(f"got {member!r}; expected what follows the key and its dot: tif of KEY.tif")
        return member.lower()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.member and not self.column:
            raise ValueError("say where its values are: member, or column of Parquet")
        for what, names in (("bands", self.bands), ("use", self.use), ("fields", self.fields)):
            if len(set(names)) < len(names):
                raise ValueError(f"{what}: a name stands twice in {names}")
        if unknown := [name for name in self.use if name not in self.bands]:
            raise ValueError(f"use: {unknown[0]!r} is not among the bands, {', '.join(self.bands) or 'which are none'}")
        self.check_only()
        if self.form.is_record:
            if self.bands or self.axes or self.classes or self.length:
                raise ValueError(f"bands, axes, classes and length have no meaning for {self.kind}; leave them out")
            self.check_record(self.field, self._is_json)
        elif (self.fields and not self._is_json) or (self.field and self._suffix not in ("json", *FITS)):
            raise ValueError(f"field: it is of a JSON, and the member is {self.place}")
        if self.field and self.fields and self.kind != "catalogue":
            raise ValueError("field and fields say the same thing; leave one out")
        if self.kind == "classes" and not self.classes:
            raise ValueError("classes: name the classes, in the order of their ids, or by id")
        if not self.scale:
            raise ValueError("scale: it is 0, which would make all values one")
        if self.form is Form.CLASSES and (self.bands or self.scale != 1 or self.offset):
            raise ValueError("bands, scale and offset have no meaning for classes; leave them out")
        if self.form is Form.CATALOGUE and (self.scale != 1 or self.offset):
            raise ValueError("scale and offset have no meaning for a catalogue; leave them out")
        if self.form is Form.NUMBERS and (self.bands or self.axes):
            raise ValueError("bands and axes are of rasters; leave them out")
        if bool(self.axis) != (self.grid is not None):
            example = "2020-01-01, to: 2020-12-31, step: 8" if self.axis.keys() & DATES else "3600, to: 9800, step: 2"
            raise ValueError(
                f"axis and grid go together: say on which grid all samples are put, grid: {{from: {example}}}"
            )
        if self.axis and len(self.axis.keys() - {"unit"}) != 1:
            raise ValueError(f"axis: got {self.axis}; expected a name and where it is: {{wavelength: lambda.npy}}")
        if (self.kind == "series") != (self.points is not None) or (self.length and self.grid):
            raise ValueError("length: it goes with kind: series, and says how many values it has; or grid says it")
        if self.weight and self.form not in (Form.RASTER, Form.SERIES):
            raise ValueError("weight: it is of a raster or a series; leave it out")
        if self.mel is not None and (self.form is not Form.RASTER or self._suffix not in SOUNDS):
            raise ValueError(f"mel: it makes a raster of a sound ({', '.join(SOUNDS)}); leave it out")
        if self._suffix in SOUNDS and self.mel is None and self.form is Form.RASTER:
            raise ValueError("a sound is a series (kind: series, length), or a raster by mel: {}")
        if self.sparse and not is_of(self.member, CHUNKED):
            raise ValueError(f"sparse: it is of files with chunks ({', '.join(CHUNKED)}); leave it out")
        if self.kind == "vector" and not (self.fields or self.shape):
            raise ValueError("vector: say how many numbers it has: shape: [8], or fields of a JSON")
        _ = self.beside  # ValueError if one of them is no place
        return self

    @property
    def name(self) -> str:
        """The name of its member or column, with the set of tars that it is from."""
        return f"{self.from_}/{self.place}" if self.from_ else self.place

    @property
    def place(self) -> str:
        """Its member, or its column."""
        return self.column or self.member

    @property
    def _suffix(self) -> str:
        return self.member.rpartition(".")[2]

    @property
    def _is_json(self) -> bool:
        return self._suffix == "json"

    @property
    def points(self) -> int | None:
        """Of a series, how many values each of its bands has."""
        return self.grid.count if self.grid else self.length

    @property
    def axis_name(self) -> str:
        """What the axis of a series is called, "" if it has none of its own."""
        return next((name for name in self.axis if name != "unit"), "")

    @property
    def beside(self) -> dict[str, Reading]:
        """Where what goes with its values is, by "weight" and "axis"."""
        places = {"weight": self.weight, "axis": self.axis.get(self.axis_name, "")}
        return {what: self._at(place) for what, place in places.items() if place}

    def _at(self, place: str) -> Reading:
        if self.column and not self.member:
            return Reading(from_=self.from_, column=place)
        if is_of(place.lower(), _FILES):
            return Reading(from_=self.from_, member=place)
        if is_of(self.member, OF_SEVERAL):
            return self.model_copy(update={"field" if self.field else "array": place, "weight": "", "axis": {}})
        raise ValueError(f"{place!r}: expected a member such as {place}.npy")

    @property
    def form(self) -> Form:
        """What its label is."""
        if self.kind in FORMS:
            return FORMS[self.kind]
        if self.classes:
            return Form.CLASSES
        if (self._is_json and (self.field or self.fields)) or self.kind in ("scalar", "vector"):
            return Form.NUMBERS
        return Form.SERIES if self.kind == "series" else Form.RASTER

    @property
    def kept(self) -> list[str]:
        """The bands of the label, in order; [""] of a raster of one band that has no name."""
        return self.use or self.bands or [""]

    @property
    def width(self) -> int:
        """How many bands a raster or a series has, or numbers a vector."""
        if self.form is Form.CATALOGUE:
            return len(self.fields)
        if self.form is Form.NUMBERS:
            return len(self.fields) or (self.shape[0] if self.kind == "vector" and self.shape else 1)
        return len(self.kept) if self.form in (Form.RASTER, Form.SERIES) else 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of its classes by the label's ids: in the order in which they are given, each once."""
        names = self.classes.values() if isinstance(self.classes, dict) else self.classes
        return tuple(dict.fromkeys(names))

    @property
    def ids(self) -> dict[int, int]:
        """The label's class by the file's id."""
        pairs = self.classes.items() if isinstance(self.classes, dict) else enumerate(self.classes)
        order = {name: number for number, name in enumerate(self.class_names)}
        return {number: order[name] for number, name in pairs}

    def plain(self) -> dict[str, Any]:
        """Its fields that say something, under their names in a recipe."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=set(Reading.model_fields))
