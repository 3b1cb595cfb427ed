"""The command line in this process, for commands that start no other."""

from __future__ import annotations

from typer.testing import CliRunner

from optlayers.cli.app import app, command_group


def invoke(*arguments: str) -> str:
    """What a command prints on standard output; it must succeed."""
    command_group()  # loads the commands
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout
