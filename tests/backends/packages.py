"""A folder of installed packages: what pip leaves of TensorRT, without its libraries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

# What the wheels say: name, version, and the lines of Requires-Dist.
TENSORRT_8 = {
    "tensorrt": ("8.6.0", ["nvidia-cuda-runtime-cu12", "nvidia-cudnn-cu12", "nvidia-cublas-cu12"])
}
TENSORRT_10 = {
    "tensorrt": ("10.13.3.9.post1", ["tensorrt_cu12==10.13.3.9.post1"]),
    "tensorrt_cu12": ("10.13.3.9", ["tensorrt_cu12_libs==10.13.3.9"]),
    "tensorrt_cu12_libs": ("10.13.3.9", ["nvidia-cuda-runtime-cu12"]),
    "tensorrt_cu12_bindings": ("10.13.3.9", []),
}
TENSORRT_11 = {
    "tensorrt": ("11.4.0.106", ["tensorrt_cu13==11.4.0.106"]),
    "tensorrt_cu13": ("11.4.0.106", ["tensorrt_cu13_libs==11.4.0.106"]),
    "tensorrt_cu13_libs": ("11.4.0.106", ["cuda-toolkit[cudart] >=13,<14"]),
    "tensorrt_cu13_bindings": ("11.4.0.106", []),
}


class Site:
    """A folder of packages that this process sees before all others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, packages: Mapping[str, tuple[str, list[str]]]) -> None:
        for name, (version, requires) in packages.items():
            info = self.folder / f"{name}-{version}.dist-info"
            info.mkdir()
            lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
            lines += [f"Requires-Dist: {each}" for each in requires]
            (info / "METADATA").write_text("\n".join(lines) + "\n")

    def unpacked(self, version: str, linked: bytes = b"") -> None:
        package = self.folder / "tensorrt"
        package.mkdir()
        (package / "__init__.py").write_text(
            f'raise SystemExit("imported")\n__version__ = "{version}"\n'
        )
        library = b"\x7fELF" + bytes(5000) + linked + b"\0libnvinfer.so.8\0"
        (package / "libnvinfer_plugin.so.8").write_bytes(library)
