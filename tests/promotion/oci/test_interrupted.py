"""The client of registries, interrupted at every request that it makes, in every way."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from engineforge.digest import Digest
from engineforge.promotion.oci.documents import (
    EMPTY_CONFIG,
    MANIFEST,
    Descriptor,
    ImageManifest,
)
from engineforge.promotion.oci.registry import Registry
from engineforge.promotion.oci.repository import Gone
from engineforge.store.far.objects import RemoteUnavailable
from tests.promotion.oci.cutting_proxy import CUTS, Cut, CuttingProxy, cutting_proxy
from tests.promotion.oci.registries import RunningRegistry, registry

__all__ = ["registry"]


@dataclass(frozen=True)
class Step:
    """Something to do; whether it was done, and whether what is to be seen is right meanwhile."""

    do: Callable[[Registry], object]
    done: Callable[[Registry], bool]
    right: Callable[[Registry], bool]


def read(repository: Registry, blob: Descriptor) -> bytes:
    return b"".join(repository.stream(blob))


def manifest(kind: str, subject: Descriptor | None = None) -> bytes:
    return ImageManifest(
        artifact_type=kind, config=EMPTY_CONFIG, layers=(EMPTY_CONFIG,), subject=subject
    ).to_bytes()


def push(_: Registry, size: int) -> Step:
    data = secrets.token_bytes(size)
    blob = Descriptor.of(data, "application/octet-stream")

    def chunks(offset: int) -> Iterator[bytes]:
        return (data[at : at + 100_000] for at in range(offset, size, 100_000))

    def done(repository: Registry) -> bool:
        return repository.has(blob) and read(repository, blob) == data

    def right(repository: Registry) -> bool:
        if repository.has(blob):
            return read(repository, blob) == data
        with pytest.raises(Gone):
            read(repository, blob)
        return True

    return Step(lambda repository: repository.push(blob, chunks), done, right)


def push_in_parts(direct: Registry) -> Step:
    return push(direct, 3_000_000)


def push_at_once(direct: Registry) -> Step:
    return push(direct, 1000)


def pull(direct: Registry) -> Step:
    data = secrets.token_bytes(3_000_000)
    blob = Descriptor.of(data, "application/octet-stream")
    direct.push(blob, lambda offset: iter((data[offset:],)))

    def do(repository: Registry) -> None:
        assert read(repository, blob) == data

    return Step(do, lambda _: True, lambda _: True)


def mount(direct: Registry) -> Step:
    data = secrets.token_bytes(1000)
    blob = Descriptor.of(data, "application/octet-stream")
    source = Registry.open(f"{direct.url}/source", environment={}, said=lambda _: None)
    source.push(blob, lambda offset: iter((data[offset:],)))
    name = f"{direct.place.name}/source"

    def do(repository: Registry) -> None:
        there = f"oci://{repository.place.registry}/{name}"
        opened = Registry.open(there, environment={}, said=lambda _: None, wait=lambda _: None)
        if not repository.mount(blob, opened):
            raise RemoteUnavailable("not mounted")

    return Step(do, lambda repository: repository.has(blob), lambda _: True)


def refer(direct: Registry) -> Step:
    direct.put_empty_config()
    subject = manifest(f"application/x.{secrets.token_hex(6)}")
    there = Descriptor.of(subject, MANIFEST)
    direct.put_manifest(subject)
    before = direct.put_manifest(manifest("application/x.before", there))
    new = manifest("application/x.new", there)
    expected = {before, Descriptor.of(new, MANIFEST).digest}

    def found(repository: Registry) -> set[Digest]:
        return {each.digest for each in repository.referrers(there.digest)}

    return Step(
        lambda repository: repository.put_manifest(new),
        lambda repository: found(repository) == expected,
        lambda repository: {before} <= found(repository) <= expected,
    )


def move(direct: Registry) -> Step:
    direct.put_empty_config()
    tag = f"t{secrets.token_hex(6)}"
    old, new = (direct.put_manifest(manifest(f"application/x.{n}.{tag}")) for n in ("old", "new"))
    direct.tag(tag, old)

    def do(repository: Registry) -> None:
        assert repository.move(tag, new, old) or repository.resolve(tag) == new

    return Step(
        do,
        lambda repository: repository.resolve(tag) == new,
        lambda repository: repository.resolve(tag) in (old, new),
    )


STEPS = (push_in_parts, push_at_once, pull, mount, refer, move)


@pytest.fixture(scope="module")
def proxy(registry: RunningRegistry) -> Iterator[CuttingProxy]:
    with cutting_proxy(registry.host) as found:
        yield found


@pytest.fixture
def direct(registry: RunningRegistry) -> Registry:
    return registry.open(f"cut/{secrets.token_hex(6)}", wait=lambda _: None)


def through(proxy: CuttingProxy, direct: Registry) -> Registry:
    """The same repository, without pauses between tries."""
    return Registry.open(
        f"oci://{proxy.host}/{direct.place.name}",
        environment={},
        said=lambda _: None,
        wait=lambda _: None,
    )


def requests_of(step: Step, proxy: CuttingProxy, direct: Registry) -> int:
    proxy.heal()
    step.do(through(proxy, direct))
    return len(proxy.requests)


@pytest.mark.parametrize("how", CUTS, ids=lambda how: how.name)
@pytest.mark.parametrize("made", STEPS)
def test_one_cut_at_any_request_is_got_over(
    made: Callable[[Registry], Step], how: Cut, proxy: CuttingProxy, direct: Registry
) -> None:
    count = requests_of(made(direct), proxy, direct)
    assert count > 0
    for at in range(1, count + 1):
        step = made(direct)
        proxy.cut(at, how)
        step.do(through(proxy, direct))
        assert step.done(direct), f"{at} of {count}: {proxy.requests}"


@pytest.mark.parametrize("how", CUTS, ids=lambda how: how.name)
@pytest.mark.parametrize("made", STEPS)
def test_where_the_network_goes_at_any_request_a_second_attempt_ends_what_the_first_began(
    made: Callable[[Registry], Step], how: Cut, proxy: CuttingProxy, direct: Registry
) -> None:
    count = requests_of(made(direct), proxy, direct)
    for at in range(1, count + 1):
        step = made(direct)
        proxy.cut(at, how, onwards=True)
        with pytest.raises(RemoteUnavailable):
            step.do(through(proxy, direct))
        assert step.right(direct), f"{at} of {count}: {proxy.requests}"
        proxy.heal()
        step.do(through(proxy, direct))
        assert step.done(direct), f"{at} of {count}: {proxy.requests}"
