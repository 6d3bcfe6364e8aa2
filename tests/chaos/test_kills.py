"""kill -9 of the driver in the middle of every stage, then the same command: the result is that of a run in peace."""

from __future__ import annotations

from pathlib import Path

import pytest
from fourmill_tests import data, runs
from fourmill_tests.runs import Run

# The first test waits for the whole run; Ray Train alone may take a minute to start.
pytestmark = pytest.mark.timeout(1200)
# A file that appears in the middle of a stage.
MOMENTS = {
    "label": "ledger/labels/*/*.json",
    "fit": "runs/fit-tok_rgb/*/checkpoints/*/complete.json",
    "tokenize": "ledger/tokens/*/*.json",
    "train": "runs/4m/*/checkpoints/*/complete.json",
}


@pytest.fixture(scope="module")
def survived(ray_cluster: str, whole_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The recipe of the undisturbed run in another root, killed four times and then finished."""
    folder = tmp_path_factory.mktemp("killed")
    run = Run(folder, whole_run.recipe)
    # One actor and one worker: each that is started, in five runs of each stage, imports torch again.
    alone = ("--set", "engine.actors=1", "--set", "fit.workers=1")
    arguments = ["run", str(whole_run.recipe), "--set", f"root={run.root}", *alone]
    before: dict[Path, int] = {}
    for stage, pattern in MOMENTS.items():
        # The first one has a Ray of its own, as a user's has; the others save the time of starting it.
        runs.kill_when(pattern, run.root, arguments, None if stage == "label" else ray_cluster)
        records = [*run.root.glob("ledger/labels/**/*.json"), *run.root.glob("ledger/tokens/**/*.json")]
        # A file whose name begins with a dot is one that the kill left half written.
        now = {path: path.stat().st_mtime_ns for path in records if not path.name.startswith(".")}
        assert {path: now.get(path) for path in before} == before, "what was done was done again"
        before = now
    run.said = runs.finish(arguments, ray_cluster)
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before
    return run


def test_columns_are_equal_byte_for_byte(survived: Run, whole_run: Run) -> None:
    assert data.columns(survived.root) == data.columns(whole_run.root)


def test_tokenizers_have_the_same_weights(survived: Run, whole_run: Run) -> None:
    for name in ("text/tokenizer.json", "tok_rgb/model.safetensors", "tok_canny_edge/model.safetensors"):
        mine, theirs = (run.root / "tokenizers" / name for run in (survived, whole_run))
        assert mine.read_bytes() == theirs.read_bytes(), name


@pytest.mark.parametrize("run", ["4m", "fit-tok_rgb"])
def test_curves_go_on_as_if_nothing_had_happened(survived: Run, whole_run: Run, run: str) -> None:
    mine, theirs = runs.losses(survived.root, run), runs.losses(whole_run.root, run)
    assert mine and mine == theirs  # to the six digits that are written


def test_the_trained_weights_are_equal(survived: Run, whole_run: Run) -> None:
    (mine,), (theirs,) = (list(run.root.glob("runs/4m/*/model/model.safetensors")) for run in (survived, whole_run))
    assert mine.read_bytes() == theirs.read_bytes()


def test_nothing_half_written_is_taken_for_whole(survived: Run) -> None:
    status, out, err = runs.command("status", str(survived.recipe), "--set", f"root={survived.root}")
    assert status == 0, out + err
