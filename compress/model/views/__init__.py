"""Classes of timm that compute what a plain Vision Transformer computes, seen as one."""
