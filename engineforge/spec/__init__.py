"""Specs and targets: YAML files to values."""
