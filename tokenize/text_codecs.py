"""Codecs of sequences: captions, and labels that are written as sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..modalities import ModalitySpec
from .codec import Codec, FittedTokenizer, Labelled, Options
from .crops import hashed_uniforms
from .text import instance_sentences, pose_sentences, sentences
from .text.wordpiece import WordPiece


class Text(Codec):
    """Captions by WordPiece; base of the sentences, which are text first.

    Subclasses write a label as text (`texts`) and read it again (`parse`). A label without tokens raises ValueError.

    Examples:
        >>> class Angle(fourmill.Text):
        ...     def texts(self, sample):
        ...         return [f"v0={round(sample.value)}"]
        ...
        ...     def parse(self, text):
        ...         return float(text.removeprefix("v0="))
        >>> spec = fourmill.modalities.spec("caption", image_size=224)
        >>> angle = Angle(spec, None, fourmill.WordPiece.load("out/tokenizers/text"))
        >>> (ids,) = angle.encode_one(fourmill.Labelled("key", 41.7, [], (640, 480)))
        >>> ids.dtype, angle.decode(ids)
        (dtype('uint16'), 42.0)
    """

    name = "wordpiece"

    def __init__(self, spec: ModalitySpec, options: Options, wordpiece: WordPiece) -> None:
        super().__init__(spec, options)
        self.wordpiece = wordpiece

    def encode_one(self, sample: Labelled) -> list[np.ndarray]:
        return [self.wordpiece.encode(text, self.spec.max_tokens) for text in self.texts(sample)]

    def texts(self, sample: Labelled) -> list[str]:
        """One text for each crop."""
        return [sample.value]

    def decode(self, tokens: Any) -> Any:
        return self.parse(self.wordpiece.decode(tokens))

    def parse(self, text: str) -> Any:
        return text


class Boxes(Text):
    name = "boxes"

    def texts(self, sample: Labelled) -> list[str]:
        score = self.options.min_box_score
        classes = self.wordpiece.classes
        return [sentences.boxes_to_text(sample.value, *sample.size, crop, score, classes) for crop in sample.crops]

    def truth(self, sample: Labelled, crop: int) -> Any:
        # Through the text and back: coordinates are rounded to 1,000 bins, and that is not the tokenizer's loss.
        return self.parse(self.texts(sample)[crop])

    def parse(self, text: str) -> list[dict[str, Any]]:
        return sentences.text_to_boxes(text, self.wordpiece.classes)

    def scored(self, tokens: Sequence[int], probability: Sequence[float]) -> list[dict[str, Any]]:
        """The boxes of a generated sentence, each with a "score": how probable the words of its class were, where its
        corners are given, as Pix2Seq has it (Chen et al. 2022, section 2.4).

        Args:
            tokens: without the end. probability: of each.
        """
        starts = [i for i, token in enumerate(tokens) if self.wordpiece.decode([token]).startswith(sentences.FIRST)]
        boxes = []
        for start, end in pairwise([*starts, len(tokens)]):
            score = math.prod(probability[start + sentences.CORNERS : end])
            boxes += [box | {"score": score} for box in self.parse(self.wordpiece.decode(tokens[start:end]))]
        return boxes


class PaletteSentence(Text):
    name = "palette"

    def texts(self, sample: Labelled) -> list[str]:
        return [sentences.palette_to_text(sentences.pick_palette(sample.value, self.options.seed, sample.key))]

    def truth(self, sample: Labelled, crop: int) -> Any:
        return self.parse(self.texts(sample)[0])

    def parse(self, text: str) -> list[list[int]]:
        return sentences.text_to_palette(text)


class MetadataSentence(Text):
    name = "metadata"

    def encode_one(self, sample: Labelled) -> list[np.ndarray]:
        # The order is shuffled for each sample (4M-21), and is a pure function of (seed, key) like everything else.
        (draw,) = hashed_uniforms(1, "metadata", self.options.seed, sample.key)
        chunks = sentences.metadata_to_chunks(sample.value, np.random.default_rng(int(draw * 2**53)))
        return [self.wordpiece.encode_chunks(chunks, self.spec.max_tokens)]

    def parse(self, text: str) -> dict[str, float]:
        return sentences.text_to_metadata(text)


class Coded(Text):
    """A sentence that holds ids of a fitted tokenizer, which encodes all crops of a batch at once.

    `subject` says what the sentence of a crop describes (people, instances), `coded` which arrays of it become ids,
    and `chunks` writes both as text.
    """

    def __init__(self, spec: ModalitySpec, options: Options, wordpiece: WordPiece, tokenizer: FittedTokenizer) -> None:
        super().__init__(spec, options, wordpiece)
        self.tokenizer = tokenizer

    def encode(self, samples: Sequence[Labelled]) -> list[Any]:
        parts = super().encode(samples)  # of each sample the subjects of its crops, or the exception
        # One call of the encoder for the whole batch: one crop has at most 7 people.
        inputs = [self.coded(subject) for part in parts if not isinstance(part, Exception) for subject in part]
        sizes = [len(rows) for rows in inputs]
        ids = self.tokenizer.encode(np.concatenate(inputs)) if sum(sizes) else np.zeros((0, 1), np.uint16)
        # The last part, after all rows, is empty, and nothing takes it.
        codes = iter(np.split(ids, np.cumsum(sizes)))
        # Every crop takes its ids before any sentence may fail, or the next sample would get them.
        for i, part in enumerate(parts):
            if not isinstance(part, Exception):
                parts[i] = [(subject, next(codes)) for subject in part]
        return [
            part if isinstance(part, Exception) else self._guarded(self._sentences, sample, part)
            for sample, part in zip(samples, parts, strict=True)
        ]

    def encode_one(self, sample: Labelled) -> list[Any]:
        """What the sentence of each crop describes."""
        return [self.subject(sample, crop) for crop in range(len(sample.crops))]

    def _sentences(self, sample: Labelled, subjects: list[tuple[Any, np.ndarray]]) -> list[np.ndarray]:
        chunks = [self.chunks(sample, crop, *subject) for crop, subject in enumerate(subjects)]
        return [self.wordpiece.encode_chunks(sentence, self.spec.max_tokens) for sentence in chunks]

    def subject(self, sample: Labelled, crop: int) -> Any:
        raise NotImplementedError

    def coded(self, subject: Any) -> np.ndarray:
        """What of a subject the tokenizer encodes, (n, ...)."""
        raise NotImplementedError

    def chunks(self, sample: Labelled, crop: int, subject: Any, ids: np.ndarray) -> list[str]:
        raise NotImplementedError


class Poses(Coded):
    name = "poses"

    def subject(self, sample: Labelled, crop: int) -> Any:
        return pose_sentences.humans_in_crop(sample.value, *sample.size, sample.crops[crop])

    def coded(self, subject: Any) -> np.ndarray:
        return pose_sentences.body_poses(subject)

    def chunks(self, sample: Labelled, crop: int, subject: Any, ids: np.ndarray) -> list[str]:
        return pose_sentences.poses_to_chunks(subject, ids, self.options.seed, sample.key, crop)

    def truth(self, sample: Labelled, crop: int) -> Any:
        return self.subject(sample, crop)

    def parse(self, text: str) -> list[dict[str, Any]]:
        humans = pose_sentences.text_to_poses(text, self.tokenizer.model.config.codebook_size)
        # A broken sentence may hold people without a whole group of pose ids.
        posed = [human for human in humans if "tokens" in human]
        if posed:
            bodies = self.tokenizer.decode(np.array([human.pop("tokens") for human in posed]))
            for human, body in zip(posed, bodies, strict=True):
                human["body_pose"] = body.tolist()
        return humans


class Instances(Coded):
    name = "instances"

    def subject(self, sample: Labelled, crop: int) -> Any:
        window, seed = sample.crops[crop], self.options.seed
        words = self.spec.max_tokens - 1  # every word of these sentences is one token, and EOS takes one
        at = instance_sentences.own_points(sample.value, *sample.size, window)
        return instance_sentences.query(
            sample.value, *sample.size, window, seed, sample.key, crop, max_words=words, at=at
        )

    def coded(self, subject: Any) -> np.ndarray:
        return subject.masks

    def chunks(self, sample: Labelled, crop: int, subject: Any, ids: np.ndarray) -> list[str]:
        return instance_sentences.instances_to_chunks(subject, ids)

    def truth(self, sample: Labelled, crop: int) -> Any:
        return instance_sentences.queried_to_label(self.subject(sample, crop))

    def parse(self, text: str) -> list[dict[str, Any]]:
        instances = instance_sentences.text_to_instances(text, self.tokenizer.model.config.codebook_size)
        if not instances:
            return []
        ids = np.array([instance["tokens"] for instance in instances])
        return instance_sentences.paste_masks(instances, self.tokenizer.decode(ids, side=round(ids.shape[1] ** 0.5)))
