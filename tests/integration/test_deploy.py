"""The scripts that start workers on a cluster: their syntax, and their commands against the CLI."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import optlayers.cli.worker  # noqa: F401  (adds the command)
from optlayers.cli.app import app
from tests.helpers.paths import ROOT

DEPLOY = ROOT / "deploy"
SLURM = DEPLOY / "slurm_array.sh"
URL = "postgresql+psycopg://me:s3cret@host/db"


def options_of(arguments: list[str]) -> dict[str, Any]:
    """The options that the command line reads from those arguments, without running them."""
    command: Any = typer.main.get_command(app)
    name, *rest = arguments
    parameters: dict[str, Any] = command.commands[name].make_context(name, rest).params
    return parameters


def submit(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The Slurm script as a task of a job runs it, with a worker that only says its arguments."""
    worker = folder / "optlayers"
    worker.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    worker.chmod(0o755)
    return subprocess.run(
        [str(SLURM), *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "OPTLAYERS": str(worker), **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_shell_script_is_sound() -> None:
    scripts = [
        path
        for path in [*(ROOT / "scripts").iterdir(), *DEPLOY.iterdir(), ROOT / ".ci" / "run"]
        if path.is_file() and path.read_bytes().startswith(b"#!/usr/bin/env bash")
    ]
    assert SLURM in scripts
    for path in scripts:
        subprocess.run(["bash", "-n", str(path)], check=True)
    shellcheck = Path(sys.executable).parent / "shellcheck"
    command = [str(shellcheck), "-x", "--source-path=SCRIPTDIR", *map(str, scripts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("left", "minutes"), [(3600, (57.0, 58.0)), (60, (0.0, 0.0))])
def test_a_slurm_task_is_a_worker_that_ends_in_time(
    tmp_path: Path, left: int, minutes: tuple[float, float]
) -> None:
    end = str(int(time.time()) + left)
    done = submit(tmp_path, "--study", "full", OPTLAYERS_STORAGE=URL, SLURM_JOB_END_TIME=end)
    assert done.returncode == 0, done.stderr
    assert "s3cret" not in done.stdout
    found = options_of(done.stdout.split())
    assert found["study"] == "full"
    assert minutes[0] <= found["max_minutes"] <= minutes[1]
    assert found["wait"], "a task that starts while the database is unavailable would be lost"


def test_a_slurm_task_without_a_known_end_has_no_limit(tmp_path: Path) -> None:
    done = submit(tmp_path, OPTLAYERS_STORAGE=URL, SLURM_SUBMIT_DIR=str(tmp_path))
    assert options_of(done.stdout.split())["max_minutes"] is None


def test_a_slurm_task_says_what_is_missing(tmp_path: Path) -> None:
    without_url = submit(tmp_path)
    assert (without_url.returncode, "OPTLAYERS_STORAGE" in without_url.stderr) == (2, True)
    bare = submit(tmp_path, OPTLAYERS="", OPTLAYERS_STORAGE=URL)
    assert (bare.returncode, "scripts/optlayers --version" in bare.stderr) == (2, True)


def test_the_kubernetes_job_starts_workers_with_the_url_from_a_secret() -> None:
    text = (DEPLOY / "kubernetes_job.yaml").read_text(encoding="utf-8")
    [job] = yaml.safe_load_all(text)
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    # A Job with a failure policy must not restart its containers in place.
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    [container] = pod["containers"]
    [rule, ignored] = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    # Servers before 1.35 ask for it.
    assert ignored["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    program, *arguments = container["command"]
    assert program == "optlayers"
    assert options_of(arguments)["study"] == "full"
    assert options_of(arguments)["wait"], "the exit code of an absent database fails the Job"
    env = {item["name"]: item for item in container["env"]}
    assert set(env["OPTLAYERS_STORAGE"]["valueFrom"]) == {"secretKeyRef"}
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    # The library of the task data writes lock files where HF_HOME is.
    assert "readOnly" not in text
    assert mounts == {volume["name"] for volume in pod["volumes"]}
