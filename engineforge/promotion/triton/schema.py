"""Triton's own schema of `config.pbtxt`, from the package `tritonclient`, to write with it what
Triton reads with it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from engineforge.errors import EngineForgeError, HostUnfit

_HINT = "python -m pip install 'engineforge[triton]'"


class Schema:
    """The messages of model_config.proto, to be written and read as text. HostUnfit where the
    package, or the right release of protobuf, is not there."""

    def __init__(self) -> None:
        found = importlib.util.find_spec("tritonclient")
        if found is None or not found.submodule_search_locations:
            raise HostUnfit("Triton's schema is not installed", hint=_HINT)
        # The one file that needs protobuf alone: `import tritonclient.grpc` loads gRPC with it.
        file = Path(found.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
        spec = importlib.util.spec_from_file_location("model_config_pb2", file)
        if spec is None or spec.loader is None:
            raise RuntimeError(f"'{file}' is no module")
        self.messages: Any = importlib.util.module_from_spec(spec)
        try:
            from google.protobuf import text_format

            spec.loader.exec_module(self.messages)
        except Exception as error:  # missing, or a release that refuses the other's code
            raise HostUnfit(f"Triton's schema cannot be loaded: {error}", hint=_HINT) from error
        self._text: Any = text_format

    def model_config(self, **fields: object) -> Any:  # noqa: ANN401 - protobuf's ModelConfig
        return self.messages.ModelConfig(**fields)

    def read(self, file: Path) -> Any:  # noqa: ANN401
        """The ModelConfig of a `config.pbtxt`; EngineForgeError for anything else."""
        try:
            return self._text.Parse(file.read_text(encoding="utf-8"), self.model_config())
        except (self._text.ParseError, UnicodeDecodeError) as error:
            raise EngineForgeError(
                f"'{file}' is no model configuration: {error}", hint="mend it, or remove it"
            ) from error

    def write(self, config: Any) -> bytes:  # noqa: ANN401
        """Always the same text for the same configuration."""
        text: str = self._text.MessageToString(config, as_utf8=True)
        return (_HEAD + text).encode()


_HEAD = """\
# Written by 'engineforge export triton'. The next export writes what it knows again: name, backend,
# tensors, profiles, instances, files, versions and engineforge.* parameters. The rest stays yours.
"""
