"""A checkpoint is whole or is none."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from fourmill.infra import storage
from fourmill.train import checkpoint

FILES = {"model.safetensors": b"weights", "trainer.pt": b"moments"}


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "checkpoints")
    else:
        yield "memory://checkpoint-test/checkpoints"
        fs = fsspec.filesystem("memory")
        if fs.exists("/checkpoint-test"):
            fs.rm("/checkpoint-test", recursive=True)


def test_the_newest_counts_and_old_ones_go(folder: str) -> None:
    assert checkpoint.newest(folder) is None and checkpoint.complete(folder) == []
    for step in (5, 10, 100, 99_999_999):
        saved = checkpoint.save(folder, step, {**FILES, "step": str(step).encode()}, keep=2)
        assert checkpoint.newest(folder) == saved and saved.step == step
    assert [c.step for c in checkpoint.complete(folder)] == [100, 99_999_999]
    newest = checkpoint.newest(folder)
    assert newest is not None and newest.read("step") == b"99999999" and newest.read("trainer.pt") == b"moments"
    if storage.is_local(folder):
        assert len(list(Path(folder).iterdir())) == 2  # no empty folders stay


class Died(BaseException):
    pass


@pytest.mark.parametrize("at", range(9))
def test_killed_at_any_step_of_a_save(folder: str, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Before the marker the old checkpoint counts, with it the new one, and either is whole."""
    checkpoint.save(folder, 1, FILES, keep=1)
    left = [at]
    with monkeypatch.context() as patch:
        for name in ("put", "delete"):
            call = getattr(storage, name)

            def dying(*args: Any, _call: Any = call, **options: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise Died
                return _call(*args, **options)

            patch.setattr(storage, name, dying)
        try:
            checkpoint.save(folder, 2, FILES, keep=1)
        except Died:
            pass
    latest = checkpoint.newest(folder)
    assert latest is not None and latest.step == (1 if at < 3 else 2)
    for one in checkpoint.complete(folder):
        assert {name: one.read(name) for name in FILES} == FILES
    again = checkpoint.save(folder, 2, FILES, keep=1)
    assert checkpoint.newest(folder) == again


def test_temporary_files_go_with_an_old_checkpoint(tmp_path: Path) -> None:
    old = checkpoint.save(str(tmp_path), 1, FILES, keep=1)
    Path(old.url, f"{storage.TEMPORARY_PREFIX}7-trainer.pt").write_bytes(b"half")
    checkpoint.save(str(tmp_path), 2, FILES, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_incomplete_checkpoints_go_with_old_ones(folder: str) -> None:
    """Step 2 was never complete; it goes when all that is kept is newer. Step 9 may be being written."""
    for step in (1, 2, 9):
        storage.put(storage.join(checkpoint.step_url(folder, step), "part"), b"half")
    checkpoint.save(folder, 1, FILES, keep=1)
    assert len(storage.list_names(folder)) == 3
    checkpoint.save(folder, 3, FILES, keep=1)
    assert storage.list_names(folder) == ["step-00000003", "step-00000009"]


def test_a_file_that_cannot_be_deleted_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS keeps a file that another process has open: the folder of an old checkpoint is not empty then."""

    def busy(*args: Any, **options: Any) -> None:
        raise OSError("Directory not empty")

    checkpoint.save(str(tmp_path), 1, FILES, keep=1)
    monkeypatch.setattr(os, "rmdir", busy)
    saved = checkpoint.save(str(tmp_path), 2, FILES, keep=1)
    assert checkpoint.complete(str(tmp_path)) == [saved]


def test_other_things_in_the_folder_are_left_alone(folder: str) -> None:
    storage.put(storage.join(folder, "step-notes", checkpoint.MARKER), b"{}")
    storage.put(storage.join(folder, "readme.txt"), b"")
    checkpoint.save(folder, 3, FILES, keep=1)
    checkpoint.save(folder, 4, FILES, keep=1)
    assert [c.step for c in checkpoint.complete(folder)] == [4]
    assert storage.exists(storage.join(folder, "readme.txt"))
    assert storage.exists(storage.join(folder, "step-notes", checkpoint.MARKER))


def test_states_survive_bit_for_bit() -> None:
    state = {"w": torch.randn(3, 4).bfloat16(), "n": 7, "x": 0.1, "s": "text", "l": [1, {"t": torch.arange(3)}]}
    back = checkpoint.unpack(checkpoint.pack(state))
    assert torch.equal(back["w"], state["w"]) and back["w"].dtype == torch.bfloat16
    assert torch.equal(back["l"][1]["t"], torch.arange(3))
    assert (back["n"], back["x"], back["s"]) == (7, 0.1, "text")


def test_a_real_optimizer_state_survives() -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    back = checkpoint.unpack(checkpoint.pack({"optimizer": optimizer.state_dict()}))["optimizer"]
    other = torch.optim.AdamW(layer.parameters())
    other.load_state_dict(back)
    for parameter in layer.parameters():
        assert torch.equal(other.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"])


class Evil:
    def __reduce__(self) -> Any:
        return (OrderedDict, ([("owned", print)],))


def test_code_in_a_checkpoint_is_refused() -> None:
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.unpack(checkpoint.pack({"x": Evil()}))


def damaged(folder: str, step: int, how: str) -> None:
    url = checkpoint.step_url(folder, step)
    if how == "missing":
        storage.delete(storage.join(url, "trainer.pt"))
        return
    name = checkpoint.MARKER if how == "marker" else "trainer.pt"
    storage.put(storage.join(url, name), storage.read_bytes(storage.join(url, name))[:-3])


@pytest.mark.parametrize(
    ("how", "said"),
    [("marker", "complete.json is damaged"), ("cut", "trainer.pt has 4 of 7 bytes"), ("missing", "trainer.pt is miss")],
)
def test_a_damaged_checkpoint_is_skipped_with_a_note(folder: str, how: str, said: str) -> None:
    for step in (1, 2):
        checkpoint.save(folder, step, FILES, keep=2)
    damaged(folder, 2, how)
    notes: list[str] = []
    latest = checkpoint.newest(folder, notes)
    assert latest is not None and latest.step == 1
    (note,) = notes
    assert said in note and "step-00000002" in note and "passed over for step 1" in note
    damaged(folder, 1, how)
    with pytest.raises(ValueError, match=f"{said}.*step-00000001.*bring the files back, or delete"):
        checkpoint.newest(folder)


def test_a_damaged_one_is_not_kept_in_place_of_a_whole_one(folder: str) -> None:
    """From step 1 it goes on with saves at other steps than before."""
    for step in (1, 5):
        checkpoint.save(folder, step, FILES, keep=2)
    damaged(folder, 5, "cut")
    checkpoint.save(folder, 3, FILES, keep=1)
    latest = checkpoint.newest(folder)
    assert latest is not None and latest.step == 3


def test_a_checkpoint_is_found_by_its_own_folder(folder: str) -> None:
    saved = checkpoint.save(folder, 7, FILES, keep=1)
    assert checkpoint.at(saved.url) == saved
    assert checkpoint.at(folder) is None and checkpoint.at(checkpoint.step_url(folder, 8)) is None


@pytest.mark.parametrize("what", ["trainer.pt", checkpoint.MARKER])
def test_what_cannot_be_read_back_deletes_nothing(folder: str, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    first = checkpoint.save(folder, 1, FILES, keep=1)
    put = storage.put

    def losing(url: str, data: bytes, **options: Any) -> bool:
        return put(url, data[:-1] + b"?" if url.endswith(what) else data, **options)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "put", losing)
        with pytest.raises(OSError, match=f"{what}: what is read back is not what was written"):
            checkpoint.save(folder, 2, FILES, keep=1)
    assert checkpoint.newest(folder) == first and first.damage(whole=True) == ""
