"""`fourmill inspect`: every kind is recognized by its contents, its numbers are right, and damage is a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import yaml
from fourmill_tests.inspected import HOSTILE, KEYS, REASON, TEXTS, facts_of, photo, printed

from fourmill.infra import storage
from fourmill.modalities import Kind, ModalitySpec
from fourmill.model import checkpoint as model_files
from fourmill.model.config import FourMConfig
from fourmill.model.fourm import FourM
from fourmill.model.published import ml4m
from fourmill.report.inspect import inspect
from fourmill.tokenize import tokenizer
from fourmill.tokenize.text.wordpiece import WordPiece


def test_shard(shard: Path) -> None:
    facts = facts_of(shard)
    assert (facts["kind"], facts["rows"], facts["without_image"]) == ("shard", 3, 1)
    assert facts["keys"] == {"count": 3, "first": "x", "last": "z"}
    assert facts["extensions"] == {"jpg": 2, "txt": 2}
    assert facts["ignored"] == {"doc": 1}
    assert facts["statistics"]["formats"] == {"JPEG": 2, "none": 1}
    assert facts["statistics"]["width"]["max"] == 30
    assert facts["sample"] | {"bytes": 0} == {
        "row": 0, "key": "x", "bytes": 0, "size": [30, 20], "caption": HOSTILE, "rejects": {},
    }  # fmt: skip
    assert "truncated" in facts_of(shard, 2)["sample"]["rejects"]["rgb"]
    assert facts_of(shard.parent)["kind"] == "shards"


def test_column_counts_tokens_nulls_and_rejects(root: Path) -> None:
    path = root / "tokens" / "caption" / "a.parquet"
    piece = WordPiece.load(root / "tokenizers" / "text")
    ids = np.concatenate([piece.encode(text, 16) for i, text in enumerate(TEXTS) if i != 1])
    facts = facts_of(path)
    found = facts["statistics"]
    assert (facts["kind"], facts["rows"], found["nulls"]) == ("column", 5, 1)
    assert found["vocabulary"]["used"] == len(set(ids.tolist()))
    assert found["vocabulary"]["tokens"] == len(ids)
    assert found["outside_vocabulary"] == 0
    assert sum(found["length"]["counts"]) == 4
    top = found["most_frequent"][0]
    assert top["count"] == np.bincount(ids).max() and top["word"] in ("a", "[EOS]")
    assert facts["rejects"] == {"caption: N bytes, expected at most N": 1}
    assert facts["ledger"]["fingerprints"] == ["f00d"]
    assert facts["sample"]["crops"][0]["text"] == "a cat on a mat"
    null = facts_of(path, 1)["sample"]
    assert (null["key"], null["null"], null["crops"], null["reason"]) == ("001", True, [], REASON)


def test_folder_is_one_long_column(root: Path) -> None:
    folder = root / "tokens" / "caption"
    facts = facts_of(folder, 6)
    assert (facts["kind"], facts["files"], facts["rows"]) == ("columns", 2, 10)
    assert facts["keys"] == {"count": 10, "first": "000", "last": "b004"}
    assert facts["sample"]["key"] == "b001" and facts["sample"]["crops"][0]["text"] == "two dogs"
    assert facts["bytes"] == sum(path.stat().st_size for path in folder.iterdir())


def test_grid_and_pixels(root: Path) -> None:
    inspection = inspect.look(str(root / "tokens" / "tok_rgb" / "a.parquet"), 3)
    assert [crop["ids"] for crop in inspection.facts["sample"]["crops"]] == [[3] * 4] * 2
    assert inspection.facts["statistics"]["vocabulary"]["share"] == 5 / 24
    assert inspection.facts["statistics"]["vocabulary"]["perplexity"] == pytest.approx(5)
    shapes = {title: picture.shape for title, picture in inspection.pictures}
    assert shapes["crop 1: decoded"] == (16, 16, 3)
    assert shapes["crop 1: 2 x 2 token ids, a colour for each"] == (2, 2, 3)
    pixels = inspect.look(str(root / "tokens" / "rgb" / "a.parquet"))
    assert pixels.pictures[0][1].shape == (16, 16, 3)
    assert pixels.facts["statistics"]["length"]["min"] > 0


def test_tokens_of_another_tokenizer_are_not_decoded(root: Path, tmp_path: Path) -> None:
    column = (root / "tokens" / "caption" / "b.parquet").read_bytes()
    other = WordPiece.fit(["quite other words"], vocab_size=4500)
    other.save(tmp_path / "tokenizers" / "text")
    storage.put(str(tmp_path / "tokens" / "caption" / "b.parquet"), column)
    facts = facts_of(tmp_path / "tokens" / "caption" / "b.parquet")
    assert any("is another one now" in note for note in facts["notes"])
    assert any("not committed" in note for note in facts["notes"])
    assert "text" not in facts["sample"]["crops"][0]


def test_labels(root: Path) -> None:
    det = facts_of(root / "labels" / "det" / "a.parquet")
    assert det["statistics"]["labels"] == {"cat": 3}
    assert det["statistics"]["nulls"] == 1
    assert det["statistics"]["length"]["counts"] == [2, 1, 1]
    assert det["sample"]["value"][0]["label"] == "cat"
    edges = inspect.look(str(root / "labels" / "canny_edge"))
    assert edges.facts["statistics"]["shapes"] == {"8 x 8": 5}
    assert edges.facts["statistics"]["values"]["mean"] == pytest.approx(255 / 8)
    assert edges.pictures[0][1].shape == (8, 8)
    fields = {row["field"]: row for row in facts_of(root / "labels" / "metadata")["statistics"]["fields"]}
    assert fields["brightness"] == {"field": "brightness", "count": 5, "min": 0, "mean": 2, "max": 4}


def test_tokenizers(root: Path) -> None:
    text = facts_of(root / "tokenizers" / "text", 2)
    piece = WordPiece.load(root / "tokenizers" / "text")
    assert (text["type"], text["vocab_size"]) == ("wordpiece", piece.vocab_size)
    assert text["special_words"] + text["learned_pieces"] == piece.vocab_size
    assert text["sample"]["words"][:2] == ["[SOS]", "[EOS]"]
    grid = facts_of(root / "tokenizers" / "tok_rgb")
    model = tokenizer.load(root / "tokenizers" / "tok_rgb")
    assert (grid["type"], grid["codebook_size"], grid["quality"]) == ("vq-vae", 24, {"psnr": 12.5})
    assert grid["elements"] == sum(tensor.numel() for tensor in model.state_dict().values())


def test_checkpoints_of_both_formats(tmp_path: Path) -> None:
    specs = (
        ModalitySpec("rgb", Kind.PIXELS, 0, 196, 768),
        ModalitySpec("tok_rgb", Kind.GRID, 40, 196),
        ModalitySpec("caption", Kind.SEQUENCE, 50, 256),
    )
    model = FourM(FourMConfig(specs, dim=8, encoder_depth=1, decoder_depth=1, num_heads=2))
    model_files.save(model, tmp_path / "own")
    ml4m.save(model, tmp_path / "published")
    own, published = facts_of(tmp_path / "own"), facts_of(tmp_path / "published")
    assert (own["kind"], own["format"], published["format"]) == ("checkpoint", "fourmill", "apple/ml-4m")
    assert own["elements"] == sum(tensor.numel() for tensor in model.state_dict().values())
    rows = {row["modality"]: row for row in published["modalities"]}
    assert rows["tok_rgb@224"]["vocab_size"] == 40 and rows["tok_rgb@224"]["max_tokens"] == 196
    assert rows["rgb@224"]["input"] and not rows["rgb@224"]["output"]
    assert [row["modality"] for row in own["modalities"]] == ["rgb", "tok_rgb", "caption"]
    (tmp_path / "published" / "config.json").unlink()  # it is in the header of the weights as well
    assert facts_of(tmp_path / "published")["modalities"] == published["modalities"]


def test_run(root: Path) -> None:
    facts = facts_of(root / "runs" / "4m" / "beef")
    losses = {row["metric"]: row for row in facts["losses"]}
    assert (facts["kind"], facts["steps"], facts["finished"]) == ("run", 4, False)
    assert losses["loss"]["history"] == [8.0, 7.0, 6.0, 5.0] and losses["loss"]["last_val"] == 6.5
    assert losses["loss/caption"]["last"] is None  # NaN
    assert facts["checkpoints"] == [{"step": 4, "bytes": 10}]
    assert facts["incomplete_checkpoints"] == ["step-00000005"]
    assert facts_of(root / "runs")["runs"][0]["loss"] == 5.0


def test_generated_chain(tmp_path: Path) -> None:
    import cv2

    samples = [{"shard": "a", "key": key, "row": 7, "caption": HOSTILE} for key in KEYS[:2]]
    about = {"inputs": ["rgb"], "steps": [{"target": "tok_rgb", "steps": 8, "top_k": None}], "samples": samples}
    (tmp_path / "samples.json").write_text(json.dumps(about))
    (tmp_path / "tok_rgb").mkdir()
    cv2.imwrite(str(tmp_path / "tok_rgb" / "0001.png"), photo(1))
    inspection = inspect.look(str(tmp_path), 1)
    assert inspection.facts["steps"] == [{"target": "tok_rgb", "steps": 8}]
    assert (inspection.facts["sample"]["key"], inspection.facts["sample"]["row_in_shard"]) == ("001", 7)
    np.testing.assert_array_equal(inspection.pictures[0][1][..., ::-1], photo(1))
    assert "\x1b[2J" not in printed(tmp_path)
    assert inspect.look(str(tmp_path), 0).pictures == []


def test_columns_are_inspected_without_torch_or_ray(root: Path) -> None:
    program = (
        "import sys; from fourmill.report.inspect import inspect;"
        f"inspect.show({str(root / 'tokens' / 'caption')!r}, as_json=True);"
        "sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


def test_recipe(root: Path, shard: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"root": str(root), "samples": str(shard), "images": {"size": 128}}))
    facts = facts_of(path)
    assert facts["shards"] == {"train": 1, "val": 0}
    assert {row["modality"]: row["max_tokens"] for row in facts["modalities"]}["tok_rgb"] == 64
    path.write_text("root: x\nsampels: y\n")
    with pytest.raises(ValueError, match="sampels"):
        inspect.look(str(path))


def test_root_shows_one_sample_across_outputs(root: Path) -> None:
    facts = facts_of(root, 3)
    sample = facts["sample"]
    assert facts["kind"] == "dataset"
    assert (sample["key"], sample["shard"], sample["caption"]) == ("003", "a", "a cat")
    assert sample["tokens"]["tok_rgb"]["tokens"] == 4
    assert sample["labels"] == ["canny_edge", "det", "metadata"]
    assert facts_of(root, 1)["sample"]["rejects"] == {"tokens/caption": REASON}
    assert facts_of(root, 7)["sample"]["key"] == "b002"
    text = printed(root, 3)
    assert "a cat" in text and "tokens/caption" in text


def test_folder_of_folders(root: Path) -> None:
    rows = {row["name"]: row for row in facts_of(root / "tokens")["contents"]}
    assert rows["tok_rgb"]["kind"] == "column" and "rows 5" in rows["tok_rgb"]["holds"]


def test_any_file_system(root: Path) -> None:
    fs = fsspec.filesystem("memory")
    for name in ("tokens/caption/a.parquet", "tokenizers/text/tokenizer.json", "tokenizers/text/config.json"):
        fs.pipe_file(f"/inspect/{name}", (root / name).read_bytes())
    try:
        facts = facts_of("memory://inspect/tokens/caption/a.parquet")
        assert facts["sample"]["crops"][0]["text"] == "a cat on a mat"
        assert facts_of("memory://inspect/tokens/caption")["rows"] == 5
        with pytest.raises(FileNotFoundError, match="nothing at memory://inspect/none"):
            inspect.look("memory://inspect/none")
    finally:
        fs.rm("/inspect", recursive=True)


@pytest.mark.parametrize("color", [False, True])
def test_nothing_from_the_data_steers_the_terminal(root: Path, shard: Path, color: bool) -> None:
    for path, row in ((shard, 0), (root / "tokens" / "caption" / "a.parquet", 2), (root, 2)):
        text = printed(path, row, color)
        assert "\x1b[2J" not in text and "\u202e" not in text
        assert "cat" in text
    assert "[red]" in printed(shard, 0)


def test_json_is_all_that_is_printed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.show(str(root / "runs" / "4m" / "beef"), as_json=True) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["kind"] == "run" and "NaN" not in out and out.isascii()


@pytest.mark.parametrize("name", ["tokens/caption/a.parquet", "labels/canny_edge/a.parquet", "tokenizers/tok_rgb"])
@pytest.mark.parametrize("keep", [0, 30, 400, -1])
def test_a_cut_file_is_a_sentence(root: Path, tmp_path: Path, name: str, keep: int) -> None:
    source = root / name
    file = source / "model.safetensors" if source.is_dir() else source
    copy = tmp_path / "copy" / file.name
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes()[:keep])
    if source.is_dir():
        (copy.parent / "config.json").write_bytes((source / "config.json").read_bytes())
    with pytest.raises(ValueError, match="copy") as caught:
        inspect.look(str(copy.parent if source.is_dir() else copy))
    assert type(caught.value) is ValueError  # the command line prints these as a sentence


def test_a_damaged_middle_is_a_sentence(root: Path, tmp_path: Path) -> None:
    data = bytearray((root / "tokens" / "caption" / "a.parquet").read_bytes())
    data[8:60] = b"\xff" * 52
    path = tmp_path / "a.parquet"
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"a\.parquet"):
        inspect.look(str(path))


def test_useless_paths_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing at"):
        inspect.look(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="empty"):
        inspect.look(str(tmp_path))
    for name, data in (("x.bin", b"hello"), ("x.json", b"{"), ("x.tar", b"no tar"), ("x.yaml", b"a: [")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            inspect.look(str(tmp_path / name))
    with pytest.raises(ValueError, match=r"x\.yaml: this is no YAML: line 1, column 5: .*[^\n]$"):
        inspect.look(str(tmp_path / "x.yaml"))
    with pytest.raises(ValueError, match="got 5, expected 0 to 4"):
        inspect.look(str(root / "tokens" / "caption" / "a.parquet"), 5)
    with pytest.raises(ValueError, match="expected 0 to 4"):
        inspect.look(str(root / "labels" / "det" / "a.parquet"), -1)
