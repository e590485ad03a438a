"""What promoting a large engine costs, against `skopeo copy` and `curl` to the same places.

An engine of random bytes goes from a cache, a folder or an environment to Debian's docker-registry
on this machine, or to a folder: `push_artifact` or `copy_artifact` in a process of its own, whose
start and peak memory count. Each measurement has a registry of its own that is empty before, so
that nobody finds there what another has put; what is read has been read before. To a folder,
skopeo's time includes an fsync of the files that it wrote, which ours has had; a registry does that
itself. `CPU s` is what each side used itself, without the registry: of all figures it depends least
on what else the machine does. The disk must have room for four such engines.
"""

from __future__ import annotations

import argparse
import os
import resource
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from engineforge.digest import digest_file
from engineforge.promotion.artifact import Artifact, of_entry
from engineforge.promotion.oci.copying import push_artifact
from engineforge.promotion.oci.layout import Layout
from engineforge.promotion.oci.registry import Registry
from engineforge.store.far.folder import Folder
from engineforge.store.local import Entry, LocalStore
from tests.benchmarks.measure import quiet, settle, spread, table
from tests.promotion.engines import PLAN
from tests.promotion.oci.registries import docker_registry

OF_THEIRS, MEMORY_MB = 0.80, 100
_MIB = 1 << 20
_TARGET = {"platform": "linux-x86_64", "gpu": {"name": "GPU", "compute_capability": "9.0"}}
_PROMOTES = """
import re, sys
from pathlib import Path
from engineforge.digest import Digest
from engineforge.promotion.artifact import of_entry
from engineforge.promotion.oci.copying import copy_artifact, push_artifact
from engineforge.promotion.oci.opening import open_repository
from engineforge.store.local import LocalStore

source, key, digest, to = sys.argv[1:]
to = open_repository(to, root=Path("/"), environment={})
if key:
    entry = LocalStore(Path(source)).get("engine", Digest(key))
    plan = Digest(digest)
    push_artifact(of_entry(entry, plan=plan, spec="net", variant="fp16", target="h200"), to)
else:
    source = open_repository(source, root=Path("/"), environment={})
    copy_artifact(Digest(digest), source, to)
status = Path("/proc/self/status").read_text()
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1]) * 1024 / 1e6)
"""


@dataclass(frozen=True)
class Engine:
    """In a cache, and as the environment in a folder that it was promoted to."""

    artifact: Artifact
    entry: Entry
    cache: Path
    folder: Path

    @property
    def file(self) -> Path:
        return self.entry.path / "model.engine"

    @property
    def digest(self) -> str:
        return self.artifact.descriptor.digest


Work = Callable[[], float]
"""Does it once; what it returns is its peak memory in MB, or 0 where nobody asked."""
Kind = Callable[[Engine, Path], AbstractContextManager[Mapping[str, Work]]]
"""What to compare, in a scratch folder that is empty."""


def main() -> None:
    args = _arguments()
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="engineforge-benchmark-") as made:
        root = Path(made)
        engine = _made(root, args.megabytes)
        for name in args.what:
            rows += _measured(name, engine, root / "scratch", args.rounds)
    print(f"{args.megabytes} MiB, {args.rounds} rounds, load {os.getloadavg()[0]:.1f}")
    head = ["promoted", "theirs s", "ours s", "of their speed", "best", "CPU s: theirs, ours"]
    table([*head, "ours MB", "budgets"], rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", nargs="*", default=["store", "folder", "folders", "registry"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=2048)
    parser.add_argument("--folder", help="on which disk")
    return parser.parse_args()


def _made(root: Path, megabytes: int) -> Engine:
    store = LocalStore(root / "cache")
    with store.session() as session, session.staged() as staged:
        with (staged / "model.engine").open("wb") as file:
            for _ in range(megabytes):
                file.write(secrets.token_bytes(_MIB))
        toolchain = {"backend": "tensorrt", "version": "10.9.0.34", "cuda": "12"}
        recipe = {"profiles": [], "builder": {}, "target": _TARGET, "toolchain": toolchain}
        document = {"format": 1, "model": PLAN, "external": [], "recipe": recipe}
        record = {"precision": "fp16", "finished": "2026-11-21T17:32:28+00:00"}
        entry, _ = store.publish(
            staged, stage="engine", key_document=document, digests={}, record=record
        )
    artifact = of_entry(entry, plan=PLAN, spec="net", variant="fp16", target="h200")
    layout = Layout(Folder(root / "dev"))
    push_artifact(artifact, layout)
    layout.tag("net", artifact.descriptor.digest)
    return Engine(artifact, entry, store.root, root / "dev")


@contextmanager
def _from_store(engine: Engine, scratch: Path) -> Iterator[dict[str, Work]]:
    with docker_registry(scratch) as registry:
        to = registry.url("staging")
        yield {
            "ours": lambda: _ours(engine.cache, engine.entry.manifest.key, PLAN, to),
            "skopeo": lambda: _skopeo(f"oci:{engine.folder}:net", f"{_docker(to)}:net"),
            "curl": lambda: _curl(engine, registry.host),
        }


@contextmanager
def _from_folder(engine: Engine, scratch: Path) -> Iterator[dict[str, Work]]:
    with docker_registry(scratch) as registry:
        to = registry.url("staging")
        yield {
            "ours": lambda: _ours(engine.folder, "", engine.digest, to),
            "skopeo": lambda: _skopeo(f"oci:{engine.folder}:net", f"{_docker(to)}:net"),
        }


@contextmanager
def _between_folders(engine: Engine, scratch: Path) -> Iterator[dict[str, Work]]:
    scratch.mkdir()
    to = scratch / "staging"

    def skopeo() -> float:
        _skopeo(f"oci:{engine.folder}:net", f"oci:{to}:net")
        for path in to.rglob("*"):
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        return 0

    yield {"ours": lambda: _ours(engine.folder, "", engine.digest, str(to)), "skopeo": skopeo}


@contextmanager
def _within_a_registry(engine: Engine, scratch: Path) -> Iterator[dict[str, Work]]:
    with docker_registry(scratch) as registry:
        before, to = registry.url("dev"), registry.url("staging")
        repository = Registry.open(before, environment={}, said=lambda _: None)
        push_artifact(engine.artifact, repository)
        repository.tag("net", engine.artifact.descriptor.digest)
        yield {
            "ours": lambda: _ours(before, "", engine.digest, to),
            "skopeo": lambda: _skopeo(f"{_docker(before)}:net", f"{_docker(to)}:net"),
        }


KINDS: Mapping[str, tuple[Kind, Sequence[str]]] = {
    "store": (_from_store, ("skopeo", "curl")),
    "folder": (_from_folder, ("skopeo",)),
    "folders": (_between_folders, ("skopeo",)),
    "registry": (_within_a_registry, ("skopeo",)),
}


def _measured(name: str, engine: Engine, scratch: Path, rounds: int) -> list[list[str]]:
    kind, others = KINDS[name]
    seconds: dict[str, list[float]] = {side: [] for side in ("ours", *others)}
    used: dict[str, list[float]] = {side: [] for side in seconds}
    peak = 0.0
    for i in range(rounds):
        sides = list(seconds)
        for side in sides if i % 2 == 0 else reversed(sides):
            with kind(engine, scratch) as works:
                _warm(engine)
                settle()
                before, started = _used(), time.perf_counter()
                peak = max(peak, works[side]())
                seconds[side].append(time.perf_counter() - started)
                used[side].append(_used() - before)
            shutil.rmtree(scratch)
            print(f"# {name}: {side} {seconds[side][-1]:.2f} s", flush=True)
    return [
        _row(
            f"{name}: {side}",
            seconds[side],
            seconds["ours"],
            ", ".join(f"{statistics.median(used[each]):.2f}" for each in (side, "ours")),
            peak,
        )
        for side in others
    ]


def _used() -> float:
    """Seconds of all processes that were started here and have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _row(
    what: str, theirs: Sequence[float], ours: Sequence[float], used: str, peak: float
) -> list[str]:
    speeds = [their / our for their, our in zip(theirs, ours, strict=True)]
    kept = statistics.median(speeds) >= OF_THEIRS and peak <= MEMORY_MB
    return [
        what,
        f"{statistics.median(theirs):.2f}",
        f"{statistics.median(ours):.2f}",
        spread(speeds, ".0%"),
        f"{min(theirs) / min(ours):.0%}",
        used,
        f"{peak:.0f}",
        f">= {OF_THEIRS:.0%}, <= {MEMORY_MB} MB: {'kept' if kept else 'BROKEN'}",
    ]


def _warm(engine: Engine) -> None:
    """Have what is read in memory, for each of them."""
    digest_file(engine.file)
    for path in engine.folder.glob("blobs/sha256/*"):
        digest_file(path)


def _ours(source: Path | str, key: str, digest: str, to: str) -> float:
    return float(quiet([sys.executable, "-c", _PROMOTES, str(source), key, digest, to]))


def _skopeo(source: str, to: str) -> float:
    registries = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    quiet(["skopeo", "copy", "-q", "--preserve-digests", *registries, source, to])
    return 0


def _docker(url: str) -> str:
    return f"docker://{url.removeprefix('oci://')}"


def _curl(engine: Engine, host: str) -> float:
    """The engine's file alone, in one request."""
    uploads = f"http://{host}/v2/staging/blobs/uploads/"
    head = quiet(["curl", "-sf", "-X", "POST", "-D", "-", uploads])
    upload = next(
        line.split()[1] for line in head.splitlines() if line.lower().startswith("location:")
    )
    digest = engine.entry.manifest.files["model.engine"].sha256
    command = ["curl", "-sf", "-o", "/dev/null", "-T", str(engine.file)]
    quiet([*command, f"{upload}&digest={digest}"])
    return 0


if __name__ == "__main__":
    main()
