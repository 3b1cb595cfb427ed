"""Every option of every command with bad input: one line, exit code 2, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.commands import Commands, Done

Run = Callable[..., Done]

GOOD = """
name: mine
base: {model: base}
donor: {model: donor}
layers: {min: 1, max: 2}
tasks: [{name: demo}]
"""


@pytest.fixture
def run(commands: Commands, tmp_path: Path) -> Run:
    """Runs a command in an empty folder, without a network."""

    def here(*arguments: str) -> Done:
        return commands.run(tmp_path, list(arguments), HF_HUB_OFFLINE="1")

    return here


def assert_one_line(done: Done, *words: str) -> None:
    assert done.code == 2, done.err
    lines = [line for line in done.err.splitlines() if line.startswith("optlayers: ")]
    assert len(lines) == 1, done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "--study", "nothing"], ["nothing", "demo"]),
        (["search", "--study", "missing.yaml"], ["missing.yaml"]),
        (["search", "--workers", "0"], ["--workers", "at least 1"]),
        (["search", "--workers", "two"], ["--workers", "two"]),
        (["search", "--workers", str(10**30)], ["--workers", "at most 1,000"]),
        (["search", "--dtype", "int8"], ["--dtype is 'int8'", "bfloat16"]),
        (["search", "--devices", "tpu"], ["--devices names 'tpu'", "cpu"]),
        (["search", "--max-minutes", "nan"], ["--max-minutes is nan"]),
        (["worker", "--max-minutes", "inf"], ["--max-minutes is inf"]),
        (["worker", "--hang-minutes", "nan"], ["--hang-minutes is nan"]),
        (["worker", "--threads", str(10**9)], ["--threads", "at most 1,000"]),
        (["worker", "--index", str(10**30)], ["--index"]),
        (["dashboard", "--port", "65536"], ["--port", "at most 65,535"]),
        (["search", "--storage", "sqlite:///x.db?mode=ro"], ["'mode'", "fix it"]),
        (["export", "--layers", "1", "--out", "x", "--storage", "sqlite:////no/x.db"], ["/no"]),
        (["studies", "--study", "nothing"], ["nothing", "demo"]),
        (["studies", "--study", "demo", "--check", "x.yaml"], ["--check and --study"]),
        (["search", "--storage", "nonsense"], ["nonsense", "sqlite:///"]),
        (["search", "--storage", "sqlite:////nowhere/at/all.db"], ["/nowhere/at", "folder"]),
        (["search", "--storage", "sqlite:///:memory:"], ["file"]),
        (["search", "--storage", "sqlite:///text.db"], ["text.db", "database"]),
        (["search", "--storage", "wonder://x/y"], ["wonder"]),
        (["status"], ["demo", "search"]),
        (["status", "--storage", "sqlite:///text.db"], ["text.db"]),
        (["leaderboard"], ["demo", "search"]),
        (["leaderboard", "--top", "0"], ["--top", "at least 1"]),
        (["export-best", "--out", "x"], ["demo", "search"]),
        (["export-best", "--out", "x", "--top", "-1"], ["--top"]),
        (["export-best"], ["--out"]),
        (["export", "--layers", "1"], ["--out"]),
        (["eval"], ["--layers"]),
        (["eval", "--layers", "1", "--limit", "0"], ["--limit", "at least 1"]),
        (["worker", "--threads", "0"], ["--threads"]),
        (["worker", "--cohort", "0"], ["--cohort"]),
        (["worker", "--index", "-1"], ["--index"]),
        (["worker", "--max-minutes", "-1"], ["--max-minutes"]),
        (["studies", "--check", "missing.yaml"], ["missing.yaml"]),
        (["studies", "--wrong"], ["--wrong"]),
        (["nothing"], ["nothing"]),
    ],
)
def test_a_bad_option_gets_one_line(
    run: Run, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "text.db").write_text("this is no database\n" * 100)
    assert_one_line(run(*arguments), *words)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eval", "--layers", "x"], ["'x'", "3,7"]),
        (["eval", "--layers", "3,3"], ["twice"]),
        (["eval", "--layers", "99"], ["99", "16 layers"]),
        (["eval", "--layers", "1", "--device", "tpu9"], ["tpu9"]),
        (["eval", "--layers", "1", "--dtype", "int3"], ["int3", "float32"]),
        (["export", "--layers", "1", "--out", "full"], ["full", "exists"]),
        (["search", "--study", "uneven.yaml", "--workers", "1"], ["uneven", "nowhere"]),
    ],
)
def test_what_only_the_models_show_gets_one_line(
    run: Run, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    study = GOOD.replace("mine", "uneven").replace("{model: base}", "{model: ./nowhere}")
    (tmp_path / "uneven.yaml").write_text(study)
    done = run(*arguments)
    assert_one_line(done, *words[1:] if "uneven" in words else words)


def test_all_faults_of_a_study_file_are_reported_at_once(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        GOOD.replace("min: 1, max: 2", "min: 3, max: 2")
        + "questions: {fast: 0, holdout: 1.5}\nexplore: {population: many}\ncolour: red\n"
    )
    done = run("studies", "--check", "bad.yaml")
    assert done.code == 2
    for field in ("layers", "questions.fast", "questions.holdout", "explore.population", "colour"):
        assert any(f"bad.yaml: {field}" in line for line in done.err.splitlines()), field
    assert "Traceback" not in done.err


def test_a_study_of_another_definition_is_refused_with_the_difference(
    run: Run, tmp_path: Path
) -> None:
    from optlayers.config.study import parse_study
    from optlayers.storage import connect as storage

    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    storage.open_study(url, parse_study(GOOD, "mine.yaml", tmp_path))
    (tmp_path / "mine.yaml").write_text(GOOD.replace("max: 2", "max: 3"))
    done = run("status", "--study", "mine.yaml")
    assert_one_line(done, "layers.max is 2 there and 3 here")


def test_a_password_is_never_shown(run: Run) -> None:
    done = run("status", "--storage", "postgresql+psycopg://user:s3cret@127.0.0.1:1/db")
    assert done.code == 2
    assert "s3cret" not in done.err + done.out
    assert "***" in done.err


def test_what_has_no_result_yet_says_so(run: Run, tmp_path: Path) -> None:
    from optlayers.config.study import parse_study
    from optlayers.storage import connect as storage

    (tmp_path / "mine.yaml").write_text(GOOD)
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    storage.open_study(url, parse_study(GOOD, "mine.yaml", tmp_path))
    done = run("leaderboard", "--study", "mine.yaml")
    assert (done.code, done.out) == (0, "")
    assert done.err == "no layer set has been evaluated yet\n"
    done = run("leaderboard", "--study", "mine.yaml", "--json")
    assert (done.code, done.out.strip()) == (0, "[]")


def test_a_search_without_its_models_ends_in_one_line(run: Run) -> None:
    done = run("search", "--study", "full")
    assert_one_line(done, "goombalab/Llamba-8B-untied-unaligned", "check the network")
    assert len(done.err.splitlines()) == 2


def test_the_studies_that_ship_are_listed_and_one_alone(run: Run, tmp_path: Path) -> None:
    lines = run("studies").out.splitlines()
    assert [line.partition(":")[0] for line in lines[::3]] == [
        *("demo", "full", "laptop", "llamba-1b", "llamba-3b", "quick")
    ]
    one = run("studies", "--study", "quick", "--storage", "sqlite:///x.db", "--json")
    [quick] = json.loads(one.out)
    assert quick["name"] == "quick"
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(run: Run) -> None:
    done = run("status", "--debug", "--storage", "nonsense")
    assert done.code == 2
    assert "Traceback" in done.err


@pytest.mark.parametrize("command", [["studies"], ["--version"], ["--help"], ["search", "--help"]])
def test_light_commands_do_not_load_torch(tmp_path: Path, command: list[str]) -> None:
    code = (
        "import sys; from optlayers.cli import main\n"
        f"sys.argv[1:] = {command!r}\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_url_out_of_a_file_may_end_with_its_line(run: Run) -> None:
    done = run("status", "--storage", "sqlite:///nothing.db\n")
    assert_one_line(done, "is not in sqlite:///nothing.db; run `search`")
