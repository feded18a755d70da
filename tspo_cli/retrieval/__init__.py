import os

# bm25s starts JAX if it is installed, and JAX would then reserve three quarters of a GPU's memory.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
