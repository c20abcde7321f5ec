"""The generator of the bundled word problems: `python -m scripts.word_problems` writes them."""
