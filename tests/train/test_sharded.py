"""Sharded checkpoints on any storage: whole or none, read in other parts than they were written in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fourmill_tests import ranks, runs, training
from fourmill_tests.s3 import S3
from safetensors.torch import load_file

from fourmill.infra import storage
from fourmill.train import checkpoint, sharded
from fourmill.train.sharded import Saver, load

EARLIER = Path(__file__).parents[1] / "golden" / "checkpoint_e78cebb"


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "checkpoints")
    else:
        yield "memory://sharded-test/checkpoints"
        fs = fsspec.filesystem("memory")
        if fs.exists("/sharded-test"):
            fs.rm("/sharded-test", recursive=True)


def state(value: float) -> dict[str, torch.Tensor]:
    return {
        "model.a": torch.full((5, 3), value),
        "model.b": torch.full((7,), value, dtype=torch.bfloat16),
        "step": torch.tensor(value),
        "empty": torch.zeros(0, 4),
    }


def save(folder: str, step: int, keep: int = 2) -> None:
    saver = Saver(folder, keep)
    saver.save(step, state(step), {"seconds": 1.5})
    saver.wait()


def values(folder: str) -> tuple[int, dict[str, torch.Tensor]]:
    saved = checkpoint.newest(folder)
    assert saved is not None
    tensors = state(-1.0)
    load(saved, tensors)
    return saved.step, tensors


def test_tensors_come_back_bit_for_bit(folder: str) -> None:
    for step in (1, 2, 3):
        save(folder, step)
    step, tensors = values(folder)
    assert step == 3 and all(torch.equal(tensors[name], value) for name, value in state(3).items())
    assert [saved.step for saved in checkpoint.complete(folder)] == [2, 3]
    saved = checkpoint.newest(folder)
    assert saved is not None and saved.marker()["state"] == {"seconds": 1.5}


class Died(BaseException):
    pass


def test_on_s3(s3: S3) -> None:
    folder = storage.join(s3.bucket("sharded"), "checkpoints")
    for step in (1, 2, 3):
        save(folder, step)
    step, tensors = values(folder)
    assert step == 3 and all(torch.equal(tensors[name], value) for name, value in state(3).items())
    assert storage.list_names(folder) == ["step-00000002", "step-00000003"]


@pytest.mark.parametrize("at", range(6))
def test_killed_at_any_step_of_a_save(folder: str, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Before the marker the old checkpoint counts, with it the new one, and either is whole."""
    save(folder, 1, keep=1)
    left = [at]
    monkeypatch.setattr(sharded, "PART_BYTES", 40)
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
            save(folder, 2, keep=1)
        except (Died, OSError):
            pass
    step, tensors = values(folder)
    puts = 3  # two files and the marker
    assert step == (1 if at < puts else 2)
    assert all(torch.equal(tensors[name], value) for name, value in state(step).items())
    save(folder, 2, keep=1)
    assert values(folder)[0] == 2


def test_a_storage_that_fails_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> bool:
        raise OSError("No space left on device")

    monkeypatch.setattr(storage, "put", full)
    with pytest.raises(OSError, match=r"cannot write the checkpoint: worker 0: .*No space left"):
        save(str(tmp_path), 1)
    assert checkpoint.newest(str(tmp_path)) is None


def test_a_file_that_lost_a_byte_is_not_read(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes are those of the files, headers and all: none of its parts may be cut."""
    monkeypatch.setattr(sharded, "PART_BYTES", 40)
    for step in (1, 2):
        save(folder, step)
    url = checkpoint.step_url(folder, 2)
    parts = [name for name in storage.list_names(url) if name.endswith(".safetensors")]
    assert len(parts) == 2
    for name in parts:
        whole = storage.read_bytes(storage.join(url, name))
        storage.put(storage.join(url, name), whole[:-1])
        assert values(folder)[0] == 1
        storage.put(storage.join(url, name), whole)
    assert values(folder)[0] == 2


@pytest.mark.parametrize("at", [slice(0, None), slice(8, 40)])
def test_a_file_of_other_content_is_a_sentence(tmp_path: Path, at: slice) -> None:
    save(str(tmp_path), 1)
    (file,) = (tmp_path / "step-00000001").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[at] = b"\xff" * len(content[at])
    file.write_bytes(content)
    sentence = r"cannot read the checkpoint: .*no safetensors file, or its header is damaged.*; .* move the folder away"
    with pytest.raises(ValueError, match=sentence) as error:
        values(str(tmp_path))
    assert len(str(error.value)) < 500


def test_a_tensor_that_is_not_there_is_named(tmp_path: Path) -> None:
    save(str(tmp_path), 1)
    saved = checkpoint.newest(str(tmp_path))
    assert saved is not None
    with pytest.raises(OSError, match=r"model\.c"):
        load(saved, {"model.c": torch.zeros(3)})


def test_parts_make_a_whole(tmp_path: Path) -> None:
    """A checkpoint of four shards of rows, written by hand, read as one tensor."""
    from safetensors.torch import save as encode

    whole = torch.arange(24.0).reshape(8, 3)
    folder, chunks = checkpoint.step_url(str(tmp_path), 5), []
    for rank in range(4):
        storage.put(f"{folder}/x-{rank}.safetensors", encode({"0": whole[2 * rank : 2 * rank + 2].clone()}))
        chunks.append({"file": f"x-{rank}.safetensors", "key": "0", "offsets": [2 * rank, 0], "sizes": [2, 3]})
    content = {"state": {}, "tensors": {"w": {"dtype": "float32", "shape": [8, 3], "chunks": chunks}}}
    saved = checkpoint.mark(str(tmp_path), 5, content, keep=1)
    read = {"w": torch.zeros(8, 3)}
    load(saved, read)
    assert torch.equal(read["w"], whole)


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    save(str(tmp_path), 1)
    names = {path.suffix for path in (tmp_path / "step-00000001").iterdir()}
    assert names == {".safetensors", ".json"}
    json.loads((tmp_path / "step-00000001" / checkpoint.MARKER).read_text())


def test_a_checkpoint_of_an_earlier_version_resumes(tmp_path: Path) -> None:
    """Commit e78cebb wrote it with two ranks (FSDP) at step 4 of 6, and in another run the finished weights."""
    small = {"dim": 8, "encoder_depth": 1, "decoder_depth": 1, "heads": 2}
    job = training.job(tmp_path, model=small, **ranks.SHARDED)
    shutil.copytree(EARLIER / "step-00000004", Path(job.folder, "checkpoints", "step-00000004"))
    finished = training.train(job)
    assert [row["step"] for row in runs.losses(tmp_path) if row["kind"] == "train"] == [5, 6]
    expected = load_file(EARLIER / "finished.safetensors")
    actual = load_file(Path(job.folder, "model", "model.safetensors"))
    assert actual.keys() == expected.keys() and finished.step == 6
    for name, value in expected.items():  # by the norm: two ranks add up gradients in another order than one
        assert (actual[name] - value).norm() <= 1e-3 * value.norm(), name
