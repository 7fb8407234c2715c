"""What a store is called where people read it."""

from __future__ import annotations

import pytest

from reports import store


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:p@ss@host/mlflow", "https://host/mlflow"),
        ("postgresql://user:p/w@host:5432/db", "postgresql://host:5432/db"),
        ("https://host/mlflow?token=abc", "https://host/mlflow"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_what_opens_it(address: str, shown: str) -> None:
    assert store.without_secrets(address) == shown
