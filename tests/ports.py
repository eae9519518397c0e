"""Ports for the tests' own servers, as many tests run in parallel on one machine."""

import random
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

_GIVEN: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")  # those that the system gives to connections and port 0


def free_port() -> int:
    """Return a port of loopback that nobody listens on, and that the system gives to nobody until it is used.

    A container's published port is not bound: connections to whoever gets it are refused, or go to the container.
    """
    first_given = int(_GIVEN.read_text().split()[0]) if _GIVEN.exists() else 32_768
    while True:
        port = random.SystemRandom().randrange(
            10_000, first_given
        )  # not by the tests' seed: all runs would want the same
        with suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
