"""What a confined process cannot do."""

from __future__ import annotations

import subprocess
import sys

import pytest

_LEFT = """
import socket, tempfile
from engineforge.worker.confined import leave_network
why = leave_network()
if why is not None:
    print("not here:", why)
else:
    try:
        socket.create_connection(("127.0.0.1", {port}), 5).close()
        print("connected")
    except OSError:
        print("kept off")
    with tempfile.TemporaryFile() as file:
        print(file.write(b"x"))
"""
_LIMITED = """
from engineforge.worker.confined import limit_memory
limit_memory(200 << 20)
print(len(bytearray(50 << 20)))
try:
    bytearray(1 << 30)
except MemoryError:
    print("no more")
"""


def run(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_it_reaches_no_server_of_this_host_and_still_writes_files() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        said = run(_LEFT.format(port=server.getsockname()[1]))
    if said[0].startswith("not here"):
        pytest.fail(f"this host has no network namespaces for its users: {said[0]}")
    assert said == ["kept off", "1"]


def test_it_has_no_more_memory_than_it_was_given() -> None:
    assert run(_LIMITED) == [str(50 << 20), "no more"]
