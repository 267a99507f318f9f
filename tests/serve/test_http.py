"""The server with OpenAI's own client, and with clients that are wrong, slow, or gone."""

import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest

from mcd.cli.serve import socket_at
from mcd.serve.http import Service
from mcd.serve.work import Work

TEMPLATE = "The [MASK:4] of the United States [MASK:2] peace."


def get(running, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{running.port}{path}", timeout=60) as answer:
        return answer.status, answer.read().decode()


def raw(running, body: bytes, path="/v1/completions"):
    url = f"http://127.0.0.1:{running.port}{path}"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.loads(error.read())


def request_of(payload: bytes) -> bytes:
    """A request as a program without a library sends it."""
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload


def test_the_official_client_gets_the_rows_of_the_model(serving, model):
    running = serving()
    client = running.client
    assert [one.id for one in client.models.list()] == ["tiny"] and client.models.retrieve("tiny").owned_by == "mcd"
    found = client.completions.create(model="tiny", prompt="", extra_body={"steps": 3}, max_tokens=5, n=3, seed=4)
    alone = model.request(["", 5, ""], steps=3)
    *_, last = model.states(alone, 3, 4)
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    assert [choice.text for choice in found.choices] == [model.tokenizer.decode(row) for row in last.ids.tolist()]
    assert found.usage.completion_tokens == 15 and found.usage.nfe == sum(last.nfe) and found.seed == 4
    filled = client.completions.create(
        model="tiny", prompt=None, extra_body={"template": TEMPLATE, "steps": 2, "prompt": None}, seed=1
    )
    assert filled.choices[0].text == model.infill(TEMPLATE, steps=2, seed=1).texts[0]
    between = client.completions.create(model="tiny", prompt="The people", suffix=" peace.", max_tokens=3, echo=True)
    assert between.choices[0].text.startswith("The people") and between.choices[0].finish_reason == "length"
    assert "peace" not in between.choices[0].text.removeprefix("The people")
    greedy = [client.completions.create(model="tiny", prompt="The", temperature=0, seed=i) for i in (1, 2)]
    assert greedy[0].usage.nfe == 16 or greedy[0].choices[0].text  # confidence, greedy
    two = client.completions.create(model="tiny", prompt=["The", "A"], max_tokens=2, n=2, seed=3)
    assert [choice.index for choice in two.choices] == [0, 1, 2, 3]


def test_a_request_is_guided_as_the_model_is(serving, model):
    running = serving()
    how = {"steps": 3, "top_p": 0.9, "guidance": 1.5}
    body = {"model": "tiny", "prompt": "The", "max_tokens": 9, "n": 3, "seed": 4}
    found = raw(running, json.dumps(body | how).encode())[2]["choices"]
    *_, last = model.states(model.request(["The", 9, ""], **how), 3, 4)
    assert [choice["text"] for choice in found] == [model.tokenizer.decode(row) for row in last.ids[:, -9:].tolist()]
    plain = raw(running, json.dumps(body | how | {"guidance": 0}).encode())[2]["choices"]
    assert plain == raw(running, json.dumps(body | how | {"guidance": None}).encode())[2]["choices"] != found


def test_a_stream_shows_the_canvas_and_ends_with_the_text(serving, model):
    running = serving()
    body = {"template": TEMPLATE, "steps": 3, "prompt": None}
    events = list(running.client.completions.create(model="tiny", prompt=None, stream=True, seed=2, extra_body=body))
    *states, last = events
    assert last.choices[0].text == model.infill(TEMPLATE, steps=3, seed=2).texts[0] and last.usage.nfe >= 1
    times = [event.choices[0].t for event in states]
    assert times == sorted(times, reverse=True) and all(event.choices[0].text == "" for event in states)
    assert all(event.choices[0].canvas.startswith("The") for event in states)


def test_a_stop_cuts_the_text(serving):
    create = serving().client.completions.create
    whole = create(model="tiny", prompt="", max_tokens=8, seed=9).choices[0].text
    cut = create(model="tiny", prompt="", max_tokens=8, seed=9, stop=[whole[3:5], "\0"]).choices[0]
    assert cut.text == whole[: whole.index(whole[3:5])] and cut.finish_reason == "stop"


@pytest.mark.parametrize(
    "fields, status, words",
    [
        ({"model": "other"}, 404, "does not exist"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 17}, 400, "longer than the 16"),
        ({"colour": "red"}, 400, "colour"),
        ({"logprobs": 2}, 400, "logprobs"),
        ({"sampler": "cda"}, 400, "did you mean 'cad'"),
        ({"order": "iid", "sampler": "cad"}, 400, "order: is no option of sampler cad"),
        ({"guidance": 101}, 400, "guidance"),
        ({"guidance": -0.5}, 400, "guidance"),
        ({"guidance": 0.5, "temperature": 0}, 400, "guidance: does nothing here, since greedy takes"),
        ({"prompt": None, "max_tokens": None, "template": "none"}, 400, "template: has no [MASK]"),
        ({"n": 2, "best_of": 3}, 400, "best_of"),
        ({"logit_bias": {"1": 2.0}}, 400, "logit_bias"),
        ({"template": "a [mask]"}, 400, "next to a template"),
        ({"prompt": None, "max_tokens": None, "template": "a [mask]"}, 400, "is no mask"),
        ({"suffix": "b", "stop": "c"}, 400, "stop"),
        ({"n": 65}, 400, "65 rows are more than the 64"),
        ({"prompt": [1, 2]}, 400, "prompt: "),
    ],
)
def test_what_makes_no_sense_is_refused_in_the_form_of_openai(serving, fields, status, words):
    body = {"model": "tiny", "prompt": "a", "max_tokens": 2} | fields
    found, _, answer = raw(serving(queue=64, max_length=16), json.dumps(body).encode())
    assert found == status and words in answer["error"]["message"], answer
    assert answer["error"].keys() == {"message", "type", "param", "code"}
    message, param = answer["error"]["message"], answer["error"]["param"]
    assert "--" not in message and (param is None or "." not in param)
    assert param == "order" or "order" not in fields


def test_what_asks_for_nothing_is_taken(serving):
    body = {"model": "tiny", "prompt": "a", "max_tokens": 2, "n": 2, "best_of": 2, "logit_bias": {}, "steps": 1}
    assert raw(serving(), json.dumps(body | {"stream_options": {"include_usage": True}}).encode())[0] == 200


def test_what_is_long_is_read_and_written_in_another_thread(serving, monkeypatch):
    threads = []

    def noted(whole):
        return lambda *args: threads.append(threading.current_thread()) or whole(*args)

    monkeypatch.setattr(Service, "prepared", noted(Service.prepared))
    monkeypatch.setattr(Work, "completion", noted(Work.completion))
    running = serving()
    plain = {"model": "tiny", "prompt": "", "max_tokens": 16, "steps": 1}
    for more in ({"n": 1}, {"n": 65, "user": "u" * 1000}):
        assert len(raw(running, json.dumps(plain | more).encode())[2]["choices"]) == more["n"]
    assert [thread is running.thread for thread in threads] == [True, True, False, False]


def test_every_answer_is_counted_and_a_body_that_is_no_json_is_told_so(serving):
    running = serving("secret", max_body=1000)
    assert [raw(running, body)[0] for body in (b"{}", b" " * 2000)] == [401, 413]
    url, lines = f"http://127.0.0.1:{running.port}/v1/completions", []
    for key in ("Bearer secret", "bearer secret", "secret"):  # the scheme has no case, and is not left out
        try:
            urllib.request.urlopen(urllib.request.Request(url, b"{}", {"Authorization": key}), timeout=60)
        except urllib.error.HTTPError as error:
            lines.append((error.code, "Content-Type: application/json" in error.read().decode()))
    assert lines == [(400, True), (400, True), (401, False)]
    counted = get(running, "/metrics")[1]
    assert all(f'mcd_requests_total{{status="{s}"}} {n}.0' in counted for s, n in ((400, 2), (401, 2), (413, 1)))


def test_limits_and_keys(serving):
    running = serving("secret", max_body=1000)
    assert running.client.models.list().data[0].id == "tiny"
    with pytest.raises(openai.AuthenticationError):
        running.client.with_options(api_key="wrong").models.list()
    assert raw(running, b"{}")[0] == 401
    assert raw(running, b" " * 2000)[0] == 413
    assert get(running, "/health")[1] == '{"status":"ok"}' and get(running, "/ready")[0] == 200
    assert "mcd_requests_total" in get(running, "/metrics")[1]
    open_to_all = serving()
    assert raw(open_to_all, b"{")[0] == 400 and raw(open_to_all, b"[]", "/v1/nothing")[0] == 404


def test_too_much_work_is_told_when_to_come_back_and_too_long_work_ends(serving):
    running = serving(queue=1, timeout=0.3)
    body = json.dumps({"model": "tiny", "prompt": "", "max_tokens": 64, "steps": 10_000}).encode()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(raw(running, body))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (busy, headers, _), (late, _, said) = sorted(answers, key=lambda answer: answer[0])
    assert (
        (busy, late) == (429, 504)
        and int(headers["Retry-After"]) >= 1
        and "longer than 0.3 s" in said["error"]["message"]
    )


def test_a_client_that_left_is_cancelled_and_others_are_served(serving):
    running = serving()
    body = json.dumps({"model": "tiny", "prompt": "", "max_tokens": 16, "steps": 10_000, "stream": True}).encode()
    plain = json.dumps({"model": "tiny", "prompt": "", "max_tokens": 16, "steps": 10_000}).encode()
    for payload in (body, plain):
        with socket.create_connection(("127.0.0.1", running.port)) as client:
            client.sendall(request_of(payload))
            while not running.service.scheduler.accepted:
                time.sleep(0.01)
        found = running.client.completions.create(model="tiny", prompt="", max_tokens=4, extra_body={"steps": 2})
        assert len(found.choices) == 1
        deadline = time.monotonic() + 60
        while running.service.scheduler.accepted and time.monotonic() < deadline:
            time.sleep(0.01)
        assert running.service.scheduler.accepted == 0


def test_a_slow_reader_gets_the_end_and_holds_up_nobody(serving):
    running = serving()
    payload = json.dumps({"model": "tiny", "prompt": "", "max_tokens": 16, "steps": 400, "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", running.port)) as slow:
        slow.sendall(request_of(payload))
        assert running.client.completions.create(model="tiny", prompt="", max_tokens=4, extra_body={"steps": 2}).choices
        time.sleep(0.5)
        slow.settimeout(60)
        read = b""
        while part := slow.recv(64):
            read += part
    assert b"data: [DONE]" in read and b'"usage"' in read


def test_an_answer_does_not_wait_for_the_client_to_acknowledge_its_head():
    with (
        socket_at("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_shutting_down_finishes_what_was_accepted(serving):
    running = serving()
    answers = []

    def ask():
        answers.append(
            running.client.completions.create(model="tiny", prompt="", max_tokens=16, extra_body={"steps": 300})
        )

    thread = threading.Thread(target=ask)
    thread.start()
    while not running.service.scheduler.accepted:
        time.sleep(0.01)
    running.stop()
    thread.join(60)
    running.thread.join(60)
    assert len(answers[0].choices) == 1 and not running.service.scheduler.ready


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")  # another thread may
def test_every_answer_is_as_the_openapi_description_says(serving):
    """Requests that schemathesis makes of the description, correct and not; none is answered by a fault."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    running = serving(timeout=20.0, max_length=32)
    described = json.loads(get(running, "/openapi.json")[1])
    assert all("422" not in way["responses"] for ways in described["paths"].values() for way in ways.values())
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{running.port}/openapi.json")
    expected = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def answers(case):
            if isinstance(case.body, dict):
                case.body |= {"model": "tiny", "stream": False, "steps": 2}
            case.call_and_validate(checks=expected)

        answers()


def test_the_python_of_the_page_runs(serving):
    running = serving()
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    block = block.replace("127.0.0.1:8000", f"127.0.0.1:{running.port}").replace('"demo"', '"tiny"')
    exec(block, names := {})
    names["client"].close()
