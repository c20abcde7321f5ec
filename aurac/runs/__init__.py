"""Runs: settings, plan, cells on disk, and who computes them."""
