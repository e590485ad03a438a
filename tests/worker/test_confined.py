"""What a confined process cannot do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from engineforge.digest import document
from engineforge.spec.sources import NetworkSource, write_source
from engineforge.worker.process import Child, Refused
from tests.backends.test_options import target

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
    with socket.create_server(("127.0.0.1", 0)) as server:
        said = run(_LEFT.format(port=server.getsockname()[1]))
    if said[0].startswith("not here"):
        pytest.fail(f"this host has no network namespaces for its users: {said[0]}")
    assert said == ["kept off", "1"]


def test_it_has_no_more_memory_than_it_was_given() -> None:
    assert run(_LIMITED) == [str(50 << 20), "no more"]


_FILLS = """
import socket

def build(network, trt, weights):
    try:
        socket.create_connection(("127.0.0.1", {port}), 5).close()
    except OSError:
        raise RuntimeError("kept off") from None
    raise RuntimeError("connected")
"""


@pytest.mark.parametrize("loaded", [False, True], ids=["fresh", "TensorRT loaded"])
def test_a_function_that_fills_a_network_reaches_no_server(loaded: bool, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="python -m pip install 'engineforge[rtx]'")
    child = Child(tmp_path / "child.log", os.environ)
    if loaded:
        child.tell(
            {"op": "load", "module": "engineforge.worker.wire", "backend": "tensorrt_rtx"},
        )
    with closing(child), socket.create_server(("127.0.0.1", 0)) as server:
        (tmp_path / "net.py").write_text(_FILLS.format(port=server.getsockname()[1]))
        request = {
            "op": "build",
            "model": tmp_path / "none.onnx",
            "profiles": [],
            "builder": {},
            "target": document(target("tensorrt_rtx", version("tensorrt_rtx"))),
            "engine": tmp_path / "model.engine",
            "gpu": None,
            "log": tmp_path / "build.log",
            "network": {
                "source": write_source(NetworkSource(function="net:build")),
                "folder": tmp_path,
                "files": [tmp_path / "net.py"],
                "inputs": {},
            },
        }
        with pytest.raises(Refused, match=r"failed at net\.py:8: RuntimeError: kept off"):
            child.ask(request)
    assert "not kept from the network" not in (tmp_path / "build.log").read_text()


_OTHERS = """
import ctypes, encodings.ascii, os  # which another user may not be able to load
from engineforge.worker.confined import leave_network
if {unprivileged}:
    os.setresgid(1000, 1000, 1000)
    os.setresuid(1000, 1000, 1000)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: /proc/self is its own again
print(leave_network())
print(open({path!r}).read())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="root alone reads the files of others")
def test_root_still_reads_the_files_of_others(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_text("secret")
    path.chmod(0o600)
    os.chown(path, 1000, 1000)
    assert run(_OTHERS.format(unprivileged=False, path=str(path))) == ["None", "secret"]


@pytest.mark.skipif(os.getuid() != 0, reason="it is another user already")
def test_another_user_than_root_still_reads_its_own_files() -> None:
    with tempfile.NamedTemporaryFile("w") as file:  # the folders of pytest are root's
        file.write("secret")
        file.flush()
        os.chown(file.name, 1000, 1000)
        assert run(_OTHERS.format(unprivileged=True, path=file.name)) == ["None", "secret"]
