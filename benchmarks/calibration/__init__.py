"""Does every claim of `aurac.stats` hold? Simulate, count, and keep the rows.

    python -m benchmarks.calibration --seed 20250501 --only TOPIC --repetitions N --out FILE.csv

Each module but `page`, `processes` and `rows` is a topic: its ``rows(rng, repetitions)`` yields the
rows. Data are drawn by `processes`; the library itself is called on every repetition, and nothing
here repeats its formulas.

`results.csv` holds the rows of seed 20250501. Repetitions: certificates 600, choice 100 to 600
(seeds 1 and 2), edges 800, families 400 (300 of its tables and primaries, in streams of their own),
few_clusters 1000, leader 400 (150 of its candidates among equal adapters), one_arm 1500, pairing
1000 (a quarter of that for detectable differences), pairs 1500, seeds 1000, study
1000 (a third of that for families, a fifth for the families of study);
candidates are calculated. The rows of seeds and families were made with intervals of pairs that
were at most as wide as they are now, so they cover at least, and err at most, as often as stored.

`alternatives.csv` holds what other procedures gave, beside those that aurac uses.
"""
