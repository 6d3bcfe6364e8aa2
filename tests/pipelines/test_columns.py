"""Which columns are complete, and whether two roots may be trained on together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fourmill.infra.configuration import RecipeError
from fourmill.infra.ledger import Record, Source
from fourmill.modalities import Kind, ModalitySpec
from fourmill.pipelines import columns
from fourmill.pipelines.columns import Columns
from fourmill.pipelines.outputs import Output
from fourmill.pipelines.plan import Plan, ShardTask

RGB = ModalitySpec("tok_rgb", Kind.GRID, 64, 16)
TEXT = ModalitySpec("caption", Kind.SEQUENCE, 6000, 32)
PIXELS = ModalitySpec("rgb", Kind.PIXELS, 0, 16, 768)
OUTPUTS = {
    "tokens/tok_rgb": Output("tokens/tok_rgb", "rgb", "f-rgb", spec=RGB, tokenizers={"tok_rgb": "weights"}),
    "tokens/caption": Output("tokens/caption", "caption", "f-text", spec=TEXT, tokenizers={"text": "words"}),
}


def plan(rows: dict[str, int], val: tuple[str, ...] = (), lacking: tuple[str, ...] = (), **changes: Any) -> Plan:
    """Shards of so many rows, all of whose columns are there but those of `lacking`; `changes` are of the records."""
    made = Plan(OUTPUTS, {name: name for name in rows}, {"train": [n for n in rows if n not in val], "val": list(val)})
    for shard, count in rows.items():
        missing = ("tokens/caption",) if shard in lacking else ()
        made.tasks[shard] = ShardTask(shard, shard, "v", missing)
        for name, output in OUTPUTS.items():
            if name not in missing:
                values = {"fingerprint": output.fingerprint, "identity": {}} | changes.get(
                    f"{shard}_{output.label}", {}
                )
                made.done[name, shard] = Record(name, shard, source=Source(1, "v", f"sha-{shard}"), rows=count, nulls=0,
                                                rejects=[], bytes=0, sha256="", seconds=0.0, **values)  # fmt: skip
    return made


def test_shards_count_that_have_all_columns_and_rows() -> None:
    found = columns.complete("out", plan({"a": 3, "b": 4, "c": 0, "d": 1, "e": 2}, val=("d",), lacking=("b",)))
    assert found.shards == {"train": (("a", 3), ("e", 2)), "val": (("d", 1),)}
    assert found.sources == {"a": "sha-a", "e": "sha-e"}  # a model depends on what it is trained on alone
    assert found.specs == (RGB, TEXT) and found.root == "out"
    assert found.tokenizers == {"tok_rgb": {"tok_rgb": "weights"}, "caption": {"text": "words"}}
    assert found.prints == {"tokens/tok_rgb": "f-rgb", "tokens/caption": "f-text"} and not found.versions
    assert found.identity() == [found.prints, found.sources]


def test_a_shard_that_is_absent_is_left_out() -> None:
    made = plan({"a": 3, "b": 4})
    del made.tasks["b"]
    assert columns.complete("out", made).shards["train"] == (("a", 3),)


def test_prints_are_those_of_the_records_if_they_agree() -> None:
    former = {"fingerprint": "former"}
    found = columns.complete("out", plan({"a": 3, "b": 4}, a_rgb=former, b_rgb=former, a_caption=former))
    assert found.prints == {"tokens/tok_rgb": "former", "tokens/caption": "f-text"}
    assert columns.complete("out", plan({})).prints == {"tokens/tok_rgb": "f-rgb", "tokens/caption": "f-text"}


def test_versions_that_are_not_the_first_are_part_of_it() -> None:
    later = {"identity": {"versions": {"labels/rgb": 3}}}
    found = columns.complete("out", plan({"a": 3, "b": 4, "c": 5}, a_rgb=later, c_rgb=later))
    assert found.versions == {"tokens/tok_rgb": [{}, {"labels/rgb": 3}]}
    assert found.identity() == [found.prints, found.sources, found.versions]


OWN = Columns("own", (RGB, TEXT, PIXELS), {}, {"tok_rgb": {"tok_rgb": "w"}, "caption": {"text": "t"}, "rgb": {}}, {})


def test_what_both_roots_have_in_their_own_order() -> None:
    other = replace(OWN, root="other", specs=(PIXELS, RGB))
    assert columns.shared(OWN, OWN) == ("tok_rgb", "caption", "rgb")
    assert columns.shared(OWN, other) == ("tok_rgb", "rgb")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tokenizers": {**OWN.tokenizers, "tok_rgb": {"tok_rgb": "v"}}}, "tok_rgb was made by another"),
        ({"tokenizers": {**OWN.tokenizers, "caption": {}}}, "caption was made by another tokenizer text"),
        ({"specs": (RGB, replace(TEXT, max_tokens=64))}, "its caption is .*=64.*, here it is .*=32"),
        ({"specs": (PIXELS,)}, "no modality that this run could predict; it has rgb"),
    ],
)  # fmt: skip
def test_other_tokens_or_sizes_are_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(RecipeError, match=f"^train.datasets: other: .*{expected}"):
        columns.shared(OWN, replace(OWN, root="other", **changes))
