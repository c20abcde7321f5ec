"""Does every claim of `aurac.stats` hold? Simulate, count, and print the table.

    python -m benchmarks.calibration --seed 20250501 --repetitions 1200 --out NOTE.md

Each module but `rows` and `processes` is a topic with a function ``rows(rng, repetitions)`` that
yields the lines of the table. Data are drawn by `processes`; the library itself is called on every
repetition, and nothing here repeats its formulas.
"""
