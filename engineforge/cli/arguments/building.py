"""What can be said to the commands that lead from specs to engines."""

from __future__ import annotations

from engineforge.cli.arguments.options import gpus, paths, remote, running, selectors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engineforge.cli.arguments.options import Command


def add_building(command: Command) -> None:
    """Add these commands to the others."""
    check = command("check", "check", "validate specs against schema, models and targets")
    paths(check)
    selectors(check)
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
    running(check, when="with one of these: ")
    gpus(check)

    plan = command("plan", "plan", "say what is stale and why; builds nothing")
    paths(plan)
    selectors(plan)
    plan.add_argument("--explain", action="store_true", help="name every leaf that changed")
    plan.add_argument(
        "--with",
        dest="versions",
        metavar="BACKEND=VERSION",
        action="append",
        default=[],
        help="plan as if targets of this backend had this version, such as tensorrt=11.4.0.106",
    )
    remote(plan)
    plan.add_argument("--paranoid", action="store_true", help="trust nothing remembered, hash all")

    lock = command("lock", "lock", "write down which files the URLs in specs stand for")
    paths(lock)
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
    paths(build)
    selectors(build)
    running(build)
    gpus(build)
    remote(build)
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
    paths(sensitivity)
    selectors(sensitivity)
    sensitivity.add_argument("--plot", metavar="FILE", help="draw it: .png, .svg or .pdf")
    running(sensitivity)

    schema = command(
        "schema",
        "schema",
        "print the JSON Schema of specs, targets.yaml, engineforge.yaml, environments.yaml, or "
        "event logs",
    )
    kinds = ("spec", "targets", "settings", "environments", "events")
    schema.add_argument(
        "kind", nargs="?", choices=kinds, default="spec", help="of which file (default: spec)"
    )

    target = command("target", "target", "list targets, or print one for this host")
    target.add_argument(
        "action",
        choices=("list", "detect"),
        nargs="?",
        default="list",
        help="those of targets.yaml, or what is installed here (default: list)",
    )
    paths(target)

    cluster = command("cluster", "cluster", "say what a cluster has to know of this host")
    actions = cluster.add_subparsers(metavar="ACTION", required=True)
    labels = "print the labels of this host, for `ray start --labels`"
    made = actions.add_parser("labels", help=labels, description=labels[0].upper() + labels[1:])
    made.add_argument("--json", action="store_true", help="print JSON")

    doctor = command("doctor", "doctor", "say what this host can build, and why not the rest")
    paths(doctor)
