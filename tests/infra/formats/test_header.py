"""The header of a safetensors file: as the library reads it, and refused where it does."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from fourmill.infra.formats import header

TENSORS = {"a": torch.zeros(2, 3), "b": torch.zeros(5, dtype=torch.bfloat16), "none": torch.zeros(0)}
WHOLE = save(TENSORS, metadata={"kind": "test"})


def test_it_says_what_the_library_says(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors", metadata={"kind": "test"})
    found = header.of_url(str(tmp_path / "a.safetensors"))
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert found.shapes == {name: file.get_slice(name).get_shape() for name in file.keys()}
        assert found.metadata == file.metadata()
    assert found.end == (tmp_path / "a.safetensors").stat().st_size
    begin, end = found.tensors["b"]["data_offsets"]
    assert end - begin == 10 and found.tensors["b"]["dtype"] == "BF16"


@given(st.integers(0, len(WHOLE) - 1))
def test_what_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"damaged|its header says"):
        header.read(io.BytesIO(WHOLE[:length]), length)


@given(st.integers(0, header.read(io.BytesIO(WHOLE)).start - 1), st.integers(0, 255))
def test_what_is_damaged_is_refused_or_read(at: int, byte: int) -> None:
    """Never another error, and nothing that the library refuses for where its tensors lie."""
    data = WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :]
    try:
        found = header.read(io.BytesIO(data), len(data))
    except ValueError:
        return
    assert found.end == len(data)


@pytest.mark.parametrize("text", [b"[]", b"{}x", b'{"a": 1}', b'{"a": {"dtype": "F32", "shape": [1]}}', b"\xff\xff"])
def test_what_is_no_header_is_refused(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ValueError, match=r"a\.safetensors: damaged or cut off \(no safetensors file"):
        header.of_url(str(tmp_path / "a.safetensors"))
    with pytest.raises(SafetensorError), safe_open(tmp_path / "a.safetensors", "pt"):
        pass
