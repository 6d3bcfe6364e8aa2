"""Sensors in the evaluation: their truth, read a second time from the members, and answers compared in their own unit.

What a file holds is read by the sensor's reader; what its values mean (bands, nodata, scale, classes) is worked out
here a second time, so that a mistake on the labels' way cannot cancel itself. Weights and axes of their own are the
exception: what they make of values is what labels have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ....modalities import Form, Size
from ....pipelines.sensors import readers
from ....pipelines.sensors import values as labels
from ....sensors.reading import Reading
from ....sensors.sensor import Sensor
from ...measures import forms
from ...measures.resample import Statistic
from . import truth
from .judges import Maps, summed
from .truth import NONE, Frame

FORMS = (Form.RASTER, Form.CLASSES, Form.SERIES, Form.NUMBERS)  # that are compared
_NOWHERE = Frame(1, 1)  # sensors have frames of their own
_EACH = ("rmse", "mae", "r2")  # measures, means over bands; and of each band, if there are several


class Values:
    """Rasters, series and numbers. A reference, and an answer, is float32 (..., n) in the sensor's unit, NaN where
    there is no value."""

    def __init__(self, sensor: Sensor, size: Size) -> None:
        self.sensor, self.size = sensor, size
        names = sensor.fields if sensor.form is Form.NUMBERS else sensor.kept
        self.bands = tuple(names) if len(names) > 1 else ()
        self.measures = (*_EACH, *(f"{name} {band}" for band in self.bands for name in _EACH))

    def of_truth(self, data: bytes, frame: Frame) -> np.ndarray:
        return self._cropped(values(data, self.sensor))

    def of_members(self, data: bytes, beside: Mapping[str, bytes]) -> np.ndarray:
        """The same where weights or an axis lie beside the values, by "weight" and "axis"."""
        given = {what: _read(beside[what], one) for what, one in self.sensor.beside.items()}
        try:
            return self._cropped(labels.label(_read(data, self.sensor), self.sensor, given))
        except ValueError as error:
            raise ValueError(f"{self.sensor.name}: {error}") from None

    def _cropped(self, found: np.ndarray) -> np.ndarray:
        return truth.crop(found, self.size) if self.sensor.form is Form.RASTER else found

    def of_label(self, value: Any) -> np.ndarray:
        return np.asarray(value, np.float32)

    def as_label(self, reference: np.ndarray) -> Any:
        # A tokenizer reads pixels without a value as the mean; a number that is none has no quantile.
        known = np.isfinite(reference)
        return reference if (known.all() if self.sensor.form is Form.NUMBERS else known.any()) else None

    def constant(self, references: Iterable[np.ndarray]) -> np.ndarray:
        """The mean of each pixel, week or number; of one that no sample knows the mean of its band."""
        total, count = np.zeros(1), np.zeros(1)
        for one in references:
            known = np.isfinite(one)
            total, count = total + np.where(known, one, 0), count + known
        return _means(total, count)

    def together(self, answers: Sequence[np.ndarray]) -> np.ndarray:
        return np.asarray(np.stack(answers).mean(axis=0, dtype=np.float32))

    def pairs(self, answers: Sequence[Any], references: Sequence[Any]) -> dict[str, list[list[float]]]:
        """Of numbers, by their names ("" of one), the true value and the answer of each sample that has both; {} of
        other forms, whose values are too many to be shown one by one."""
        if self.sensor.form is not Form.NUMBERS:
            return {}
        found: dict[str, list[list[float]]] = {name: [] for name in self.bands or ("",)}
        for answer, reference in zip(answers, references, strict=True):
            if answer is not None and reference is not None:
                both = zip(found.values(), np.ravel(reference), np.ravel(answer), strict=True)
                for of, true, answered in both:
                    of += [[float(true), float(answered)]] if np.isfinite([true, answered]).all() else []
        return found

    def statistic(self, answers: Sequence[Any], references: Sequence[Any]) -> Statistic | None:
        form = self.sensor.form.value
        parts = [
            None if answer is None or reference is None else forms.sums(form, answer, reference)
            for answer, reference in zip(answers, references, strict=True)
        ]
        return summed(parts, self._summary)

    def _summary(self, total: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        each = forms.of_each(total)
        of_bands = {f"{name} {band}": each[name][..., i] for i, band in enumerate(self.bands) for name in _EACH}
        return forms.summary(self.sensor.form.value, total) | of_bands


class ClassMap(Maps):
    """A map of the user's own classes, by the label's ids."""

    def __init__(self, sensor: Sensor, size: Size) -> None:
        super().__init__(Form.CLASSES, size, None, sensor.class_names)
        self.sensor = sensor

    def of_truth(self, data: bytes, frame: Frame) -> Any:
        return truth.crop(classes(data, self.sensor), self.size), None


def judge_of(sensor: Sensor, size: Size) -> Values | ClassMap:
    """By what answers of a sensor are compared, in crops of a size in pixels."""
    return ClassMap(sensor, size) if sensor.form is Form.CLASSES else Values(sensor, size)


def members_of(sensor: Sensor) -> set[str]:
    """The members, or columns, that its values, their weights and their axis are in."""
    return {sensor.name, *(one.name for one in sensor.beside.values())}


def reference(judge: Values | ClassMap, members: Mapping[str, bytes]) -> Any:
    """What the members of a sample say; None if it lacks one. ValueError if one is not what the sensor is."""
    sensor = judge.sensor
    if not members_of(sensor) <= members.keys():
        return None
    if isinstance(judge, ClassMap) or not sensor.beside:
        return judge.of_truth(members[sensor.name], _NOWHERE)
    return judge.of_members(members[sensor.name], {what: members[one.name] for what, one in sensor.beside.items()})


class ClassMeans:
    """The answer that knows the class of each pixel, as a map of classes has it, and nothing else: the mean of the band
    over all pixels of that class, of training samples."""

    def __init__(self, known: Iterable[Any], maps: Iterable[Any]) -> None:
        total, count = np.zeros(1), np.zeros(1)
        for values_, there in zip(known, maps, strict=True):
            if values_ is not None and there is not None:
                a, b = _by_class(values_, there[0])
                total, count = total + a, count + b
        self._table = _means(total, count) if total.ndim > 1 else None

    def answers(self, maps: Sequence[Any]) -> list[Any]:
        """Of samples by their maps of classes, None where there is none; [] if nothing was learned."""
        if self._table is None:
            return []
        return [None if one is None else self._table[one[0]] for one in maps]


def _by_class(values_: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of the values (H, W, n) of each class, (NONE + 1, n)."""
    flat, known = ids.ravel(), np.isfinite(values_).reshape(-1, values_.shape[-1])
    filled = np.where(known, values_.reshape(known.shape), 0)
    width = range(known.shape[1])
    count = np.stack([np.bincount(flat, known[:, i], NONE + 1) for i in width], axis=1)
    return np.stack([np.bincount(flat, filled[:, i], NONE + 1) for i in width], axis=1), count


def _means(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Of sums (..., n), float32; where nothing was counted, the mean of the band over all that was."""
    axes = tuple(range(total.ndim - 1))
    whole = total.sum(axes) / np.maximum(count.sum(axes), 1)
    return np.where(count > 0, total / np.maximum(count, 1), whole).astype(np.float32)


def values(data: bytes, sensor: Sensor) -> np.ndarray:
    """The values of a member in the sensor's unit, NaN where there is none.

    Returns:
        float32 (H, W, bands) of a raster, (length, bands) of a series, (n,) of numbers.

    Raises:
        ValueError: it is not what the sensor is.
    """
    found = _read(data, sensor)
    if sensor.form is Form.NUMBERS:
        raw = _fields(found, sensor) if sensor.field or sensor.fields else np.asarray(found, np.float64).reshape(-1)
    else:
        raw = _bands_last(np.asarray(found), sensor, 3 if sensor.form is Form.RASTER else 2)
    array = np.asarray(raw)
    number = array.astype(np.float64)
    # As the file has it: a float32 of 1e20 is not that of Python.
    nodata = np.asarray(sensor.nodata).astype(array.dtype if array.dtype.kind == "f" else np.float64)
    none = ~np.isfinite(number) | np.isin(number, nodata.astype(np.float64))
    return np.where(none, np.nan, number * sensor.scale + sensor.offset).astype(np.float32)


def classes(data: bytes, sensor: Sensor) -> np.ndarray:
    """The map of a member, uint8 (H, W) by the label's ids; NONE for what the sensor names no class."""
    found = np.squeeze(np.asarray(_read(data, sensor)))
    if found.ndim != 2:
        raise ValueError(f"{sensor.member}: got {found.shape}, expected ids of classes (H, W)")
    ids = np.where(np.isfinite(found), found, -1).astype(np.int64)
    answer = np.full(ids.shape, NONE, np.uint8)
    given = sensor.classes.items() if isinstance(sensor.classes, dict) else enumerate(sensor.classes)
    for number, name in given:
        if number not in sensor.nodata:
            answer[ids == number] = sensor.class_names.index(name)
    return answer


def _read(data: bytes, sensor: Reading) -> Any:
    try:
        return readers.read(data, sensor)
    except ValueError as error:
        raise ValueError(f"{sensor.name}: {error}") from None


def _fields(found: Any, sensor: Sensor) -> list[float]:
    numbers = []
    for name in sensor.fields or [sensor.field or ""]:
        value = found
        for part in [name] if isinstance(found, Mapping) and name in found else name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        numbers.append(float("nan") if value is None or isinstance(value, bool | str) else float(value))
    return numbers


def _bands_last(found: np.ndarray, sensor: Sensor, axes: int) -> np.ndarray:
    """(H, W, bands) or (length, bands) of the bands that the label keeps."""
    count = len(sensor.bands) or 1
    while found.ndim > axes and found.shape[0] == 1:
        found = found[0]
    if found.ndim == axes - 1 and count == 1:
        found = found[..., None]
    if found.ndim != axes or count not in (found.shape[0], found.shape[-1]):
        raise ValueError(f"{sensor.member}: got {found.shape}, expected {count} bands first or last")
    first = sensor.axes == "chw" or (sensor.axes is None and found.shape[-1] != count)
    if axes == 2:
        first = found.shape[0] != sensor.length or sensor.axes == "chw"
    found = np.moveaxis(found, 0, -1) if first else found
    return found[..., [sensor.bands.index(name) for name in sensor.use]] if sensor.use else found
