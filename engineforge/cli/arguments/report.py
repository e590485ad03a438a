"""What can be said to the commands that look back: report and diff."""

from __future__ import annotations

from engineforge.cli.arguments.options import common, folder, paths, selectors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engineforge.cli.arguments.options import Command


def add_report(command: Command) -> None:
    """Add these commands to the others."""
    report = command("report", "report", "write all that is known of specs as one HTML page")
    paths(report)
    selectors(report)
    report.add_argument("-o", "--output", metavar="FILE", help="the page, such as report.html")
    report.add_argument(
        "--events",
        metavar="PATH",
        help="for failures: the folder of a night, the event log of a run, or what `build --json` "
        "printed",
    )
    report.add_argument(
        "--no-environments", action="store_true", help="ask no environment what it has"
    )

    diff = command("diff", "diff", "say how two engines differ, or two reports, or two nights")
    for name in ("a", "b"):
        diff.add_argument(
            name,
            metavar=name.upper(),
            help="a key's digits, the folder of an entry, an engine file with its manifest, "
            "SPEC:VARIANT@TARGET, ENV/SPEC:VARIANT@TARGET; or `report --json`; or a night, by its "
            "folder or event log",
        )
    folder(diff)
    diff.add_argument(
        "--all", action="store_true", help="name every layer that differs, not only the first ones"
    )
    common(diff)
