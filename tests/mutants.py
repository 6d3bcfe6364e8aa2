"""Put small mistakes into a module, one at a time, and list those that its tests do not notice.

    uv run python tests/mutants.py train/masking/spans.py --tests tests/train/masking --count 10 --seed 0

A mistake is one changed comparison, sign, constant or condition. It is made in a copy of the tree, so that the work
tree stays as it is. For a survivor that changes behaviour, add a test or delete the code; some change nothing.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SLOWEST = 5.0  # a run that takes so many times the time without a mistake is an endless loop

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


@dataclass(frozen=True)
class Mutant:
    """A mistake: what stands at `node` of a file is replaced by `text`."""

    path: Path
    node: ast.expr
    text: str

    def source(self) -> str:
        lines = self.path.read_text().splitlines(keepends=True)
        first, last = self.node.lineno - 1, self.node.end_lineno - 1  # type: ignore[operator]
        before, after = lines[first][: self.node.col_offset], lines[last][self.node.end_col_offset :]
        return "".join([*lines[:first], before + self.text + after, *lines[last + 1 :]])

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.node.lineno}: {ast.unparse(self.node)}  ->  {self.text}"


def expressions(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run: no annotations, decorators, docstrings, messages of errors."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or isinstance(value, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            # `zip(..., strict=True)` checks what holds anyway: no test can tell.
            strict = isinstance(child, ast.keyword) and child.arg == "strict"
            if isinstance(child, ast.AST) and not isinstance(child, (ast.JoinedStr, ast.Raise)) and not strict:
                yield child
                yield from expressions(child)


def changes(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """(expression, the same with a mistake)"""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield node, ast.Compare(node.left, [COMPARISONS[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        # "a" + "b", {} | {}: a mistake there ends in a TypeError, which every test notices.
        if not any(isinstance(side, (ast.Dict, ast.JoinedStr, ast.List)) for side in (node.left, node.right)):
            yield node, ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not, ast.Invert)):
        yield node, node.operand
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield node, ast.BoolOp(other, node.values)
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield node.test, ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        value = node.value
        yield (
            node,
            ast.Constant(
                not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value * 2 or 1.0
            ),
        )


def mutants(path: Path) -> list[Mutant]:
    tree = ast.parse(path.read_text())
    pairs = (pair for node in expressions(tree) for pair in changes(node))
    return [Mutant(path, old, f"({ast.unparse(ast.fix_missing_locations(new))})") for old, new in pairs]


def copy_tree(folder: Path) -> Path:
    """All files that git does not ignore, in a folder with the package's name."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in names.stdout.splitlines():
        if (ROOT / name).is_file():
            target = folder / "fourmill" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
    return folder / "fourmill"


def passes(tree: Path, tests: list[str], timeout: float | None) -> bool:
    """Whether the tests pass in a copy of the tree."""
    # No .pyc: one is taken for fresh if size and second are those of the mutant before.
    paths = os.pathsep.join(filter(None, [str(tree.parent), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--hypothesis-seed=0", *tests]
    process = subprocess.Popen(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return False
    if timeout is None and process.returncode:
        sys.exit(f"the tests fail without any mistake:\n{output.decode()[-3000:]}")
    return process.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="+", help="files or folders of the package")
    parser.add_argument("--tests", nargs="+", required=True, help="what pytest runs: files, folders, -m, -k")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", type=int, nargs=2, metavar=("FIRST", "LAST"), help="only mistakes in these lines")
    arguments, options = parser.parse_known_args()
    places = [ROOT / name for name in arguments.modules]
    files = [file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    first, last = arguments.lines or (1, sys.maxsize)
    possible = [m for file in files for m in mutants(file) if first <= m.node.lineno <= last]
    chosen = random.Random(arguments.seed).sample(possible, min(arguments.count, len(possible)))
    survivors = []
    with tempfile.TemporaryDirectory(prefix="fourmill-mutants-") as scratch:
        tree, tests = copy_tree(Path(scratch)), [*arguments.tests, *options]
        start = time.monotonic()
        passes(tree, tests, None)
        limit = 30 + SLOWEST * (time.monotonic() - start)
        print(f"{len(chosen)} of {len(possible)} possible mistakes", flush=True)
        for mutant in chosen:
            target = tree / mutant.path.relative_to(ROOT)
            target.write_text(mutant.source())
            survived = passes(tree, tests, limit)
            target.write_text(mutant.path.read_text())
            survivors += [mutant] * survived
            print("SURVIVED" if survived else "noticed ", mutant, flush=True)
    print(f"\n{len(chosen) - len(survivors)} of {len(chosen)} were noticed", *survivors, sep="\n")


if __name__ == "__main__":
    main()
