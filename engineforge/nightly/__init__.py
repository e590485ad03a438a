"""One night: everything that keeps engines fresh, carried out in order, and what is said of it."""
