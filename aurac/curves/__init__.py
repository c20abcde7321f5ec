"""Curves and their areas: numbers alone."""
