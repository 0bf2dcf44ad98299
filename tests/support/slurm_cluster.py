"""A real Slurm on this machine: munged, slurmctld and two slurmd (two nodes) in their own folder, on free ports."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = (
    "munged", "mungekey", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo", "scontrol", "scancel", "srun",
    "unshare", "hostname",
)  # fmt: skip
PACKAGES = "slurmctld slurmd slurm-client munge"
# Debian's slurmd knows itself by the host's name only, so that each gets a name space with another.
_RENAMED = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"')
_PATIENCE = 60  # seconds for a daemon to answer, or the nodes to be idle


def missing() -> str | None:
    """Why no Slurm can be started here, or None."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"needs Slurm's programs, {', '.join(absent)} not found; Debian's packages: {PACKAGES}"
    if os.getuid() != 0:
        return "needs root, to start Slurm's daemons"
    if _ask(*_RENAMED, "other", "true").returncode != 0:
        return "needs a name space for the second node's host name (unshare --uts)"
    return None


@contextmanager
def slurm_cluster() -> Iterator[Path]:
    """Start a Slurm of two nodes with two processors each, point SLURM_CONF at it, and take it down in the end.

    The folder that comes back holds slurm.conf and the daemons' logs. A job that is put back in the queue starts again
    after seconds (`cred_expire`, by default two minutes), and a finished job is remembered for five minutes.
    """
    # Not pytest's folder: munged wants one that every user may enter.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        for name in ("state", "munge", *(f"spool-{node}" for node in _node_names())):
            (folder / name).mkdir(mode=0o755)
        (folder / "slurm.conf").write_text(_configuration(folder), encoding="utf-8")
        # A file of its own, else the daemons look in /etc.
        (folder / "cgroup.conf").write_text("CgroupAutomount=no\n", encoding="utf-8")
        before = os.environ.get("SLURM_CONF")
        stack.callback(_set, "SLURM_CONF", before)
        _set("SLURM_CONF", str(folder / "slurm.conf"))

        munge = folder / "munge"
        subprocess.run(["mungekey", "--create", f"--keyfile={munge / 'munge.key'}"], check=True)
        files = [
            f"--socket={munge / 'socket'}",
            *(f"--{n}-file={munge}/munge.{n}" for n in ("key", "pid", "log", "seed")),
        ]
        # --force: it warns, and does not stop, when it runs as root or below a folder that all may write.
        munged = _daemon(stack, folder, "munged", "--foreground", "--force", *files)
        _wait(lambda: (munge / "socket").exists(), "munged's socket", [munged], folder)
        slurmctld = _daemon(stack, folder, "slurmctld", "-D", "-c")
        _wait(lambda: _ask("scontrol", "ping").returncode == 0, "slurmctld's answer", [munged, slurmctld], folder)
        nodes = [_daemon(stack, folder, *_RENAMED, name, "slurmd", "-D") for name in _node_names()]
        stack.callback(_end_jobs)
        idle = ["idle"] * len(nodes)
        daemons = [munged, slurmctld, *nodes]
        _wait(lambda: _ask("sinfo", "-hN", "-o", "%T").stdout.split() == idle, "idle nodes", daemons, folder)
        yield folder


def _node_names() -> list[str]:
    """This machine's name, first in the order of names as well: a job on both nodes meets there; and one of ours."""
    host = socket.gethostname().partition(".")[0]
    return [host, f"{host}-second"]


def _configuration(folder: Path) -> str:
    host, second = _node_names()
    ports = _free_ports(3)
    return f"""\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool-%n
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0,defer_batch
JobRequeue=1
MinJobAge=300
KillWait=5
ReturnToService=2
SlurmdTimeout=60
SlurmdParameters=config_overrides
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=64000
NodeName={second} NodeHostname={second} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=64000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)


def _daemon(stack: ExitStack, folder: Path, *command: str) -> subprocess.Popen[bytes]:
    with open(folder / "daemons.out", "ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    stack.callback(_stop, process)
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_jobs() -> None:
    """Kill what still runs, while there are daemons to do it."""
    _ask("scancel", "--full", "--signal=KILL", f"--user={os.getuid()}")
    _ask("scancel", f"--user={os.getuid()}")
    deadline = time.monotonic() + 15
    while _ask("squeue", "-h").stdout and time.monotonic() < deadline:
        time.sleep(0.2)


def _wait(ready, what: str, daemons: list[subprocess.Popen[bytes]], folder: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not ready():
        ended = [process.args[0] for process in daemons if process.poll() is not None]
        if ended or time.monotonic() > deadline:
            logs = [f"{p}:\n{p.read_text(errors='replace')[-1500:]}" for p in folder.rglob("*") if _is_log(p)]
            why = f"{ended[0]} has stopped" if ended else f"not within {_PATIENCE} s"
            raise RuntimeError(f"Slurm did not start: no {what}, {why}.\n" + "\n".join(logs))
        time.sleep(0.05)


def _is_log(path: Path) -> bool:
    return path.is_file() and (path.suffix in {".log", ".out"})
