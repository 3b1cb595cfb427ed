"""Simulations with all their seeds; `tests/unit` runs the same suites with few."""

from __future__ import annotations

from tests.helpers.racing_suite import RacingSuite
from tests.helpers.search_suite import SearchSuite


class TestErrorRates(RacingSuite):
    crowds = 400


class TestSearches(SearchSuite):
    seeds = 6
