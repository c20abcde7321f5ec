"""The evaluation engine: requests answered by packed forward passes of a model."""
