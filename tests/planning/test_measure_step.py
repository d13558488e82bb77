"""The processes that `hanlin plan`, `ablate` and `scaling` start run this package and nothing else."""

from __future__ import annotations

import subprocess

import pytest

from hanlin.planning.measure_step import python_running


@pytest.mark.parametrize("name", ["orjson", "runpy", "numpy", "hanlin"])
def test_code_in_the_current_directory_is_not_run(tmp_path, name):
    """A file by the name of something that the module imports, as a downloaded folder may hold."""
    (tmp_path / f"{name}.py").write_text("open('canary', 'w').close()\n")
    done = subprocess.run(
        [*python_running("hanlin.common.manifest"), "one"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "canary").exists()


def test_the_module_is_main_and_gets_its_arguments(tmp_path):
    done = subprocess.run(
        [*python_running("hanlin.experiments.trial"), str(tmp_path / "none")], capture_output=True, text=True
    )
    assert done.returncode == 1 and "trial.json" in done.stdout
