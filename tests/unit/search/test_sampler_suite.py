"""Optuna's own suite for samplers, on PatternGASampler."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from optlayers.search import PatternGASampler


def _sampler() -> Callable[[], BaseSampler]:
    return lambda: PatternGASampler(n_layers=8, population_size=4)


class TestBasic(BasicSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return _sampler()


class TestRelative(RelativeSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return _sampler()


class TestSingleOnly(SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return _sampler()


# MultiObjectiveSamplerTestCase is left out: the number of layers is handled inside the sampler,
# so a study has one objective, and one of several is refused (TestSingleOnly).
