"""Sets of tars that lie beside each other: each of them is looked at, and whether they have the same tars."""

from __future__ import annotations

from pathlib import Path

from fourmill_tests.tiny import landscape

from fourmill.recipe import Recipe
from fourmill.report.doctor import places


def test_each_set_of_tars_is_looked_at(tmp_path: Path) -> None:
    """Not the first one alone: a set that lacks a tar, and one whose tar is damaged."""
    with landscape.forgotten():
        for name, members in (("optical", ("s2.npy",)), ("terrain", ("tif",)), ("rest", ("json",))):
            for number in range(2):
                landscape.write(tmp_path / name / f"{number}.tar", range(4 * number, 4 * number + 4), *members)
        (tmp_path / "terrain" / "1.tar").unlink()
        (tmp_path / "rest" / "0.tar").write_bytes(b"no tar at all" * 99)
        sets = {name: f"{tmp_path}/{name}/*.tar" for name in ("optical", "terrain", "rest")}
        plain = landscape.recipe(tmp_path, [], [])
        sensors = {"s2": {**landscape.SENSORS["s2"], "from": "optical"}}
        asked = Recipe.model_validate(
            {
                **plain,
                "samples": {"train": sets},
                "sensors": sensors,
                "modalities": ["s2"],
                "generate": {},
                "tokenizers": {},
            }
        )
        found = places.samples(asked)
    text = "\n".join(f"{one.what}: {one.why}; {one.do}" for one in found.findings)
    assert "samples.train.rest: " in text and "it is no tar, and no Parquet" in text, text
    assert "samples.train: the set terrain lacks 1 tars that optical has (1.tar)" in text, text
    # Samples are counted in the first set alone.
    assert found.shards == 5 and found.count is not None and 7 < found.count < 10
