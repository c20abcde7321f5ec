"""Writes the page of the study of small ranks from what is stored.

python -m scripts.small_ranks        # README.md, tables and figure
"""

from scripts.small_ranks.page import main

main()
