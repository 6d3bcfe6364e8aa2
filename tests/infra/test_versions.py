"""A corrected part raises its own version: nothing is made again for it unless asked, and the reason is known."""

from __future__ import annotations

import pytest

from fourmill.infra import versions
from fourmill.infra.versions import Part

CORRECTED = Part("labels/depth", 3, 1, {2: "far and near no longer swapped", 3: "the sky is far"})
CODEC = Part("codecs/vq", 2, 2)


def test_first_versions_stand_in_no_record() -> None:
    assert versions.identity([Part("labels/depth"), CODEC]) == {}
    assert versions.identity([CORRECTED, CODEC]) == {"versions": {"labels/depth": 3}}
    assert versions.identity([CORRECTED, CODEC], {"labels/depth": 1}) == {}


def test_outdated_says_what_changed_since() -> None:
    assert versions.outdated([CORRECTED, CODEC], {"versions": {"labels/depth": 3}}, {}) == []
    (why,) = versions.outdated([CORRECTED, CODEC], {"versions": {"labels/depth": 2}}, {})
    assert why == "made by version 2 of labels/depth, asked for is 3: the sky is far"
    (why,) = versions.outdated([CORRECTED, CODEC], {}, {})
    assert "far and near no longer swapped; the sky is far" in why


def test_a_pin_keeps_what_an_older_version_made() -> None:
    assert versions.outdated([CORRECTED], {}, {"labels/depth": 1}) == []
    (why,) = versions.outdated([CORRECTED], {"versions": {"labels/depth": 3}}, {"labels/depth": 1})
    assert why.startswith("made by version 3 of labels/depth, asked for is 1")
    assert "is pinned at 1, and this fourmill makes version 3" in versions.unmakeable([CORRECTED], {"labels/depth": 1})
    assert versions.unmakeable([CORRECTED], {"labels/depth": 3}) == ""


def test_any_version_that_was_may_be_pinned() -> None:
    for pinned in (1, 2, 3):
        versions.check_pins({"labels/depth": pinned, "codecs/vq": 2}, [CORRECTED, CODEC])


@pytest.mark.parametrize(
    ("pins", "expected"),
    [
        ({"labels/dept": 1}, "uses no 'labels/dept'; did you mean 'labels/depth'"),
        ({"labels/depth": 4}, "there are 1 to 3"),
        ({"codecs/vq": 1}, "there are 2 to 2"),
    ],
)
def test_pins_are_checked(pins: dict[str, int], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        versions.check_pins(pins, [CORRECTED, CODEC])
