"""The command line: one file a command. Heavy imports live inside the commands."""

from optlayers.cli.app import main

__all__ = ["main"]
