"""What a rank-accuracy curve may claim: one rule for every mean, and how many examples it needs."""
