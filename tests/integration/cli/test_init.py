"""`optlayers init`, through the real command line: a hub beside, folders, and a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from optlayers.config.study import load_study
from tests.helpers.commands import Commands, Done
from tests.helpers.hub import Hub
from tests.helpers.paths import DEMO_TASKS

Init = Callable[..., Done]


@pytest.fixture
def init(commands: Commands, tmp_path: Path) -> Init:
    """Runs `optlayers init` without a terminal."""

    def here(*arguments: str, hub: Hub | None = None) -> Done:
        reach = {"HF_HUB_OFFLINE": "1"}
        if hub is not None:
            reach = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        home = str(tmp_path / "home")
        return commands.run(tmp_path, ["init", *arguments], HF_HOME=home, **reach)

    return here


TASKS = ("--tasks", "demo", "--task-path", str(DEMO_TASKS))


def test_it_writes_a_study_that_validates_and_reads_only_configs_from_a_hub(
    init: Init, tiny_pair: Path, tmp_path: Path
) -> None:
    repos = {"org/base": tiny_pair / "base", "org/donor": tiny_pair / "donor"}
    with Hub(repos) as hub:
        done = init(
            "--base", "org/base", "--donor", "org/donor", *TASKS, "--out", "my.yaml",
            hub=hub,
        )  # fmt: skip
        files = {path.rpartition("/")[2] for _, path, _ in hub.asked if "/resolve/" in path}
    assert done.code == 0, done.err
    assert files == {"config.json"}
    study = load_study(str(tmp_path / "my.yaml"))
    assert (study.name, study.base.model) == ("my", "org/base")
    assert [spec.model for spec in study.donor_specs] == ["org/donor"]
    assert study.layers.max == 4
    assert study.task_path == str(DEMO_TASKS)
    text = (tmp_path / "my.yaml").read_text("utf-8")
    assert text.startswith("# optlayers search --study my.yaml\n")
    assert "56 sets of 1 to 4" in text  # 6 + 15 + 20 + 15
    assert "llamba, 6 layers, width 32" in text
    assert text.count("#") > 8


def test_a_file_may_be_named_by_a_number_or_with_spaces(
    init: Init, tiny_pair: Path, tmp_path: Path
) -> None:
    pair = ("--base", str(tiny_pair / "base"), "--donor", str(tiny_pair / "donor"))
    done = init(*pair, *TASKS, "--out", "my runs/2026.yaml")
    assert done.code == 0, done.err
    assert "optlayers search --study 'my runs/2026.yaml'\n" in done.err
    assert load_study(str(tmp_path / "my runs" / "2026.yaml")).name == "2026"


def test_it_asks_on_a_terminal(tiny_pair: Path, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(tiny_pair)
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "optlayers", "init", "--task-path", str(DEMO_TASKS)],
        cwd=tmp_path,
        stdin=slave,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(slave)
    os.write(master, b"asked.yaml\nmodels/base\nmodels/donor\ndemo\n")
    _, told = process.communicate(timeout=300)
    os.close(master)
    assert process.returncode == 0, told
    assert "Donor, the strong model" in told
    study = load_study(str(tmp_path / "asked.yaml"))
    assert study.resolve(study.base.model) == str((tmp_path / "models" / "base").resolve())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--donor", "models/donor", *TASKS], ["--base", "no terminal"]),
        (["--base", "models/base", "--donor", "models/donor", *TASKS, "--max-layers", "9"],
         ["--max-layers", "6 layers"]),
        (["--base", "models/base", "--donor", "models/nothing", *TASKS], ["models/nothing"]),
        (["--base", "models/base", "--donor", "models/donor", "--tasks", "demoo", "--task-path",
          "none"], ["none", "no such folder"]),
        (["--base", "models/base", "--donor", "models/donor", *TASKS, "--out", "there.yaml"],
         ["there.yaml", "exists"]),
        (["--base", "models/base", "--donor", "other", *TASKS], ["6 layers", "7"]),
        (["--base", "models/base", "--donor", "odd", *TASKS], ["odd", "adapter"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_gets_one_line_and_leaves_no_file(
    init: Init, tiny_pair: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "models").symlink_to(tiny_pair)
    (tmp_path / "there.yaml").touch()
    config = (tiny_pair / "donor" / "config.json").read_text("utf-8")
    for name, text in (
        ("other", config.replace('"num_hidden_layers": 6', '"num_hidden_layers": 7')),
        ("odd", config.replace('"model_type": "llama"', '"model_type": "wonder"')),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text, "utf-8")
    done = init(*arguments)
    assert done.code == 2, done.err
    lines = [line for line in done.err.splitlines() if line.startswith("optlayers: ")]
    assert len(lines) == 1, done.err
    assert "Traceback" not in done.err
    for word in words:
        assert word in lines[0]
    assert not (tmp_path / "study.yaml").exists()
