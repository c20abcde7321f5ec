"""A finished run in Python: `load_run` and `Run`."""
