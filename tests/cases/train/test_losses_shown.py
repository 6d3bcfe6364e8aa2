"""What is shown of a run, and handed on, is what it says."""

from __future__ import annotations

from pathlib import Path

from fourmill_tests import training
from fourmill_tests.cases import require

from fourmill.train import metrics


def _rows(folder: Path, kind: str, **train: object) -> list[dict[str, float]]:
    job = training.job(folder, **train)
    training.train(job)
    return [row for row in metrics.read(job.folder) if row["kind"] == kind]


def test_val_loss_is_the_mean_of_its_modalities(tmp_path: Path) -> None:
    """docs/train.md says so; a run that predicts some of its modalities divides by the number of all."""
    mixture = {"input_alpha": {"rgb": 1}, "target_alpha": {"caption": 1}}
    row = _rows(tmp_path, "val", steps=3, validate_every=3, mixtures=[mixture])[-1]
    losses = [value for name, value in row.items() if name.startswith("loss/")]
    mean = sum(losses) / len(losses)
    require(abs(row["loss"] - mean) < 0.01 * mean, f"val loss {row['loss']:.3f}; of its modalities {mean:.3f}")


def test_average_of_a_short_run_is_no_untrained_model(tmp_path: Path) -> None:
    """ema=0.9999, the usual decay, in a short run (pytorch-image-models#1182): the average that is validated and handed
    on is nearly that of step 0, unless its decay is ramped or its bias corrected."""
    options = {"steps": 60, "validate_every": 60, "checkpoint_every": 60, "log_every": 59}
    averaged = _rows(tmp_path / "a", "val", ema=0.9999, **options)[-1]["loss"]
    plain = _rows(tmp_path / "b", "val", ema=0.0, **options)[-1]["loss"]
    first = _rows(tmp_path / "c", "train", **options | {"steps": 2, "log_every": 1, "warmup_steps": 1})[0]["loss"]
    if plain >= first:
        raise RuntimeError("nothing is learned")
    said = f"validation loss of what is handed on: {averaged:.3f} with, {plain:.3f} without the average"
    require(averaged - plain < 0.5 * (first - plain), f"{said}; {first:.3f} at first")
