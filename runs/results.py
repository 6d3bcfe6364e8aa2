"""What was generated: labels in memory, files that a person can open, and a page.

OUT/NNNN/{target}.{png,npy,json,txt}    of each result; {tif,fits} where its place is known, {std,probability}.npy
OUT/inputs/NNNN/{modality}....          what the model read, in the same forms
OUT/settings.json                       all that they follow from, and which folder is of which sample
OUT/index.html
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..infra import storage
from ..infra.explain import listing
from ..modalities import Kind
from ..pipelines.geo import maps
from ..pipelines.geo.georeference import Located
from ..train.downstream.settings import ChainStep
from .coder import Encoded
from .files import MADE_BY, SETTINGS, check, files_of
from .names import label_of, modality_of

if TYPE_CHECKING:
    from ..report.html.generated import GeneratedPage

PAGE, INPUTS = "index.html", "inputs"


@dataclass(frozen=True)
class Made(Mapping[str, Any]):
    """What was generated of one sample: target -> label, in the frame of the crop.

    Attributes:
        key: of the sample: the name of its first file without suffix, or its number.
        variation: its number among the variations of the sample, from 0.
        inputs: what the model read, by modality: `seen` is the label that its tokens say, `notes` what was done to it.
        labels: the same as a dictionary.
        tokens: target -> ids: uint16 (L,) of a grid, a list of a text.
        sources: input name -> the file or the words it came from.
        spread: target -> how much the members of an ensemble differ in each value, of sensors; see `geo.maps.spread`.
    """

    key: str
    variation: int
    labels: dict[str, Any]
    tokens: dict[str, Any]
    inputs: dict[str, Encoded]
    sources: dict[str, str]
    spread: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def place(self) -> Located | None:
        """Where the frame of its inputs lies, None if none of their files says it."""
        return next((one.place for one in self.inputs.values() if one.place is not None), None)

    def __getitem__(self, name: str) -> Any:
        return self.labels[name]

    def __iter__(self) -> Any:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Generation(Sequence[Made]):
    """What one call has generated: `Made` for each sample, its variations one after the other.

    Attributes:
        settings: all that it follows from, in words that JSON can say.
        classes: the names of classes, by label.
    """

    made: list[Made]
    steps: list[ChainStep]
    settings: dict[str, Any]
    classes: dict[str, tuple[str, ...]]

    def __getitem__(self, index: Any) -> Any:
        return self.made[index]

    def __len__(self) -> int:
        return len(self.made)

    def save(self, folder: str | os.PathLike[str]) -> str:
        """Write pictures, texts, `settings.json` and the page `index.html`; returns the page's path.

        ValueError if the folder holds files that are not of an earlier generation.
        """
        return _save(self, os.fspath(folder))


@dataclass(frozen=True)
class _Place:
    """Where one result goes, and its inputs: those of a sample's variations are written once."""

    made: Made
    folder: str
    inputs: str


def _save(generation: Generation, folder: str) -> str:
    """Write a generation; returns the path of its page. ValueError if the folder holds files of something else."""
    from ..report.html.generated import render_generated  # loads Jinja

    out = storage.absolute(folder)
    before = check(out)
    places = _places(generation)
    files: dict[str, bytes] = {}
    for place in places:
        for name, value in place.made.items():
            label, made = label_of(name), place.made
            files |= _named(f"{place.folder}/{name}", files_of(label, value))
            of_place = maps.files(label, value, made.spread.get(name), made.place, generation.classes.get(label, ()))
            files |= _named(f"{place.folder}/{name}", of_place)
        if place.made.variation == 0:
            for name, one in place.made.inputs.items():
                files |= _named(f"{place.inputs}/{name}", files_of(label_of(name), one.seen))
    files[PAGE] = render_generated(_page(generation, places)).encode("utf-8", "replace")
    for name, data in files.items():
        storage.put(storage.join(out, name), data)
    for name in sorted(before - set(files)):
        storage.delete(storage.join(out, name))
    # Last: a folder whose settings list its files can be written again.
    about = generation.settings | {"samples": [_sample(place) for place in places], "files": sorted(files)}
    text = json.dumps({"made_by": MADE_BY, "version": __version__} | about, indent=1, ensure_ascii=False)
    storage.put(storage.join(out, SETTINGS), (text + "\n").encode("utf-8", "replace"))
    return storage.join(out, PAGE)


def _places(generation: Generation) -> list[_Place]:
    places: list[_Place] = []
    for number, made in enumerate(generation):
        folder = f"{number:04d}"
        inputs = f"{INPUTS}/{folder}" if made.variation == 0 else places[-1].inputs
        places.append(_Place(made, folder, inputs))
    return places


def _sample(place: _Place) -> dict[str, Any]:
    made = place.made
    notes = {name: list(one.notes) for name, one in made.inputs.items() if one.notes}
    return {
        "folder": place.folder, "key": made.key, "variation": made.variation, "inputs": place.inputs,
        "given": made.sources, "notes": notes,
    }  # fmt: skip


def _named(stem: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{stem}.{suffix}": data for suffix, data in files.items()}


def _page(generation: Generation, places: list[_Place]) -> GeneratedPage:
    from ..report.html.gallery import label_title
    from ..report.html.generated import GeneratedPage, GeneratedSample, Shown

    samples = []
    for first in (place for place in places if place.made.variation == 0):
        results = [place for place in places if place.inputs == first.inputs]
        given = [Shown(label_of(name), name, one.seen, "; ".join(one.notes)) for name, one in first.made.inputs.items()]
        made = [
            (place.folder, [Shown(label_of(name), name, value) for name, value in place.made.items()])
            for place in results
        ]
        samples.append(GeneratedSample(_title(first.made), given, made, _backdrop(first.made)))
    from_, to = (
        [_within(label_title(label_of(name))) for name in names]
        for names in (_inputs(generation), [step.target for step in generation.steps])
    )
    title = f"From {listing(from_)} to {listing(to)}" if from_ else f"From nothing to {listing(to)}"
    how = [(step.target, _how(step)) for step in generation.steps]
    return GeneratedPage(title, _about(generation), how, samples, generation.classes)


def _inputs(generation: Generation) -> list[str]:
    return list(dict.fromkeys(name for made in generation for name in made.inputs))


def _within(title: str) -> str:
    """A title within a sentence: "Colour palette" in small letters, "RGB" and "SAM edges" as they are."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def _about(generation: Generation) -> str:
    settings = generation.settings
    words = [f"model {settings['run']}", f"seed {settings['seed']}"]
    words += [f"{settings['variations']} variations of each"] if settings["variations"] > 1 else []
    words += [f"averages of {settings['ensemble']}"] if settings["ensemble"] > 1 else []
    return ", ".join([*words, f"fourmill {__version__}"])


def _title(made: Made) -> str:
    """A sample by the name of its file, or by its words."""
    texts = [one.seen for one in made.inputs.values() if isinstance(one.seen, str)]
    return texts[0] if made.key.isdigit() and texts else made.key


def _backdrop(made: Made) -> np.ndarray | None:
    """The picture that boxes are drawn on: the given one, else the generated one."""
    seen = [one.seen for name, one in made.inputs.items() if label_of(name) == "rgb"]
    drawn = [value for name, value in made.items() if label_of(name) == "rgb"]
    return next(iter([*seen, *drawn]), None)


def _how(step: ChainStep) -> str:
    """The options of a target in words; those that do nothing are left out."""
    text = modality_of(step.target).kind is Kind.SEQUENCE
    words: list[str] = [step.scheme or ("autoregressive" if text else "maskgit")]
    words += [] if text else [f"{step.steps} steps"]
    words.append(f"temperature {step.temperature:g}")
    others = step.model_dump(exclude={"target", "scheme", "steps", "temperature"}, exclude_defaults=True)
    words += [f"{name} {value}" for name, value in others.items() if value is not None]
    return ", ".join(words)
