"""A study's worker that is killed at tasks that a test has marked; it imports nothing slow before it dies."""

import os
import signal
from pathlib import Path


def do_task(folder, workers, key):
    """As `dit_eval.study.tasks.do_task`; a file `deadly/KEY` of the study says how often it is killed first."""
    mark = Path(folder) / "deadly" / key
    if mark.exists() and (left := int(mark.read_text())):
        mark.write_text(str(left - 1))
        os.kill(os.getpid(), signal.SIGKILL)
    from dit_eval.study.tasks import do_task

    do_task(folder, workers, key)
