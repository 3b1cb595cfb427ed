"""The documents: every command in them runs, or at least exists; the reference is current."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.commands import Commands
from tests.helpers.docs_commands import (
    NEEDS,
    OURS,
    Command,
    blocks,
    documents,
    shell_commands,
)
from tests.helpers.paths import LANDSCAPE, ROOT

COMMANDS = shell_commands()
RUN = [c for c in COMMANDS if c.needs == ""]
ENDLESS = [c for c in COMMANDS if c.needs == "serves"]
MARKED = [c for c in COMMANDS if c.needs not in ("", "serves")]
# Other people's programs that documents may call where a test cannot.
PROGRAMS = (
    "accelerate",
    "git",
    "pip",
    "cd",
    "export",
    "sbatch",
    "kubectl",
    "apt-get",
    "psql",
    "createdb",
)


def is_ours(command: Command) -> bool:
    return command.words[0] in OURS


class Runner:
    """Runs commands in one folder, which looks like a checkout, one after the other."""

    def __init__(self, folder: Path, commands: Commands) -> None:
        self.folder = folder
        self._commands = commands
        for name in ("scripts", "studies", "examples", "docs", "benchmarks"):
            (folder / name).symlink_to(ROOT / name)
        for file in documents():
            for block in blocks(file):
                # A study file whose first line is its name is the one that later lines use.
                named = re.match(r"# ([\w-]+\.ya?ml)\n", block.text)
                if block.language == "yaml" and named:
                    (folder / named[1]).write_text(block.text, "utf-8")
        replay = folder / "replay.yaml"
        replay.write_text(json.dumps({"landscape": str(LANDSCAPE)}), "utf-8")
        self.environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def python(self, code: str) -> tuple[int, str]:
        done = self._commands.python(self.folder, code, **self.environment)
        return done.code, done.out + done.err

    def run(self, command: Command) -> tuple[int, str]:
        """The exit code and all output."""
        if is_ours(command):
            done = self._commands.run(self.folder, self.arguments(command), **self.environment)
            return done.code, done.out + done.err
        if command.words[:1] == ("python",):
            words = [sys.executable, *command.words[1:]]
        else:
            words = list(command.words)
        ended = subprocess.run(
            words,
            cwd=self.folder,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return ended.returncode, ended.stdout + ended.stderr

    def arguments(self, command: Command) -> list[str]:
        """What follows the program; the demo's search looks its answers up."""
        words = list(command.words[1:])
        if words[0] in ("search", "worker") and "--study" not in words:
            words += ["--replay", str(self.folder / "replay.yaml")]
        return words


@pytest.fixture(scope="module")
def runner(
    tmp_path_factory: pytest.TempPathFactory, commands: Commands, demo_searched: Path
) -> Runner:
    folder = tmp_path_factory.mktemp("docs")
    # What most lines look at: a search that is done.
    shutil.copy(demo_searched / "optuna.db", folder)
    return Runner(folder, commands)


def place(command: Command) -> str:
    return f"{command.file.relative_to(ROOT)}: {command.needs} {command}"


def test_there_are_commands_to_check_and_every_mark_is_known() -> None:
    assert len(RUN) > 15
    assert len(MARKED) > 10
    for command in COMMANDS:
        assert command.needs in ("", *NEEDS), place(command)


@pytest.mark.parametrize("command", RUN, ids=place)
def test_a_command_of_the_documents_runs(runner: Runner, command: Command) -> None:
    code, output = runner.run(command)
    assert code == 0, output


@pytest.mark.parametrize("command", ENDLESS, ids=place)
def test_a_command_that_serves_comes_up_and_ends(
    runner: Runner, command: Command, free_port: Callable[[], int]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "optlayers", *runner.arguments(command), "--port", str(free_port())],
        cwd=runner.folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    process.stderr.close()


@pytest.fixture
def free_port() -> Callable[[], int]:
    import socket

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.mark.parametrize("command", MARKED, ids=place)
def test_a_command_that_needs_more_is_at_least_one(command: Command) -> None:
    words = command.words
    if words[0].startswith("OPTLAYERS_"):
        words = words[1:]
    if words[0] == "sudo":
        words = words[1:]
    if words[0] in OURS:
        assert_parses(list(words[1:]))
    elif words[:2] == ("pip", "install"):
        for name in re.findall(r"optlayers\[([\w,]+)\]", " ".join(words)):
            assert set(name.split(",")) <= set(extras()), command
    elif words[0] == "python":
        path = words[2].replace(".", "/") + ".py" if words[1] == "-m" else words[1]
        assert (ROOT / path).is_file() or not path.startswith(("benchmarks", "studies")), command
    elif words[0].startswith("scripts/"):
        assert (ROOT / words[0]).is_file(), command
        for path in (w for w in words[1:] if w.startswith("tests/")):
            assert (ROOT / path).exists(), command
        for file in (w for w in words[1:] if w.endswith(".py")):
            assert (ROOT / file).is_file(), command
    else:
        assert words[0] in PROGRAMS, command


def extras() -> dict[str, list[str]]:
    found: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))[
        "project"
    ]["optional-dependencies"]
    return found


def assert_parses(words: list[str]) -> None:
    """The words are a command of ours with options that it has, and a shipped study is one."""
    from optlayers.cli.app import command_group
    from optlayers.config.study import shipped_studies

    command = command_group()
    if words == ["--version"]:
        return
    words = [word for word in words if word != "--debug"]
    while hasattr(command, "commands"):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    context = command.make_context("optlayers", words)
    study = context.params.get("study")
    if study and not study.endswith((".yaml", ".yml")) and study != "FILE":
        assert study in {path.stem for path in shipped_studies()}, study


@pytest.mark.parametrize("file", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_python_of_a_document_runs(runner: Runner, file: Path) -> None:
    for block in blocks(file):
        if block.language == "python" and not block.needs:
            code, output = runner.python(block.text)
            assert code == 0, f"{block.text}\n{output}"


def test_the_study_files_of_the_documents_validate() -> None:
    from optlayers.config.study import parse_study

    found = [
        parse_study(block.text, str(file), ROOT)
        for file in documents()
        for block in blocks(file)
        if block.language == "yaml" and "\nbase:" in block.text and "\nname:" in block.text
    ]
    assert len(found) >= 3


@pytest.mark.parametrize("file", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_links_of_a_document_lead_somewhere(file: Path) -> None:
    text = re.sub(r"^```.*?^```", "", file.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        where = (file.parent / path).resolve() if path else file
        assert where.exists(), f"{file.name}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", where.read_text("utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads]
            assert anchor in slugs, f"{file.name}: {target}"


def test_the_chinese_readme_says_the_same() -> None:
    """The same commands, programs, links and numbers; the words cannot be compared."""
    english, chinese = ROOT / "README.md", ROOT / "README.zh-CN.md"
    mine, theirs = (
        [(b.language, b.needs, re.sub(r"#.*", "", b.text)) for b in blocks(file)]
        for file in (english, chinese)
    )
    assert [(x, y, [line.rstrip() for line in z.splitlines()]) for x, y, z in mine] == [
        (x, y, [line.rstrip() for line in z.splitlines()]) for x, y, z in theirs
    ]
    for pattern in (r"\]\(([^)]+)\)", r"\d+\.\d+|\d{1,3}(?:,\d{3})+|\d{3,}"):
        one, other = (
            set(re.findall(pattern, file.read_text("utf-8"))) for file in (english, chinese)
        )
        # Each links to the other.
        assert one ^ other <= {english.name, chinese.name}
    ours, others = (
        re.findall(r"\d+", "\n".join(re.findall(r"^\|.*", file.read_text("utf-8"), re.MULTILINE)))
        for file in (english, chinese)
    )
    assert ours == others, "the tables differ"


def test_the_work_that_the_readme_says_is_that_of_the_benchmark() -> None:
    """The row of optlayers, by column: the two tables order theirs otherwise."""
    tables = []
    for file in ("README.md", "benchmarks/search/search.md"):
        text = (ROOT / file).read_text("utf-8")
        found = re.findall(
            r"^\|.*\| published \|$|^\| optlayers \| (?:not|\d).*", text, re.MULTILINE
        )
        heads, row = ([c.split()[:1] for c in line.strip("|").split("|")] for line in found[:2])
        tables.append({tuple(head): cell for head, cell in zip(heads[1:], row[1:], strict=True)})
    shown, measured = tables
    assert len(shown) == 6
    assert shown.items() <= measured.items()


def test_the_results_of_the_readme_are_those_of_the_benchmark() -> None:
    for row in (ROOT / "benchmarks" / "search" / "demo.md").read_text("utf-8").splitlines():
        if row.startswith("| ") and "%" not in row and "(the" not in row:
            for name in ("README.md", "README.zh-CN.md"):
                numbers = row.replace("not checked", "").strip("| ")
                assert numbers in (ROOT / name).read_text("utf-8"), row


def test_what_the_readme_says_below_its_picture_is_the_truth_of_the_demo() -> None:
    from optlayers.testing import Landscape

    scores = Landscape.load(LANDSCAPE).scores()
    table = (ROOT / "benchmarks" / "search" / "demo.md").read_text("utf-8")
    donor = float(re.findall(r"^\| all \(the donor\) \| ([\d.]+) ", table, re.MULTILINE)[0]) / 100
    base = next(score for layers, score in scores.items() if not layers)
    best = [max(s for layers, s in scores.items() if len(layers) == size) for size in (1, 4)]
    one, four = (f"{100 * (score - base) / (donor - base):.0f} %" for score in best)
    says = f"one layer brings back {one} of the lost skill, four {four}."
    assert says in (ROOT / "README.md").read_text("utf-8")
    chinese = f"一层找回丢失能力的 {one}，四层找回 {four}。"
    assert chinese in (ROOT / "README.zh-CN.md").read_text("utf-8")


def test_the_tests_and_references_of_the_engine_are_there() -> None:
    import inspect

    from optlayers.evaluation.engine import Engine

    text = (ROOT / "docs" / "engine.md").read_text("utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text("utf-8"), f"{file}::{test}"
    options = re.findall(r"`E\((\w+)=", text)
    assert {"trim", "sort", "budget", "tree", "share", "packed"} <= set(options)
    assert set(options) <= set(inspect.signature(Engine).parameters)


def test_the_reference_is_current() -> None:
    from docs.build.make_reference import OUT, reference

    assert OUT.read_text("utf-8") == reference(), "run python -m docs.build.make_reference"


def test_the_reference_names_every_variable_that_the_code_reads() -> None:
    from docs.build.make_reference import ENVIRONMENT

    source = "".join(path.read_text("utf-8") for path in (ROOT / "optlayers").rglob("*.py"))
    assert set(re.findall(r"OPTLAYERS_[A-Z_]+", source)) == {
        name for name in ENVIRONMENT if name.startswith("OPTLAYERS_")
    }


def spoken() -> str:
    """All texts in the code, with a mark where a value is put in."""
    parts: list[str] = []
    for path in (ROOT / "optlayers").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                values = [v.value if isinstance(v, ast.Constant) else "\0" for v in node.values]
                parts.append("".join(str(value) for value in values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts.append(re.sub(r"%\w", "\0", node.value))
    parts.append((ROOT / "scripts" / "bootstrap").read_text("utf-8"))
    return "\n".join(parts)


# What databases and their drivers say, and an argument of transformers.
FOREIGN = (
    "database is locked",
    'prepared statement "_pg3_0" already exists',
    "trust_remote_code",
    "verify",
)


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    known = spoken()
    text = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    heads = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert len(heads) > 20
    for head in heads:
        for message in re.findall(r"`([^`]+)`", head):
            for part in re.split(r"\.\.\.", message):
                words = part.strip(" :;,")
                if words in FOREIGN:
                    continue
                assert not words or words in known, f"{head}: nothing says {words!r}"


def test_the_package_says_what_it_is_everywhere_alike() -> None:
    import yaml

    import optlayers

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert cited["version"] == optlayers.__version__
    assert cited["license"] == "MIT"
    assert "MIT License" in (ROOT / "LICENSE").read_text("utf-8")
