"""Read by each Python that the tests start: Ray's processes and commands are forked from one that imported the same."""

import os
import sys

if "FOURMILL_TESTS_SPAWNER" in os.environ and len(sys.orig_argv) > 1:
    from fourmill_tests.processes import asking

    asking.stand_in(sys.orig_argv)
