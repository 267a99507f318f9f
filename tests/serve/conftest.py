"""Fixtures of the tests of the server."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from openai import OpenAI

pytest.importorskip("fastapi")

import uvicorn

from mcd.api.model import Model, load
from mcd.serve.http import Service, app_of
from mcd.serve.limits import Limits

KEY = "secret"


@pytest.fixture(scope="session")
def model(ours) -> Model:
    """A masked model with random weights, rows of 16 tokens and a tokenizer of 2,048."""
    return load(str(ours), device="cpu")


@dataclass
class Running:
    """A server on this machine, and its official client."""

    service: Service
    server: uvicorn.Server
    thread: threading.Thread
    port: int
    client: OpenAI

    def stop(self) -> None:
        """As SIGTERM does."""
        self.server.should_exit = True


@pytest.fixture
def serving(model) -> Iterator[Callable[..., Running]]:
    """Starts servers, which end with the test."""
    started = []

    def start(key: str | None = None, served: Model = model, **limits: Any) -> Running:
        service = Service(served, "tiny", Limits(**{"max_length": 64} | limits))
        config = uvicorn.Config(app_of(service, key), port=0, log_level="warning", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key or "none", max_retries=0, timeout=120)
        started.append(Running(service, server, thread, port, client))
        return started[-1]

    yield start
    for running in started:
        running.client.close()
        running.stop()
        running.thread.join(60)
        running.service.scheduler.close(60.0)
        assert not running.thread.is_alive()
