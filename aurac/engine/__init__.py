"""The evaluation engine: requests answered by forward passes of a model."""
