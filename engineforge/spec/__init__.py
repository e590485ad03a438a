"""Specs and targets: YAML files to values."""

LOCK = "engineforge.lock"
"""The file beside the targets that says what the URLs in specs stand for."""
