"""The steps from a model source to a model that a backend can build: import, later typing."""
