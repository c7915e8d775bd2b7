"""Parts of ``benchmarks/real_weights.py``: models with published weights, cut in several ways and compared."""
