"""The page of the study of small ranks."""
