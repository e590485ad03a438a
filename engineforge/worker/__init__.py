"""Carries plans out, with a child process for every build."""
