"""What a specialist is: options, resources, `setup`, and a call on a batch, which may be split into stages. It knows
nothing of Ray, shards or files.

A specialist is a pydantic model whose fields are its options, so that a recipe's mistakes are found before any work
starts, and so that its fingerprint (class, version, options) says exactly what a label depends on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, PrivateAttr

from ...infra.versions import Part
from ...modalities import class_names
from ..borders.window import Window
from ..reject import Reject
from .names import SPECIALISTS, Registered


@dataclass
class Item:
    """What a specialist sees of one sample.

    image: uint8 (H, W, 3) RGB, upright, at the source's resolution; None if the sample has none or it was rejected.
    caption: the text that came with the image, or None.
    info: the sample's JSON sidecar ({} without one): original_width, watermark scores, whatever the download wrote.
    labels: the labels made so far, by name; a label that was rejected is absent.
    members: the members of the tar that specialists of the job ask for, by extension ("depth.npy"): arrays, what JSON
        says, text, or bytes, as pipelines/members.py says. One that is missing or damaged is absent.
    raw: the bytes of members whose specialists set `takes_bytes`, by extension.
    shared: what specialists of one model leave for each other (the output of a forward pass), under a key of their own.
    window: which part `image` is of the image in the shard, where bars around it were cut off (`images.trim_borders`);
        None where the image is whole. Members are of the whole image: `Window.cut` and `Window.box` make them follow.
    """

    key: str
    image: np.ndarray | None
    caption: str | None
    info: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    shared: dict[Any, Any] = field(default_factory=dict)
    members: dict[str, Any] = field(default_factory=dict)
    window: Window | None = None
    raw: dict[str, bytes] = field(default_factory=dict)


@dataclass
class ImageItem(Item):
    """An item that has an image: what specialists with `needs_image` see.

    image: uint8 (H, W, 3) RGB, never None.
    """

    image: np.ndarray


class Specialist(BaseModel):
    """Base of all specialists. Subclasses set the class variables, declare options as fields and define `__call__`, or
    its stages `prepare`, `infer` and `finish`.

    name: what recipes, `plan` and the ledger call it; "package.module:Class" unless set.
    fingerprint_name: what fingerprints call it, if that is not its name: it never changes, though the name and the file
        may.
    label: the label it makes, a key of `modalities.LABELS`.
    version: raise it when the same options give other labels than before, and say in `changes` what is other.
    first_version: the version that fingerprints hold; it never changes (see infra/versions.py).
    changes: what changed at a version, by version.
    later: options that came after the first release, with their default at that time: at that default they are in no
        fingerprint.
    needs: labels that it is made from, besides the image and the caption: they are made first, whether the recipe asks
        for them or not, and an item that lacks one is rejected before the call.
    uses: labels that it looks at if the recipe makes them; any may be missing from an item.
    members: members of the tar that it reads, by extension: "depth.npy" is KEY.depth.npy. Only those that a specialist
        asks for are read. With `needs_members` an item that lacks one, or has a damaged one, is rejected before the
        call; without it such a member is absent from the item.
    takes_bytes: its members come as bytes, in `Item.raw`.
    sees_image: it looks at the image if there is one, so that its labels depend on how images are read.
    needs_image: items without an image are rejected before the call.
    in_frame: its labels have places in the image though it does not look at it (boxes of a member), so that they
        depend on `images.trim_borders`.
    cpus, gpus: what one instance takes of a Ray actor (the CPU serves where a cluster has no GPU); memory_gb is its
        resident size beyond the images.
    batch_size: items it likes at a time.
    groups: it puts together by itself what may go through its network together, however many items it gets. On a GPU it
        gets those of several batches at a time, and everywhere, if it looks at captions and sidecars alone, 1,024.
    of_whole_set: its label is made over the whole set, from other kept labels, when these are there: it is not called.
    record_fields: the names of the fields of its record, which `train.select` may name; () if they are not known.
    packages: that it imports beyond fourmill's own, with what `pip install` takes: {"ultralytics": "fourmill[yolo]"}.

    Examples:
        >>> class Brightness(fourmill.Specialist):
        ...     label = "brightness"
        ...     scale: float = 1.0
        ...
        ...     def __call__(self, items):
        ...         return [self.scale * float(item.image.mean()) for item in items]
        >>> Brightness(scale=0.5)([fourmill.Item("a", np.full((4, 4, 3), 200, np.uint8), None)])
        [100.0]
        >>> class Altitude(fourmill.Specialist):
        ...     label = "altitude"
        ...     members = ("gps.json",)  # KEY.gps.json in the tar
        ...     needs_image = False
        ...
        ...     def __call__(self, items):
        ...         read = [item.members["gps.json"].get("altitude") for item in items]
        ...         return [fourmill.Reject("altitude: not known") if one is None else one for one in read]
        >>> Altitude()([fourmill.Item("a", None, None, members={"gps.json": {"altitude": 1200}})])
        [1200]
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str] = ""
    fingerprint_name: ClassVar[str] = ""
    label: ClassVar[str]
    version: ClassVar[int] = 1
    first_version: ClassVar[int] = 1
    changes: ClassVar[dict[int, str]] = {}
    later: ClassVar[dict[str, Any]] = {}
    needs: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ()
    members: ClassVar[tuple[str, ...]] = ()
    needs_members: ClassVar[bool] = True
    takes_bytes: ClassVar[bool] = False
    sees_image: ClassVar[bool] = True
    needs_image: ClassVar[bool] = True
    in_frame: ClassVar[bool] = False
    cpus: ClassVar[float] = 1.0
    gpus: ClassVar[float] = 0.0
    memory_gb: ClassVar[float] = 0.1
    batch_size: ClassVar[int] = 16
    groups: ClassVar[bool] = False
    of_whole_set: ClassVar[bool] = False
    record_fields: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[dict[str, str]] = {}

    _class_lists: dict[str, tuple[str, ...]] = PrivateAttr(default_factory=dict)

    def model_post_init(self, context: Any, /) -> None:
        self._class_lists = (context or {}).get("classes", {})

    def class_names(self, label: str = "") -> tuple[str, ...]:
        """The names of the classes of its label (or of another one) by id, as the recipe says; () if it has none."""
        return class_names(label or self.label, self._class_lists)

    def setup_on_node(self) -> None:
        """Fetch what it needs onto this machine. Called once for each node, before its actors start."""

    def setup(self, device: str) -> None:
        """Load what it needs onto `device` ("cpu", "cuda:0"). Called once for each actor."""

    # `Sequence[Any]` so that subclasses may take Sequence[Item], or Sequence[ImageItem] where they need the image.
    def __call__(self, items: Sequence[Any]) -> list[Any | Reject]:
        """One label (or a Reject with its reason) for each `Item`, in order. It must not depend on its neighbours.

        With `needs_image` every item is an `ImageItem`. A class defines this, or `infer` and `finish`, and `prepare`
        where there is something to prepare: the engine works on three batches of such a specialist at the same time,
        one in each of these stages.
        """
        return self.finish(items, self.infer(self.prepare(items)))

    @property
    def is_split(self) -> bool:
        """Whether its call is `prepare`, `infer` and `finish`, one after the other, and nothing else."""
        return type(self).__call__ is Specialist.__call__

    def prepare(self, items: Sequence[Any]) -> Any:
        """What `infer` takes: items resized, tokenized, stacked. Runs beside `infer` and `finish` of other batches."""
        return items

    def infer(self, prepared: Any) -> Any:
        """The network's outputs. One specialist at a time does this on a GPU; what waits for its result (`.cpu()`,
        `.item()`) belongs into `finish`, see `host.OnHost`."""
        raise NotImplementedError

    def finish(self, items: Sequence[Any], inferred: Any) -> list[Any | Reject]:
        """The label, or a Reject, of each item, in order. Runs beside `prepare` and `infer` of other batches."""
        raise NotImplementedError

    def model_key(self) -> Any:
        """What names the model behind it: specialists of equal models share it, and one after the other look at an
        item, so that they may leave each other something in `Item.shared`. None if there is none."""
        weights = getattr(self, "weights", None)
        return None if weights is None else (weights, getattr(self, "revision", None))

    def why_not(self, others: Mapping[str, Specialist]) -> str:
        """Why it cannot make its label as the recipe has it, in one sentence that says what to write; "" if it can.

        Asked by `plan`, and before any work starts: nothing is loaded yet.

        Args:
            others: the recipe's specialists by label, its own among them.
        """
        return ""

    def looks_at(self) -> tuple[str, ...]:
        """Of `uses`, what this instance looks at with its options."""
        return self.uses

    def reads(self) -> tuple[str, ...]:
        """The members that this instance reads with its options, in lower case."""
        return tuple(name.lower() for name in self.members)

    def resident_gb(self) -> float:
        """Memory of one instance beyond the images, in GiB."""
        return self.memory_gb

    def identity(self) -> dict[str, Any]:
        """What a label depends on, for people: name, version and options."""
        return {"specialist": self.full_name(), "version": self.version, "options": self.model_dump(mode="json")}

    def made_with(self, device: str) -> dict[str, Any]:
        """What records say beside `identity`, after `setup`: what the options leave open, {} if nothing."""
        return {}

    def fingerprint_parts(self) -> dict[str, Any]:
        """`identity` as it is hashed: with the frozen name and the first version, less new options at their default."""
        ours = self._registered()
        # Not inherited: a subclass is another specialist.
        name = ours.fingerprint_name if ours else type(self).__dict__.get("fingerprint_name") or self.full_name()
        identity = self.identity()
        options = {k: v for k, v in identity["options"].items() if k not in self.later or v != self.later[k]}
        # With what a subclass adds to its identity: a digest of a table that it reads, say.
        return {**identity, "specialist": name, "version": self.first_version, "options": options}

    def former_parts(self) -> dict[str, Any]:
        """`fingerprint_parts` as an earlier release would have hashed them for the same label."""
        return self.fingerprint_parts()

    def part(self) -> Part:
        """What a record says of its version."""
        return Part(f"labels/{self.label}", self.version, self.first_version, self.changes)

    @classmethod
    def full_name(cls) -> str:
        """The registered name; of a class without one its place, "package.module:Class"."""
        return cls.__dict__.get("name") or f"{cls.__module__}:{cls.__qualname__}"

    @classmethod
    def is_registered(cls) -> bool:
        """Whether it is one of fourmill's own, whose first version is known."""
        return cls._registered() is not None

    @classmethod
    def _registered(cls) -> Registered | None:
        """Its row among fourmill's own; a class of the user's that takes one of the names has none."""
        row = SPECIALISTS.get(cls.__dict__.get("name", ""))
        return row if row is not None and row.place == (cls.__module__, cls.__qualname__) else None
