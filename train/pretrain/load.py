"""A trained model from any of its places: a run, a checkpoint, a folder of weights, or the Hugging Face Hub."""

from __future__ import annotations

import os
import posixpath

from ...infra import storage
from ...model.fourm import FourM
from .. import checkpoint
from . import initial, weights
from .job import MODEL, MODEL_FILES

CHECKPOINTS, RUNS = "checkpoints", "runs"


def load_model(source: str | os.PathLike[str], device: str = "cpu") -> FourM:
    """Load a 4M model, ours or a published one.

    Args:
        source: a folder (local, or any fsspec URL): of a run (ROOT/runs/NAME/FINGERPRINT, or a folder above it that
            holds one run), whose finished model counts, else its newest checkpoint; one checkpoint of a run; a folder
            with model.safetensors, ours or apple/ml-4m's. Or a Hugging Face Hub id, such as "EPFL-VILAB/4M-21_B",
            which needs a network.
        device: "cpu", "cuda" or "cuda:N".

    Returns:
        The model in evaluation mode, in float32. `model.config.modalities` lists what it knows.

    Raises:
        ValueError: there is no model, or its files are damaged; says which.
        FileNotFoundError: a run has no complete checkpoint yet.

    Examples:
        >>> model = fourmill.load_model("out/runs/4m")
        >>> [spec.name for spec in model.config.modalities]
        ['rgb', 'tok_rgb', 'tok_dinov2_global', 'caption']
    """
    place = find(source)
    if set(storage.list_names(place)) & {MODEL, CHECKPOINTS}:
        return weights.load_model(place, device)
    # The folder of all checkpoints of a run.
    newest = checkpoint.newest(place)
    model = initial.load(place) if newest is None else weights.of_checkpoint(newest)
    return model.to(device).eval()


def at_step(source: str | os.PathLike[str], step: int | None) -> str:
    """The folder of the checkpoint of a step of a run; `source` itself if no step is asked for. ValueError if it is not
    there, or `source` is no run."""
    if step is None:
        return os.fspath(source)
    place = find(source)
    if CHECKPOINTS not in storage.list_names(place):
        raise ValueError(f"{place} is no run, and has no checkpoints; name the folder of a run beside --checkpoint")
    return checkpoint.at_step(storage.join(place, CHECKPOINTS), step).url


def find(source: str | os.PathLike[str]) -> str:
    """The folder that a model is loaded from: `source`, or the one run in it, which may be a root. ValueError if there
    are several."""
    place = os.fspath(source)
    names = set(storage.list_names(place))
    if names & {MODEL, CHECKPOINTS, *MODEL_FILES}:
        return place
    if RUNS in names:
        place = storage.join(place, RUNS)
    runs = _runs_below(place)
    if len(runs) > 1:
        raise ValueError(f"{place}: there are several runs, name one of {', '.join(runs)}")
    return storage.join(place, *runs)


def _runs_below(place: str) -> list[str]:
    """The runs in ROOT/runs/NAME, or in ROOT/runs; those of tokenizers' fits are none."""
    names = [name for name in storage.list_names(place) if not name.startswith("fit-")]
    if runs := [name for name in names if _is_run(storage.join(place, name))]:
        return runs
    if posixpath.basename(place.rstrip("/")) != RUNS:
        return []
    return [f"{name}/{run}" for name in names for run in _runs_below(storage.join(place, name))]


def _is_run(folder: str) -> bool:
    return bool({MODEL, CHECKPOINTS} & set(storage.list_names(folder)))
