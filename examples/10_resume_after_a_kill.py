"""A run is killed with SIGKILL, started again, and ends as if nothing had happened.

python examples/10_resume_after_a_kill.py
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUICK = "--quick" in sys.argv
SIZE = (
    ["--modulus", "7", "--batch-size", "8", "--width", "16", "--max-steps", "24"]
    if QUICK
    else ["--modulus", "61", "--max-steps", "90"]
)
COMMAND = [
    *(sys.executable, "-m", "egd_optax.grokking.cli", "train", "addition", *SIZE),
    *("--seeds", "1", "--checkpoint-every", "6", "--resume", "--out"),
]


def run(out, **kwargs):
    """The whole run, in a process of its own."""
    subprocess.run([*COMMAND, out], check=True, capture_output=True, **kwargs)


def run_and_kill(out):
    """The same, killed as soon as there is a checkpoint."""
    process = subprocess.Popen([*COMMAND, out], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if whole_checkpoints(out):
            process.kill()  # SIGKILL: no chance to tidy up
        time.sleep(0.001)
    return process.returncode


def whole_checkpoints(out):
    return [
        path.name for path in (out / "checkpoints").glob("*") if path.name.isdigit()
    ]


def main():
    with tempfile.TemporaryDirectory() as folder:
        killed, undisturbed = Path(folder) / "killed", Path(folder) / "undisturbed"
        status = run_and_kill(killed)
        print(f"exit status {status}, checkpoint of step {whole_checkpoints(killed)}")
        run(killed)
        run(undisturbed)
        same = [(out / "history.jsonl").read_bytes() for out in (killed, undisturbed)]
        print(
            f"{len(same[0].splitlines())} evaluations, the same: {same[0] == same[1]}"
        )
        if same[0] != same[1]:
            sys.exit(1)


if __name__ == "__main__":
    main()
