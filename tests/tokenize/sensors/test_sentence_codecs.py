"""Codecs of a sensor's sentences, by vocabularies of one's own and by one with TerraMind's words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fourmill_tests.tiny.landscape import forgotten

from fourmill import modalities
from fourmill.sensors.declared import SENSORS, Sensors
from fourmill.sensors.sensor import Sensor
from fourmill.tokenize import inputs, settings
from fourmill.tokenize.codec import Codec, FittedTokenizer, Labelled, Options
from fourmill.tokenize.crops import crops
from fourmill.tokenize.networks.tables import TableConfig, quantiles
from fourmill.tokenize.sensors.sentences import Catalogue, Coordinates, Time
from fourmill.tokenize.sensors.statistics import measure
from fourmill.tokenize.settings import Tokenizers
from fourmill.tokenize.text import finished
from fourmill.tokenize.text.wordpiece import WordPiece

OPTIONS = Options(seed=0, image_size=32, crops=1)
OF: dict[str, dict[str, Any]] = {
    "place": {"member": "json", "fields": ["lon", "lat"], "kind": "coordinates"},
    "when": {"member": "json", "field": "date", "kind": "time", "hour": True},
    "stars": {"member": "json", "field": "objects", "fields": ["x", "y", "mag", "size", "e"], "kind": "catalogue",
              "rows": 20, "ranges": {"x": [0, 96]}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def declared() -> Iterator[None]:
    with forgotten():
        Sensors({name: Sensor.model_validate(one) for name, one in OF.items()}).declare()
        yield


@pytest.fixture(scope="module")
def words() -> WordPiece:
    return WordPiece.fit([], vocab_size=4_600)


@pytest.fixture(scope="module")
def terraminds(tmp_path_factory: pytest.TempPathFactory) -> WordPiece:
    """A vocabulary with TerraMind's words, of which it holds each as one token."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

    said = ["[PAD]", "[UNK]", "[SOS]", "[EOS]", *(f"[S_{i}]" for i in range(9))]
    said += [f"{axis}={i}" for axis in ("xmin", "ymin", "xmax", "ymax") for i in range(1000)]
    said += [f"lat={i / 4:.2f}" for i in range(-360, 361)] + [f"lon={i / 4:.2f}" for i in range(-720, 721)] + ["none"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(said)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = [AddedToken(word, single_word=i > 3, normalized=False, special=True) for i, word in enumerate(said[:-1])]
    tokenizer.add_special_tokens(special)
    path = tmp_path_factory.mktemp("words") / "terramind.json"
    tokenizer.save(str(path))
    return finished.load(str(path))


def sample(value: Any) -> Labelled:
    return Labelled("key", value, crops(0, "key", 1, 1, 1), (1, 1))


def coded(codec: Codec, value: Any) -> np.ndarray:
    (row,) = codec.encode([sample(value)])
    assert not isinstance(row, Exception), row
    return np.asarray(row[0])


def spec(name: str) -> modalities.ModalitySpec:
    return modalities.spec(name, image_size=32, vocab_size=4_600)


def test_a_place_is_a_word_for_each_part(words: WordPiece, terraminds: WordPiece) -> None:
    place = {"lon": 7.51, "lat": -33.4}
    for vocabulary, count, said in ((words, 4, "v0=226 v2=375 v3=0"), (terraminds, 3, "lat=-33.50 lon=7.50")):
        codec = Coordinates(spec("place"), OPTIONS, vocabulary)
        ids = coded(codec, place)
        assert len(ids) == count <= codec.spec.max_tokens and ids[-1] == vocabulary.eos_id
        assert vocabulary.decode(ids) == said
        assert codec.decode(ids) == {"lon": 7.5, "lat": -33.5}
        assert codec.truth(sample(place), 0) == place  # what is measured is the label, not its words


def test_a_time_is_a_word_for_each_part(words: WordPiece, terraminds: WordPiece) -> None:
    when = {"time": "2021-05-03T10:20:30", "year": 2021, "day": 123, "hour": 10}
    for vocabulary, said in ((words, "v0=121 v1=123 v2=10"), (terraminds, "xmin=121 ymin=123 xmax=10")):
        codec = Time(spec("when"), OPTIONS, vocabulary)
        ids = coded(codec, when)
        assert len(ids) == 4 == codec.spec.max_tokens and vocabulary.decode(ids) == said
        assert codec.decode(ids) == when | {"time": "2021-05-03T10:00:00"}


@pytest.fixture
def table(tmp_path: Path) -> FittedTokenizer:
    rng = np.random.default_rng(0)
    rows = np.stack([rng.uniform(0, 96, 5_000), rng.uniform(0, 96, 5_000), rng.normal(20, 2, 5_000),
                     rng.gamma(2, 3, 5_000), rng.normal(0, 1, 5_000)], 1).astype(np.float32)  # fmt: skip
    rows[::7, 4] = np.nan
    sensor = SENSORS["stars"]
    found = measure(rows, sensor.fields)
    config = TableConfig(table="quantiles", codebook_size=500, num_codebooks=5, n_channels=5, statistics=found)
    made = quantiles(config, rows, [sensor.ranges.get(name) for name in sensor.names])
    from fourmill.tokenize import tokenizer

    tokenizer.save(made, tmp_path, {})
    return FittedTokenizer("stars", str(tmp_path), "cpu")


@pytest.mark.parametrize("of_terramind", [False, True])
def test_a_catalogue_is_a_word_for_each_value(
    table: FittedTokenizer, words: WordPiece, terraminds: WordPiece, of_terramind: bool
) -> None:
    vocabulary = terraminds if of_terramind else words
    codec = Catalogue(spec("stars"), OPTIONS, vocabulary, table)
    rows = [
        {"x": 10.0, "y": 20.0, "mag": 21.0, "size": 4.0, "e": None},
        {"x": 95.0, "y": 1.0, "mag": 18.0, "size": 9.0, "e": 0.5},
    ]
    ids = coded(codec, rows)
    assert len(ids) == 11 and codec.spec.max_tokens == 101
    assert vocabulary.unk_id not in ids
    found = codec.decode(ids)
    assert len(found) == 2 and found[0]["e"] is None
    near = {"x": 0.2, "y": 0.5, "mag": 0.1, "size": 0.2, "e": 0.02}
    for row, true in zip(found, rows, strict=True):
        for name, value in true.items():
            assert value is None or abs(row[name] - value) <= near[name], name
    assert codec.decode(coded(codec, [])) == []
    full = codec.encode([sample(rows * 10), sample([]), sample(rows)])
    assert [len(row[0]) for row in full] == [101, 2, 11]


def test_declared_ranges_are_equal_parts(table: FittedTokenizer) -> None:
    edges = table.model.edges
    np.testing.assert_allclose(edges[0].numpy(), np.linspace(0, 96, 501))
    assert not np.allclose(edges[1].numpy(), np.linspace(0, 96, 501), atol=1e-3)
    ids = table.encode(np.array([[-5, 0, 0, 0, 0], [200, 0, 0, 0, 0]], np.float32))
    assert ids[:, 0].tolist() == [0, 499]
    with torch.inference_mode():
        assert float(table.model.decode(torch.tensor([[499, 0, 0, 0, 0]]))[0, 0]) == pytest.approx(95.9, abs=0.15)


def test_rows_are_what_a_fit_reads() -> None:
    (whole,) = crops(0, "", 1, 1, 1)
    row = {"x": 1.0, "y": 2.0, "mag": None, "size": 3.0, "e": 0.0}
    rows = inputs.examples("stars", [row] * 3, whole, 0, (1, 1))
    assert rows.shape == (3, 5) and np.isnan(rows[:, 2]).all() and rows[0, 3] == 3
    assert inputs.examples("stars", [], whole, 0, (1, 1)).shape == (0, 5)


def test_a_vocabulary_without_words_for_values_is_refused(words: WordPiece, terraminds: WordPiece) -> None:
    assert not finished.problem(terraminds, None, sentences=False, sensors=True)
    assert "no word 'v0=0'" in finished.problem(terraminds, None, sentences=True)
    assert not finished.problem(words, None, sentences=True, sensors=True)


def test_codes_of_a_catalogue_are_words() -> None:
    common = Tokenizers(common={"codebook_size": 4_096})
    assert common.of("stars").codebook_size is None  # other tokenizers have more codes than there are words
    own = Tokenizers(each={"stars": {"codebook_size": 2_000}})
    with pytest.raises(ValueError, match="stars: codebook_size 2000; sentences have words for 1000 codes"):
        settings.check(own, "stars", own.of("stars"), 32)
