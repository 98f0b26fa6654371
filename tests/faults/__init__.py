"""Faults brought about on purpose, and what must hold through each: `python -m tests.faults`."""
