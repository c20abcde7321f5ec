"""Arithmetic of estimates: the one rule for intervals and tests, and how many examples it needs."""
