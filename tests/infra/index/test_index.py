"""What an index says is what the records say, whatever was written, deleted or damaged since it was."""

from __future__ import annotations

import json
import logging
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from fourmill_tests.s3 import S3

from fourmill.infra import ledger, storage
from fourmill.infra.index import file, index, listing
from fourmill.infra.index.index import Reading
from fourmill.infra.ledger import SAMPLES, Committed, Record, Source
from fourmill.report.check import check
from fourmill.verbs.look import status

OUTPUT = "tokens/tok_rgb"
SHARDS = [f"{n:05d}" for n in range(4)] + ["a\u2028 b\n", "\udcff"]
END = (4).to_bytes(4, "little") + b"PAR1"


def record(shard: str, print_: str = "f1", output: str = OUTPUT, **changes: Any) -> Record:
    values: dict[str, Any] = {
        "output": output, "shard": shard, "fingerprint": print_, "source": Source(10, "v", "aa"), "rows": 3, "nulls": 2,
        "rejects": [{"key": key, "reason": f"image: {key} bytes"} for key in ("1", "2")], "bytes": 0, "sha256": "",
        "seconds": 0.5, "identity": {"seed": 0, "versions": {"labels/rgb": 2}},
        "made": {"host": "x", "threads": 2, "time": f"at {shard!r}", "attempt": "1f", "bars": 1},
    }  # fmt: skip
    return Record(**{**values, **changes})


def commit(root: str, made: Record, data: bytes = b"data") -> Record:
    return committed(root, made, data).record


def committed(root: str, made: Record, data: bytes = b"data") -> Committed:
    return ledger.commit(root, made, None if made.output == SAMPLES else b"PAR1...." + data + END)


def age(root: str, seconds: float = 10.0) -> None:
    """Make every file that old: what has just been written is not taken into an index."""
    for path in Path(root).rglob("*.*"):
        then = time.time() - seconds
        os.utime(path, (then, then))


def read(root: str, **options: Any) -> Reading:
    return index.read_many(root, [OUTPUT, SAMPLES], SHARDS, **options)


def indexed(root: str) -> None:
    index.keep(root, read(root, footers=True).fresh)


@pytest.fixture(params=["here", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty root."""
    if request.param == "here":
        return str(tmp_path)
    s3: S3 = request.getfixturevalue("s3")
    return s3.bucket("made") + "/out"


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Committed, and in their indexes."""
    for shard in SHARDS:
        commit(str(tmp_path), record(shard))
        commit(str(tmp_path), record(shard, output=SAMPLES))
    age(str(tmp_path))
    indexed(str(tmp_path))
    return str(tmp_path)


def truth(root: str) -> dict[tuple[str, str], ledger.Entry]:
    """By the records alone."""
    places = [(output, shard) for output in (OUTPUT, SAMPLES) for shard in SHARDS]
    records = {place: ledger.read(root, *place) for place in places}
    return {place: ledger.entry(one) for place, one in records.items() if one is not None}


def test_all_is_read_from_the_index(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no record, and no footer: they may be unreadable."""
    expected = truth(root)
    monkeypatch.setattr(ledger, "read", lambda *_: pytest.fail("a record was read"))
    monkeypatch.setattr(ledger, "footer_at", lambda *_: pytest.fail("a footer was read"))
    for footers in (False, True):
        reading = read(root, footers=footers)
        assert reading.entries == expected and not reading.fresh
    entry = reading.entries[OUTPUT, SHARDS[0]]
    assert entry.reasons == {"image: N bytes": 2} and entry.made == record(SHARDS[0]).made


def test_it_is_plain(root: str) -> None:
    """One JSON object a line, and what records have in common once."""
    lines = [json.loads(line) for line in Path(file.url(root, OUTPUT)).read_bytes().splitlines()]
    assert lines[0]["index"] == OUTPUT and list(lines[-1]) == ["sum"]
    common = [line for line in lines if "identity" in line]
    assert len(common) == 1 and common[0]["made"] == {"host": "x", "threads": 2}
    assert {line["shard"] for line in lines if "shard" in line} == set(SHARDS)


def test_entries_of_one_shard_share_what_is_equal(root: str) -> None:
    entries = read(root).entries
    one, two = (entries[output, SHARDS[0]] for output in (OUTPUT, SAMPLES))
    assert one.source is two.source and one.own is two.own
    assert one.identity is entries[OUTPUT, SHARDS[1]].identity


@pytest.mark.parametrize("footers", [False, True])
def test_what_has_changed_since_counts(root: str, footers: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Deleted records stay away, newer ones win, files that are gone, shorter or of others do not count."""
    Path(ledger.record_url(root, OUTPUT, SHARDS[0])).unlink()
    commit(root, record(SHARDS[1], "f2", nulls=1, rejects=[]), b"newer")
    Path(ledger.output_url(root, OUTPUT, SHARDS[2])).unlink()
    Path(ledger.output_url(root, OUTPUT, SHARDS[3])).write_bytes(b"PAR1" + END)
    other = Path(ledger.output_url(root, OUTPUT, SHARDS[4]))
    other.write_bytes(other.read_bytes()[:-9] + b"!" + END)
    expected = truth(root)
    for shard in [*SHARDS[2:4], *([SHARDS[4]] if footers else [])]:
        del expected[OUTPUT, shard]
    assert read(root, footers=footers).entries == expected
    age(root)
    indexed(root)
    assert read(root, footers=footers).entries == expected
    assert not any(shard in file.read(root, OUTPUT, file.Shared()) for shard in (SHARDS[0],))


def test_records_that_are_put_back_count(root: str) -> None:
    """A copy of the root from before, with its times."""
    place = Path(ledger.record_url(root, OUTPUT, SHARDS[0]))
    data, stat = place.read_bytes(), place.stat()
    commit(root, record(SHARDS[0], "f2"))
    age(root)
    indexed(root)
    place.write_bytes(data)
    os.utime(place, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert read(root).entries == truth(root)


def test_what_was_just_written_is_read_again(tmp_path: Path) -> None:
    """Its time of change may be that of what follows it."""
    commit(str(tmp_path), record(SHARDS[0]))
    reading = read(str(tmp_path), footers=True)
    assert len(reading.entries) == 1 and not reading.fresh


@pytest.mark.parametrize("change", ["flip", "cut", "empty", "rubbish", "another"])
def test_a_damaged_index_is_passed_over(root: str, change: str, caplog: pytest.LogCaptureFixture) -> None:
    place = Path(file.url(root, OUTPUT))
    data = place.read_bytes()
    rng = random.Random(change)
    for _ in range(20):
        at = rng.randrange(len(data))
        bad = {
            "flip": data[:at] + bytes([data[at] ^ rng.choice((1, 32, 255))]) + data[at + 1 :], "cut": data[:at],
            "empty": b"", "rubbish": b"null\n", "another": Path(file.url(root, SAMPLES)).read_bytes(),
        }[change]  # fmt: skip
        place.write_bytes(bad)
        assert read(root, footers=True).entries == truth(root)
    assert f"{place} is damaged" in caplog.text


def test_an_index_of_a_later_format_is_passed_over(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "FORMAT", 2)
    assert file.read(root, OUTPUT, file.Shared()) == {}
    assert read(root).entries == truth(root)


@pytest.mark.parametrize("seed", range(8))
def test_a_reader_sees_the_records_after_kills(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits, deletions and indexes at random, each of which may end before any of its writes."""
    rng, root = random.Random(seed), str(tmp_path)
    whole_put, whole_delete = storage.put, storage.delete

    class Killed(BaseException):
        pass

    def put(url: str, data: bytes, **options: Any) -> bool:
        if rng.random() < 0.15:
            raise Killed
        return whole_put(url, data, **options)

    def delete(url: str) -> None:
        if rng.random() < 0.15:
            raise Killed
        whole_delete(url)

    monkeypatch.setattr(storage, "put", put)
    monkeypatch.setattr(storage, "delete", delete)
    for step in range(60):
        shard = rng.choice(SHARDS)
        try:
            if rng.random() < 0.6:
                output = rng.choice([OUTPUT, SAMPLES])
                commit(root, record(shard, f"f{step}", output, seconds=float(step)), f"data {step:03d}".encode())
            elif rng.random() < 0.3:
                storage.delete(ledger.record_url(root, OUTPUT, shard))
            else:
                if rng.random() < 0.7:
                    age(root, rng.uniform(3.0, 1e6))
                indexed(root)
        except Killed:
            pass
        found = read(root, footers=True).entries
        expected = truth(root)
        for place in expected.keys() - found.keys():  # its data was put, and its record is yet to be
            pytest.fail(f"{place} is lost")
        assert found == expected


def test_two_writers_do_no_harm(root: str) -> None:
    """Each has read before the other one wrote; the last one wins, and what it lacks is read."""
    commit(root, record(SHARDS[0], "f2"))
    age(root, 8)
    first = read(root, footers=True)
    commit(root, record(SHARDS[1], "f3"))
    age(root, 6)
    second = read(root, footers=True)
    index.keep(root, second.fresh)
    index.keep(root, first.fresh)
    assert read(root).entries == truth(root)


def test_what_a_job_has_committed_is_not_read_back(
    place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """But what another one has written since, or deleted, is as it is then: before the index is made, and after."""
    monkeypatch.setattr(listing, "SETTLED_SECONDS", -60.0)  # a file of this moment has its time already
    names = [f"{n:05d}" for n in range(5)]
    lines = [file.line_of(committed(place, record(name, output=of))) for name in names[:4] for of in (OUTPUT, SAMPLES)]
    lines += [file.line_of(Committed(commit(place, record("00004"))))]  # by another job, and the same
    read_back, whole = list[str](), ledger.read
    monkeypatch.setattr(ledger, "read", lambda root, output, name: read_back.append(name) or whole(root, output, name))
    found = index.read_many(place, [OUTPUT, SAMPLES], names, footers=True, made=lines)
    assert read_back == ["00004"]
    commit(place, record(names[0], "f2"))
    commit(place, record(names[1], "f2", SAMPLES, rows=2))
    storage.put(ledger.output_url(place, OUTPUT, names[2]), b"PAR1....DATA" + b"else" + END)
    storage.delete(ledger.record_url(place, OUTPUT, names[3]))
    monkeypatch.setattr(ledger, "read", whole)
    truth = index.read_many(place, [OUTPUT, SAMPLES], names, footers=True).entries
    assert len(truth) == 7 and truth != found.entries
    assert index.read_many(place, [OUTPUT, SAMPLES], names, footers=True, made=lines).entries == truth
    index.keep(place, found.fresh)
    assert index.read_many(place, [OUTPUT, SAMPLES], names, footers=True).entries == truth
    assert index.read_many(place, [OUTPUT, SAMPLES], names, footers=True, made=lines).entries == truth


def test_an_index_that_cannot_be_written_is_a_warning(root: str, caplog: pytest.LogCaptureFixture) -> None:
    place = Path(file.url(root, OUTPUT))
    place.unlink()
    place.mkdir()
    with caplog.at_level(logging.WARNING):
        indexed(root)
    assert "cannot be written" in caplog.text and read(root).entries == truth(root)


def test_on_s3_a_finished_output_takes_four_requests(s3: S3) -> None:
    """Two listings, and its index (s3fs asks for its head first). ETags are kept at once: they follow from contents."""
    root = s3.bucket("index") + "/out"
    for shard in SHARDS[:4]:
        commit(root, record(shard))
    index.keep(root, index.read_many(root, [OUTPUT], SHARDS, footers=True).fresh)
    s3.requests.clear()
    entries = index.read_many(root, [OUTPUT], SHARDS, footers=True).entries
    assert len(s3.requests) == 4 and len(entries) == 4
    commit(root, record(SHARDS[0], "f2"))
    s3.requests.clear()
    newer = index.read_many(root, [OUTPUT], SHARDS, footers=True).entries
    assert newer[OUTPUT, SHARDS[0]].fingerprint == "f2" and len(s3.requests) <= 8


def test_verbs_that_look_at_a_root_read_no_record_twice(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`status ROOT` reads none that its index has, `check` each one once."""
    read, parse = list[str](), ledger.parse
    monkeypatch.setattr(ledger, "parse", lambda data, where: read.append(where) or parse(data, where))
    assert status.show_stored(root, as_json=True) == 0 and not read
    said = json.loads(capsys.readouterr().out)
    assert [(row["output"], row["records"], row["rows"]) for row in said["outputs"]] == [
        (SAMPLES, 6, 18),
        (OUTPUT, 6, 18),
    ]
    assert said["rejects"] == {f"{output}: image: N bytes": 12 for output in (SAMPLES, OUTPUT)} and not said["notes"]
    check.check(root)
    assert len(read) == len(set(read)) == 2 * len(SHARDS)
    Path(ledger.output_url(root, OUTPUT, SHARDS[0])).unlink()
    status.show_stored(root, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["outputs"][1]["rows"] == 15 and f"{OUTPUT}: 1 records do not count" in said["notes"][0]
