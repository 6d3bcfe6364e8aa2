"""WordPiece: text as token ids, 4M's unified text tokenizer.

One vocabulary serves captions and sentences (boxes, palettes, metadata, ...). Ids come in 4M's order: PAD UNK SOS EOS,
the sentinels of span masking, the coordinates v0=0 .. v3=999, the classes of boxes (COCO's, sorted, unless the recipe
has a list of its own), and then what was learned:
`fit` adds the remaining words of sentences (`none`, `human`, ...), single characters, and merges. A published
tokenizer.json opens as it is.

Decisions:
- Text is data: a caption that spells "[S_1]" or "[EOS]" must not steer masking or decoding, so control words are broken
  up unless the caller says that they are meant. Coordinates and class names stay words.
- The trainer of `tokenizers` numbers continuation pieces (##a) in the order of a randomly seeded hash map, and breaks
  ties between merges by these numbers: two fits of one corpus differ. We hand it the sorted pieces as special tokens,
  which makes it deterministic, and build the final vocabulary ourselves.
- Characters outside of the `max_alphabet` most frequent ones become UNK, as in BERT: web captions hold all of Unicode.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...infra import storage, sums
from ...modalities import COCO_CLASSES

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

PAD, UNK, SOS, EOS = "[PAD]", "[UNK]", "[SOS]", "[EOS]"
NUM_SENTINELS = 200
COORDINATES: tuple[str, ...] = tuple(f"v{axis}={value}" for axis in range(4) for value in range(1000))
# Words of 4M-21's sentences; the published vocabulary learned them as ordinary pieces.
SENTENCE_WORDS: tuple[str, ...] = ("none", "human", "pose", "global", "camera", "shape", "point", "polygon")

# Longer texts are cut before they are split into words. A caption of 256 tokens has some 1,200 characters.
MAX_CHARACTERS = 100_000

_CONTROL = re.compile(r"\[(PAD|UNK|SOS|EOS|S_\d+)\]")
_SENTINEL = re.compile(r"\[S_(\d+)\]")
_PREFIX = "##"


class WordPiece:
    """Text to ids and back. Make one with `fit` or `load`.

    Examples:
        >>> words = fourmill.WordPiece.load("out/tokenizers/text")
        >>> words.decode(words.encode("A dog on a sofa.", max_tokens=32))
        'a dog on a sofa .'
    """

    def __init__(self, tokenizer: Tokenizer, classes: Sequence[str] = COCO_CLASSES) -> None:
        """Wraps a Hugging Face tokenizer; ValueError if one of 4M's control tokens is missing.

        Args:
            classes: of boxes, each a word of the vocabulary.
        """
        ids = {token: tokenizer.token_to_id(token) for token in (PAD, UNK, SOS, EOS)}
        missing = [token for token, token_id in ids.items() if token_id is None]
        vocab = tokenizer.get_vocab(with_added_tokens=True)
        by_number = {int(m[1]): i for token, i in vocab.items() if (m := _SENTINEL.fullmatch(token))}
        if missing or sorted(by_number) != list(range(len(by_number))) or len(by_number) < 2:
            raise ValueError(
                f"text tokenizer: got {len(by_number)} sentinels, missing {missing}; expected {PAD} {UNK} {SOS} {EOS} "
                "and [S_0], [S_1], ... without gaps; use a tokenizer that 4M or `fourmill fit` made"
            )
        if max(vocab.values()) >= 2**16:
            raise ValueError(f"text tokenizer: got ids up to {max(vocab.values())}; tokens are stored as uint16")
        self._tokenizer, self.classes = tokenizer, tuple(classes)
        # Ids, not templates, decide where a text ends: a post-processor in the file would add EOS a second time.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.pad_id, self.unk_id, self.sos_id, self.eos_id = ids[PAD], ids[UNK], ids[SOS], ids[EOS]
        self.sentinel_ids = np.array([by_number[n] for n in range(len(by_number))], dtype=np.uint16)
        self.vocab_size = max(vocab.values()) + 1

    @classmethod
    def fit(
        cls,
        texts: Iterable[str],
        vocab_size: int = 30_000,
        num_sentinels: int = NUM_SENTINELS,
        max_alphabet: int = 1000,
        classes: Sequence[str] = COCO_CLASSES,
    ) -> WordPiece:
        """Learns a vocabulary of at most `vocab_size` words from texts; the same texts give the same vocabulary.

        Args:
            texts: captions, as many as fit in memory (a million take about 100 MB). Sentences need not be among them.
            vocab_size: all ids, special ones included. A small corpus may give fewer.
            num_sentinels: 200 in 4M; each masked span takes one, and one closes the target.
            max_alphabet: how many different characters are kept.
            classes: of boxes; each is one word, in any case and with or without accents.
        """
        from tokenizers import Tokenizer, models, trainers

        special = _special_words(num_sentinels, classes)
        corpus = [_clean(text) for text in texts]
        blank = _configure(Tokenizer(models.WordPiece({}, unk_token=UNK)))
        alphabet = _alphabet(blank, corpus, max_alphabet)
        pieces = list(dict.fromkeys([*special, *alphabet, *(_PREFIX + c for c in alphabet)]))
        if vocab_size < len(pieces) or vocab_size > 2**16:
            raise ValueError(
                f"WordPiece: got vocab_size {vocab_size}; expected {len(pieces)} ({len(special)} special words and "
                f"{len(pieces) - len(special)} characters) to {2**16}; raise vocab_size or lower max_alphabet"
            )
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size, special_tokens=pieces, initial_alphabet=alphabet, limit_alphabet=len(alphabet),
            continuing_subword_prefix=_PREFIX, min_frequency=2, show_progress=False,
        )  # fmt: skip
        blank.train_from_iterator(corpus, trainer)
        # `tokenizers` numbers what it learned after the pieces that it was given.
        learned = {i: word for word, i in blank.get_vocab(with_added_tokens=False).items() if i >= len(pieces)}
        words = pieces + [learned[i] for i in sorted(learned)]
        model = models.WordPiece(
            {word: i for i, word in enumerate(words)}, unk_token=UNK, continuing_subword_prefix=_PREFIX
        )
        tokenizer = _configure(Tokenizer(model))
        tokenizer.add_special_tokens(_added_tokens(num_sentinels, classes))
        return cls(tokenizer, classes)

    def __contains__(self, word: object) -> bool:
        """Whether a word is one token."""
        return isinstance(word, str) and self._tokenizer.token_to_id(word) is not None

    def encode(self, text: str, max_tokens: int, control: bool = False) -> np.ndarray:
        """Token ids of a text.

        Args:
            text: any string; control characters and lone surrogates are dropped, accents and case folded.
            max_tokens: the ids are cut to so many, EOS with them if it does not fit (as 4M does).
            control: whether "[S_1]", "[EOS]", ... in the text mean the control tokens.

        Returns:
            uint16 (n,), 1 <= n <= max_tokens.
        """
        return self.encode_many([text], max_tokens, control)[0]

    def encode_many(self, texts: Sequence[str], max_tokens: int, control: bool = False) -> list[np.ndarray]:
        """`encode` of each text; much faster than one by one."""
        if max_tokens < 1:
            raise ValueError(f"max_tokens: got {max_tokens}; expected at least 1")
        cleaned = [_clean(text, control) for text in texts]
        # The fast variant keeps no offsets into the text, which nobody asks for.
        encodings = self._tokenizer.encode_batch_fast(cleaned, add_special_tokens=False)
        return [np.array([*e.ids[:max_tokens], self.eos_id][:max_tokens], dtype=np.uint16) for e in encodings]

    def encode_chunks(self, chunks: Sequence[str], max_tokens: int) -> np.ndarray:
        """Ids of chunks that are masked as wholes (metadata pairs), in their order, and EOS.

        Chunks that no longer fit are left out whole, so that EOS always closes the ids and no chunk is broken.

        Returns:
            uint16 (n,), 1 <= n <= max_tokens.
        """
        if max_tokens < 1:
            raise ValueError(f"max_tokens: got {max_tokens}; expected at least 1")
        ids: list[int] = []
        for encoding in self._tokenizer.encode_batch_fast([_clean(c) for c in chunks], add_special_tokens=False):
            if len(ids) + len(encoding.ids) >= max_tokens:  # not >: EOS needs a place
                break
            ids.extend(encoding.ids)
        return np.array([*ids, self.eos_id], dtype=np.uint16)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids up to the first EOS; PAD and SOS are left out, sentinels stay visible.

        Any ids below `vocab_size` will do, in any order: pieces are joined, words separated by one space. ValueError
        for ids that the vocabulary lacks.
        """
        # Not by the library's decoder, which drops special tokens and tidies spaces before punctuation.
        numbers = [int(i) for i in ids]
        words: list[str] = []
        for number in numbers[: numbers.index(self.eos_id)] if self.eos_id in numbers else numbers:
            word = self._tokenizer.id_to_token(number)
            if word is None:
                raise ValueError(f"text tokenizer: got the id {number}; expected ids below {self.vocab_size}")
            if number in (self.pad_id, self.sos_id):
                continue
            if word.startswith(_PREFIX) and len(word) > len(_PREFIX) and words:
                words[-1] += word[len(_PREFIX) :]
            else:
                words.append(word)
        return " ".join(words)

    def to_json(self) -> str:
        """The tokenizer.json of Hugging Face's tokenizers, which apple/ml-4m reads as well."""
        return self._tokenizer.to_str(pretty=False)

    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json, config.json and the sums of both; each replaces its older version at once."""
        config = {
            "kind": "wordpiece",
            "vocab_size": self.vocab_size,
            "num_sentinels": len(self.sentinel_ids),
            "fingerprint": self.fingerprint(),
            **({} if self.classes == COCO_CLASSES else {"classes": self.classes}),
        }
        files = {
            "tokenizer.json": self.to_json().encode(),
            "config.json": (json.dumps(config, indent=1) + "\n").encode(),
        }
        known = sums.dumps({name: sums.of(data) for name, data in files.items()})
        for name, data in (files | {sums.FILE: known}).items():
            storage.put(str(Path(folder) / name), data)

    @classmethod
    def load(cls, path: str | Path) -> WordPiece:
        """Opens a folder that `save` wrote, or a plain tokenizer.json (a published one, for example)."""
        from tokenizers import Tokenizer

        file = Path(path)
        if file.is_dir():
            sums.check(file, ("tokenizer.json", "config.json"))
        classes = _saved_classes(file / "config.json") if file.is_dir() else COCO_CLASSES
        file = file / "tokenizer.json" if file.is_dir() else file
        if not file.is_file():
            raise ValueError(f"text tokenizer: found no {file}; expected a tokenizer.json; run `fourmill fit` first")
        try:
            tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # `tokenizers` raises bare Exception
            raise ValueError(f"text tokenizer: {file} is no Hugging Face tokenizer.json: {error}") from error
        return cls(tokenizer, classes)

    def sum_of_words(self) -> str:
        """16 hexadecimal digits of the words and their ids alone, which no release of `tokenizers` writes otherwise."""
        words = sorted(self._tokenizer.get_vocab(with_added_tokens=True).items())
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change whenever the contents do."""
        return _fingerprint(self._tokenizer.to_str())


@lru_cache(maxsize=4)  # a process loads the same vocabulary again and again
def _fingerprint(contents: str) -> str:
    # Sorted keys: the order of a JSON object is not part of the vocabulary.
    ordered = json.dumps(json.loads(contents), sort_keys=True)
    return hashlib.sha256(ordered.encode()).hexdigest()[:16]


def _saved_classes(config: Path) -> Sequence[str]:
    """The classes that a folder's config.json names; COCO's if it names none."""
    if not config.is_file():
        return COCO_CLASSES
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
        names = content.get("classes", COCO_CLASSES)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"text tokenizer: {config} holds no settings: {error}; fit it again") from error
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"text tokenizer: {config} names no list of classes; fit it again")
    return names


def _special_words(num_sentinels: int, classes: Sequence[str] = COCO_CLASSES) -> list[str]:
    if num_sentinels < 2:
        raise ValueError(f"num_sentinels: got {num_sentinels}; expected at least 2 (200 in 4M)")
    sentinels = [f"[S_{n}]" for n in range(num_sentinels)]
    return [PAD, UNK, SOS, EOS, *sentinels, *COORDINATES, *sorted(classes), *SENTENCE_WORDS]


def _added_tokens(num_sentinels: int, classes: Sequence[str]) -> list[AddedToken]:
    """Control words and coordinates as they are spelt; classes and sentence words in any case ("Person")."""
    from tokenizers import AddedToken

    words = _special_words(num_sentinels, classes)
    # `normalized`: matched after case and accents are folded; `single_word`: "dog" is not found in "bulldog".
    control = 4 + num_sentinels
    first_class = control + len(COORDINATES)
    return [
        AddedToken(word, single_word=i >= control, normalized=i >= first_class, special=True)
        for i, word in enumerate(words)
    ]


def _configure(tokenizer: Tokenizer) -> Tokenizer:
    from tokenizers import decoders, normalizers, pre_tokenizers

    # 4M's settings, which are BERT's uncased ones.
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=_PREFIX)
    return tokenizer


def _clean(text: str, control: bool = False) -> str:
    """Text that `tokenizers` takes: no lone surrogates, not endless, no control words unless they are meant."""
    text = text[:MAX_CHARACTERS].encode("utf-8", "ignore").decode("utf-8")
    # A space is put in rather than brackets taken off: removing could make "[S_1]" of "[S_[S_1]1]".
    return text if control else _CONTROL.sub(r"[ \1]", text)


def _alphabet(tokenizer: Tokenizer, corpus: Sequence[str], limit: int) -> list[str]:
    """The most frequent characters after normalization, sorted; printable ASCII is always among them."""
    counts: Counter[str] = Counter()
    normalizer = tokenizer.normalizer
    assert normalizer is not None
    for text in corpus:
        counts.update(normalizer.normalize_str(text))
    ascii_characters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    # Equal counts are ordered by the character, or two fits of one corpus would differ.
    frequent = sorted(counts, key=lambda c: (-counts[c], c))[:limit]
    return sorted({*ascii_characters, *(c for c in frequent if not c.isspace())})
