"""The truth of validation samples, to be seen beside what a model says: where `evaluate.truth` names a member."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..modalities import LABELS, Form
from ..train.downstream.evaluation.columns import Column, columns
from ..train.downstream.evaluation.job import EvaluateJob
from ..train.downstream.evaluation.records import Boxes
from ..train.downstream.evaluation.references import Reference
from ..train.downstream.samples import Place, Samples


def truths(job: EvaluateJob, places: Sequence[Place]) -> dict[str, list[Any]]:
    """Of each label whose truth can be drawn, the truth of some samples in the frame of their crop, None if unknown."""
    given = [column for column in columns(job)[0] if column.given is not None]
    reference = Reference(job, Samples({}, list(places), {}), given)
    found = {column.label: [_drawn(column, value) for value in reference.of(column)] for column in given}
    return {label: values for label, values in found.items() if any(value is not None for value in values)}


def _drawn(column: Column, value: Any) -> Any:
    """A judge's reference as a label."""
    if value is None:
        return None
    if LABELS[column.label].form is not Form.DEPTH:
        label = column.judge.as_label(value)
        # Nothing is as sure as the truth: a score beside it would say nothing.
        is_boxes = isinstance(column.judge, Boxes)
        return [{"box": one["box"], "label": one["label"]} for one in label] if is_boxes else label
    # A map from 0, near, to 1, far, linear in what the labels are: `inverse` says it. What has no distance is as far as
    # the farthest thing, as the sky is.
    values, known = value
    if not known.any():
        return None
    assert column.given is not None
    far = -values if column.given.inverse else values
    far = np.where(known, far, far[known].max())
    low, high = far.min(), far.max()
    return ((far - low) / max(high - low, 1e-6)).astype(np.float32)
