"""A trained 4M as a specialist: `{specialist: fourmill, weights: RUN}` labels shards with what the model generates.

Decisions:
- The model sees squares. A map of a longer image is put together from squares that overlap by at least half: numbers
  are averaged, with weights that fall towards a square's sides; classes and edges are those of the nearest square. A
  box is taken from the square to whose middle it is nearest. Texts and vectors are of the centre square.
- A sample's random numbers follow from the seed and its key: neighbours, batches and shards change nothing.
- The label depends on the bytes of the weights: another place of the same run changes no fingerprint.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import cv2
import numpy as np
from pydantic import BeforeValidator, Field, PrivateAttr

from ..infra import storage, sums
from ..infra.explain import listing
from ..infra.fields import Positive
from ..infra.fingerprint import hashed
from ..modalities import LABELS, MODALITIES, Form
from ..model.config import WEIGHTS
from ..pipelines.reject import Reject
from ..pipelines.specialists.base import ImageItem, Specialist
from ..pipelines.specialists.pretrained import loaded
from ..tokenize.codec import Labelled
from ..tokenize.crops import Crop, crops
from ..tokenize.inputs import unit
from ..tokenize.text_codecs import Text
from ..train.downstream.settings import ChainStep, Generate, as_steps
from ..train.settings import Precision

if TYPE_CHECKING:
    from ..model.config import FourMConfig
    from .coder import Encoded
    from .run import Run

_MAPS = (Form.COLORS, Form.EDGES, Form.CLASSES, Form.DEPTH, Form.DISTANCE, Form.NORMALS)
_WHOLE = (Form.EDGES, Form.CLASSES)  # whose values are never mixed
_THINGS = "det"
_GIB = 2**30


class Trained(Specialist):
    """Makes any label that a trained model generates: maps, boxes (with a score of 1), sentences, vectors."""

    name: ClassVar[str] = "fourmill"
    batch_size: ClassVar[int] = 16
    gpus: ClassVar[float] = 1.0

    label: str = Field(exclude=True)  # type: ignore[misc]  # of an instance here: it makes any label
    weights: str = Field(
        description="The folder of a finished run, of one of its checkpoints, or of an exported model, or a hub id."
    )
    root: str = Field(
        "", exclude=True, description="The root that holds the model's tokenizers; unless given the one above the run."
    )
    inputs: list[str] = Field(
        ["rgb"], min_length=1, description="Modalities or labels that the model is given; labels are made before."
    )
    chain: Annotated[list[ChainStep], BeforeValidator(as_steps)] = Field(
        [],
        description="What is generated, one after the other, the label last, with the options of generate.chains; "
        "unless given the label alone, by its likeliest tokens.",
    )
    ensemble: Positive = Field(1, description="Generations of each sample, whose maps are averaged (4M-21: 10).")
    seed: int = Field(0, ge=0, description="Of all random numbers.")
    precision: Precision = Field("auto", description="auto: bf16 on a GPU, fp32 on a CPU.")

    _run: Any = PrivateAttr(None)
    _given: dict[str, str] = PrivateAttr(default_factory=dict)
    _steps: list[ChainStep] = PrivateAttr(default_factory=list)

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """The labels that it is given."""
        return tuple(label for name in self.inputs if (label := _label(name)) != "rgb")

    @cached_property
    def _place(self) -> str:
        """Where the model is; "" if nothing is there."""
        from ..train.pretrain import initial

        try:
            return initial.located(self.weights)
        except ValueError:
            return ""

    @cached_property
    def _sum(self) -> str:
        """Of the weights' bytes; a hub id as it is."""
        from ..train.checkpoint import MARKER

        files = set(storage.list_names(self._place)) if self._place else set()
        for name in (WEIGHTS, MARKER):
            if name in files:
                return sums.read(self._place).get(name) or sums.of_url(storage.join(self._place, name))
        return self._place or self.weights

    def identity(self) -> dict[str, Any]:
        identity = super().identity()
        # Fields of a step that came later are in no fingerprint at their default.
        options = {**identity["options"], "weights": self._sum, "chain": [hashed(step) for step in self.chain]}
        return {**identity, "options": options}

    def model_key(self) -> Any:
        """Labels of one model share it, but nothing that it computes of an item."""
        return None

    def resident_gb(self) -> float:
        url = storage.join(self._place or self.weights, WEIGHTS)
        found = storage.stat(url) if self._place else None
        # Weights in float32, and the activations of a batch.
        return self.memory_gb + 1.0 + (2 * found.size / _GIB if found else 1.0)

    def why_not(self, others: Mapping[str, Specialist]) -> str:
        from ..train.pretrain import initial

        names = set(storage.list_names(self.weights))
        if "checkpoints" in names and "model" not in names:
            return f"weights: {self.weights} is not finished; name one of the folders in its checkpoints/"
        try:
            place = initial.located(self.weights)
            described = initial.describe(place)
            if described is None:  # the hub does not answer: fetching says more of it
                return ""
            _, steps = self.steps(described[0])
        except ValueError as error:
            return f"weights: {error}"
        label = LABELS[self.label]
        if label.form in (*_MAPS, Form.VECTOR) or steps[-1].target in _texts() or self.label == _THINGS:
            return ""
        return f"{self.label}: maps, boxes, texts and vectors can be made by a trained model, this label cannot"

    def steps(self, config: FourMConfig) -> tuple[dict[str, str], list[ChainStep]]:
        """What a model is given, input -> modality, and what it generates. ValueError if it cannot."""
        from .names import input_of, label_of
        from .targets import chain

        given = {name: input_of(config, name) for name in self.inputs}
        ends = {"ends_above": 0.5} if self.label == _THINGS else {}
        likeliest = {"target": self.label, "temperature": 0.0, **ends}
        said = [step.model_dump(exclude_unset=True) for step in self.chain] or [likeliest]
        steps = chain(config, said, given.values(), Generate(), {"steps": 1} if not self.chain else {})
        if (last := label_of(steps[-1].target)) != self.label:
            raise ValueError(f"the chain ends with {steps[-1].target}, of {last}; expected {self.label}")
        return given, steps

    def setup(self, device: str) -> None:
        from .run import opened

        place, root = self._place or self.weights, self.root or None
        # One model for all labels that it makes.
        self._run = loaded(("fourmill", place, root, device), lambda: opened(place, device, root))
        self._given, self._steps = self.steps(self._run.model.config)
        for step in self._steps:  # a tokenizer that is missing is known before the shards
            self._run.coder.codec(step.target)
        learned, ours = self._run.coder.classes([self._steps[-1].target]).get(self.label), self.class_names()
        if learned and ours and tuple(learned) != tuple(ours):
            raise ValueError(
                f"{self.label}: the model has learned other classes ({listing(learned[:5])}, ...) than this recipe has "
                f"({listing(ours[:5])}, ...); give the recipe its list in `classes`"
            )

    def __call__(self, items: Sequence[ImageItem]) -> list[Any | Reject]:
        seen = [(i, window) for i, item in enumerate(items) for window in self._squares(item)]
        encoded, reasons = self._encode(items, seen)
        good = [n for n, (i, _) in enumerate(seen) if i not in reasons]
        ids = [_id(items[i].key, window) for i, window in (seen[n] for n in good)]
        answers = self._generate([encoded[n] for n in good], ids) if good else []
        of_item: dict[int, list[tuple[Crop, Any]]] = {}
        for n, answer in zip(good, answers, strict=True):
            of_item.setdefault(seen[n][0], []).append((seen[n][1], answer))
        form = LABELS[self.label].form
        return [
            Reject(reasons[i]) if i in reasons else _whole(form, of_item[i], item.image.shape[:2])
            for i, item in enumerate(items)
        ]

    def _squares(self, item: ImageItem) -> list[Crop]:
        height, width = item.image.shape[:2]
        mapped = LABELS[self.label].form in _MAPS or self.label == _THINGS
        return squares(width, height) if mapped else crops(0, item.key, width, height, 1)

    def _encode(
        self, items: Sequence[ImageItem], seen: Sequence[tuple[int, Crop]]
    ) -> tuple[list[dict[str, Encoded]], dict[int, str]]:
        """Of each square, (number of its item, window), its inputs by modality; and why some items have none."""
        from .coder import Encoded

        encoded: list[dict[str, Encoded]] = [{} for _ in seen]
        reasons: dict[int, str] = {}
        for name, modality in self._given.items():
            label = _label(name)
            labelled = []
            for i, window in seen:
                image = items[i].image
                value = image if label == "rgb" else items[i].labels[label]
                labelled.append(Labelled(items[i].key, value, [window], image.shape[1::-1]))
            for n, row in enumerate(self._run.coder.codec(modality).encode(labelled)):
                if isinstance(row, Exception):
                    reasons.setdefault(seen[n][0], f"{self.label}: {row}")
                else:
                    tokens = np.frombuffer(row[0], np.uint8) if isinstance(row[0], bytes) else np.asarray(row[0])
                    encoded[n][modality] = Encoded(tokens, None)
        return encoded, reasons

    def _generate(self, given: Sequence[dict[str, Encoded]], ids: Sequence[int]) -> list[Any]:
        """The label that is generated of each square, in its frame."""
        from ..train.downstream.generation import members, model_step
        from .coder import stack

        run: Run = self._run
        settings = Generate(seed=self.seed, batch_size=self.batch_size, precision=self.precision)
        asked = [model_step(step, run.specs[step.target]) for step in self._steps]
        target = self._steps[-1].target
        everyone = members(
            settings, run.coder.special_ids(), run.model, stack(run.specs, given), asked, ids, range(self.ensemble)
        )
        return run.decoded([{target: one[target]} for one in everyone])[target]


def _texts() -> set[str]:
    """The modalities that are plain sentences."""
    return {name for name, modality in MODALITIES.items() if modality.codec == Text.name}


def _label(name: str) -> str:
    """The label of an input, which may be named by its modality."""
    from .names import label_of

    return name if name in LABELS else label_of(name)


def _id(key: str, square: Crop) -> int:
    """The number, below 2^32, that the random numbers of a square of a sample follow from."""
    text = f"{square.left}/{square.top}/{key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")


def squares(width: int, height: int) -> list[Crop]:
    """The largest squares that cover an image, in order along its longer side, each half over the next or more."""
    side, longer = min(width, height), max(width, height)
    count = 1 + math.ceil((longer - side) / max(side // 2, 1))
    starts = [round(i * (longer - side) / max(count - 1, 1)) for i in range(count)]
    return [Crop(at, 0, side, side) if width >= height else Crop(0, at, side, side) for at in starts]


def _whole(form: Form, of_squares: Sequence[tuple[Crop, Any]], shape: tuple[int, int]) -> Any:
    """The label of an image (height, width) from those of its squares."""
    windows, answers = [window for window, _ in of_squares], [answer for _, answer in of_squares]
    if form in _MAPS:
        return _map(form, answers, windows, shape)
    if isinstance(answers[0], list):
        return _boxes(answers, windows, shape)
    return answers[0].astype(np.float16) if form is Form.VECTOR else answers[0]


def _map(form: Form, answers: Sequence[np.ndarray], windows: Sequence[Crop], shape: tuple[int, int]) -> np.ndarray:
    """One map (H, W) or (H, W, 3) of the dtype of the answers, each of which is of a square at any resolution."""
    first = answers[0]
    whole = np.zeros((*shape, *first.shape[2:]), np.float32)
    weights, nearest = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for answer, window in zip(answers, windows, strict=True):
        size = (window.width, window.height)
        how = cv2.INTER_NEAREST if form in _WHOLE else cv2.INTER_LINEAR
        pixels = cv2.resize(answer.astype(np.float32), size, interpolation=how)
        here = np.s_[window.top : window.top + window.height, window.left : window.left + window.width]
        # How far a pixel is from the nearer side of the square, along the image's longer side.
        ramp = np.minimum(np.arange(window.width) + 1, window.width - np.arange(window.width)).astype(np.float32)
        weight = np.broadcast_to(ramp if shape[1] >= shape[0] else ramp[:, None], (window.height, window.width))
        if form in _WHOLE:
            closer = weight > nearest[here]
            whole[here][closer], nearest[here][closer] = pixels[closer], weight[closer]
        else:
            whole[here] += pixels * (weight[..., None] if pixels.ndim == 3 else weight)
            weights[here] += weight
    if form not in _WHOLE:
        whole /= weights[..., None] if whole.ndim == 3 else weights
    if form is Form.NORMALS:
        whole = unit(whole)
    if np.issubdtype(first.dtype, np.integer):
        whole = whole.round()
    return whole.astype(np.uint8 if np.issubdtype(first.dtype, np.integer) else np.float16)


def _boxes(
    answers: Sequence[Sequence[Mapping[str, Any]]], windows: Sequence[Crop], shape: tuple[int, int]
) -> list[dict[str, Any]]:
    """Boxes of the squares in the frame of the image, [0, 1], each from the square to whose middle it is nearest."""
    height, width = shape
    found = []
    middles = [(one.left + one.width / 2, one.top + one.height / 2) for one in windows]
    for number, (boxes, window) in enumerate(zip(answers, windows, strict=True)):
        for one in boxes:
            x0, y0, x1, y1 = one["box"]
            left, right = window.left + x0 * window.width, window.left + x1 * window.width
            top, bottom = window.top + y0 * window.height, window.top + y1 * window.height
            far = [math.hypot((left + right) / 2 - x, (top + bottom) / 2 - y) for x, y in middles]
            if far.index(min(far)) == number:
                box = [left / width, top / height, right / width, bottom / height]
                found.append({"box": box, "label": one["label"], "score": 1.0})
    return found
