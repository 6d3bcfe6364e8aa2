"""Images with classes, from tars and tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fourmill_tests import data

from fourmill.pipelines import labelled


def entries(labels: list[str], start: int = 0) -> list[tuple[str, bytes]]:
    made = []
    for i, label in enumerate(labels, start):
        made += [(f"a/{i:03}.PNG", data.encode(data.picture(i), "PNG")), (f"a/{i:03}.cls", f"{label}\n".encode())]
    return made


def test_tars_hold_images_and_classes(tmp_path: Path) -> None:
    stray = [("a/alone.cls", b"9"), ("a/bare.jpg", data.encode(data.picture(7))), ("a/003.txt", b"text")]
    (tmp_path / "0.tar").write_bytes(data.tar(entries(["10", "2", "2"]) + stray))
    (tmp_path / "1.tar").write_bytes(data.tar(entries(["0"], 3)))
    found = labelled.read(str(tmp_path / "{0..1}.tar"))
    assert found.classes == ("0", "2", "10") and found.labels.tolist() == [2, 1, 1, 0]
    for i in range(4):
        assert np.array_equal(found.image(i), data.picture(i))


def test_tables_name_files(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(2):
        (tmp_path / "images" / f"{i}.png").write_bytes(data.encode(data.picture(i), "PNG"))
    (tmp_path / "train.csv").write_text("label,path\ndog,images/0.png\ncat,images/1.png\n")
    found = labelled.read(str(tmp_path / "train.csv"))
    assert found.classes == ("cat", "dog") and found.labels.tolist() == [1, 0]
    assert np.array_equal(found.image(1), data.picture(1))
    assert labelled.read(str(tmp_path / "train.csv"), ("dog", "cat")).labels.tolist() == [0, 1]


def test_tables_and_tars_may_be_several(tmp_path: Path) -> None:
    (tmp_path / "9.png").write_bytes(data.encode(data.picture(9), "PNG"))
    (tmp_path / "a.csv").write_text("path,label\n9.png,7\n")
    (tmp_path / "b.tar").write_bytes(data.tar(entries(["8", "7"])))
    found = labelled.read([str(tmp_path / "a.csv"), str(tmp_path / "b.tar")])
    assert found.classes == ("7", "8") and found.labels.tolist() == [0, 1, 0]
    assert np.array_equal(found.image(0), data.picture(9)) and np.array_equal(found.image(1), data.picture(0))


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(data.tar([("a.jpg", b"no image"), ("a.cls", b"3")]))
    with pytest.raises(ValueError, match=r"0.tar, image 0: image: not a JPEG"):
        labelled.read(str(tmp_path / "0.tar")).image(0)
    with pytest.raises(ValueError, match=r"classes \['3'\] are not among the 2"):
        labelled.read(str(tmp_path / "0.tar"), ("1", "2"))
    (tmp_path / "1.tar").write_bytes(data.tar([("a.jpg", b"")]))
    with pytest.raises(ValueError, match=r"^[^\[]*: no image with a class"):
        labelled.read([str(tmp_path / "1.tar")])
    (tmp_path / "t.csv").write_text("file,class\n")
    with pytest.raises(ValueError, match="expected `path` and `label`"):
        labelled.read(str(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_text("path,label\na.jpg,1\nb.jpg\n")
    with pytest.raises(ValueError, match="row 2 lacks its path or label"):
        labelled.read(str(tmp_path / "t.csv"))
    (tmp_path / "t.csv").write_bytes(b"path,label\n\xff.jpg,1\n")
    with pytest.raises(ValueError, match=r"t.csv: no CSV in UTF-8"):
        labelled.read(str(tmp_path / "t.csv"))


@pytest.mark.parametrize("content", [b"", b"text" * 300, data.tar(entries(["1", "2"]))[:-11_000]])
def test_tars_that_are_none_or_cut_off(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(ValueError, match=r"0.tar: no tar, or a damaged or compressed one"):
        labelled.read(str(tmp_path / "0.tar"))
