"""The root of a recipe of one's own as folders of apple/ml-4m: what it can say of it, and what it cannot."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from fourmill_tests import data, runs
from PIL import Image

import fourmill
from fourmill.project import Project
from fourmill.recipe import Recipe
from fourmill.tokenize import tokenizer
from fourmill.tokenize.networks.vqvae import VQVAE, VQVAEConfig
from fourmill.verbs import stage
from fourmill.verbs.make import fit


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Two crops of the edges of photos, by a small tokenizer."""
    folder = tmp_path_factory.mktemp("own")
    sizes = {"image_size": 32, "patch_size": 16, "codebook_size": 64, "latent_dim": 8, "n_channels": 1}
    tokenizer.save(VQVAE(VQVAEConfig.small(16, 1, 2, **sizes), 0), folder / "tok", {})
    recipe = data.recipe(
        folder / "out", data.good_shards(folder / "s", 2, 3), modalities=["rgb", "tok_canny_edge"], labels__keep=[],
        images__size=32, images__crops=2, generate__chains=[],
        tokenizers__each={"tok_canny_edge": {"weights": str(folder / "tok")}}, tokenizers__common={},
    )  # fmt: skip
    project = Project(recipe)
    stage.prepare_root(project)
    assert fit.make(project).complete  # copied, without workers
    data.make(recipe, data.outputs(recipe, labels=False))
    return recipe


def export(root: str, place: Path, *more: str, status: int = 0) -> str:
    code, out, err = runs.command("export", root, "--to", "ml4m", "--out", str(place), *more)
    assert code == status, out + err
    return " ".join((out + err).split())


def test_crops_are_windows_of_the_images(own: Recipe, tmp_path: Path) -> None:
    said = export(own.root, tmp_path / "back")
    assert "crops:" not in said and "[rgb,tok_canny_edge@32,crop_settings]" in said
    store, folders = fourmill.open_store(own.root), ("rgb", "tok_canny_edge@32", "crop_settings")
    for shard in store.shards():
        column, pictures = (store.column(name, shard) for name in ("tok_canny_edge", "rgb"))
        images, tokens, settings = (_members(tmp_path / "back" / name / f"{shard}.tar") for name in folders)
        keys = column.keys.to_pylist()
        assert list(tokens) == list(settings) == [f"{key}.npy" for key in keys]
        for i, key in enumerate(keys):
            ids = np.load(io.BytesIO(tokens[f"{key}.npy"]))
            assert ids.dtype == np.int16 and np.array_equal(ids, column.values[i])
            windows = np.load(io.BytesIO(settings[f"{key}.npy"]))
            image = np.asarray(Image.open(io.BytesIO(images[f"{key}.jpg"])))
            assert windows.dtype == np.int64
            for crop, (top, left, height, width, flip) in enumerate(windows.tolist()):
                # As ml-4m cuts it; the store has it as a JPEG.
                cut = Image.fromarray(image[top : top + height, left : left + width]).resize((32, 32), Image.BOX)
                ours = np.asarray(Image.open(io.BytesIO(pictures.crop(i, crop).tobytes())), np.float32)
                theirs = np.asarray(cut, np.float32)[:, :: -1 if flip else 1]
                assert np.abs(ours - theirs).mean() < 8


def test_without_images_the_centre_is_a_picture_of_its_own(own: Recipe, tmp_path: Path) -> None:
    shards = [Path(url) for url in Project(own).shards.urls.values()]
    for path in shards:
        path.rename(path.with_suffix(".away"))
    try:
        said = export(own.root, tmp_path / "back")
    finally:
        for path in shards:
            path.with_suffix(".away").rename(path)
    assert "1 of 2 crops: the images are not there" in said
    shard = fourmill.open_store(own.root).shards()[0]
    images, settings = (_members(tmp_path / "back" / name / f"{shard}.tar") for name in ("rgb", "crop_settings"))
    assert all(np.load(io.BytesIO(data)).tolist() == [[0, 0, 32, 32, 0]] for data in settings.values())
    assert {Image.open(io.BytesIO(data)).size for data in images.values()} == {(32, 32)}


def test_what_was_exported_is_imported_again(own: Recipe, tmp_path: Path) -> None:
    export(own.root, tmp_path / "back")
    options = ("--set", "tokenizers.each.tok_canny_edge.codebook_size=64", "--map", "tok_canny_edge@32=tok_canny_edge")
    code, out, err = runs.command(
        "import", str(tmp_path / "back"), "--from", "ml4m", "--root", str(tmp_path / "in"), *options
    )
    assert code == 0, out + err
    ours, theirs = fourmill.open_store(own.root), fourmill.open_store(str(tmp_path / "in"))
    assert ours.shards() == theirs.shards()
    assert set(theirs.modalities) == {"rgb", "tok_canny_edge"}
    for shard in ours.shards():
        a, b = (one.column("tok_canny_edge", shard) for one in (ours, theirs))
        assert a.keys.equals(b.keys) and np.array_equal(a.values, b.values)


def test_a_shard_is_written_once_and_again_where_it_was_lost(own: Recipe, tmp_path: Path) -> None:
    export(own.root, tmp_path / "back")
    tars = sorted((tmp_path / "back").rglob("*.tar"))
    before = {path: path.stat().st_mtime_ns for path in tars}
    export(own.root, tmp_path / "back")
    assert {path: path.stat().st_mtime_ns for path in tars} == before
    tars[0].write_bytes(b"half")
    export(own.root, tmp_path / "back")
    again = {path.name for path in tars if path.stat().st_mtime_ns != before[path]}
    assert again == {tars[0].name} and json.loads((tmp_path / "back/.fourmill" / f"{tars[0].stem}.json").read_text())


def test_wrong_places_are_said(own: Recipe, tmp_path: Path) -> None:
    assert "is no root" in export(str(tmp_path), tmp_path / "x", status=2)
    assert "has no tok_rgb; it has rgb, tok_canny_edge" in export(
        own.root, tmp_path / "x", "--modalities", "tok_rgb", status=2
    )
    assert "--out is the root itself" in export(own.root, Path(own.root), status=2)
    (tmp_path / "file").write_text("")
    assert "is a file" in export(own.root, tmp_path / "file", status=2)
    assert "holds other files (file)" in export(own.root, tmp_path, status=2)


def _members(path: Path) -> dict[str, bytes]:

    with tarfile.open(path) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]
