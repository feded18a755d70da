import os

# bm25s starts JAX where that is installed, and JAX would take three quarters of a GPU that it is
# not needed on.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
