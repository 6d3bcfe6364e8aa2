"""People of apple/ml-4m's `human_poses` as sentences: its files hold the ids of their body poses beside the bodies.

    {"bbox_xyxy": (n, 4) pixels, "pred_cam": (n, 3), "pose_tokenized": (n, 8), "pred_smpl_params": {"global_orient":
    (n, 1, 3, 3), "body_pose": (n, 23, 3, 3), "betas": (n, 10)}}, or an empty list where nobody is seen

The ids are of the body as it stands. In a mirrored crop the body is another one, and needs the tokenizer that made
them. (ml-4m itself writes the unmirrored body there.)
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ...modalities import ModalitySpec
from ...tokenize.codecs import FittedTokenizer, Labelled, Options, Text
from ...tokenize.text import pose_sentences
from ...tokenize.text.pose_sentences import POSE_TOKENS
from ...tokenize.text.smpl import SIZES
from ...tokenize.text.wordpiece import WordPiece

_SMPL = {"global_orient": "global_orient", "body_pose": "body_pose", "betas": "betas"}


def read(suffix: str, data: bytes) -> list[dict[str, Any]]:
    """The people of a file, as the label has them, but for boxes in pixels, and with the ids of their poses as `ids`.

    ValueError if it is of another form.
    """
    try:
        value = json.loads(data.decode("utf-8", "replace"))
        if not value:
            return []
        bodies = value["pred_smpl_params"]
        count = len(value["bbox_xyxy"])
        columns = {name: _numbers(bodies[theirs], count, SIZES[name]) for name, theirs in _SMPL.items()}
        columns |= {"box": _numbers(value["bbox_xyxy"], count, 4), "camera": _numbers(value["pred_cam"], count, 3)}
        columns["ids"] = _numbers(value["pose_tokenized"], count, POSE_TOKENS).astype(np.int64)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"expected `bbox_xyxy`, `pred_cam`, `pose_tokenized` and `pred_smpl_params` ({error})"
        ) from None
    return [{name: column[i].tolist() for name, column in columns.items()} for i in range(count)]


def _numbers(values: Any, count: int, width: int) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.size != count * width or not np.isfinite(array).all():
        raise ValueError(f"got {array.shape} numbers for {count} people, expected {width} finite ones of each")
    return array.reshape(count, width)


class GivenPoses(Text):
    """Sentences of people whose pose ids are given.

    tokenizer: of body poses; needed for mirrored crops alone.
    """

    name = "poses"

    def __init__(
        self, spec: ModalitySpec, options: Options, wordpiece: WordPiece, tokenizer: FittedTokenizer | None
    ) -> None:
        super().__init__(spec, options, wordpiece)
        self.tokenizer = tokenizer

    def encode_one(self, sample: Labelled) -> list[np.ndarray]:
        width, height = sample.size
        sides = np.array([width, height] * 2)
        people = [{**one, "box": (np.asarray(one["box"]) / sides).tolist()} for one in sample.value]
        rows = []
        for index, crop in enumerate(sample.crops):
            seen = pose_sentences.humans_in_crop(people, width, height, crop)
            chunks = pose_sentences.poses_to_chunks(
                seen, self._ids(seen, index, crop.flip), self.options.seed, sample.key, index
            )
            rows.append(self.wordpiece.encode_chunks(chunks, self.spec.max_tokens))
        return rows

    def _ids(self, seen: list[dict[str, Any]], index: int, flip: bool) -> np.ndarray:
        if not flip or not seen:
            return np.array([one["ids"] for one in seen], np.int64).reshape(len(seen), POSE_TOKENS)
        if self.tokenizer is None:
            raise ValueError(
                f"crop {index} is mirrored, and the ids are of bodies that are not; name the tokenizer that made them: "
                "--set tokenizers.each.body_pose.weights=EPFL-VILAB/4M_tokenizers_human-poses_1k_8"
            )
        return self.tokenizer.encode(pose_sentences.body_poses(seen))
