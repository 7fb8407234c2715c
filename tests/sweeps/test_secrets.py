"""No text shows a password, however it is spelled and whatever signs it has."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from runner.durability.pending_writes import PendingWrites
from sweeps import secrets
from sweeps.addresses import resolve, without_secrets
from sweeps.errors import UserError
from sweeps.secrets import hide_secrets

PASSWORDS = ["sesame?4715", "sesame@4715", "sesame/4715", "sesame#4715", "50%sesame", "a b:c@d/e?f#g%h", "%41sesame"]


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_addresses", set())


def rest(text: str, password: str) -> list[str]:
    """Parts of a password that are left in a text."""
    return [part for part in ("sesame", "4715", password, quote(password, safe="")) if part in text]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("is_known", [True, False], ids=["address known", "address unknown"])
@pytest.mark.parametrize("is_encoded", [True, False], ids=["encoded", "plain"])
def test_a_password_is_cut_out_whole(password: str, is_encoded: bool, is_known: bool) -> None:
    written = quote(password, safe="") if is_encoded else password
    address = f"https://ann:{written}@host:5000/mlflow"
    assert without_secrets(address) == "https://host:5000/mlflow"
    if is_known:
        secrets.know(address)
        # Libraries encode what is plain and decode what is not, some of them only a few signs.
        for form in (password, quote(password, safe=""), quote(password), quote(password, safe="@"), written):
            said = hide_secrets(f"API request to https://ann:{form}@host/api failed: {form!r} of user 'ann' is wrong")
            assert said == "API request to https://host/api failed: '***' of user '***' is wrong"
    elif " " not in written:
        assert not rest(hide_secrets(f"API request to {address}/api failed"), password)


def test_secrets_of_the_environment_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "sesame-token")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "sesame/aws+1=")
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:sesame-db@host/db")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "wrongly")
    said = hide_secrets("Bearer sesame-token, sesame%2Faws%2B1%3D, sesame-db, wrongly")
    assert said == "Bearer ***, ***, ***, wrongly"
    secrets.know("https://host/mlflow?api_key=sesame-key&page=wrongly")
    assert hide_secrets("sesame-key wrongly") == "*** wrongly"


@pytest.mark.parametrize(
    "text",
    [
        "see http://host:5000/#/runs or ann@host",
        "sqlite:////home/me@work/mlflow.db",
        "s3://bucket/me@work",
        "file:///me@work",
    ],
)
def test_what_is_no_secret_stays(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPLEARN_CHECKPOINTS", text)
    if text.startswith("sqlite"):
        secrets.know(text)
    assert hide_secrets(text) == text


@pytest.mark.parametrize("password", ["pa/ss", "pa?ss", "pa#ss"])
def test_an_address_that_is_read_in_two_ways_is_refused(password: str) -> None:
    with pytest.raises(UserError, match=r"'https://host/mlflow': in a user or password, write / as %2F") as refusal:
        resolve(f"https://ann:{password}@host/mlflow")
    assert "pa" not in str(refusal.value).split(":", 1)[1].split("in a user or password")[0]
    assert resolve(f"https://ann:{quote(password, safe='')}@host/mlflow")


def test_the_note_on_a_store_that_is_away_is_without_the_password() -> None:
    address = resolve("https://ann:sesame%3F4715@host")
    said: list[str] = []

    def write() -> None:
        if not said:
            raise ConnectionError(f"API request to {address} failed: sesame?4715")

    writes = PendingWrites(lambda error: True, said.append)
    writes.put(write)
    writes.close()
    assert said[0].startswith("the tracking store is away (API request to https://host failed: ***)")
