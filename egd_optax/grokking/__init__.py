"""The grokking workbench: tasks, models, recipes and a compiled training program."""

import os

# The threads of LAPACK's BLAS keep spinning beside those of XLA, which slows a step
# with a whitening down where cores are few. Read when scipy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
