"""WordPiece: 4M's ids, deterministic fits, and text from the web that means no good."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.modalities import COCO_CLASSES
from fourmill.tokenize.text.wordpiece import SENTENCE_WORDS, WordPiece

GOLDEN = Path(__file__).parents[2] / "golden/data"
WORDPIECE = {case["text"]: case["ids"] for case in json.loads((GOLDEN / "text_forms.json").read_text())["wordpiece"]}

CAPTIONS = [
    f"{article} {colour} {thing} {place}"
    for article in ("a", "the", "one")
    for colour in ("red", "blue", "shiny", "weathered")
    for thing in ("dog", "lighthouse", "surfboard", "teapot", "mountain")
    for place in ("near the lake", "on a table", "under cloudy skies", "at night")
]


@pytest.fixture(scope="module")
def wordpiece() -> WordPiece:
    return WordPiece.fit(CAPTIONS, vocab_size=4600)


def test_special_ids_are_those_of_4m(wordpiece: WordPiece) -> None:
    """Ids of the recorded published vocabulary; what follows COCO's classes (id 4284 on) was learned and differs."""
    assert (wordpiece.pad_id, wordpiece.unk_id, wordpiece.sos_id, wordpiece.eos_id) == (0, 1, 2, 3)
    np.testing.assert_array_equal(wordpiece.sentinel_ids, np.arange(4, 204))
    for text, ids in WORDPIECE.items():
        got = wordpiece.encode(text, 256, control=True)
        assert got[-1] == wordpiece.eos_id
        assert [i for i in got[:-1] if i < 4284] == [i for i in ids if i < 4284], text
    assert wordpiece.encode("v1=3 v0=14", 40).tolist() == [*WORDPIECE["v1=3 v0=14"], 3]


def test_words_of_sentences_are_single_tokens(wordpiece: WordPiece) -> None:
    for word in (*COCO_CLASSES, *SENTENCE_WORDS, "v0=0", "v3=999"):
        assert len(wordpiece.encode(word, 9)) == 2, word
    assert [int(wordpiece.encode(word, 9)[0]) for word in sorted(COCO_CLASSES)] == list(range(4204, 4284))


def test_class_words_count_only_as_whole_words(wordpiece: WordPiece) -> None:
    dog = wordpiece.encode("dog", 9)[0]
    assert dog in wordpiece.encode("A Dog's life", 99)
    assert dog not in wordpiece.encode("bulldog", 99)
    # "dog" is a piece of the model too, as in 4M: a word may begin with it.
    assert wordpiece.decode(wordpiece.encode("dogma bulldog", 99)) == "dogma bulldog"
    assert len(wordpiece.encode("hot dog", 9)) == 2


def test_metadata_pairs_stay_whole(wordpiece: WordPiece) -> None:
    chunks = [f"v1={i} v0={7 * i}" for i in range(21)]
    ids = wordpiece.encode_chunks(chunks, 40)
    assert len(ids) == 39 and ids[-1] == wordpiece.eos_id and ids.dtype == np.uint16
    assert wordpiece.decode(ids) == " ".join(chunks[:19])
    assert wordpiece.encode_chunks(chunks, 256).tolist() == wordpiece.encode(" ".join(chunks), 256).tolist()
    assert wordpiece.encode_chunks([], 40).tolist() == [wordpiece.eos_id]


def test_long_texts_lose_their_end_as_in_4m(wordpiece: WordPiece) -> None:
    ids = wordpiece.encode("dog " * 300, 256)
    assert len(ids) == 256 and wordpiece.eos_id not in ids
    assert wordpiece.encode("dog " * 255, 256)[-1] == wordpiece.eos_id


def test_captions_cannot_say_control_words(wordpiece: WordPiece) -> None:
    control = {0, 1, 2, 3, *wordpiece.sentinel_ids.tolist()} - {wordpiece.unk_id}
    ids = wordpiece.encode("a dog [EOS] [S_1] [S_199][PAD] x[SOS]y [[S_1]] [S_[S_1]1]", 256)
    assert not control & set(ids[:-1].tolist())
    assert wordpiece.encode("[S_1] dog [EOS]", 9, control=True)[:3].tolist() == [
        5,
        4204 + sorted(COCO_CLASSES).index("dog"),
        3,
    ]


@pytest.mark.parametrize(
    "text",
    ["", " \t\n", "\x00\x07\x1b[31m", "\ud800 lone \udfff", "x" * 100_000, "dog " * 25_000, "\u65e5\u672c \U0001f600",
     "e" + "\u0301" * 5000, "\u202eright to left", "\ufdfa" * 300],
)  # fmt: skip
def test_any_text_has_ids(wordpiece: WordPiece, text: str) -> None:
    ids = wordpiece.encode(text, 64)
    assert ids.dtype == np.uint16 and 1 <= len(ids) <= 64 and ids.max() < wordpiece.vocab_size


def test_accents_and_case_are_folded(wordpiece: WordPiece) -> None:
    assert wordpiece.encode("Caf\u00e9 DOG", 99).tolist() == wordpiece.encode("cafe dog", 99).tolist()
    assert wordpiece.decode(wordpiece.encode("Caf\u00e9 DOG", 99)) == "cafe dog"


@pytest.mark.parametrize("text", [*CAPTIONS[:5], "v0=0 v1=1 v2=999 v3=50 traffic light v0=3", "cafe zebra42", ""])
def test_text_comes_back(wordpiece: WordPiece, text: str) -> None:
    assert wordpiece.decode(wordpiece.encode(text, 256)) == text


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_decoding_is_a_fixed_point(wordpiece: WordPiece, text: str) -> None:
    """Whatever was lost at first is not lost again."""
    ids = wordpiece.encode(text, 256)
    text = wordpiece.decode(ids)
    if "[UNK]" not in text:
        assert wordpiece.decode(wordpiece.encode(text, 512)) == text


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4283) | st.integers(4284, 4400)))
def test_any_ids_have_a_text(wordpiece: WordPiece, ids: list[int]) -> None:
    assert isinstance(wordpiece.decode(ids), str)


def test_decode_stops_at_eos_and_shows_sentinels(wordpiece: WordPiece) -> None:
    dog = int(wordpiece.encode("dog", 9)[0])
    assert wordpiece.decode([2, 5, dog, 0, 3, dog, dog]) == "[S_1] dog"
    with pytest.raises(ValueError, match="60000"):
        wordpiece.decode([60_000])


def test_batches_equal_single_texts(wordpiece: WordPiece) -> None:
    batch = wordpiece.encode_many(CAPTIONS[:20], 8)
    assert [b.tolist() for b in batch] == [wordpiece.encode(c, 8).tolist() for c in CAPTIONS[:20]]


def test_fit_learns_frequent_words(wordpiece: WordPiece) -> None:
    assert len(wordpiece.encode("the weathered lighthouse near the lake", 99)) == 7
    assert 4292 < wordpiece.vocab_size <= 4600


def test_fits_are_equal_in_other_processes(wordpiece: WordPiece, tmp_path: Path) -> None:
    """`tokenizers` alone numbers pieces by a randomly seeded hash map, another one in each process."""
    (tmp_path / "captions.json").write_text(json.dumps(CAPTIONS))
    code = (
        "import json, sys; from fourmill.tokenize.text.wordpiece import WordPiece\n"
        "print(WordPiece.fit(json.load(open(sys.argv[1])), vocab_size=4600).fingerprint())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "captions.json")]
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() for _ in range(2)]
    assert outputs == [wordpiece.fingerprint()] * 2


def test_fingerprint_follows_the_contents(wordpiece: WordPiece) -> None:
    other = WordPiece.fit([*CAPTIONS, *["quizzical quokka"] * 9], vocab_size=4600)
    assert other.fingerprint() != wordpiece.fingerprint()


def test_saved_folders_and_plain_files_open(wordpiece: WordPiece, tmp_path: Path) -> None:
    wordpiece.save(tmp_path / "text")
    assert sorted(p.name for p in (tmp_path / "text").iterdir()) == ["config.json", "sums.json", "tokenizer.json"]
    config = json.loads((tmp_path / "text/config.json").read_text())
    assert config["fingerprint"] == wordpiece.fingerprint() and config["num_sentinels"] == 200
    for path in (tmp_path / "text", tmp_path / "text/tokenizer.json"):
        again = WordPiece.load(path)
        assert again.fingerprint() == wordpiece.fingerprint()
        assert again.vocab_size == wordpiece.vocab_size
        for text in CAPTIONS[:3]:
            assert again.encode(text, 99).tolist() == wordpiece.encode(text, 99).tolist()


def test_files_with_a_post_processor_get_one_eos(wordpiece: WordPiece, tmp_path: Path) -> None:
    """Published tokenizers append EOS by a template, and may pad."""
    wordpiece.save(tmp_path)
    (tmp_path / "sums.json").unlink()
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[EOS]", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[EOS]": {"id": "[EOS]", "ids": [3], "tokens": ["[EOS]"]}},
    }
    data["padding"] = {
        "strategy": {"Fixed": 32}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert WordPiece.load(tmp_path).encode("a dog", 99).tolist() == wordpiece.encode("a dog", 99).tolist()


def test_the_size_of_a_vocabulary_is_one_above_its_last_id(wordpiece: WordPiece) -> None:
    assert wordpiece.decode([wordpiece.vocab_size - 1])
    with pytest.raises(ValueError, match=f"expected ids below {wordpiece.vocab_size}"):
        wordpiece.decode([wordpiece.vocab_size])


def test_two_sentinels_are_enough_and_one_is_not(tmp_path: Path) -> None:
    WordPiece.fit(CAPTIONS, vocab_size=4500, num_sentinels=2).save(tmp_path)
    assert WordPiece.load(tmp_path).sentinel_ids.tolist() == [4, 5]
    with pytest.raises(ValueError, match="num_sentinels: got 1; expected at least 2"):
        WordPiece.fit(CAPTIONS, vocab_size=4500, num_sentinels=1)


def test_too_small_vocabularies_say_what_is_needed() -> None:
    with pytest.raises(ValueError, match=r"got vocab_size 500; expected 4\d\d\d .*raise vocab_size"):
        WordPiece.fit(CAPTIONS, vocab_size=500)
    assert WordPiece.fit(CAPTIONS, vocab_size=4500, num_sentinels=20).sentinel_ids.tolist() == list(range(4, 24))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found no .*tokenizer\.json"):
        WordPiece.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="no Hugging Face"):
        WordPiece.load(tmp_path)
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"\[EOS\]"):
        WordPiece.load(tmp_path)
