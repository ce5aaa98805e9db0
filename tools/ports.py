"""Free ports for servers that listen on this machine alone."""

import socket


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens to."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports
