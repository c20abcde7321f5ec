"""Who answers for a cut: the engine, lm-eval's own models, vLLM, or a server."""
