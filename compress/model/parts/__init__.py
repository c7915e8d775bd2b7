"""The parts that a Vision Transformer is built of, one file for each."""
