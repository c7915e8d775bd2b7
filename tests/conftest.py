"""What holds for all tests."""

import os

# before torch is loaded: its threads would spin for each other beside any other busy process
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
