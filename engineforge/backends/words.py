"""TensorRT's own words: what it logged, put into errors, with what is known to help."""

from __future__ import annotations

import re
from typing import Any

from engineforge.backends import BuildError

_NO_DRIVER = "CUDA driver version is insufficient"
_HINTS = (
    (
        r"k(MIN|OPT|MAX) values for profile|Condition '==' violated",
        "the model cannot take the shapes of that profile all the way through; many networks want "
        "height and width to be multiples of 32",
    ),
    (
        "Plugin not found|could not find plugin|checkFallbackPluginImporter|UNSUPPORTED_NODE|"
        "plugin creator",
        "this TensorRT has no such operator and no plugin of that name: express it in other "
        "operators, or export the model with another opset",
    ),
    ("OutOfMemory|no tactics to implement", "raise the builder option 'workspace'"),
)


class Words:
    """What the logger of one build has heard so far."""

    def __init__(self, logger: Any) -> None:  # noqa: ANN401 - see library.make_logger
        self._logger = logger

    def said(self) -> str:
        """The errors, a line for each."""
        # Without a driver, every error drags one about the driver behind it.
        errors = self._logger.errors
        lines = [line for line in dict.fromkeys(errors) if _NO_DRIVER not in line]
        return "".join(f"\n  {line}" for line in (lines or errors)[:8])

    def hint(self, what: str = "") -> str | None:
        """What to do about them, where that is known."""
        said = "\n".join([what, *self._logger.errors])
        return next((hint for words, hint in _HINTS if re.search(words, said)), None)

    def no_errors(self, when: str) -> None:
        """BuildError where one was logged: TensorRT goes on where it should refuse."""
        if self._logger.errors:
            raise BuildError(f"TensorRT logged an error {when}:{self.said()}", hint=self.hint())

    def made(self, thing: Any, what: str) -> Any:  # noqa: ANN401
        """A thing that TensorRT was to make; BuildError where it made none."""
        if thing is None:
            raise BuildError(f"TensorRT made {what}{self.said()}")
        return thing
