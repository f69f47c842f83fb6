"""Other ways to serve the same model, as their makers' guides show them; `benchmarks.serving` compares with them."""
