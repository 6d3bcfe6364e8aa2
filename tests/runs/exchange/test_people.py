"""People and vectors of captions of apple/ml-4m as columns, and its vectors written again."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from fourmill_tests import data, runs
from fourmill_tests.tiny.exchange import bring, members, npy, write

import fourmill
from fourmill.infra import ledger
from fourmill.modalities import spec
from fourmill.pipelines.exchange import poses
from fourmill.tokenize import codecs
from fourmill.tokenize.crops import Crop
from fourmill.tokenize.text.pose_sentences import text_to_poses
from fourmill.tokenize.text.wordpiece import WordPiece


def person(left: float) -> dict[str, Any]:
    """Two people of ml-4m's file; the second one is outside of the picture of 64 x 48 px if `left` is large."""
    rng = np.random.default_rng(9)
    return {
        "bbox_xyxy": [[4, 6, 24, 40], [left, 4, left + 16, 44]],
        "pred_cam": rng.uniform(0, 1, (2, 3)).tolist(),
        "pose_tokenized": [[0, 511, 512, 1023, 5, 6, 7, 8], [1] * 8],
        "pred_smpl_params": {
            "global_orient": rng.uniform(-1, 1, (2, 1, 3, 3)).tolist(),
            "body_pose": rng.uniform(-1, 1, (2, 23, 3, 3)).tolist(),
            "betas": rng.uniform(-1, 1, (2, 10)).tolist(),
        },
    }


def test_words_of_people_are_those_of_ml4ms_own_code() -> None:
    """But for the order of the groups, which both draw at random."""
    recorded = json.loads((Path(__file__).parents[2] / "golden" / "human_poses.json").read_text())
    words = WordPiece.fit(["a dog"] * 4, vocab_size=4500)
    codec = poses.GivenPoses(spec("human_poses", image_size=224), codecs.Options(0, 224, 1), words, None)
    people = poses.read(".json", json.dumps(recorded["file"]).encode())
    left, top, width, height = recorded["crop"]
    sample = codecs.Labelled("key", people, [Crop(left, top, width, height)], tuple(recorded["size"]))
    (ids,) = codec.encode_one(sample)

    def groups(text: str) -> list[list[str]]:
        people = [one for one in text.split("human ") if one]
        return [sorted(re.split(r" (?=pose|global|camera|shape)", one.strip())) for one in people]

    assert groups(words.decode(ids)) == groups(recorded["words"]) and len(people) == 2


def test_people_keep_their_ids_and_captions_their_vectors(tmp_path: Path) -> None:
    place, rng = tmp_path / "ml4m", np.random.default_rng(2)
    of = [f"{i:04d}" for i in range(4)]
    picture = data.encode(np.zeros((48, 64, 3), np.uint8))
    write(place, "rgb", "00000", {f"{key}.jpg": picture for key in of})
    write(place, "tok_rgb@224", "00000", {f"{key}.npy": npy(rng.integers(0, 9, (2, 4))) for key in of})
    whole, flipped = [[0, 0, 48, 48, 0], [0, 8, 48, 48, 0]], [[0, 0, 48, 48, 1], [0, 8, 48, 48, 0]]
    crops = [whole, flipped, flipped, whole]
    write(place, "crop_settings", "00000", {f"{k}.npy": npy(np.array(c)) for k, c in zip(of, crops, strict=True)})
    people = [person(40), person(40), [], {"bbox_xyxy": [[0, 0, 1, 1]]}]
    write(
        place,
        "human_poses",
        "00000",
        {f"{k}.json": json.dumps(one).encode() for k, one in zip(of, people, strict=True)},
    )
    emb, valid = rng.normal(size=(2, 5, 8)).astype(np.float32), np.array([[1, 1, 1, 0, 0], [1] * 5], bool)
    file = io.BytesIO()
    np.savez(file, emb=emb, mask_valid=valid)
    vectors = [file.getvalue(), file.getvalue()[:-40], npy(emb), file.getvalue()]
    write(place, "t5_caption", "00000", {f"{k}.npz": one for k, one in zip(of, vectors, strict=True)})
    words = WordPiece.fit(["a dog"] * 4, vocab_size=4500)
    (tmp_path / "text.json").write_text(words.to_json())
    root = tmp_path / "out"
    bring(place, root, "--set", f"tokenizers.text.weights={tmp_path / 'text.json'}")
    store = fourmill.open_store(str(root))
    column = store.column("human_poses", "00000")
    assert column.valid.tolist() == [True, False, True, False]
    assert [words.decode(column.crop(2, crop)) for crop in range(2)] == ["none", "none"]
    first, second = (text_to_poses(words.decode(column.crop(0, crop))) for crop in range(2))
    assert [one["tokens"] for one in first] == person(40)["pose_tokenized"]
    np.testing.assert_allclose(first[0]["box"], [4 / 48, 6 / 48, 24 / 48, 40 / 48], atol=1e-3)
    np.testing.assert_allclose(first[0]["camera"], person(40)["pred_cam"][0], atol=0.011)
    np.testing.assert_allclose(second[1]["box"], [32 / 48, 4 / 48, 1, 44 / 48], atol=1e-3)
    record = ledger.read(str(root), "tokens/human_poses", "00000")
    assert record is not None
    reasons = {one["key"]: one["reason"] for one in record.rejects}
    assert "crop 0 is mirrored" in reasons[of[1]] and "tokenizers.each.body_pose.weights" in reasons[of[1]]
    assert "expected `bbox_xyxy`" in reasons[of[3]]
    assert yaml.safe_load((root / "recipe.yaml").read_text())["tokenizers"]["embedding_dim"] == 8
    found = store.column("t5_caption", "00000")
    assert found.valid.tolist() == [True, False, False, True]
    np.testing.assert_array_equal(found.sample(3)[0], emb[0, :3].astype(np.float16))
    assert (
        runs.command(
            "export", str(root), "--to", "ml4m", "--out", str(tmp_path / "back"), "--modalities", "t5_caption"
        )[0]
        == 0
    )
    back = members(tmp_path / "back/t5_caption/00000.tar")
    assert [name for name, _ in back] == [f"{of[0]}.npz", f"{of[3]}.npz"]
    with np.load(io.BytesIO(back[0][1])) as archive:
        np.testing.assert_array_equal(archive["emb"][0], emb[0, :3].astype(np.float16))
        assert archive["mask_valid"].tolist() == [[True] * 3]
