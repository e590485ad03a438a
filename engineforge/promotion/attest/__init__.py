"""What is said of engines, and by whom: keys, signed envelopes, in-toto statements."""
