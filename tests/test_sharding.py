"""Several devices, in processes of their own, and two processes together."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent


def environment(devices):
    """Of a process with so many CPU devices."""
    flags = re.sub(
        r"--xla_force_host_platform_device_count=\d+", "", os.getenv("XLA_FLAGS", "")
    )
    count = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {
        "XLA_FLAGS": f"{flags} {count}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["two", "eight"])
def test_several_devices_in_one_process(devices):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    answer = subprocess.run(
        [*command, TESTS / f"{devices}_devices.py"],
        env=environment({"two": 2, "eight": 8}[devices]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.slow
def test_two_processes_over_loopback(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-W", "error", TESTS / "two_processes.py"]
    processes = [
        subprocess.Popen(
            [*command, address, rank, tmp_path],
            env=environment(2),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    assert all("same as on one device" in output for output in outputs)
    # Both know what all devices found.
    first, second = (np.load(tmp_path / f"{rank}.npy") for rank in (0, 1))
    np.testing.assert_array_equal(first, second)
