"""Plugins: the libraries that a network's operators come from, loaded before it is parsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engineforge.backends import BuildError
from engineforge.backends.library import api
from engineforge.backends.words import Words

_LOADED = ("plugins", "safety_plugins")
"""The options whose libraries are loaded."""


def load_plugins(
    trt: Any,  # noqa: ANN401 - TensorRT has no types
    builder: Any,  # noqa: ANN401
    logger: Any,  # noqa: ANN401
    options: Mapping[str, object],
    words: Words,
) -> None:
    """TensorRT's own plugins, and the libraries that a spec names; BuildError where one does not
    load, or brings what is there already."""
    if not api(trt).plugins:
        return
    trt.init_libnvinfer_plugins(logger, "")
    registry = builder.get_plugin_registry()
    for library in _libraries(options, *_LOADED):
        if registry.load_library(library) is None:
            raise BuildError(
                f"the plugin library '{library}' does not load{words.said()}",
                hint="it must be built for this TensorRT, and register creators that no other has",
            )
        words.no_errors(f"while it loaded the plugin library '{library}'")


def serialize_plugins(config: Any, parser: Any, options: Mapping[str, object]) -> None:  # noqa: ANN401
    """Put into the engine the libraries that the spec says, and those that the parser found it
    needs to be version compatible."""
    wanted = list(_libraries(options, "plugins_to_serialize"))
    if options.get("version_compatible") and not options.get("ignore_parsed_plugin_libs"):
        found = parser.get_used_vc_plugin_libraries()
        wanted += [each for each in found if each not in wanted]
    if not wanted:
        return
    config.plugins_to_serialize = wanted
    if list(config.plugins_to_serialize) != wanted:
        raise BuildError(
            f"option 'plugins_to_serialize': {wanted} was set, and TensorRT kept "
            f"{list(config.plugins_to_serialize)}"
        )


def _libraries(options: Mapping[str, object], *names: str) -> list[str]:
    values = [options.get(name) for name in names]
    return [str(each) for value in values if isinstance(value, list) for each in value]
