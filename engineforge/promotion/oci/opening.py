"""From what `environments.yaml` calls a store to the repository there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from engineforge.promotion.oci.layout import Layout
from engineforge.promotion.oci.repository import Repository
from engineforge.store.far.places import objects_at

_REGISTRY = "oci"


def open_repository(
    store: str,
    *,
    root: Path,
    environment: Mapping[str, str],
    said: Callable[[str], None] = lambda _: None,
) -> Repository:
    """The repository at `oci://host[:port]/name` in a registry, or the image layout at the URL of a
    bucket, at `https://…` (for reading), at `file:///path` or in a folder from `root` on. Nothing
    is asked of it yet.

    Credentials come from `environment`. UsageError or HostUnfit where that cannot be.
    """
    if store.partition("://")[0] == _REGISTRY:
        from engineforge.promotion.oci.registry import Registry

        return Registry.open(store, environment=environment, said=said)
    return Layout(
        objects_at(
            store,
            environment=environment,
            root=root,
            what="an environment",
            besides=(_REGISTRY,),
        )
    )
