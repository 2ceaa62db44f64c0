"""The benchmark suite for GPUs, in sizes that say nothing: it runs, and goes on where it was."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "examples" / "benchmarks"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a compiler")
def test_the_suite_runs_over_two_calls_and_leaves_all_tables(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(100) % 10
    data, out = tmp_path / "data.npz", tmp_path / "out"
    np.savez(data, X_train=images, y_train=labels, X_test=images, y_test=labels)

    def run(*options):
        command = [sys.executable, BENCHMARKS / "gpu_suite.py", "--data", data, "--out", out]
        command += ["--small", "--workers", "0", *options]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    assert "Call again" in run("--only", "views", "training")
    second = run("--minutes", "9")
    assert "All is done." in second and "## Views a second" not in second
    tables = (out / "gpu_suite.md").read_text()
    for title in ("Views a second", "NT-Xent", "Training", "other code", "`transform`", "default"):
        assert title in tables
