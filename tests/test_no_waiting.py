"""What a training step asks of a GPU makes nobody wait for it."""

import subprocess
import sys
from pathlib import Path


def test_nothing_waits_for_a_gpu():
    # In a process of its own: one that has pretended to have a GPU cannot train in its forks.
    tests = Path(__file__).with_name("pretended_gpu.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout
