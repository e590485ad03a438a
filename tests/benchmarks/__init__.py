"""What EngineForge costs, measured on demand: `python -m tests.benchmarks.overhead` and others.

No tests: times depend on the machine. Each compares two things in one run, and prints the budget.
"""
