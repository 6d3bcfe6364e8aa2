"""A record is never there without its data, whatever fails or dies, and whatever other jobs commit."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.infra import ledger, storage
from fourmill.infra.fingerprint import fingerprint
from fourmill.infra.index import index
from fourmill.infra.ledger import Record, Source

OUTPUT, SHARD = "tokens/tok_rgb", "00000"


def record(print_: str = "f1", **changes: Any) -> Record:
    values: dict[str, Any] = {
        "output": OUTPUT, "shard": SHARD, "fingerprint": print_, "source": Source(10, "v", "aa"), "rows": 2, "nulls": 1,
        "rejects": [{"key": "b", "reason": "image: 0 bytes"}], "bytes": 0, "sha256": "", "seconds": 0.5,
        "identity": {"seed": 0},
    }  # fmt: skip
    return Record(**{**values, **changes})


def check(root: str) -> Record | None:
    """The law: if there is a record, its file holds exactly what it says."""
    found = ledger.read(root, OUTPUT, SHARD)
    if found is not None:
        data = storage.read_bytes(ledger.output_url(root, OUTPUT, SHARD))
        assert (len(data), hashlib.sha256(data).hexdigest()) == (found.bytes, found.sha256)
    return found


def test_commit_and_read(tmp_path: Path) -> None:
    root = str(tmp_path)
    made = ledger.commit(root, record(), b"data").record
    assert made.bytes == 4 and made.sha256 == hashlib.sha256(b"data").hexdigest()
    assert check(root) == made
    assert index.read_many(root, [OUTPUT, "tokens/det"], [SHARD, "00001"]).entries == {
        (OUTPUT, SHARD): ledger.entry(made)
    }
    assert ledger.read(root, OUTPUT, "00001") is None


def test_samples_are_their_record_alone(tmp_path: Path) -> None:
    made = ledger.commit(str(tmp_path), record(output=ledger.SAMPLES), None).record
    there = index.read_many(str(tmp_path), [ledger.SAMPLES], [SHARD]).entries
    assert there == {(ledger.SAMPLES, SHARD): ledger.entry(made)}
    assert [p.name for p in tmp_path.iterdir()] == ["ledger"]


def test_a_record_whose_file_is_gone_does_not_count(tmp_path: Path) -> None:
    root = str(tmp_path)
    ledger.commit(root, record(), b"data")
    storage.delete(ledger.output_url(root, OUTPUT, SHARD))
    assert index.read_many(root, [OUTPUT], [SHARD]).entries == {}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"output": "x"}', b"\xff\xfe"])
def test_what_is_no_record_counts_as_missing(tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    storage.put(ledger.record_url(str(tmp_path), OUTPUT, SHARD), data)
    assert ledger.read(str(tmp_path), OUTPUT, SHARD) is None
    assert "00000.json is no ledger record" in caplog.text
    with pytest.raises(ValueError, match=r"00000\.json is no ledger record .* delete it"):
        ledger.parse(data, "00000.json")


def test_a_record_of_another_place_counts_as_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage.put(ledger.record_url(str(tmp_path), OUTPUT, "00001"), ledger.dumps(record()))
    assert ledger.read(str(tmp_path), OUTPUT, "00001") is None
    assert f"is the record of {OUTPUT}/{SHARD}" in caplog.text


def test_every_damage_of_a_record_is_found() -> None:
    """Each byte changed and each length cut: no record, or the very same, which `dumps` tells apart by its bytes."""
    whole = replace(record(), made={"time": "2026-11-29"}, footer="f" * 32, seconds=1.25)
    data = ledger.dumps(whole)
    damaged = [
        data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :] for at in range(len(data)) for flip in (1, 32, 255)
    ]
    for bad in [*damaged, *(data[:at] for at in range(len(data)))]:
        try:
            assert ledger.parse(bad, "x") == whole, bad
        except ValueError:
            continue


def test_what_later_releases_add_is_passed_over() -> None:
    raw = json.loads(ledger.dumps(record())) | {"new": 1}
    del raw["sum"]
    data = json.dumps(raw | {"sum": fingerprint(raw)}).encode()
    assert ledger.parse(data, "x") == record()


@pytest.mark.parametrize("footers", [False, True])
def test_a_file_that_is_another_one_does_not_count(tmp_path: Path, footers: bool) -> None:
    """Another size is seen in the listing, the same size with another footer where footers are looked at."""
    root, end = str(tmp_path), (4).to_bytes(4, "little") + b"PAR1"
    ledger.commit(root, record(), b"PAR1....good" + end)
    assert index.read_many(root, [OUTPUT], [SHARD], footers=footers).entries
    storage.put(ledger.output_url(root, OUTPUT, SHARD), b"PAR1....evil" + end)
    assert bool(index.read_many(root, [OUTPUT], [SHARD], footers=footers).entries) is not footers
    storage.put(ledger.output_url(root, OUTPUT, SHARD), b"PAR1")
    assert not index.read_many(root, [OUTPUT], [SHARD], footers=footers).entries


@given(
    key=st.text(max_size=20),
    reason=st.text(st.characters(exclude_categories=()), max_size=40),
    rows=st.integers(0, 10**9),
    identity=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_records_survive_their_file(key: str, reason: str, rows: int, identity: dict[str, Any]) -> None:
    """Keys and reasons come from the web: any text, half surrogate pairs included."""
    one = record(rejects=[{"key": key, "reason": reason}], rows=rows, identity=identity)
    assert ledger.parse(ledger.dumps(one), "here") == one


class Died(BaseException):
    """The process is killed: nothing after it runs."""


class Mortal:
    """storage.put and storage.delete that die before or after their n-th call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.left = at
        for name in ("put", "delete"):
            monkeypatch.setattr(storage, name, self.wrapped(getattr(storage, name)))

    def wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*args: Any, **options: Any) -> Any:
            self.step()
            value = call(*args, **options)
            self.step()
            return value

        return dying

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Died


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("before", [None, b"old data"])
def test_killed_at_any_step_of_a_commit(tmp_path: Path, at: int, before: bytes | None) -> None:
    root = str(tmp_path)
    if before is not None:
        ledger.commit(root, record("f0"), before)
    with pytest.MonkeyPatch.context() as patch:
        Mortal(patch, at)
        try:
            ledger.commit(root, record("f1"), b"new data")
            finished = True
        except Died:
            finished = False
    found = check(root)
    assert found is None or found.fingerprint in ("f0", "f1")
    assert not finished or (found is not None and found.fingerprint == "f1")
    again = ledger.commit(root, record("f1"), b"new data").record
    assert check(root) == again and again.fingerprint == "f1"


def test_a_kill_really_interrupts_a_commit(tmp_path: Path) -> None:
    """The test above tests something: with few steps allowed the commit dies, with many it does not."""
    with pytest.MonkeyPatch.context() as patch:
        Mortal(patch, 2)
        with pytest.raises(Died):
            ledger.commit(str(tmp_path), record(), b"x")
    with pytest.MonkeyPatch.context() as patch:
        Mortal(patch, 20)
        ledger.commit(str(tmp_path), record(), b"x")


class Interleaved:
    """Runs several commits as threads of which only one moves at a time, in an order that a seed decides."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.turn = threading.Condition()
        self.waiting: list[int] = []
        self.running = 0
        self.current: int | None = None

    def pause(self) -> None:
        me = threading.get_ident()
        with self.turn:
            self.waiting.append(me)
            self._next()
            self.turn.wait_for(lambda: self.current == me)
            self.current = None
            self.waiting.remove(me)

    def done(self) -> None:
        with self.turn:
            self.running -= 1
            self._next()

    def _next(self) -> None:
        if self.current is None and self.waiting and len(self.waiting) == self.running:
            self.current = self.random.choice(self.waiting)
            self.turn.notify_all()

    def run(self, works: list[Callable[[], Any]], patch: pytest.MonkeyPatch) -> None:
        for name in ("put", "delete", "exists", "read_bytes"):
            call = getattr(storage, name)
            patch.setattr(storage, name, lambda *a, _call=call, **o: (self.pause(), _call(*a, **o))[1])
        self.running = len(works)

        def one(work: Callable[[], Any]) -> None:
            try:
                work()
            finally:
                self.done()

        threads = [threading.Thread(target=one, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("seed", range(12))
def test_two_jobs_that_commit_the_same_do_no_harm(tmp_path: Path, seed: int) -> None:
    root = str(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        Interleaved(seed).run([lambda: ledger.commit(root, record("f1"), b"same")] * 2, patch)
    found = check(root)
    assert found is not None and found.fingerprint == "f1"


@pytest.mark.parametrize("seed", range(30))
def test_two_recipes_leave_no_record_over_others_data(tmp_path: Path, seed: int) -> None:
    root = str(tmp_path)
    works = [lambda p=p: ledger.commit(root, record(f"f{p}"), b"data of job %d" % p) for p in (1, 2)]
    with pytest.MonkeyPatch.context() as patch:
        Interleaved(seed).run(works, patch)
    check(root)


def test_records_can_be_read_by_a_person(tmp_path: Path) -> None:
    ledger.commit(str(tmp_path), record(rejects=[{"key": "b", "reason": "image: 0 bytes"}]), b"x")
    raw = json.loads((tmp_path / "ledger" / OUTPUT / f"{SHARD}.json").read_text())
    assert raw["rejects"] == [{"key": "b", "reason": "image: 0 bytes"}] and raw["identity"] == {"seed": 0}


# fingerprints


def test_fingerprints_depend_on_values_only() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": (1, 2), "a": 1})
    parts = [(), ("a",), ("a", "b"), ("ab",), ({"a": 1},), ({"a": 1.5},), ({"a": None},), (["a"],), ("\u00e9",)]
    assert len({fingerprint(*part) for part in parts}) == len(parts)


def test_fingerprints_are_the_same_everywhere() -> None:
    assert fingerprint("tokens", {"seed": 0, "crops": {"size": 224}}) == "39bfde51247629c0"
