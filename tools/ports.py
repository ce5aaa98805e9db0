"""Servers that listen on this machine alone: free ports, and patience until they answer."""

import socket
import time
from collections.abc import Callable

PATIENCE = 900  # seconds until something counts as hanging, on however slow a machine


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens to."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


def wait_until(done: Callable[[], object], what: str) -> None:
    """Ask again until something is true; a TimeoutError says what never came."""
    end = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {PATIENCE} seconds")
        time.sleep(0.2)
