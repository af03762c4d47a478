"""A measurement in a process of its own that finds so many devices."""

import json
import os
import subprocess
import sys

import jax


def leave_memory():
    """Before this process asks what devices there are: the memory is for those that
    it starts.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def in_a_process(devices, module, function, arguments):
    """What a function of a module of this folder returns there, as JSON has it."""
    environment = dict(os.environ)
    if forced(devices):
        flag = f"--xla_force_host_platform_device_count={devices}"
        flags = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
        environment |= {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    else:
        environment |= {
            name: ",".join(str(index) for index in range(devices))
            for name in ("CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS")
        }
    code = (
        f"import json; from benchmarks.speed import {module}; "
        f"print(json.dumps({module}.{function}(*{arguments!r})))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(answer.stdout.splitlines()[-1])


def forced(devices):
    """Whether they are parts of the CPU, and share its cores."""
    return jax.default_backend() == "cpu" or devices > len(jax.devices())
