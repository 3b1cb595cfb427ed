"""A study behind PgBouncer in transaction mode, where each transaction may get another session."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from optlayers.errors import StorageError, StorageUnavailableError
from optlayers.storage.connect import open_study
from tests.helpers.replay import assert_sound, definition, worker_at


def test_a_search_goes_through_with_the_option(pooled_url: str) -> None:
    url = f"{pooled_url}?prepare_threshold=none"
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda i: worker_at(url, index=i, small=True).run(), range(3)))
    assert done == [True] * 3
    assert_sound(open_study(url, definition(small=True)), small=True)


def test_without_the_option_the_error_names_it(pooled_url: str) -> None:
    url = f"{pooled_url}?prepare_threshold=0"

    def start() -> None:
        for index in range(20):
            worker_at(url, index=index, small=True)

    with pytest.raises((StorageError, StorageUnavailableError)) as caught:
        start()
    assert "add ?prepare_threshold=none to the URL" in str(caught.value)
    assert "\n" not in str(caught.value)
