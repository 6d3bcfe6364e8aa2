"""The columns of the evaluation table: what of a recipe can be measured, and by which judge."""

from __future__ import annotations

from dataclasses import dataclass

from ....infra.explain import listing
from ....modalities import LABELS, MODALITIES, Form, ModalitySpec, class_names
from ....sensors.declared import SENSORS
from ....tokenize.text_codecs import Text
from .job import EvaluateJob
from .judges import Captions, Judge, Maps
from .records import Boxes, Instances, People
from .sensors import FORMS, ClassMap, Values, judge_of, members_of
from .sentences.sensors import RECORDS, Catalogues, Places, Times
from .sentences.sensors import judge_of as judge_of_records
from .settings import CLASSES, Truth
from .vectors import Neighbours

# Words for colours that a caption may say.
COLOURS = (
    "black", "blue", "brown", "cyan", "gold", "gray", "green", "grey", "orange", "pink", "purple", "red", "silver",
    "white", "yellow",
)  # fmt: skip
_MAPS = (Form.NORMALS, Form.DEPTH, Form.CLASSES)  # in the order of 4M-21's table 1


@dataclass(frozen=True)
class Column:
    """A modality that is generated, and how it is measured.

    given: where the truth is; None: the stored label is the reference, as far as there is one.
    classes: of a raster of a sensor, the map of classes by which its values are averaged, if there is one.
    """

    spec: ModalitySpec
    label: str
    judge: Judge
    given: Truth | None
    classes: Column | None = None

    @property
    def target(self) -> str:
        return self.spec.name

    @property
    def reference(self) -> str:
        """What the answers are compared with, for people."""
        if self.given is None:
            return f"the stored label {self.label}"
        of, _, member = self.given.member.rpartition("/")
        return f"{of}/KEY.{member}" if of else f"KEY.{member}"

    @property
    def unit(self) -> str:
        """Of its values, "" where they have none."""
        unit = SENSORS[self.label].unit if isinstance(self.judge, Values | Places) else ""
        return "" if unit == "1" else unit

    @property
    def members(self) -> set[str]:
        """The members that its truth is in."""
        of = {one.given.member for one in (self, self.classes) if one is not None and one.given is not None}
        if isinstance(self.judge, Values | ClassMap | Places | Times | Catalogues):
            return of | members_of(self.judge.sensor)
        return of


def columns(job: EvaluateJob) -> tuple[list[Column], list[str]]:
    """The columns of a recipe, in the order of 4M-21's table 1, and a sentence for what it has no column of."""
    made, without, seen = [], list[str](), list[str]()
    given = {MODALITIES[name].label for name in job.inputs}
    for spec in job.generation.specs:
        if not spec.is_target or spec.name in job.inputs:
            continue
        if MODALITIES[spec.name].label in given & SENSORS.keys():  # its very values are given
            seen.append(spec.name)
            continue
        column = _column(job, spec)
        if column is None:
            without.append(spec.name)
        else:
            made.append(column)
    said = [f"No protocol measures {listing(without)}."] if without else []
    if seen:
        said.append(f"What is given is not asked: {listing(seen)}.")
    if any(LABELS[MODALITIES[name].label].form is Form.VECTOR for name in without):
        said.append("kNN needs the classes of images, in evaluate.truth.classes.")
    return sorted(made, key=lambda column: _place(column.label)), said


def _place(label: str) -> int:
    form = LABELS[label].form
    if form in _MAPS:
        return _MAPS.index(form)
    order = ["sam_instance", "det", "caption", "human_poses"]
    return len(_MAPS) + (order.index(label) if label in order else len(order))


def _column(job: EvaluateJob, spec: ModalitySpec) -> Column | None:
    modality = MODALITIES[spec.name]
    label, form = modality.label, LABELS[modality.label].form
    if label in SENSORS and form in (*FORMS, *RECORDS) and label not in job.settings.truth:
        return _of_sensor(job, spec)
    # A modality at another resolution shows what its neighbour does.
    if modality.image_size:
        return None
    judge = _judge(job, label, form, modality.codec)
    given = job.settings.truth.get(CLASSES if form is Form.VECTOR else label)
    return None if judge is None else Column(spec, label, judge, given)


def _of_sensor(job: EvaluateJob, spec: ModalitySpec) -> Column:
    """The truth of a sensor is its own member."""
    label, size = MODALITIES[spec.name].label, MODALITIES[spec.name].image_size or job.generation.options.image_size
    sensor = SENSORS[label]
    maps = [one for one in job.generation.specs if _is_class_map(one)] if sensor.form is Form.RASTER else []
    beside = None
    if maps:
        name = MODALITIES[maps[0].name].label
        beside = Column(maps[0], name, judge_of(SENSORS[name], size), Truth(member=SENSORS[name].name))
    judge = judge_of_records(sensor) if sensor.form.is_record else judge_of(sensor, size)
    return Column(spec, label, judge, Truth(member=sensor.name), beside)


def _is_class_map(spec: ModalitySpec) -> bool:
    label = MODALITIES[spec.name].label
    return label in SENSORS and SENSORS[label].form is Form.CLASSES


def _judge(job: EvaluateJob, label: str, form: Form, codec: str) -> Judge | None:
    given, size = job.settings.truth.get(label), job.generation.options.image_size
    if form in _MAPS:
        return Maps(form, size, given, class_names(label, job.classes))
    if form is Form.VECTOR:
        of_images = job.settings.truth.get(CLASSES)
        return None if of_images is None else Neighbours(of_images)
    if label == "caption" and codec == Text.name:
        return Captions(given, class_names("det", job.classes), COLOURS)
    plain: dict[str, type[Boxes | Instances | People]] = {
        "det": Boxes, "sam_instance": Instances, "human_poses": People,
    }  # fmt: skip
    return plain[label](given) if label in plain else None
