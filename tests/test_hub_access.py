"""A hub that is not there is told at once: no request is repeated, and what is in the cache is still found."""

import time

import pytest

from mcd.checkpoints.locate import locate
from mcd.data.prepare.hub import HubRecords, commit_of
from mcd.data.recipe import Recipe
from mcd.data.tokenizer import load_tokenizer
from mcd.errors import DataError, MissingScorer, ModelError
from mcd.eval.scorer import load_scorer
from mcd.eval.zeroshot import documents_of
from mcd.hub_access import SECONDS, hub_access

constants = pytest.importorskip("huggingface_hub.constants")
CLOSED = "http://127.0.0.1:1"


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """No server where the hub should be, an empty cache, and a client that may not wait to ask again."""
    monkeypatch.setenv("HF_ENDPOINT", CLOSED)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", CLOSED)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def sleep(seconds):
        raise AssertionError(f"it waits {seconds} s to ask again")

    monkeypatch.setattr(time, "sleep", sleep)


def test_within_the_client_is_offline_and_after_it_as_before(no_hub):
    with hub_access() as access:
        assert constants.HF_HUB_OFFLINE
        assert "cannot be reached" in access.refusal(OSError()) and CLOSED in access.refusal(OSError())
    assert not constants.HF_HUB_OFFLINE
    with pytest.raises(KeyError), hub_access():
        raise KeyError
    assert not constants.HF_HUB_OFFLINE


def test_a_hub_that_answers_is_asked(monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with hub_access() as access:
            assert access.fault is None and not constants.HF_HUB_OFFLINE
            assert access.refusal(OSError()) == "the Hugging Face hub did not give it (OSError)"


def test_a_proxy_is_left_to_find_out(no_hub, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:2")
    monkeypatch.setenv("no_proxy", "")
    with hub_access() as access:
        assert access.fault is None


def test_a_name_that_is_looked_up_for_ever_is_given_up(no_hub, monkeypatch):
    import socket
    import threading

    never = threading.Event()

    def connect(address, timeout):
        never.wait()
        raise OSError

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr("mcd.hub_access.SECONDS", 0.01)
    assert SECONDS > 1
    with hub_access() as access:
        assert "no answer" in access.refusal(OSError())
    never.set()


def test_the_wish_to_be_offline_is_named(no_hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with hub_access() as access:
        assert "HF_HUB_OFFLINE is set" in access.refusal(OSError())


def test_models_tokenizers_data_and_scorers_are_told_missing_at_once(no_hub):
    with pytest.raises(ModelError, match=r"owner/name: no such folder, and the Hugging Face hub \(http.* be reached"):
        locate("owner/name")
    with pytest.raises(DataError, match=r"--tokenizer owner/name: no such file or folder, and .* cannot be reached"):
        load_tokenizer("owner/name")
    with pytest.raises(DataError, match=r"--data owner/name \(split train\): not on this machine, and .* be reached"):
        HubRecords(Recipe(data="owner/name"), None)
    assert commit_of("owner/name", None) is None
    with pytest.raises(DataError, match=r"--likelihood ptb: is the hub dataset .* cannot be reached"):
        next(documents_of("ptb"))
    with pytest.raises(MissingScorer, match="--scorer owner/name"):
        load_scorer("owner/name")
