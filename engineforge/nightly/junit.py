"""A night as JUnit XML: a suite for each step, a case for each variant and check. A failure is what
a check or gate said no to; everything else that failed is an error. Pure.

There is no standard: this keeps to what junit-10.xsd of Jenkins' xUnit plugin, GitLab and GitHub's
reporters have in common (https://github.com/testmoapp/junitxml lists it).
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import timezone

from engineforge.nightly.night import STEPS, Case, Night

# What XML 1.0 has no way to write (its production 2, Char), half characters among it.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(night: Night) -> bytes:
    """All steps that had anything to say, in their order."""
    root = ET.Element("testsuites", name="engineforge nightly")
    for step in STEPS:
        if cases := [each for each in night.cases if each.step == step]:
            _suite(root, step, cases, night)
    _count(root, night.cases)
    ET.indent(root)
    whole: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return whole + b"\n"


def _suite(root: ET.Element, step: str, cases: Sequence[Case], night: Night) -> None:
    when = night.started.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    suite = ET.SubElement(root, "testsuite", name=step, timestamp=when)
    _count(suite, cases)
    suite.set("skipped", str(sum(each.verdict == "skipped" for each in cases)))
    for each in cases:
        seconds = f"{each.seconds or 0:.3f}"
        case = ET.SubElement(suite, "testcase", time=seconds)
        case.set("classname", _clean(f"{step}.{each.spec or step}"))
        case.set("name", _clean(each.name))
        said = _clean(each.said)
        if each.verdict == "skipped":
            ET.SubElement(case, "skipped", message=said)
        elif each.verdict == "failed":
            kind = "failure" if each.said_no else "error"
            found = ET.SubElement(case, kind, message=said, type=f"exit code {each.code}")
            found.text = _clean("\n".join([*_place(each), each.said, *each.detail]))
        elif said:
            ET.SubElement(case, "system-out").text = said


def _count(element: ET.Element, cases: Sequence[Case]) -> None:
    failed = [each for each in cases if each.verdict == "failed"]
    failures = sum(each.said_no for each in failed)
    element.set("tests", str(len(cases)))
    element.set("failures", str(failures))
    element.set("errors", str(len(failed) - failures))
    element.set("time", f"{sum(each.seconds or 0 for each in cases):.3f}")


def _place(case: Case) -> list[str]:
    at = case.at
    return [] if at is None else [f"{at.file}:{at.line}:{at.column}" if at.line else at.file]


def _clean(text: str) -> str:
    return _NOT_XML.sub("", text)
