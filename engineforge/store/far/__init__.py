"""Stores that machines share, in buckets and folders, and entries as one file: what is far."""
