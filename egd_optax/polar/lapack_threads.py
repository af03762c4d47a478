"""The threads of LAPACK, which wait for those of XLA where cores are few or busy."""

import ctypes
import functools
import os
from pathlib import Path

import jax

# What OpenBLAS reads when it is loaded.
_VARIABLES = "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"


def lapack_has_one_thread() -> bool:
    """Whether LAPACK works in one thread; on a CPU it is made to, unless told.

    XLA calls the LAPACK of SciPy from threads of its own pool. The threads of the
    OpenBLAS below spin while they wait for each other, which made a whitening
    several times slower beside other work, and calls side by side wait in turn for
    them. One thread a call leaves the cores to XLA.

    The environment variables of OpenBLAS are the user's word: where one is set nothing
    is touched. The OpenBLAS that SciPy's wheels bring serves SciPy and JAX alone, not
    NumPy, which has its own. Where SciPy shares one with others, only the user can
    choose (docs/performance.md).
    """
    told = [os.environ[name] for name in _VARIABLES if os.environ.get(name)]
    if told:
        return told[0] == "1"
    return jax.default_backend() == "cpu" and _give_one_thread()


@functools.cache
def _give_one_thread() -> bool:
    # Once a process: what the user sets later, stays. Not at import, which would load
    # SciPy for those who never whiten.
    import scipy

    packages = Path(scipy.__file__).parent
    for folder in (packages.parent / "scipy.libs", packages / ".dylibs"):
        for path in folder.glob("*openblas*"):
            library = ctypes.CDLL(str(path))
            for prefix in ("scipy_", ""):
                choose = getattr(library, f"{prefix}openblas_set_num_threads", None)
                if choose is not None:
                    choose(1)
                    return True
    return False
