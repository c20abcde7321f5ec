"""Runs: settings → plan → for each cell lock, attach, answer, judge, save → what is read."""
