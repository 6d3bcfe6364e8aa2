"""The command line: finds the verbs, parses, dispatches, prints errors.

A verb is one file below verbs/; its folder is the group that the help shows it in. Nothing heavy is imported here or at
the top of a verb, so that `fourmill --help` answers at once; a verb imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol, cast

from .infra import faults, logs, stopping
from .infra.secrets import hide

EXAMPLES = """examples:
  fourmill demo                                     the whole line on rendered scenes, some ten minutes
  fourmill init --samples 'data/{00000..00009}.tar' --root out > recipe.yaml
  fourmill run recipe.yaml                          shards -> labels -> tokens -> a trained 4M -> a report
  fourmill tokenize recipe.yaml --set engine.actors=4
  fourmill plan recipe.yaml                         what will be done, by which models, and how long it takes
  fourmill status recipe.yaml                       what exists, what is missing, and why
  fourmill inspect out/tokens/tok_rgb/00000.parquet
"""


class Verb(Protocol):
    """What a file of verbs/GROUP/ holds.

    ORDER: place within its group of the help. HELP: half a sentence. EXAMPLES: whole command lines.
    """

    ORDER: int
    HELP: str
    EXAMPLES: Sequence[str]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def main(self, args: argparse.Namespace) -> int:
        """Do it, print what came of it, return the exit status."""


# The folders of verbs/ in the order of a user's work.
_GROUPS = ("prepare", "make", "look", "manage")


@cache
def groups() -> Mapping[str, Mapping[str, Verb]]:
    """Every verb by its name, in the order of the help, by group: {"prepare": {"init": ...}, "make": {...}}."""
    folder = Path(__file__).parent / "verbs"
    listed = {}
    names_of_groups = (path.name for path in folder.iterdir() if any(path.glob("*.py")))
    for group in sorted(names_of_groups, key=_GROUPS.index):
        names = [path.stem for path in (folder / group).glob("*.py")]
        modules = {name: importlib.import_module(f".verbs.{group}.{name}", __package__) for name in names}
        verbs = {name: cast(Verb, module) for name, module in modules.items()}
        listed[group] = dict(sorted(verbs.items(), key=lambda item: (item[1].ORDER, item[0])))
    return listed


def verbs() -> dict[str, Verb]:
    return {name: verb for group in groups().values() for name, verb in group.items()}


def parser() -> argparse.ArgumentParser:
    """The command line, every verb with its help and examples."""
    top = argparse.ArgumentParser(
        prog="fourmill",
        usage="fourmill [-h] [--version] [--log-level LEVEL] [--log-file FILE] VERB ...",
        description="Turn image-text shards into aligned multimodal tokens, and train 4M on them.\n\n" + _overview(),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    _add_logging(top, default=None)
    commands = top.add_subparsers(dest="verb", metavar="VERB", help=argparse.SUPPRESS, prog="fourmill")
    for name, verb in verbs().items():
        command = commands.add_parser(
            name,
            description=f"{verb.HELP[0].upper()}{verb.HELP[1:]}.",
            epilog="examples:\n" + "".join(f"  {example}\n" for example in verb.EXAMPLES),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_arguments(command)
        # Options may stand before the verb and after it; unset ones must not undo those before.
        _add_logging(command, default=argparse.SUPPRESS)
    return top


def _add_logging(command: argparse.ArgumentParser, default: str | None) -> None:
    options = command.add_argument_group("logging")
    text = "debug, info, warning or error (default: warning; with --log-file: info)"
    options.add_argument("--log-level", choices=logs.LEVELS, metavar="LEVEL", default=default, help=text)
    options.add_argument("--log-file", metavar="FILE", default=default, help="append events to this file")


def _overview() -> str:
    width = max(map(len, verbs()))
    lines = []
    for group, members in groups().items():
        lines += [f"{group}:", *(f"  {name:<{width}}  {verb.HELP}" for name, verb in members.items()), ""]
    return "\n".join([*lines, "`fourmill VERB --help` says more about one of them."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. The exit status is 0 if all that was asked for exists, 1 if not, 2 for a mistake in asking, and 128
    and its number after a signal: 130 for Ctrl-C, 143 for SIGTERM."""
    # Threads of torch and OpenMP that wait must sleep, not spin: cores are shared with workers. Read at their import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    top = parser()
    args, unknown = top.parse_known_args(argv)
    if unknown:
        hint = "; quote patterns, so that the shell leaves them alone" if not unknown[0].startswith("-") else ""
        top.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    if args.version:
        from . import __version__

        print(f"fourmill {__version__}")
        return 0
    if args.verb is None:
        top.print_help()
        return 2
    try:
        logs.configure(args.log_level, args.log_file)
        with stopping.heeded():
            return verbs()[args.verb].main(args)
    except KeyboardInterrupt as interrupt:
        kept = str(interrupt) or "what is finished is kept: the same command makes the rest"
        stopped = stopping.because_of(interrupt, kept)
        print(f"stopped; {stopped.said}", file=sys.stderr)
        return 128 + stopped.signum
    except BrokenPipeError:
        return 1
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        # What users can correct is one sentence; anything else is a bug of fourmill and keeps its traceback.
        correctable = isinstance(error, OSError) or type(error) in (ValueError, ImportError, ModuleNotFoundError)
        if correctable or _is_ours(error):
            # Parts name themselves in their errors; the verb need not be read twice.
            text = faults.sentence(error) if isinstance(error, OSError) and faults.of_place(error) else str(error)
            text = text.removeprefix(f"{args.verb}: ")
            print(f"fourmill {args.verb}: {hide(text)}", file=sys.stderr)
            return 2
        return _say_fault(args.verb, error)
    except Exception as error:
        return _say_fault(args.verb, error)


def _say_fault(verb: str, error: Exception) -> int:
    """An error of storage, the network or the machine as one sentence with what to do. Any other is raised."""
    if not faults.of_place(error) and not faults.of_service(error):
        raise error
    lost = "the storage or the network cannot be reached: " if faults.name(error) in ("", "network") else ""
    print(f"fourmill {verb}: {lost}{hide(faults.sentence(error))}", file=sys.stderr)
    return 2


def _is_ours(error: Exception) -> bool:
    return type(error).__module__.startswith("fourmill.")


if __name__ == "__main__":
    sys.exit(main())
