"""The `typed` stage: a model pruned, cast and quantized, as its graph."""
