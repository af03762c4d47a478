"""The grokking workbench: tasks, models, recipes and a compiled training program."""

import os

# The threads of LAPACK's BLAS keep spinning beside those of XLA; on two cores that
# makes a step with a whitening 1.8 times as slow. Read when scipy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
