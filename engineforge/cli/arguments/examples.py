"""Examples for the `--help` of each command: lines that can be typed."""

from __future__ import annotations

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "init": ("engineforge init model.onnx", "engineforge init net.onnx -o specs/ocr/detector.yaml"),
    "import-trtexec": (
        "engineforge import-trtexec 'trtexec --onnx=model.onnx --fp16 --optShapes=x:8x3x224x224'",
        "engineforge import-trtexec -o specs/net.yaml trtexec --onnx=net.onnx --fp16",
        "engineforge import-trtexec -o specs --calibration samples.npz < build.sh",
    ),
    "completion": (
        "engineforge completion bash > ~/.local/share/bash-completion/completions/engineforge",
        "engineforge completion zsh > ~/.zfunc/_engineforge",
        "engineforge completion fish > ~/.config/fish/completions/engineforge.fish",
    ),
    "check": ("engineforge check specs", "engineforge check specs/ocr.yaml --accuracy"),
    "plan": ("engineforge plan specs --explain", "engineforge plan --with tensorrt=11.4.0.106"),
    "lock": ("engineforge lock specs", "engineforge lock specs --check"),
    "build": (
        "engineforge build specs",
        "engineforge build specs/ocr.yaml --variant fp16 --target rtx-ada --explain",
        "engineforge build specs --keep-going --jobs 2",
    ),
    "sensitivity": ("engineforge sensitivity specs/ocr.yaml --variant int8 --plot layers.png",),
    "show": ("engineforge show specs/ocr.yaml --variant fp16", "engineforge show model.engine"),
    "verify": ("engineforge verify", "engineforge verify specs/ocr.yaml --rebuild"),
    "gc": ("engineforge gc specs --dry-run", "engineforge gc specs --keep-last 3 --older-than 30d"),
    "cache": ("engineforge cache stats", "engineforge cache export engines.tar specs"),
    "run": (
        "engineforge run specs/ocr.yaml --variant fp16 --input x=batch.npy --output y=out.npy",
    ),
    "bench": (
        "engineforge bench specs/ocr.yaml --variant fp16",
        "engineforge bench specs/ocr.yaml --shapes x=8x3x736x736 --layers",
    ),
    "schema": ("engineforge schema > spec.schema.json", "engineforge schema environments"),
    "target": ("engineforge target detect > specs/targets.yaml", "engineforge target list specs"),
    "cluster": ("engineforge cluster labels",),
    "doctor": ("engineforge doctor",),
    "promote": ("engineforge promote specs --to staging --key ci.key --dry-run",),
    "rollback": ("engineforge rollback specs/ocr.yaml --in production --key ci.key",),
    "history": ("engineforge history specs/ocr.yaml --in production",),
    "status": ("engineforge status specs",),
    "attest": ("engineforge attest verify staging/ocr-detector",),
    "pull": ("engineforge pull staging/ocr-detector -o model.engine",),
    "nightly": (
        "engineforge nightly specs --key ci.key -o nights",
        "engineforge nightly specs --no-promote --no-gc -o nights",
    ),
    "report": ("engineforge report specs -o report.html",),
    "diff": (
        "engineforge diff 3f2a91c0 87bd02e4",
        "engineforge diff ocr:fp16@rtx-ada ocr:int8@rtx-ada",
    ),
    "export": ("engineforge export triton staging/ocr-detector models/",),
}
"""By the name of the command."""


def epilog(command: str) -> str | None:
    """What stands below a command's options; None where there is nothing."""
    shown = EXAMPLES.get(command)
    if shown is None:
        return None
    return "\n".join([f"example{'s' if len(shown) > 1 else ''}:", *(f"  {each}" for each in shown)])
