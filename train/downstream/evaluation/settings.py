"""The `evaluate` section of a recipe: what a trained model is asked, and where the truth is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ....infra.fields import Count, Positive, Section, Share, UrlList
from ....modalities import MODALITIES, RASTER
from ...settings import Precision
from ..settings import ChainStep, as_steps

CLASSES = "classes"  # the truth that says which class an image has


class Truth(Section):
    """Where the truth of a label is: a member of the source tars, and what it holds. A bare name is the member."""

    member: str
    # Of class maps: the names of ids in order, null for none. The label's own ids unless given.
    classes: list[str | None] | None = None
    # Of depth: labels are linear in the inverse of distances, as relative depth is (`depth`), and are compared there.
    # What the label's specialist says unless given, see `resolved`.
    inverse: bool | None = None
    # Of captions, whose truth is a JSON: the key of its list of objects, "" if it is the list; and what to look at in
    # each of them. One whose `visible` is not above `least` is not there.
    objects: str = ""
    name: str = "label"
    colours: UrlList = []
    visible: str = ""
    least: Share = 0.0
    words: dict[str, list[str]] = {}  # of captions: other words for a name


_INVERSE = {"inverse_depth": True, "depth": False}  # by what a label of depth is linear in


def _as_truth(value: Any) -> Any:
    return {"member": value} if isinstance(value, str) else value


class Evaluate(Section):
    """Evaluation on the first validation samples that have the inputs."""

    samples: Positive = 256
    subset: Positive | None = None  # the first so many of them, for what takes long: chains, ensembles, the matrix
    inputs: UrlList = []  # that the table's model is given; `default_inputs` unless given
    truth: dict[str, Annotated[Truth, BeforeValidator(_as_truth)]] = {}  # by label; the stored label is it elsewhere
    chain: Annotated[list[ChainStep], BeforeValidator(as_steps)] = []  # all that the table shows unless given
    ensemble: Positive = 10  # generations of the chain (4M-21: 10)
    training_samples: Positive = 1000  # of which the constant answer and the neighbours of kNN are
    training: UrlList = []  # names of validation shards, as globs, that these are from in place of the recipe's own
    combinations: list[Annotated[UrlList, Field(min_length=2)]] = []  # inputs of the matrix, beside each one alone
    draws: Count = 1000  # of the bootstrap
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Positive = 16
    precision: Precision = "auto"


def default_inputs(modalities: Iterable[str]) -> list[str]:
    """What a model is given unless the recipe says it: RGB, or where there is none the pixels of all sensors."""
    names = list(modalities)
    return [name for name in names if name == "rgb"] or [name for name in names if MODALITIES[name].codec == RASTER]


def resolved(settings: Evaluate, linear: Mapping[str, str]) -> Evaluate:
    """The settings with `inverse` of each truth of depth as its label is.

    Args:
        linear: labels of depth that the recipe makes, with what each is linear in: "depth", "inverse_depth", or ""
            where nothing says it: these are as the recipe says, or linear in depth.

    Raises:
        ValueError: a truth says another scale than its label has.
    """
    truths = dict(settings.truth)
    for label, scale in linear.items():
        given, known = truths.get(label), _INVERSE.get(scale)
        if given is None or known is None:
            continue
        if given.inverse not in (None, known):
            raise ValueError(
                f"evaluate.truth.{label}.inverse is {str(given.inverse).lower()}, and this recipe's {label} is linear "
                f"in {scale.replace('_', ' ')}: what is right would count as wrong; leave it out, or say inverse: "
                f"{str(known).lower()}"
            )
        truths[label] = given.model_copy(update={"inverse": known})
    return settings.model_copy(update={"truth": truths})
