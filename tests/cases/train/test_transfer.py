"""`fourmill transfer`: what it says is so, and what cannot be is said before hours are spent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fourmill_tests import interrupts, runs, transfer
from fourmill_tests.cases import require

from fourmill.train.downstream import transfer as tuning
from fourmill.train.pretrain import initial

BATCH = ("--batch-size", "8")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder with a model and two classes of images."""
    transfer.model(tmp_path / "model")
    transfer.images(tmp_path / "train", 24)
    transfer.images(tmp_path / "val", 8)
    return tmp_path


def test_classes_of_one_number_have_an_order(tmp_path: Path) -> None:
    """Classes "7" and "07", two exports in one table: "the same call gives the same weights" (docs), so that their
    order is fixed (torchgeo#1918, places365#22)."""
    transfer.images(tmp_path / "train", 8, classes=("7", "07", "3", "03"))
    read = "import sys; from fourmill.pipelines import labelled; print(labelled.read(sys.argv[1]).classes)"
    command = [sys.executable, "-c", read, str(tmp_path / "train/table.csv")]
    orders = {
        subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout
        for seed in ("0", "1", "2")
    }
    require(len(orders) == 1, f"the order of the classes depends on the process: {orders}")


def test_one_epoch_of_a_small_set_learns(pets: Path) -> None:
    """Fewer images than a batch: one step, whose learning rate is 0 (barlowtwins#45). It learns, or refuses."""
    status, _, _ = runs.command(*transfer.arguments(pets, 1))
    moved = 0.0
    if status == 0:
        trained, classes, settings = tuning.load(str(pets / "out"))
        before = tuning.build(initial.load(str(pets / "model")), len(classes), settings).state_dict()
        moved = max(float((value - before[name]).abs().max()) for name, value in trained.state_dict().items())
    require(status != 0 or moved > 0, "exit status 0, and no weight has moved")


def test_nan_loss_is_a_sentence_with_an_option(pets: Path) -> None:
    """The advice of the message can be followed: what it names is an option of the command."""
    try:
        status, _, said = runs.command(*transfer.arguments(pets, 3, *BATCH, "--lr", "1e30"))
    except Exception as error:
        status, said = -1, f"a traceback: {error}"
    advises = "clip_norm" in said and "clip" not in runs.command("transfer", "--help")[1]
    require(status == 2 and not advises, f"exit status {status}: {said}")


def test_unusable_out_is_found_before_training(pets: Path) -> None:
    """A file is where the folder should go (OneTrainer#168, DeOldify#303)."""
    (pets / "out").write_text("somebody's notes")
    try:
        status, _, said = runs.command(*transfer.arguments(pets, 2, *BATCH))
    except OSError as error:
        status, said = -1, f"a traceback: {error}"
    trained = "6/6" in said.replace(" ", "") or status == -1
    require(status != 0 and not trained, f"trained first, then: exit status {status}, {said[-300:]}")


def test_interrupted_transfer_keeps_what_it_says(pets: Path) -> None:
    """Ctrl-C: "run the same command again to go on from here". Is anything kept to go on from?"""

    before = sorted(path.name for path in pets.iterdir())
    status, _, said = interrupts.interrupted(
        transfer.arguments(pets, 2000, *BATCH), lambda: interrupts.main_thread_is_in(tuning.finetune), again=5.0
    )
    kept = sorted(path.name for path in pets.iterdir()) != before
    if status == 0:
        raise RuntimeError("it was not interrupted")
    require(kept or "go on from here" not in said, f"it says {said.strip()[-80:]!r}, and nothing is kept")


def test_finished_transfer_is_not_trained_again(pets: Path) -> None:
    """README: every verb is idempotent."""
    written = []
    for _ in range(2):
        status, _, said = runs.command(*transfer.arguments(pets, 1, *BATCH))
        if status:
            raise RuntimeError(said)
        written.append((pets / "out/model.safetensors").stat().st_mtime_ns)
        json.loads((pets / "out/config.json").read_text())
    require(written[0] == written[1], "the same finished command trains again")
