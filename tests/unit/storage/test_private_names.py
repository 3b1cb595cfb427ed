"""Private names of dependencies: where one moves, the test says what to adapt."""

from __future__ import annotations

import optuna
import torch

from optlayers.storage import tables


def test_the_private_names_of_optuna_are_where_the_fast_store_expects_them() -> None:
    message = (
        f"Optuna {optuna.__version__} has moved private names: adapt storage/fast.py, read.py and "
        "tables.py, then the bounds of optuna in pyproject.toml"
    )
    assert not tables.difference(), message
    study = optuna.create_study()
    study.ask()
    names = (study, "_storage"), (study, "_study_id"), (study.trials[0], "_trial_id")
    for thing, name in names:
        assert hasattr(thing, name), message
    assert callable(optuna.storages.get_storage), message


def test_torch_still_copies_lists_of_tensors_at_once() -> None:
    assert hasattr(torch, "_foreach_copy_"), (
        "torch._foreach_copy_ has moved in this version of torch: adapt "
        "optlayers/distill/training.py, and the bounds of torch in pyproject.toml"
    )
