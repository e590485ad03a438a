"""The ONNX file of a spec's source on this machine: where it is, or what has to be done for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from engineforge.digest import Digest, digest_value, document
from engineforge.errors import EngineForgeError
from engineforge.plan.keys import NetworkKey, SourceKey
from engineforge.project.remembered import made_of
from engineforge.spec.lock import Lock, pinned
from engineforge.spec.model import ModelInterface, Profile, ShapeRange, TensorInterface
from engineforge.spec.sources import (
    Framework,
    InputAxes,
    MadeSource,
    ModelSource,
    NetworkSource,
    PackageSource,
    PathSource,
    PytorchSource,
    Source,
    UrlSource,
    key_of,
)
from engineforge.spec.url import scheme
from engineforge.stages.sources import MODEL, exporters
from engineforge.stages.sources.locate import SourceMissing, locate
from engineforge.store.index import Index
from engineforge.store.local import LocalStore
from engineforge.store.trust import whole
from engineforge.store.uses import Ref
from engineforge.worker.job import Files, SourceJob
from engineforge.worker.obtaining import PREPARED, SOURCE, digests_in, prepared_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A model that is here, what people call it, and the entries that it was made as. Where there
    is a `network` instead, `model` is the file of its function, the first of its `files`. `depends`
    is what it was found by, where that is not the model by content."""

    model: Path
    called: str
    made: tuple[Ref, ...] = ()
    network: NetworkSource | None = None
    depends: tuple[Digest, ...] = ()
    files: Files = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What is known of sources: files by content, the entries in the store, the lock file.
    `locked` is the digest of that file, where there is one, `inspected` gives the files of an ONNX
    model, hashed."""

    store: LocalStore
    index: Index
    lock: Lock
    locked: tuple[Digest, ...]
    inspected: Callable[[Path], Files]

    def find(
        self, spec: str, model: ModelSource, folder: Path, profiles: Iterable[Profile]
    ) -> Found | SourceJob:
        """The model, or the job that makes it. SourceMissing, BadAxes or OSError where neither can
        be. `folder` is that of the spec, `profiles` are those of all its variants."""
        called = exporters.called(model.source)
        if isinstance(model.source, PathSource | PackageSource):
            path = locate(model.source, folder)
            if not model.prepare.asked:
                return Found(model=path, called=called)
            files = self.inspected(path)
            job = replace(self._job(spec, model, folder, {}), model=path, files=files)
            return self._prepared(job, (), _digests(files))
        if isinstance(model.source, NetworkSource):
            files = self._files(model.source, folder)
            return Found(
                model=next(iter(files)),
                called=called,
                network=model.source,
                files=files,
                depends=_depends(model.source, folder, files),
            )
        inputs = {} if isinstance(model.source, UrlSource) else axes(model.source, profiles)
        job = self._job(spec, model, folder, inputs)
        if job.key is None:
            raise RuntimeError("a source that is made has a key")
        key = digest_value(job.key)
        entry = whole(self.store, self.index, SOURCE, key)
        if entry is None:
            return job
        ref = Ref(SOURCE, key)
        if job.prepare is None:
            depends = self._found_by(job)
            return Found(model=entry.file(MODEL), called=called, made=(ref,), depends=depends)
        done = replace(job, exported=True)
        return self._prepared(done, (ref,), digests_in(entry.manifest))

    def _prepared(
        self, job: SourceJob, made: tuple[Ref, ...], digests: tuple[Digest, ...]
    ) -> Found | SourceJob:
        key = digest_value(prepared_key(job, digests))
        entry = whole(self.store, self.index, PREPARED, key)
        if entry is None:
            return job
        made = (*made, Ref(PREPARED, key))
        depends = self._found_by(job)
        return Found(model=entry.file(MODEL), called=job.called, made=made, depends=depends)

    def _found_by(self, job: SourceJob) -> tuple[Digest, ...]:
        if isinstance(job.source, UrlSource):
            return self.locked
        if isinstance(job.source, Framework):
            return _depends(job.source, job.folder, job.files)
        return _digests(job.files)

    def _files(self, source: MadeSource, folder: Path) -> Files:
        paths = exporters.files_of(source, folder)
        return {each.absolute(): self.index.hashed(each) for each in paths}

    def _job(
        self, spec: str, model: ModelSource, folder: Path, inputs: Mapping[str, InputAxes]
    ) -> SourceJob:
        source, key = model.source, None
        files: Files = {}
        if isinstance(source, UrlSource):
            for each in (source.model, *source.external):
                scheme(each.url)
            _distinct(source)
            source = replace(
                source,
                model=pinned(source.model, self.lock),
                external=tuple(pinned(each, self.lock) for each in source.external),
            )
            key = url_key(source)
        elif isinstance(source, Framework):
            files = self._files(source, folder)
            key = SourceKey(
                exporting=exporters.EXPORTING,
                kind=key_of(source),
                files=_digests(files),
                recipe=exporters.recipe(source, folder.absolute(), list(files)),
                inputs=_told(source, inputs),
                versions=exporters.versions(source),
            )
        return SourceJob(
            spec=spec,
            called=exporters.called(source),
            source=source,
            key=key,
            model=None,
            files=files,
            folder=folder.absolute(),
            inputs=inputs,
            prepare=model.prepare if model.prepare.asked else None,
        )


def _digests(files: Files) -> tuple[Digest, ...]:
    return tuple(digest for digest, _ in files.values())


def _depends(source: MadeSource, folder: Path, files: Files) -> tuple[Digest, ...]:
    digests = {path: digest for path, (digest, _) in files.items()}
    return tuple(made_of(source, folder.absolute(), digests))


def _told(source: Source, inputs: Mapping[str, InputAxes]) -> tuple[Mapping[str, object], ...]:
    """What of its inputs reaches an export."""
    told = [{"name": name, **document(each)} for name, each in inputs.items()]
    if isinstance(source, PytorchSource) and source.program is None:
        return tuple(told)
    return tuple({k: v for k, v in each.items() if k != "example"} for each in told)


def _distinct(source: UrlSource) -> None:
    """SourceMissing where a file of external data would lie in the place of another."""
    taken = {MODEL, "manifest.json", "export.log"}
    for each in source.external:
        if each.name in taken:
            raise SourceMissing(
                f"'{each.shown}': there is a file '{each.name}' beside it already",
                hint="external data has the name that the model gives it",
            )
        taken.add(each.name)


def url_key(source: UrlSource) -> SourceKey:
    """The key of a download, whatever it is called where; all its files are pinned."""
    files = (source.model, *source.external)
    return SourceKey(
        exporting=exporters.EXPORTING,
        kind="url",
        files=tuple(Digest(f"sha256:{each.sha256}") for each in files),
        # A model names its external data.
        recipe={"external": [each.name for each in source.external]},
        inputs=(),
        versions={},
    )


def network_key(source: NetworkSource, files: Files) -> NetworkKey:
    return NetworkKey(
        defining=exporters.DEFINING,
        files=_digests(files),
        **exporters.of_function(source, list(files)),
    )


def declared(source: NetworkSource, profiles: Iterable[Profile]) -> ModelInterface:
    """What a spec says of a network that is not there before it is built."""
    inputs = (
        TensorInterface(name=name, type=each.type, dims=each.dims)
        for name, each in axes(source, profiles).items()
    )
    return ModelInterface(
        inputs=tuple(inputs),
        outputs=(),
        opsets={},
        external=(),
        features={},
        nodes=0,
        weight_bytes=0,
    )


class BadAxes(EngineForgeError):
    """The shapes of a spec that no export could have."""

    exit_code = 2


def axes(source: Source, profiles: Iterable[Profile]) -> dict[str, InputAxes]:
    """What an exporter is told of each input: an axis varies unless all profiles of all variants
    give it one size, and is the smallest `opt` but 1 in the example. BadAxes where profiles have
    other inputs or ranks, or an input is missing."""
    profiles = list(profiles)
    types = source.inputs if isinstance(source, PytorchSource) else {}
    names = list(profiles[0]) if profiles else []
    if unknown := sorted(set(types) - set(names)):
        raise BadAxes(f"no profile has an input '{unknown[0]}', which 'inputs' gives a type")
    found = {}
    for name in names:
        given = [each[name].shape for each in profiles if name in each]
        shapes = [each for each in given if each is not None]
        if len(shapes) != len(profiles) or len({len(each.min) for each in shapes}) != 1:
            raise BadAxes(
                f"input '{name}' has not one rank in all profiles of this file",
                hint="an export is one for all variants: give each the same inputs",
            )
        dims, example = [], []
        for axis, size in enumerate(shapes[0].opt):
            sizes = {each.min[axis] for each in shapes} | {each.max[axis] for each in shapes}
            varies = len(sizes) > 1
            dims.append(None if varies else size)
            example.append(_example(shapes, axis) if varies else size)
        found[name] = InputAxes(
            type=types.get(name, "float32"), dims=tuple(dims), example=tuple(example)
        )
    if not _have_batch(found, profiles):
        return found
    return {name: replace(each, batch=True) for name, each in found.items()}


def _have_batch(inputs: Mapping[str, InputAxes], profiles: Sequence[Profile]) -> bool:
    """Whether axis 0 of all inputs varies, in each profile within the same bounds."""
    if not all(each.dims and each.dims[0] is None for each in inputs.values()):
        return False
    return all(
        len({(s.min[0], s.opt[0], s.max[0]) for x in profile.values() if (s := x.shape)}) == 1
        for profile in profiles
    )


def _example(shapes: Sequence[ShapeRange], axis: int) -> int:
    """Whatever the order of the profiles. Exporters take 1 for a size that never varies."""
    sizes = [each.opt[axis] for each in shapes]
    most = max(each.max[axis] for each in shapes)
    return min((each for each in sizes if each > 1), default=max(*sizes, min(2, most)))
