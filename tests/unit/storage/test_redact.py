from __future__ import annotations

import pytest

from optlayers.storage import redact
from optlayers.storage.redact import mask_password, remember_password


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_known", set())


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@host:5432/db",
        "postgresql://me:s3cret@with-an-at@host/db",
        "postgresql://:s3cret@host/db",
        "mysql+pymysql://me:s3cret:colons@host/db?ssl=1",
        "postgresql://me@host/db?password=s3cret&sslmode=off",
        "mysql+pymysql://me@host/db?ssl_key_password=s3cret",
        "postgresql://me@host/db?Password=s3cret",
        "connection to postgresql://me:s3cret@host/db failed",
    ],
)
def test_no_part_of_a_password_is_shown(url: str) -> None:
    shown = mask_password(url)
    for secret in ("s3cret", "with-an-at", "colons"):
        assert secret not in shown
    assert "***" in shown
    assert "host" in shown


def test_a_url_without_a_password_is_shown_as_it_is() -> None:
    for url in ("sqlite:///optuna.db", "postgresql://me@host:5432/db", "sqlite:////a:b/c@d.db"):
        assert mask_password(url) == url


def test_a_password_that_was_given_is_masked_wherever_it_stands() -> None:
    remember_password("postgresql+psycopg://me:p%40ss%2Fword@host/db")
    remember_password("mysql+pymysql://me@host/db?passwd=0ther-one")
    assert mask_password("no host ss: p@ss/word, p%40ss%2Fword, 0ther-one") == (
        "no host ss: ***, ***, ***"
    )


def test_a_password_that_is_a_common_word_garbles_no_text() -> None:
    remember_password("postgresql://me:db@host/db")
    assert mask_password("the db is away") == "the db is away"
    assert mask_password("postgresql://me:db@host/db") == "postgresql://me:***@host/db"


def test_what_is_masked_already_keeps_the_words_after_it() -> None:
    shown = mask_password("mysql+pymysql://me:s3cret@host/db")
    told = f"storage {shown}: access denied for user 'me'@'host'; write user@host"
    assert mask_password(told) == told


@pytest.mark.parametrize(
    "secret", ["s3{0}cret", "s3cret with words", "s3cret\nlines", "s3cret#?;'[x"]
)
@pytest.mark.parametrize(
    "where", ["://me:{}@host/db", "://me@host/db?password={}", "?passwd={}&a=b"]
)
def test_a_password_may_hold_any_character(secret: str, where: str) -> None:
    url = "postgresql" + where.replace("{}", secret)
    remember_password(url)
    assert mask_password(url) == "postgresql" + where.replace("{}", "***")
    assert mask_password(f"{secret}: no such role") == "***: no such role"
