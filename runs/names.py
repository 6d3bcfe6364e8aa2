"""Which modality of a model a person means: by its own name, its label's ("depth"), or its published one."""

from __future__ import annotations

from ..infra.explain import nearest
from ..modalities import LABELS, MODALITIES, Modality, height_width
from ..model.config import FourMConfig


def modality_of(name: str) -> Modality:
    """The declaration of a model's modality; `tok_rgb@112` of a published model of that size is tok_rgb.

    ValueError if nothing declares it.
    """
    for known in (name, name.partition("@")[0]):
        if known in MODALITIES:
            return MODALITIES[known]
    raise ValueError(
        f"{name}: nothing declares this modality; name your recipe that has its `modules`, or run those of the model's "
        "own with --trust, or import them before it is opened"
    )


def label_of(name: str) -> str:
    """The label of a model's modality."""
    return modality_of(name).label


def input_of(config: FourMConfig, name: str) -> str:
    """The modality that an input's name means. ValueError, with what the model reads, if there is none."""
    return _choose(config, name, config.inputs, "reads")


def target_of(config: FourMConfig, name: str) -> str:
    """The modality that a target's name means. ValueError, with what the model predicts, if there is none."""
    # "rgb" is a modality that is read alone, and a label that tok_rgb gives back.
    return _choose(config, name, config.outputs, "predicts")


def _choose(config: FourMConfig, name: str, allowed: tuple[str, ...], does: str) -> str:
    if name in allowed:
        return name
    of_label = [one for one in allowed if label_of(one) == name]
    if of_label:  # its own resolution comes before others', tok_rgb before tok_rgb@448
        return min(of_label, key=lambda one: (height_width(modality_of(one).image_size), allowed.index(one)))
    spec = config.find(name)
    if spec is not None and spec.name in allowed:
        return spec.name
    if spec is not None:
        kind = (
            "input only and cannot be generated" if does == "predicts" and not spec.is_target else f"not what it {does}"
        )
        raise ValueError(f"{name} is {kind}; the model {does} {', '.join(allowed)}")
    if name in MODALITIES or name in LABELS:
        raise ValueError(f"the model does not know {name}; it {does} {', '.join(allowed)}")
    raise ValueError(f"there is no modality {name!r}{nearest(name, {*allowed, *map(label_of, allowed)})}")
