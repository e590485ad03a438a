"""What can be said to `engineforge`: its commands, their arguments, and what they default to."""

from __future__ import annotations

import argparse

from engineforge import __version__
from engineforge.cli.beginning_arguments import add_beginning
from engineforge.cli.examples import epilog
from engineforge.cli.parsers import Help, Unasked
from engineforge.cli.promotion_arguments import add_promotion
from engineforge.cli.report_arguments import add_report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST = 86_400

_EPILOG = """\
examples:
  engineforge init model.onnx                   write a spec for a model, to begin with
  engineforge build specs                       build what is stale
  engineforge plan specs --explain              say why it is stale
  engineforge build specs/ocr.yaml --variant fp32 --target rtx-ada
  engineforge check specs --accuracy            are the converted models as good as promised?
  engineforge show model.engine                 what is this engine?

exit codes: 0 done, 1 a build or check failed, 2 bad usage or spec, 3 promotion refused,
4 store corrupt, 5 this host cannot do it, 130 interrupted
"""


def parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """For the command that `argv` begins with, or for all of them."""
    asked = argv[0] if argv and not argv[0].startswith("-") else None
    whole, found = _parser(asked)
    return whole if found else _parser(None)[0]


def _parser(asked: str | None) -> tuple[argparse.ArgumentParser, bool]:
    """Knows only the command `asked` for; and whether there is such a command."""
    names = set()
    whole = argparse.ArgumentParser(
        prog="engineforge",
        description="A declarative build system for NVIDIA TensorRT engines.",
        epilog=_EPILOG,
        formatter_class=Help,
    )
    whole.add_argument("--version", action="version", version=f"engineforge {__version__}")
    # With `prog` nothing is formatted to find out what that is.
    commands = whole.add_subparsers(metavar="COMMAND", required=True, prog="engineforge")

    def command(name: str, module: str, text: str) -> argparse.ArgumentParser:
        names.add(name)
        if asked not in (None, name):
            return Unasked()
        made = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=epilog(name),
            formatter_class=Help,
        )
        made.set_defaults(module=f"engineforge.cli.{module}")
        return made

    add_beginning(command, _common)

    check = command("check", "check", "validate specs against schema, models and targets")
    _paths(check)
    _selectors(check)
    check.add_argument(
        "--accuracy",
        action="store_true",
        help="run the accuracy checks: converted models against their sources, on the CPU",
    )
    check.add_argument(
        "--engine",
        action="store_true",
        help="run them on the engines themselves, each on its GPU",
    )
    check.add_argument(
        "--latency",
        action="store_true",
        help="run the latency checks, of engines that are built, on their GPUs",
    )
    check.add_argument(
        "--again", action="store_true", help="with --latency: also what was measured before"
    )
    _running(check, when="with one of these: ")
    _gpus(check)

    plan = command("plan", "plan", "say what is stale and why; builds nothing")
    _paths(plan)
    _selectors(plan)
    plan.add_argument("--explain", action="store_true", help="name every leaf that changed")
    plan.add_argument(
        "--with",
        dest="versions",
        metavar="BACKEND=VERSION",
        action="append",
        default=[],
        help="plan as if targets of this backend had this version, such as tensorrt=11.4.0.106",
    )
    _remote(plan)
    plan.add_argument("--paranoid", action="store_true", help="trust nothing remembered, hash all")

    lock = command("lock", "lock", "write down which files the URLs in specs stand for")
    _paths(lock)
    lock.add_argument(
        "--update",
        nargs="*",
        metavar="URL",
        help="resolve these anew, or all where none is named; stands after the specs",
    )
    lock.add_argument(
        "--check", action="store_true", help="only say what is missing or unused; changes nothing"
    )

    build = command("build", "build", "build what is stale")
    _paths(build)
    _selectors(build)
    _running(build)
    _gpus(build)
    _remote(build)
    build.add_argument(
        "--push", choices=("always", "ci", "never"), help="add what is built to the remote store"
    )
    build.add_argument(
        "--on",
        metavar="CLUSTER",
        help="build on the nodes of a Ray cluster: ray://HOST:10001, or 'ray' for the one running",
    )
    build.add_argument(
        "--cold",
        action="store_true",
        help="use no timing cache, and add to none (classic TensorRT)",
    )
    build.add_argument(
        "--prepare",
        action="store_true",
        help="only import and convert, also for targets of other hosts; engines come later",
    )
    build.add_argument(
        "--locked",
        action="store_true",
        help="refuse a lock file that says more or less than the specs name",
    )
    build.add_argument("--dry-run", action="store_true", help="plan only")
    build.add_argument("--explain", action="store_true", help="say first why what is stale")
    build.add_argument("--paranoid", action="store_true", help="trust nothing remembered, hash all")

    sensitivity = command(
        "sensitivity", "sensitivity", "rank the layers of a variant by what each alone costs"
    )
    _paths(sensitivity)
    _selectors(sensitivity)
    sensitivity.add_argument("--plot", metavar="FILE", help="draw it: .png, .svg or .pdf")
    _running(sensitivity)

    show = command("show", "show", "say what an engine is")
    show.add_argument(
        "what", metavar="WHAT", help="a spec, a folder of specs, an engine file, or a key's digits"
    )
    _selectors(show)
    show.add_argument(
        "--calibration", action="store_true", help="print the ranges that a model is quantized by"
    )
    show.add_argument(
        "--layers",
        action="store_true",
        help="print the layers of engines: types, tactics, and times as `bench --layers` kept them",
    )
    _common(show)

    verify = command("verify", "verify", "hash every stored file again")
    verify.add_argument(
        "paths", nargs="*", metavar="SPEC", help="only entries of these specs (default: all)"
    )
    verify.add_argument(
        "--rebuild",
        action="store_true",
        help="build engines once more, from their own timing caches, and say how far they agree",
    )
    _selectors(verify)
    _running(verify, when="with --rebuild: ")
    _gpus(verify)
    _common(verify)

    gc = command("gc", "gc", "move what no spec, pin or running process holds to the trash")
    _paths(gc)
    gc.add_argument(
        "--keep-last",
        type=_positive,
        metavar="N",
        default=0,
        help="keep the newest N engines of each variant",
    )
    gc.add_argument(
        "--older-than", metavar="AGE", help="only what was last used, or held, so long ago: 30d"
    )
    gc.add_argument(
        "--max-size", metavar="SIZE", help="only until all entries fit, unused ones first: 50GiB"
    )
    gc.add_argument(
        "--grace",
        metavar="AGE",
        default="1d",
        help="remove for good what has been in the trash so long (default: 1d; 0 empties it)",
    )
    gc.add_argument(
        "--partial", action="store_true", help="take these for all specs, though there are others"
    )
    gc.add_argument(
        "--forget", action="append", default=[], metavar="PATH", help="leave out the project there"
    )
    gc.add_argument(
        "--dry-run", action="store_true", help="say what would go, and what holds the rest"
    )

    cache = command("cache", "cache", "say what a cache holds, check it, pin, move and share it")
    _cache_actions(cache)

    for name, text in (
        ("run", "run an engine once, on arrays in files"),
        ("bench", "measure an engine, as trtexec does"),
    ):
        made = command(name, name, text)
        made.add_argument(
            "what", metavar="WHAT", help="a spec, the folder of an entry, or an engine file"
        )
        _selectors(made)
        _common(made)
        made.add_argument(
            "--sha256", type=_digest, metavar="sha256:…", help="what a file alone must be"
        )
        made.add_argument("--gpu", default="0", metavar="GPU", help="a number or UUID (default: 0)")
        made.add_argument("--plugin", action="append", default=[], metavar="FILE")
        made.add_argument("--profile", type=int, metavar="N", help="the optimization profile")
        (_run_arguments if name == "run" else _bench_arguments)(made)

    schema = command(
        "schema",
        "schema",
        "print the JSON Schema of specs, targets.yaml, engineforge.yaml or environments.yaml",
    )
    kinds = ("spec", "targets", "settings", "environments")
    schema.add_argument("kind", nargs="?", choices=kinds, default="spec")

    target = command("target", "target", "list targets, or print one for this host")
    target.add_argument("action", choices=("list", "detect"), nargs="?", default="list")
    _paths(target)

    add_promotion(command, _paths, _selectors, _common)
    add_report(command, _paths, _selectors, _common)

    cluster = command("cluster", "cluster", "say what a cluster has to know of this host")
    actions = cluster.add_subparsers(metavar="ACTION", required=True)
    labels = "print the labels of this host, for `ray start --labels`"
    made = actions.add_parser("labels", help=labels, description=labels[0].upper() + labels[1:])
    made.add_argument("--json", action="store_true", help="print JSON")

    doctor = command("doctor", "doctor", "say what this host can build, and why not the rest")
    _paths(doctor)
    return whole, asked is None or asked in names


def _paths(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "paths",
        nargs="*",
        metavar="SPEC",
        default=["specs"],
        help="specs or folders (default: specs)",
    )
    _common(made)


def _common(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--cache", metavar="DIR", help="the cache (default: 'cache' beside the folder of the specs)"
    )
    made.add_argument("--json", action="store_true", help="print JSON")


def _selectors(made: argparse.ArgumentParser) -> None:
    for name in ("variant", "target"):
        made.add_argument(
            f"--{name}", action="append", default=[], metavar="NAME", help=f"only this {name}"
        )


def _running(made: argparse.ArgumentParser, when: str = "") -> None:
    made.add_argument(
        "-j",
        "--jobs",
        type=_positive,
        metavar="N",
        help=f"{when}variants at once, beside one on each GPU",
    )
    made.add_argument(
        "--keep-going",
        action="store_true",
        help=f"{when}go on with the rest when something fails",
    )
    made.add_argument(
        "--timeout", type=_positive, metavar="S", help=f"{when}seconds that a step may take"
    )


def _cache_actions(cache: argparse.ArgumentParser) -> None:
    actions = cache.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", formatter_class=Help
        )
        made.set_defaults(action=name)
        _common(made)
        return made

    action("stats", "count entries and bytes")
    verify = action("verify", "hash every stored file again, as `engineforge verify` does")
    verify.set_defaults(
        module="engineforge.cli.verify",
        **dict.fromkeys(("paths", "variant", "target"), ()),
        **dict.fromkeys(("rebuild", "jobs", "keep_going", "timeout", "gpus")),
    )
    for name, text in (
        ("pin", "keep the current plans of variants, whatever their specs say later"),
        ("unpin", "keep them no longer"),
    ):
        made = action(name, text)
        made.add_argument("labels", nargs="+", metavar="LABEL", help="such as ocr/fp32@rtx-ada")
        if name == "pin":
            made.add_argument(
                "--specs", default="specs", metavar="SPECS", help="their folder (default: specs)"
            )
    for name, text in (
        ("export", "write the entries of specs that are up to date into one file"),
        ("import", "take the entries of such a file, each byte verified"),
        ("push", "give the remote store what is up to date here"),
    ):
        made = action(name, text)
        made.set_defaults(module="engineforge.cli.moving")
        if name != "push":
            made.add_argument("file", metavar="FILE", help="a tar archive")
        if name == "push":
            _remote(made)
        if name != "import":
            made.add_argument(
                "paths", nargs="*", metavar="SPEC", default=["specs"], help="(default: specs)"
            )
            _selectors(made)


def _run_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="NAME=FILE.npy, or FILE.npz with an array for each input",
    )
    made.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="NAME=FILE.npy, or a folder for all outputs",
    )


def _bench_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--shapes", action="append", default=[], metavar="NAME=8x3x224x224", help="of an input"
    )
    made.add_argument(
        "--at", choices=("min", "opt", "max"), default="opt", help="of the profile (default: opt)"
    )
    made.add_argument("--warm-up", type=_duration, default=200, metavar="MS", help="(default: 200)")
    made.add_argument("--duration", type=_duration, default=3, metavar="S", help="(default: 3)")
    made.add_argument("--iterations", type=_positive, default=10, metavar="N", help="at least")
    made.add_argument("--streams", type=_positive, default=1, metavar="N", help="at once")
    made.add_argument("--cuda-graph", action="store_true", help="replay a captured graph")
    made.add_argument("--no-transfers", action="store_true", help="leave out H2D and D2H")
    made.add_argument("--layers", action="store_true", help="profile each layer as well")


def _digest(text: str) -> str:
    from engineforge.digest import Digest

    return Digest(text)


def _gpus(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--gpus",
        metavar="LIST",
        help="only these GPUs, as in CUDA_VISIBLE_DEVICES: numbers or UUIDs, with commas",
    )


def _remote(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--remote",
        metavar="URL",
        help="a store that machines share: s3://, gs://, az://, https:// or a folder",
    )
    made.add_argument("--no-remote", action="store_true", help="use none, whatever the specs say")


def _duration(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1
    if not 0 <= found < _LONGEST:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to {_LONGEST}, found '{text}'")
    return found


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found '{text}'")
    return int(text)
