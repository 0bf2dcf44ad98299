"""A port of this machine for processes that are still to be started."""

import contextlib
import socket


@contextlib.contextmanager
def held_port():
    """The number of a port that the system gives to nobody else meanwhile.

    A port that was free a moment ago may be another's by the time it is wanted, the sooner the more tests start
    processes at once. This one stays bound, and PyTorch's stores can listen there all the same, since they reuse
    addresses.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
