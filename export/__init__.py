"""Writes a sliced ViT as ONNX, TFLite and for torch, in float and in integers, each verified by running it."""
