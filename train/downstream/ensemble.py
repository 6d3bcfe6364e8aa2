"""Several generations of a sample as one: 4M-21 averages ten for its out-of-the-box figures (section 5.1)."""

from __future__ import annotations

import numpy as np

from ...modalities import Form
from ...tokenize.inputs import unit


def average(form: Form, members: np.ndarray) -> np.ndarray:
    """The average of decoded labels.

    Args:
        members: (members, n, ...), each as `tokenize.inputs.to_label` returns them.

    Returns:
        (n, ...), dtype of the members. Of class maps each pixel's commonest class, the lowest of equally common ones;
        of normals the unit vector along the mean (0 where they cancel); of everything else the mean.
    """
    if form is Form.CLASSES:
        classes = np.unique(members)  # sorted, and argmax takes the first: ties go to the lowest class
        votes = np.stack([(members == c).sum(axis=0) for c in classes])
        return np.asarray(classes[votes.argmax(axis=0)])
    mean = members.mean(axis=0, dtype=np.float32)
    if form is Form.NORMALS:
        mean = unit(mean)
    if np.issubdtype(members.dtype, np.integer):
        mean = mean.round()
    return np.asarray(mean, members.dtype)
