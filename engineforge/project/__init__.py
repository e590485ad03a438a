"""A folder of specs, the cache beside it, and what they say together. Prints nothing."""
