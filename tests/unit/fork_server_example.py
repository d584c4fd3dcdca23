"""A fork server without torch, and its client; a command is Python code, which the child runs.

`python fork_server_example.py server <name> <process ID>`, `python fork_server_example.py client <name> <code>`
"""

import socket
import sys

from bkdsnn.machine.fork_server import ForkServer, connected, end_as, followed


def serve(name: str, workflow: str) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"\0{name}")
    listener.listen()
    server = ForkServer(listener, int(workflow))
    print("listening", flush=True)
    (code,) = server.serve(lambda arguments: None)
    exec(code)


def call(name: str, code: str) -> int:
    with connected(f"\0{name}") as connection:
        status = followed(connection, [code])
    return end_as(status)


if __name__ == "__main__":
    role, name, argument = sys.argv[1:]
    raise SystemExit(serve(name, argument) if role == "server" else call(name, argument))
