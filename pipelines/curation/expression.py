"""The language in which a recipe says which samples it trains on: `aesthetic > 4.8 and not duplicate`.

Python's grammar, of which a few kinds of nodes are let through; nothing is evaluated by Python. A name is a label, and
a name with a dot a field of one: `size.width`, `det.count`, `caption.length`.

Logic has three values, as in SQL: what is said of a label that a sample lacks is unknown, `not` of unknown is unknown,
`false and unknown` is false, `true or unknown` is true. A sample is selected where the whole is true. `is None` asks
whether a sample lacks a value.

Decisions:
- An unknown score selects no sample: who wants those without one says `aesthetic is None or aesthetic > 4.8`.
- Numbers, text and truth are never turned into each other: what is compared with something else is an error.
- A record or list in the place of a truth is true unless it is empty, so that `not duplicate` reads as it should.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

MOST = 2_000  # characters
_DEEPEST = 50  # nodes within each other
_LARGEST = 1e300  # of a number
_TOO_DEEP = f"it has more than {_DEEPEST} parts within each other; write it simpler"
_CONSTANTS = {"true": True, "false": False, "null": None, "none": None}  # as YAML and JSON write them
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARED: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"abs": np.abs, "min": np.minimum, "max": np.maximum}
_KNOWS = "and, or, not, comparisons, in [...], is None, + - * /, abs, min, max"
NUMBER, TEXT, TRUTH, RECORD = "a number", "text", "true or false", "a record"


@dataclass(frozen=True)
class Values:
    """A value for each sample of a shard.

    kind: NUMBER (float64), TEXT (objects), TRUTH (bool) or RECORD (bool: whether it holds anything); "" of what no
        sample has.
    known: bool, which samples have one; `data` of the others is no value.
    """

    kind: str
    data: np.ndarray
    known: np.ndarray

    @property
    def true(self) -> np.ndarray:
        """Which samples it is true for, bool."""
        return self.known & self.data.astype(np.bool_)

    @property
    def false(self) -> np.ndarray:
        return self.known & ~self.data.astype(np.bool_)


def values_of(name: str, found: Sequence[Any]) -> Values:
    """What JSON says of a name in each sample, None where there is nothing. ValueError if it is of several kinds."""
    known = np.fromiter((value is not None for value in found), np.bool_, len(found))
    kinds = {type(value) for value in found} - {type(None)}
    if not kinds:
        return Values("", np.zeros(len(found), np.bool_), known)
    if kinds <= {int, float}:
        numbers = np.array([0.0 if value is None else value for value in found], np.float64)
        return Values(NUMBER, numbers, known & np.isfinite(numbers))
    if kinds == {str}:
        texts = np.empty(len(found), object)
        texts[:] = ["" if value is None else value for value in found]
        return Values(TEXT, texts, known)
    if kinds <= {bool, dict, list}:
        kind = TRUTH if kinds == {bool} else RECORD
        return Values(kind, np.fromiter((bool(value) for value in found), np.bool_, len(found)), known)
    words = sorted({_word(one) for one in kinds})
    raise ValueError(f"{name} is {' in some samples and '.join(words)} in others, and cannot be compared")


def _word(kind: type) -> str:
    return {bool: TRUTH, str: TEXT, dict: RECORD, list: "a list"}.get(kind, NUMBER)


def field_of(value: Any, path: Sequence[str]) -> Any:
    """A field of what a label says: of a mapping by its name, `count` of a list, `length` and `words` of text. None if
    there is none."""
    for name in path:
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list | dict) and name == "count":
            value = len(value)
        elif isinstance(value, str) and name in ("length", "words"):
            value = len(value) if name == "length" else len(value.split())
        else:
            return None
    return value


@dataclass(frozen=True)
class Expression:
    """A parsed expression; make it with `parse`."""

    text: str
    tree: ast.expr

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All names with their fields, each once, in their order: "size.width"."""
        return tuple(dict.fromkeys(name for node in _names(self.tree) for name in [_dotted(node)]))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The labels that it looks at."""
        return tuple(dict.fromkeys(name.partition(".")[0] for name in self.names))

    @cached_property
    def asked_only(self) -> frozenset[str]:
        """Labels of which nothing is asked but whether a sample has them (`depth is None`)."""
        every = [_dotted(node) for node in _names(self.tree)]
        asked = [_dotted(node.left) for node in ast.walk(self.tree) if _asks_for_null(node)]  # type: ignore[attr-defined]
        fully = {name for name in asked if every.count(name) == asked.count(name)}
        return frozenset(
            one for one in self.labels if {n for n in every if n.partition(".")[0] == one} <= fully & {one}
        )

    @cached_property
    def clauses(self) -> list[Expression]:
        """The parts that all must be true: those between the outermost `and`s, or the whole."""
        parts = self.tree.values if isinstance(self.tree, ast.BoolOp) and isinstance(self.tree.op, ast.And) else None
        return [Expression(ast.unparse(part), part) for part in parts or [self.tree]]

    def evaluate(self, values: Mapping[str, Values]) -> Values:
        """For each sample whether it is true, or unknown.

        Args:
            values: of all `names`, of equally many samples.

        Raises:
            ValueError: values of different kinds are compared; says which.
        """
        rows = len(next(iter(values.values())).known) if values else 0
        return _truth(self.tree, _Context(values, rows))


def parse(text: str) -> Expression:
    """An expression from its text. ValueError, in one sentence, for the first thing that is not of the language."""
    line = re.sub(r"\s*\n\s*", " ", text.strip())  # YAML may break it
    if not line:
        raise ValueError("it is empty; write what selects a sample, as in: aesthetic > 4.8 and not duplicate")
    if len(line) > MOST:
        raise ValueError(f"it has {len(line)} characters, expected at most {MOST}")
    try:
        tree = ast.parse(line, mode="eval").body
    except SyntaxError as error:
        hint = "; to compare, write ==" if re.search(r"(?<![<>=!])=(?!=)", line) else ""
        at = f" at {line[max(0, error.offset - 1) :][:20]!r}" if error.offset and error.offset <= len(line) else ""
        raise ValueError(f"{line!r:.200} cannot be read{at}{hint}; it knows {_KNOWS}") from None
    except (ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"it cannot be read ({error})") from None
    try:
        _check(tree, 0)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    if line.count("#") > sum(text.count("#") for text in texts):
        raise ValueError(f"{line!r:.200}: it has no comments; leave out what begins with #")
    found = Expression(line, tree)
    if not found.names:
        raise ValueError(f"{line!r:.200} names no label, so that it would select all samples or none")
    for clause in found.clauses:
        if isinstance(clause.tree, ast.Constant) or _is_arithmetic(clause.tree):
            raise ValueError(f"{clause.text} is no question; say what it is compared with")
    return found


def _asks_for_null(node: ast.AST) -> bool:
    return isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Is | ast.IsNot)


def _is_arithmetic(node: ast.expr) -> bool:
    return isinstance(node, ast.BinOp | ast.Call | ast.List) or (
        isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    )


def _check(node: ast.expr, depth: int) -> None:
    """ValueError unless a node and all below it are of the language."""
    if depth > _DEEPEST:
        raise ValueError(_TOO_DEEP)
    match node:
        case ast.BoolOp(values=parts):
            pass
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=part):
            parts = [part]
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), left=left, right=right):
            parts = [left, right]
        case ast.Compare():
            return _check_comparison(node, depth)
        case ast.Call(func=ast.Name(id=name), args=parts, keywords=[]) if name in _FUNCTIONS:
            if len(parts) != 1 if name == "abs" else len(parts) < 2:
                raise ValueError(
                    f"{ast.unparse(node)}: {name} takes {'one' if name == 'abs' else 'two or more'} values"
                )
        case ast.Name() | ast.Attribute():
            _dotted(node)
            return None
        case ast.Constant(value=bool() | str() | None):
            return None
        case ast.Constant(value=int() | float() as value):
            if abs(value) > _LARGEST:
                raise ValueError(f"{ast.unparse(node)!r:.40} is too large a number")
            return None
        case _:
            raise ValueError(f"{ast.unparse(node)!r:.80} is not of this language, which knows {_KNOWS}")
    for part in parts:
        _check(part, depth + 1)
    return None


def _check_comparison(node: ast.Compare, depth: int) -> None:
    for op, right in zip(node.ops, node.comparators, strict=True):
        if isinstance(op, ast.Is | ast.IsNot):
            if len(node.ops) > 1 or not _is_null(right) or not isinstance(node.left, ast.Name | ast.Attribute):
                raise ValueError(f"{ast.unparse(node)}: after a name `is` asks for None alone, as in: depth is None")
        elif isinstance(op, ast.In | ast.NotIn):
            listed = right.elts if isinstance(right, ast.List | ast.Tuple) else []
            if (
                len(node.ops) > 1
                or not listed
                or not all(isinstance(_constant(one), str | float | int) for one in listed)
            ):
                raise ValueError(
                    f"{ast.unparse(node)}: after `in` comes a list of numbers or texts: [1, 2], ['a', 'b']"
                )
            continue
        elif _is_null(right) or _is_null(node.left):
            raise ValueError(f"{ast.unparse(node)}: nothing is compared with None; write `is None` or `is not None`")
        _check(right, depth + 1)
    _check(node.left, depth + 1)


def _constant(node: ast.expr) -> Any:
    """The value of a constant, with its sign; None of anything else."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _constant(node.operand)
        return -inner if isinstance(inner, int | float) and not isinstance(inner, bool) else None
    if isinstance(node, ast.Name):
        return _CONSTANTS.get(node.id)
    return node.value if isinstance(node, ast.Constant) else None


def _is_null(node: ast.expr) -> bool:
    return (isinstance(node, ast.Constant) and node.value is None) or (
        isinstance(node, ast.Name) and node.id in ("null", "none")
    )


def _dotted(node: ast.expr, depth: int = 0) -> str:
    """A name with its fields. ValueError if it is no chain of names, or a very long one."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and not node.attr.startswith("_") and depth < _DEEPEST:
        return f"{_dotted(node.value, depth + 1)}.{node.attr}"
    if depth:
        raise ValueError("a field is named by the name of its label and dots, as in size.width")
    raise ValueError(f"{ast.unparse(node)!r:.80} is no name of a label or of a field of one")


def _names(node: ast.expr) -> list[ast.expr]:
    """The outermost names below a node, less constants and functions."""
    if isinstance(node, ast.Attribute) or (isinstance(node, ast.Name) and node.id not in _CONSTANTS):
        return [node]
    below = node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    return [name for one in below if isinstance(one, ast.expr) for name in _names(one)]


@dataclass(frozen=True)
class _Context:
    values: Mapping[str, Values]
    rows: int

    def all_of(self, kind: str, value: Any) -> Values:
        """The same value for each sample."""
        data = np.empty(self.rows, object) if kind == TEXT else np.empty(self.rows, np.bool_)
        if kind == NUMBER:
            data = np.empty(self.rows, np.float64)
        data[:] = value
        return Values(kind, data, np.ones(self.rows, np.bool_))


def _truth(node: ast.expr, context: _Context) -> Values:
    """A node in the place of a truth."""
    found = _value(node, context)
    if found.kind in (NUMBER, TEXT):
        raise ValueError(f"{ast.unparse(node)} is {found.kind}, and no question; say what it is compared with")
    return found


def _value(node: ast.expr, context: _Context) -> Values:
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            every = [_truth(part, context) for part in parts]
            false = np.logical_or.reduce([one.false for one in every])
            true = np.logical_and.reduce([one.true for one in every])
            return Values(TRUTH, true, true | false)
        case ast.BoolOp(values=parts):
            every = [_truth(part, context) for part in parts]
            true = np.logical_or.reduce([one.true for one in every])
            false = np.logical_and.reduce([one.false for one in every])
            return Values(TRUTH, true, true | false)
        case ast.UnaryOp(op=ast.Not(), operand=part):
            found = _truth(part, context)
            return Values(TRUTH, found.false, found.known)
        case ast.UnaryOp(operand=part):
            return _computed(node, operator.neg, [part], context)
        case ast.BinOp(left=left, op=op, right=right):
            return _computed(node, _ARITHMETIC[type(op)], [left, right], context)
        case ast.Call(func=ast.Name(id=name), args=parts):
            made = _computed(node, _FUNCTIONS[name], parts[:2], context)
            for part in parts[2:]:
                other = _number(part, context)
                made = Values(NUMBER, _FUNCTIONS[name](made.data, other.data), made.known & other.known)
            return made
        case ast.Compare():
            return _compared(node, context)
        case ast.Name(id=name) if name in _CONSTANTS:
            return context.all_of(TRUTH, _CONSTANTS[name])
        case ast.Constant(value=value):
            return context.all_of(_word(type(value)), value)
    return context.values[_dotted(node)]


def _number(node: ast.expr, context: _Context) -> Values:
    found = _value(node, context)
    if found.kind not in (NUMBER, ""):
        raise ValueError(f"{ast.unparse(node)} is {found.kind}, expected a number")
    return found


def _computed(node: ast.expr, make: Callable[..., Any], parts: Sequence[ast.expr], context: _Context) -> Values:
    """Numbers made of numbers; unknown where one is, and where there is no result, as of a division by 0."""
    every = [_number(part, context) for part in parts]
    known = np.logical_and.reduce([one.known for one in every])
    with np.errstate(all="ignore"):
        data = make(*(np.where(one.known, one.data, np.nan).astype(np.float64) for one in every))
    return Values(NUMBER, data, known & np.isfinite(data))


def _compared(node: ast.Compare, context: _Context) -> Values:
    if _asks_for_null(node):
        known = context.values[_dotted(node.left)].known
        return Values(TRUTH, ~known if isinstance(node.ops[0], ast.Is) else known, np.ones_like(known))
    left = _value(node.left, context)
    if isinstance(node.ops[0], ast.In | ast.NotIn):
        listed = [_constant(one) for one in node.comparators[0].elts]  # type: ignore[attr-defined]
        for value in listed:
            _check_kinds(node, left.kind, _word(type(value)))
        inside = np.isin(left.data, listed) if left.kind == NUMBER else np.array([one in listed for one in left.data])
        return Values(TRUTH, inside if isinstance(node.ops[0], ast.In) else ~inside, left.known)
    true = np.ones(context.rows, np.bool_)
    false = np.zeros(context.rows, np.bool_)
    for op, part in zip(node.ops, node.comparators, strict=True):  # 200 < width < 400 is both
        right = _value(part, context)
        _check_kinds(node, left.kind, right.kind)
        both = left.known & right.known
        holds = np.zeros(context.rows, np.bool_)
        if both.any():
            holds[both] = _COMPARED[type(op)](left.data[both], right.data[both]).astype(np.bool_)
        true &= both & holds
        false |= both & ~holds
        left = right
    return Values(TRUTH, true, true | false)


def _check_kinds(node: ast.expr, left: str, right: str) -> None:
    if left and right and left != right:
        raise ValueError(f"{ast.unparse(node)}: {left} is compared with {right}")
    if RECORD in (left, right):
        raise ValueError(f"{ast.unparse(node)}: a record has no order; name a field of it, with a dot")
