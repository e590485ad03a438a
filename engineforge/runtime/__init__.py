"""Load an engine whose digest was verified first, run it with NumPy or DLPack in and out, and
measure it: `Engine.load(path)`. Needs `cuda-python`; neither PyCUDA nor torch."""
