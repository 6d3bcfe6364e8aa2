"""The language of `train.select`: what it means, by a plain evaluation sample by sample, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourmill.pipelines.curation.expression import Expression, Values, field_of, parse, values_of

NAMES = ("a", "b.c", "t", "r")  # two numbers, text, a record
NUMBERS = st.none() | st.integers(-3, 3) | st.sampled_from([0.5, -1.25])
SAMPLES = st.fixed_dictionaries(
    {
        "a": NUMBERS,
        "b.c": NUMBERS,
        "t": st.none() | st.sampled_from(["", "x", "y z"]),
        "r": st.none() | st.sampled_from([{}, {"k": 1}, [], [0], False, True]),
    }
)


def given_values(samples: list[dict[str, Any]]) -> dict[str, Values]:
    return {name: values_of(name, [sample[name] for sample in samples]) for name in NAMES}


# A tree as nested tuples, the text that says it, and what it is of one sample: True, False or None for unknown.

_NUMBER = st.recursive(
    st.sampled_from([("name", "a"), ("name", "b.c")]) | st.integers(-2, 3).map(lambda n: ("number", n)),
    lambda inner: st.tuples(st.sampled_from(["+", "-", "*", "/", "min", "max"]), inner, inner),
    max_leaves=3,
)
_QUESTION = (
    st.tuples(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), _NUMBER, _NUMBER)
    | st.tuples(
        st.sampled_from(["in", "not in"]), st.sampled_from(["a", "b.c"]), st.lists(st.integers(-2, 2), min_size=1)
    )
    | st.tuples(st.sampled_from(["is", "is not"]), st.sampled_from(NAMES))
    | st.tuples(st.sampled_from(["text ==", "text !="]), st.sampled_from(["x", ""]))
    | st.just(("name", "r"))
)
TREES = st.recursive(
    _QUESTION,
    lambda inner: st.tuples(st.just("not"), inner) | st.tuples(st.sampled_from(["and", "or"]), inner, inner),
    max_leaves=6,
)


def text_of(tree: tuple[Any, ...]) -> str:
    match tree:
        case ("name", name) | ("number", name):
            return str(name)
        case ("not", inner):
            return f"not ({text_of(inner)})"
        case (("min" | "max") as name, left, right):
            return f"{name}({text_of(left)}, {text_of(right)})"
        case (("in" | "not in") as op, name, listed):
            return f"{name} {op} {listed}"
        case (("is" | "is not") as op, name):
            return f"{name} {op} None"
        case (("text ==" | "text !=") as op, word):
            return f"t {op[5:]} {word!r}"
        case (op, left, right):
            return f"({text_of(left)}) {op} ({text_of(right)})"
    raise AssertionError(tree)


def number_of(tree: tuple[Any, ...], sample: dict[str, Any]) -> float | None:
    if tree[0] in ("name", "number"):
        value = sample[tree[1]] if tree[0] == "name" else tree[1]
        return None if value is None else float(value)
    left, right = number_of(tree[1], sample), number_of(tree[2], sample)
    if left is None or right is None or (tree[0] == "/" and right == 0):
        return None
    made = {"+": left + right, "-": left - right, "*": left * right, "min": min(left, right), "max": max(left, right)}
    return left / right if tree[0] == "/" else made[tree[0]]


def truth_of(tree: tuple[Any, ...], sample: dict[str, Any]) -> bool | None:
    match tree:
        case ("name", name):
            return None if sample[name] is None else bool(sample[name])
        case ("not", inner):
            found = truth_of(inner, sample)
            return None if found is None else not found
        case (("and" | "or") as op, left, right):
            decides = op == "or"
            both = [truth_of(left, sample), truth_of(right, sample)]
            return decides if decides in both else None if None in both else not decides
        case (("in" | "not in") as op, name, listed):
            return None if sample[name] is None else (sample[name] in listed) == (op == "in")
        case (("is" | "is not") as op, name):
            return (sample[name] is None) == (op == "is")
        case (("text ==" | "text !=") as op, word):
            return None if sample["t"] is None else (sample["t"] == word) == (op == "text ==")
        case (op, left, right):
            one, other = number_of(left, sample), number_of(right, sample)
            if one is None or other is None:
                return None
            return {
                "<": one < other, "<=": one <= other, ">": one > other, ">=": one >= other, "==": one == other,
                "!=": one != other,
            }[op]  # fmt: skip
    raise AssertionError(tree)


def found_of(expression: Expression, samples: list[dict[str, Any]]) -> list[bool | None]:
    values = expression.evaluate(given_values(samples))
    both = zip(values.data.tolist(), values.known.tolist(), strict=True)
    return [bool(value) if known else None for value, known in both]


@settings(max_examples=60)
@given(TREES, st.lists(SAMPLES, min_size=1, max_size=8))
def test_it_means_what_logic_of_three_values_says(tree: tuple[Any, ...], samples: list[dict[str, Any]]) -> None:
    text = text_of(tree)
    try:
        expression = parse(text)
    except ValueError as error:  # numbers alone
        assert "names no label" in str(error)
        return
    assert found_of(expression, samples) == [truth_of(tree, sample) for sample in samples]
    parts = [found_of(part, samples) for part in expression.clauses]  # which are all of it
    selected = [one is True for one in found_of(expression, samples)]
    assert selected == [all(part[i] for part in parts) for i in range(len(samples))]


@settings(max_examples=60)
@given(st.text(max_size=60) | st.text("ab.()[]'<>=+-*/ notandris0_,#\n", max_size=40))
def test_any_text_is_an_expression_or_one_sentence(text: str) -> None:
    try:
        found = parse(text)
    except ValueError as error:
        assert str(error)
    else:
        assert found.names and parse(found.text).names == found.names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("aesthetic = 5", "to compare, write =="),
        ("aesthetic == None", "write `is None`"),
        ("aesthetic + 1", "no question"),
        ("5 > 3", "names no label"),
        ("__import__('os').system('true') == 0", "not of this language"),
        ("a.__class__ > 1", "no name of a label"),
        ("(lambda: a)() > 1", "not of this language"),
        ("[x for x in a]", "not of this language"),
        ("a[0] > 1", "not of this language"),
        ("a ** 9 > 1", "not of this language"),
        ("a > 1 # and b", "no comments"),
        ("a in 5", "a list of numbers or texts"),
        ("a in [b]", "a list of numbers or texts"),
        ("a is b", "asks for None alone"),
        ("a > 1e999", "too large"),
        ("a > 1" + " and a > 1" * 400, "at most"),
        ("not " * 99 + "a", "within each other"),
        ("a" + ".a" * 900 + " > 1", "name"),
        ("(" * 400 + "a" + ")" * 400, "cannot be read"),
    ],
)
def test_what_is_not_of_the_language_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("t > 3", "t > 3: text is compared with a number"),
        ("a == 'x'", "a == 'x': a number is compared with text"),
        ("t + 1 > 2", "t is text, expected a number"),
        ("a and r", "a is a number, and no question"),
        ("r > r", "a record has no order"),
        ("a in ['x']", "a number is compared with text"),
    ],
)
def test_kinds_are_never_mixed(text: str, said: str) -> None:
    samples = [{"a": 1, "b.c": 2, "t": "x", "r": {"k": 1}}]
    with pytest.raises(ValueError, match=said):
        parse(text).evaluate(given_values(samples))


def test_values_of_several_kinds_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="x is a number in some samples and text in others"):
        values_of("x", [1, "2", None])


def test_what_is_not_finite_is_unknown() -> None:
    values = {"a": values_of("a", [float("inf"), 1e300, 0])}
    assert parse("a > 0").evaluate(values).known.tolist() == [False, True, True]
    assert parse("a * 1e300 > 0").evaluate(values).known.tolist() == [False, False, True]


def test_a_line_may_be_broken_and_constants_are_those_of_yaml() -> None:
    values = {"a": Values("true or false", np.array([True, False]), np.ones(2, np.bool_))}
    assert parse("a == true\n  and\n  a is not null").evaluate(values).true.tolist() == [True, False]


def test_fields_of_what_json_says() -> None:
    assert field_of({"a": {"b": 2}}, ["a", "b"]) == 2 and field_of({"a": 1}, ["b"]) is None
    assert field_of([1, 2], ["count"]) == 2 and field_of({"count": 7}, ["count"]) == 7 and field_of({}, ["count"]) == 0
    assert field_of("two words", ["length"]) == 9 and field_of("two words", ["words"]) == 2
    assert field_of(5, ["length"]) is None and field_of(None, ["count"]) is None


def test_a_label_that_is_only_asked_for_need_not_be_read() -> None:
    assert parse("depth is None or a > 1").asked_only == {"depth"}
    assert parse("a is None or a > 1").asked_only == frozenset()
    assert parse("a is None or a.b > 1").asked_only == frozenset()
