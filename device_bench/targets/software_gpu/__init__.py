"""LiteRT's GPU kernels on a software GPU (SwiftShader), to check answers without a GPU."""
