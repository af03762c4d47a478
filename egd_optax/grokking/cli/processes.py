"""One command run by several processes at once."""

import jax


def join_other_processes() -> None:
    """Has JAX know the devices of all processes of the job that this one is of.

    Raises:
      ValueError: nothing says what job that is, or the others do not come.
    """
    if jax.distributed.is_initialized():  # by a script that calls the command
        return
    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            "--distributed takes a process that SLURM, Open MPI, Kubernetes or a TPU "
            f"pod has started beside others: {' '.join(str(error).split())}"
        ) from error
