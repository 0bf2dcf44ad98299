"""The command line: the only place that reads arguments, prints results and exits.

Heavy packages are imported inside the commands that need them, so that `dit-eval --help` answers at once.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from dit_eval.cli.app import Call, follow
from dit_eval.cli.output import (
    NOT_WRITTEN,
    USER_ERROR,
    NotWritten,
    any_text,
    flush_stdout,
    give_up_stdout,
    header,
    say,
)
from dit_eval.cli.syntax import UsageError
from dit_eval.system.dist import FailedElsewhere, rank_told
from dit_eval.system.text import told


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit.

    0: done. 1: `verify` failed. 2: a mistake of the user, or a failure (one message, no traceback). 3: done, and the
    result is printed, but could not be written everywhere; warnings say where it is kept. 130: interrupted.
    """
    with any_text(sys.stdout), any_text(sys.stderr), _collecting_rarely():
        sys.exit(_exit_code(follow(sys.argv[1:] if argv is None else argv)))


@contextmanager
def _collecting_rarely() -> Iterator[None]:
    """Look for unreachable cycles after every 50,000 new objects: after every 700 it takes a tenth of a report."""
    usual = gc.get_threshold()
    gc.set_threshold(50_000, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _exit_code(call: Call) -> int:
    try:
        call()
        flush_stdout()
    except FailedElsewhere:
        return USER_ERROR  # that process says why
    except NotWritten:
        return NOT_WRITTEN
    except BrokenPipeError:  # nobody reads stdout any more, as after `| head`
        give_up_stdout()
        return NOT_WRITTEN
    except UsageError as error:  # the same in each process
        header(f"dit-eval: error: {error}")
        return USER_ERROR
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("DIT_EVAL_TRACEBACK"):
            raise
        rank = rank_told()
        say(f"dit-eval: error{f' in process {rank}' if rank else ''}: {call.spoken(told(error))}")
        return USER_ERROR
    except KeyboardInterrupt:
        header("dit-eval: interrupted")  # in each process
        return 130
    return 0
