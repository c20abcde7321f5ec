"""One reader per checkpoint format.

Whatever is missing, damaged, contradictory or refused in a file is a ``CheckpointError``; what the
user states about it and does not fit is a ``UsageError``.
"""
