"""Whether a typed graph or an engine is accurate enough, compared with its source; what layers
cost; whether an engine is fast enough. Nothing here changes an artifact."""

from collections.abc import Mapping

MEASURING = 1
"""Part of every key of a measurement: raised whenever equal graphs and data give other figures."""

TIMING = 1
"""The same for latency: raised when equal engines on equal GPUs would measure otherwise."""

VERSIONS: Mapping[str, str] = {"onnxruntime": "1.31"}
"""The series of what runs the graphs."""
