"""`fourmill jobs`: the jobs that were submitted to a Ray cluster, their logs, and how they are stopped."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ...infra.secrets import public
from .. import arguments, summary

if TYPE_CHECKING:
    from ...infra.submission.jobs import Jobs

ORDER = 15
HELP = "list, show and stop the jobs of a Ray cluster"
EXAMPLES = (
    "fourmill jobs list --address http://head:8265",
    "fourmill jobs show label-out-20261130-120000-3f9a --address http://head:8265",
    "fourmill jobs logs label-out-20261130-120000-3f9a --follow --address http://head:8265",
    "fourmill jobs stop label-out-20261130-120000-3f9a --address http://head:8265",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = "list; or of one job: show, logs, stop"
    parser.add_argument("action", choices=list(ACTIONS), metavar="ACTION", help=actions)
    parser.add_argument("job", nargs="?", metavar="JOB", help="its name, as `submit` and `list` print it")
    arguments.add_address(parser)
    parser.add_argument("--follow", action="store_true", help="logs: until it has ended, with its exit status")
    arguments.add_json(parser)


def main(args: argparse.Namespace) -> int:
    from .. import jobs

    if (args.job is None) != (args.action == "list"):
        what = "takes no job" if args.job else "needs the name of a job, which `fourmill jobs list` prints"
        raise ValueError(f"{args.action} {what}")
    return ACTIONS[args.action](jobs.connected(args.address), args)


def _list(cluster: Jobs, args: argparse.Namespace) -> int:
    from ...infra.progress import duration
    from .. import jobs

    found = [jobs.as_json(one) for one in cluster.listed()]
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    names = ("job", "stage", "state", "submitted", "root")
    rows = [[*(one[name] or "" for name in names), duration(one["seconds"] or 0)] for one in found]
    if rows:
        title = f"jobs of {public(cluster.address)}"
        summary.console(140).print(summary.table(title, (*names, "time"), rows))
    else:
        print("no job was submitted to this cluster")
    return 0


def _show(cluster: Jobs, args: argparse.Namespace) -> int:
    from .. import jobs

    known = jobs.as_json(cluster.details(args.job))
    if args.json:
        print(json.dumps(known, indent=1))
        return 0
    rows = [[name, ", ".join(v) if isinstance(v, list) else str(v)] for name, v in known.items() if v not in (None, [])]
    summary.console(140).print(summary.table(args.job, ("what", "value"), rows))
    return 0


def _logs(cluster: Jobs, args: argparse.Namespace) -> int:
    from .. import jobs

    if args.follow:
        return jobs.follow(cluster, args.job)
    sys.stdout.write(cluster.log(args.job))
    return 0


def _stop(cluster: Jobs, args: argparse.Namespace) -> int:
    from .. import jobs

    if cluster.stop(args.job):
        print(f"job {args.job} is asked to stop; training saves a checkpoint first", file=sys.stderr)
    print(f"job {args.job} {jobs.state(cluster.wait(args.job))}")
    return 0


ACTIONS: Mapping[str, Callable[[Jobs, argparse.Namespace], int]] = {
    "list": _list, "show": _show, "logs": _logs, "stop": _stop,
}  # fmt: skip
