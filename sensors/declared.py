"""Sensors: what a recipe says of the files of a user's own instruments, and the labels and modalities that follow.

One entry of the section `sensors` declares a label of its name, of float32 values in the sensor's own unit with NaN
where there are none, or of the user's classes; and modalities:

| the sensor is | label | modalities |
|---|---|---|
| a raster of n bands | `s2`, (H, W, n) | `s2`, its pixels, for input alone; `tok_s2`, a grid of ids |
| a map of classes | `lulc`, (H, W) | `tok_lulc`, a grid of ids |
| one number or several | `agb`, (n,) | `agb`, one id for each number, of a vocabulary of its own |
| a series | `ndvi`, (length, n) | `tok_ndvi`, a row of ids |
| coordinates, a time, a catalogue | `place`, a record | `place`, a sentence |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from ..modalities import (
    LABELS,
    MODALITIES,
    RASTER,
    TOKENIZERS,
    Form,
    Kind,
    Label,
    Modality,
    Size,
    Storage,
    Tokenizer,
    declare,
)
from .parts import VALUE_WORDS
from .sensor import Sensor

NUMBER_CODES = 1_024  # of a number's vocabulary, as AION-1 has them
RASTER_CODES, CLASS_CODES, SERIES_CODES = 16_384, 4_096, 1_024
_WEIGHT = "_weight"
LONGEST_PATCH = 16  # samples of a series that one token covers
MOST_EVEN = 1_024  # tokens of a series whose patches fill it evenly; of more, the last patch reaches beyond it
PREFIX = "tok_"

_NAME = re.compile(r"[a-z][a-z0-9_]*")

SENSORS: dict[str, Sensor] = {}  # those that are declared, by name, which is their label's


@dataclass(frozen=True)
class Sensors:
    """The sensors of a recipe, as they are sent to workers."""

    entries: Mapping[str, Sensor]

    def declare(self) -> None:
        """Add them to the tables of labels, modalities and tokenizers, in place of others of their names.

        Raises:
            ValueError: a name is one of fourmill's own, or of a module of the user's.
        """
        for name, sensor in self.entries.items():
            if not _NAME.fullmatch(name) or name.startswith(PREFIX):
                raise ValueError(
                    f"sensors: got the name {name!r}; expected small letters, digits and _, without {PREFIX}"
                )
            if SENSORS.get(name) != sensor:
                forget(name)
                declare(*entries(name, sensor))
                SENSORS[name] = sensor
                if sensor.form is Form.CATALOGUE:  # quantiles of each value of a row, whose ids are words
                    TOKENIZERS[name] = Tokenizer(name, name, Form.NUMBERS, sensor.width, VALUE_WORDS, sensor.width)
                for modality in (name, f"{PREFIX}{name}"):
                    if sensor.size and modality in TOKENIZERS:
                        TOKENIZERS[modality] = replace(TOKENIZERS[modality], image_size=sensor.size)


def declare_from(data: Any) -> None:
    """Declare the sensors of a recipe that is not looked at yet, as far as they are right: the recipe says what is
    wrong with the others. ValueError if a name is taken."""
    if isinstance(data, Mapping):
        found: dict[str, Sensor] = {}
        for name, one in data.items():
            with suppress(ValidationError):
                found[str(name)] = Sensor.model_validate(one)
        Sensors(found).declare()


def weight_of(label: str) -> str:
    """The label that has the weights of a sensor's values, "" if all count alike."""
    return f"{label}{_WEIGHT}" if label in SENSORS and SENSORS[label].weight else ""


def weighs(label: str) -> str:
    """The sensor whose values a label has the weights of, "" if it is no such label."""
    name = label.removesuffix(_WEIGHT)
    return name if name != label and weight_of(name) == label else ""


def window_of(label: str) -> Size:
    """What crops of a label are like: 1 of squares, (height, width) of a sensor whose size is no square."""
    sensor = SENSORS.get(weighs(label) or label)
    return sensor.window if sensor else 1


def forget(name: str) -> None:
    """Take a sensor out of the tables, if it is there."""
    if SENSORS.pop(name, None) is None:
        return
    LABELS.pop(name, None)
    LABELS.pop(f"{name}{_WEIGHT}", None)
    for modality in (name, f"{PREFIX}{name}"):
        MODALITIES.pop(modality, None)
        TOKENIZERS.pop(modality, None)


def entries(name: str, sensor: Sensor) -> Iterable[Label | Modality]:
    """What a sensor adds to the tables."""
    form, unit = sensor.form, f", {sensor.unit}" if sensor.unit else ""
    side = (224 // 16) ** 2
    size: Size = sensor.size or 0
    if sensor.weight:
        yield Label(f"{name}{_WEIGHT}", Storage.ARRAY, form, "sensor", f"weights of {name}")
    if form is Form.RASTER:
        yield Label(name, Storage.ARRAY, form, "sensor", f"{sensor.width} bands of {sensor.place}{unit}")
        yield Modality(name, name, Kind.PIXELS, RASTER, 0, side, f"{name} pixels", 16, sensor.width, image_size=size)
        text = f"{name} tokens"
        yield Modality(
            f"{PREFIX}{name}", name, Kind.GRID, "vq", RASTER_CODES, side, text, 16, sensor.width, image_size=size
        )
    elif form is Form.CLASSES:
        yield Label(name, Storage.IMAGE, form, "sensor", f"{len(sensor.class_names)} classes of {sensor.place}")
        text = f"{name} tokens"
        yield Modality(f"{PREFIX}{name}", name, Kind.GRID, "vq", CLASS_CODES, side, text, 16, 1, image_size=size)
    elif form is Form.SERIES:
        length = sensor.points or 0
        patch = next(one for one in range(LONGEST_PATCH, 0, -1) if length % one == 0)
        if length > MOST_EVEN * patch:  # a prime, say: one token for each sample would be too many
            patch = LONGEST_PATCH
        yield Label(name, Storage.ARRAY, form, "sensor", f"{length} values of {sensor.place}{unit}")
        text, sizes = f"{name} tokens", (SERIES_CODES, -(-length // patch))
        yield Modality(
            f"{PREFIX}{name}", name, Kind.GRID, "vq", *sizes, text, patch, sensor.width, spatial=False, length=length
        )
    elif form.is_record:
        words = {Form.COORDINATES: 4, Form.TIME: 3}.get(form, (sensor.rows or 0) * sensor.width)
        yield Label(name, Storage.JSON, form, "sensor", f"{form.value} of {sensor.place}{unit}")
        text = f"{form.value}, as text"
        yield Modality(
            name, name, Kind.SEQUENCE, form.value, 30_000, words + 1, text, channels=sensor.width, spatial=False
        )
    else:
        text = sensor.field or sensor.place
        yield Label(name, Storage.ARRAY, form, "sensor", f"{text}{unit}")
        width = sensor.width
        yield Modality(name, name, Kind.GRID, "vq", NUMBER_CODES, width, text, 0, width, spatial=False)
