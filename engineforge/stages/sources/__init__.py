"""Model sources: where a model comes from, and how it becomes canonical ONNX."""

CANONICAL_FORMAT = 1
"""Part of every `onnx` key: raised whenever `onnx.canonicalize` writes other bytes for a model."""
