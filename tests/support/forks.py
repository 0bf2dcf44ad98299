"""Jobs for `forked_runs.py`, for the tests that kill, and for those that compare several processes with one."""

import json
import os
import subprocess
import sys
from pathlib import Path


class Forks:
    """Jobs for `forked_runs.py`, which has torch and the modules named loaded already."""

    def __init__(self, folder, *modules, threads=None):
        script = Path(__file__).with_name("forked_runs.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(folder), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {}),
        )

    def __call__(self, argv, **job):
        """Statuses of the processes, and what they printed; `job` as `forked_runs.py` says."""
        self._process.stdin.write(json.dumps({"argv": [*map(str, argv)], **job}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
