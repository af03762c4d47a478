"""Compiled programs that are kept from one command to the next."""

import os
from pathlib import Path

import jax


def keep_compiled() -> None:
    """Has JAX keep what it compiles in the user's cache folder, unless told where.

    Compilation takes longer than most runs. Without a home that can be written to,
    nothing is kept.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    try:
        cache = Path(os.getenv("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "egd-optax" / "jax"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home at all
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
