"""Where entries are kept: immutable, whole or not at all, and known by key."""
