"""What stands on disk after a run, and the one reader from cells to curves."""
