"""Whether a typed graph is accurate enough: compared with its source on a CPU, and what its layers
cost. Nothing here changes an artifact."""

from collections.abc import Mapping

MEASURING = 1
"""Part of every key of a measurement: raised whenever equal graphs and data give other figures."""

VERSIONS: Mapping[str, str] = {"onnxruntime": "1.31"}
"""The series of what runs the graphs."""
