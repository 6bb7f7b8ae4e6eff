"""The official clients of providers: they understand the provider for tests, and they are models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, TypedDict

import aios
import anthropic
import openai
import pytest
from aios.testing import FakeProvider, FakeReply, forbid_real_requests

RICH = aios.ModelResponse(
    "Let me look, ünïcode too.",
    tool_calls=[
        aios.ToolCall("search", {"words": "rust"}, "call_1"),
        aios.ToolCall("search", {"words": "sqlite"}, "call_2"),
    ],
    input_tokens=120,
    output_tokens=30,
)
ASKED: Any = [{"role": "user", "content": "hi"}]
INVALID = "MODEL_INVALID_RESPONSE"
#: Each fault, the names of the exceptions of the clients, and the code of the failure.
FAULTS = [
    (FakeReply.rate_limited(7), "RateLimitError", "MODEL_RATE_LIMITED"),
    (FakeReply.overloaded(), ("InternalServerError", "OverloadedError"), "MODEL_OVERLOADED"),
    (FakeReply.context_overflow(), "BadRequestError", "MODEL_CONTEXT_OVERFLOW"),
    (FakeReply.status(401, "wrong key"), "AuthenticationError", "MODEL_UNAUTHORIZED"),
    (FakeReply.status(403, "not yours"), "PermissionDeniedError", "MODEL_UNAUTHORIZED"),
    (FakeReply.status(404, "no such model"), "NotFoundError", "MODEL_INVALID_REQUEST"),
    (FakeReply.status(500, "internal"), "InternalServerError", "MODEL_BACKEND"),
    (FakeReply.hang(), "APITimeoutError", "MODEL_TIMEOUT"),
    (FakeReply.malformed(), ("JSONDecodeError", "APIResponseValidationError"), INVALID),
    (FakeReply.cut_off("never"), ("APIConnectionError", "RemoteProtocolError"), INVALID),
]


def openai_client(provider: FakeProvider, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=provider.openai_url, api_key="key", max_retries=0, **options)


def anthropic_client(provider: FakeProvider, **options: Any) -> anthropic.Anthropic:
    url = provider.anthropic_url
    return anthropic.Anthropic(base_url=url, api_key="key", max_retries=0, **options)


def ask_openai(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(model="large", messages=ASKED, **options)


def ask_anthropic(client: anthropic.Anthropic, **options: Any) -> Any:
    return client.messages.create(model="large", max_tokens=9, messages=ASKED, **options)


def test_should_answer_the_client_of_openai() -> None:
    with FakeProvider(RICH, RICH) as provider, openai_client(provider) as client:
        whole = ask_openai(client)
        message = whole.choices[0].message
        assert message.content == RICH.text
        assert [call.function.arguments for call in message.tool_calls] == [
            '{"words":"rust"}',
            '{"words":"sqlite"}',
        ]
        assert whole.choices[0].finish_reason == "tool_calls"
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (120, 30)
        with client.chat.completions.stream(
            model="large",
            messages=[{"role": "user", "content": "hi"}],
            stream_options={"include_usage": True},
        ) as stream:
            streamed = stream.get_final_completion()
        again = streamed.choices[0].message
        assert again.content == message.content
        assert again.tool_calls
        assert [call.id for call in again.tool_calls] == ["call_1", "call_2"]
        assert json.loads(again.tool_calls[1].function.arguments) == {"words": "sqlite"}
        assert streamed.usage
        assert streamed.usage.completion_tokens == 30


def test_should_answer_requests_for_responses() -> None:
    with FakeProvider(RICH, RICH) as provider, openai_client(provider) as client:
        whole = client.responses.create(model="large", input="hi")
        with client.responses.stream(model="large", input="hi") as stream:
            streamed = stream.get_final_response()
    for response in (whole, streamed):
        assert response.output_text == RICH.text
        calls = [item for item in response.output if item.type == "function_call"]
        assert [call.call_id for call in calls] == ["call_1", "call_2"]
        assert json.loads(calls[1].arguments) == {"words": "sqlite"}
        assert response.status == "completed"
        assert response.usage
        assert (response.usage.input_tokens, response.usage.output_tokens) == (120, 30)


def test_should_answer_the_client_of_anthropic() -> None:
    with FakeProvider(RICH, RICH) as provider, anthropic_client(provider) as client:
        whole = ask_anthropic(client)
        assert whole.content[0].text == RICH.text
        assert [block.input for block in whole.content[1:]] == [
            {"words": "rust"},
            {"words": "sqlite"},
        ]
        assert (whole.stop_reason, whole.usage.input_tokens) == ("tool_use", 120)
        with client.messages.stream(
            model="large", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
        ) as stream:
            assert "".join(stream.text_stream) == RICH.text
            streamed = stream.get_final_message()
        assert streamed.model_dump()["content"] == whole.model_dump()["content"]
        assert streamed.usage.output_tokens == 30


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("which", ["openai", "anthropic"])
@pytest.mark.parametrize(("reply", "raises", "code"), FAULTS)
async def test_should_show_every_fault_to_clients_and_agents(
    which: str, streaming: bool, reply: FakeReply, raises: str | tuple[str, ...], code: str
) -> None:
    with FakeProvider(reply, reply) as provider:
        options = {"timeout": 0.5 if code == "MODEL_TIMEOUT" else 60}
        client: Any = (openai_client if which == "openai" else anthropic_client)(
            provider, **options
        )
        with pytest.raises(Exception) as caught:
            (ask_openai if which == "openai" else ask_anthropic)(client)
        kinds = {kind.__name__ for kind in type(caught.value).__mro__}
        assert kinds & ({raises} if isinstance(raises, str) else set(raises)), caught.value
        never = aios.RetryPolicy(max_attempts=1)
        model = aios.ClientModel(client, "large")
        agent = aios.LlmAgent("asker", model, model_retry=never, streaming=streaming)
        async with aios.Runtime(agents=[agent]) as runtime:
            with pytest.raises(aios.RunFailedError) as failed:
                await (await runtime.start(agent, "go")).result()
        assert failed.value.code == code
        cause = failed.value.__cause__
        assert isinstance(cause, aios.ModelError)
        assert cause.retry_after == (7 if code == "MODEL_RATE_LIMITED" else None)
        assert len(provider.requests) == 2
        client.close()


@aios.tool
async def search(words: str) -> str:
    """Searches."""
    return f"found {words}"


def client_of(which: str, provider: FakeProvider) -> Any:
    url = provider.openai_url if "openai" in which else provider.anthropic_url
    kinds: dict[str, Any] = {
        "openai": openai.OpenAI,
        "async openai": openai.AsyncOpenAI,
        "anthropic": anthropic.Anthropic,
        "async anthropic": anthropic.AsyncAnthropic,
    }
    return kinds[which](base_url=url, api_key="key")


CLIENTS = ["openai", "async openai", "anthropic", "async anthropic"]


@pytest.mark.parametrize("which", CLIENTS)
async def test_should_stream_the_response_of_a_client(which: str) -> None:
    call = aios.ModelResponse(tool_calls=[aios.ToolCall("search", {"words": "x"})], input_tokens=9)
    answer = "The capital of Finland is Helsinki, which is in the south."
    with FakeProvider(call, answer) as provider:
        model = aios.ClientModel(client_of(which, provider), "large")
        agent = aios.LlmAgent("asker", model, tools=[search], streaming=True)
        async with aios.Runtime(agents=[agent]) as runtime:
            run = await runtime.start(agent, "go")
            updates = [item.value async for item in run.stream("tokens")]
            assert await run.result() == answer
            assert (await aios.Conversation.of(run)).spent["usage"]["input_tokens"] == 9
        assert all(request.body["stream"] for request in provider.requests)
    texts = [update["text"] for update in updates if update["type"] == "text"]
    assert "".join(texts) == answer
    assert len(texts) > 1
    calls = [update for update in updates if update["type"] == "tool_call"]
    assert json.loads("".join(update["arguments"] for update in calls)) == {"words": "x"}
    assert [update["name"] for update in calls if update["name"]] == ["search"]


@pytest.mark.parametrize("which", ["anthropic", "async anthropic"])
async def test_should_make_requests_that_may_take_long(which: str) -> None:
    """The client refuses them as whole responses."""
    with FakeProvider("done") as provider:
        model = aios.ClientModel(client_of(which, provider), "large")
        agent = aios.LlmAgent("asker", model, max_output_tokens=64_000)
        async with aios.Runtime(agents=[agent]) as runtime:
            assert await (await runtime.start(agent, "go")).result() == "done"
        assert provider.requests[0].body["max_tokens"] == 64_000


@pytest.mark.parametrize("which", CLIENTS)
async def test_should_use_a_client_as_a_model(which: str) -> None:
    call = aios.ModelResponse(tool_calls=[aios.ToolCall("search", {"words": "x"})], input_tokens=9)
    with FakeProvider(call, "done") as provider:
        model = aios.ClientModel(client_of(which, provider), "large")
        agent = aios.LlmAgent("asker", model, tools=[search])
        async with aios.Runtime(agents=[agent]) as runtime:
            run = await runtime.start(agent, "go")
            assert await run.result() == "done"
            assert (await aios.Conversation.of(run)).spent["usage"]["input_tokens"] == 9
        assert "found x" in json.dumps(provider.requests[1].body)


class Title(TypedDict):
    title: str


async def test_should_ask_for_output_as_a_call_on_servers_that_are_not_of_openai() -> None:
    answer = aios.ToolCall("final_result", {"title": "Tea"})
    with FakeProvider(aios.ModelResponse(tool_calls=[answer])) as provider:
        client = openai.OpenAI(base_url=provider.openai_url, api_key="key")
        model = aios.ClientModel(client, "large")
        agent = aios.LlmAgent("asker", model, tools=[search], output_type=Title)
        async with aios.Runtime(agents=[agent]) as runtime:
            assert await (await runtime.start(agent, "go")).result() == {"title": "Tea"}
        body = provider.requests[0].body
        assert "response_format" not in body
        assert "final_result" in [tool["function"]["name"] for tool in body["tools"]]


async def test_should_send_the_header_for_uploaded_files() -> None:
    with FakeProvider("done", "done") as provider:
        seen: list[str] = []

        def note(request: Any) -> None:
            seen.append(request.headers.get("anthropic-beta", ""))

        http = anthropic.DefaultHttpxClient(event_hooks={"request": [note]})
        client = anthropic.Anthropic(
            base_url=provider.anthropic_url,
            api_key="key",
            default_headers={"anthropic-beta": "own-beta"},
            http_client=http,
        )
        agent = aios.LlmAgent("asker", aios.ClientModel(client, "large"))
        file = {"type": "file", "reference": "file_1", "media_type": "application/pdf"}
        message = {"role": "user", "content": [{"type": "text", "text": "Read it."}, file]}
        async with aios.Runtime(agents=[agent]) as runtime:
            run = await runtime.start(agent, {"messages": [message]})
            assert await run.result() == "done"
            assert await (await runtime.start(agent, "go")).result() == "done"
        assert seen == ["own-beta,files-api-2025-04-14", "own-beta"]


async def test_should_forbid_requests_of_clients() -> None:
    forbid_real_requests()
    try:
        client = openai.OpenAI(api_key="key", base_url="https://api.example.com/v1")
        agent = aios.LlmAgent("asker", aios.ClientModel(client, "large"))
        async with aios.Runtime(agents=[agent]) as runtime:
            with pytest.raises(aios.RunFailedError) as failed:
                await (await runtime.start(agent, "go")).result()
        assert failed.value.code == "MODEL_REQUEST_FORBIDDEN"
    finally:
        forbid_real_requests(False)


def events_of(answer: Any) -> bytes:
    """An answer of Anthropic as it is streamed."""
    if answer["type"] == "error":
        events = [answer]
    else:
        events = [{"type": "message_start", "message": {**answer, "content": []}}]
        for index, block in enumerate(answer["content"]):
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            begun = {**block, "input": {}}
            events += [
                {"type": "content_block_start", "index": index, "content_block": begun},
                {"type": "content_block_delta", "index": index, "delta": delta},
                {"type": "content_block_stop", "index": index},
            ]
        ending = {"stop_reason": answer["stop_reason"]}
        events += [
            {"type": "message_delta", "delta": ending, "usage": answer["usage"]},
            {"type": "message_stop"},
        ]
    return "".join(f"event: {it['type']}\ndata: {json.dumps(it)}\n\n" for it in events).encode()


@contextmanager
def serving(*answers: tuple[int, Any]) -> Iterator[tuple[str, list[str]]]:
    """A server with these statuses and bodies: its URL, and the bodies of the requests so far."""
    left, received = list(answers), list[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["content-length"])).decode())
            status, value = left.pop(0)
            is_streamed = status == 200 and json.loads(received[-1]).get("stream", False)
            body = events_of(value) if is_streamed else json.dumps(value).encode()
            kind = "text/event-stream" if is_streamed else "application/json"
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/", received
        server.shutdown()


@pytest.mark.parametrize("which", ["openai", "anthropic"])
async def test_should_pass_large_integers_on_as_they_are(which: str) -> None:
    large = 12345678901234567890123
    seen: list[int] = []

    @aios.tool
    async def count(number: int) -> str:
        """Counts."""
        seen.append(number)
        return "counted"

    call = {"type": "tool_use", "id": "c", "name": "count", "input": {"number": large}}
    function = {"name": "count", "arguments": json.dumps({"number": large})}
    message = {
        "role": "assistant",
        "tool_calls": [{"id": "c", "type": "function", "function": function}],
    }
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    bodies = {
        "anthropic": {"type": "message", "role": "assistant", "model": "large", "id": "m",
                      "content": [call], "stop_reason": "tool_use",
                      "usage": {"input_tokens": 1, "output_tokens": 1}},
        "openai": {"id": "m", "object": "chat.completion", "created": 1, "model": "large",
                   "choices": [choice]},
    }  # fmt: skip
    clients: dict[str, Any] = {"openai": openai.OpenAI, "anthropic": anthropic.Anthropic}
    enough = {"error": {"message": "enough"}}
    with serving((200, bodies[which]), (400, enough)) as (url, sent):
        client = clients[which](base_url=url, api_key="key")
        agent = aios.LlmAgent("asker", aios.ClientModel(client, "large"), tools=[count])
        async with aios.Runtime(agents=[agent]) as runtime:
            with pytest.raises(aios.RunFailedError):
                await (await runtime.start(agent, "go")).result()
    assert seen == [large]
    assert len(sent) == 2
    assert str(large) in sent[1]


async def test_should_limit_the_output_as_the_server_wants_it() -> None:
    with FakeProvider("done") as provider:
        client = openai.OpenAI(base_url=provider.openai_url, api_key="key")
        agent = aios.LlmAgent("asker", aios.ClientModel(client, "large"), max_output_tokens=5)
        async with aios.Runtime(agents=[agent]) as runtime:
            assert await (await runtime.start(agent, "go")).result() == "done"
        body = provider.requests[0].body
        assert body["max_tokens"] == 5
        assert "max_completion_tokens" not in body

    sent: list[Any] = []

    def note(request: Any) -> None:
        sent.append(json.loads(request.content))
        raise ConnectionError("no request to another machine")

    http = openai.DefaultHttpxClient(event_hooks={"request": [note]})
    endpoint = "https://acme.openai.azure.com"
    clients = [
        openai.OpenAI(api_key="key", http_client=http),
        openai.AzureOpenAI(
            azure_endpoint=endpoint, api_version="2024-10-21", api_key="key", http_client=http
        ),
    ]
    never = aios.RetryPolicy(max_attempts=1)
    for client in clients:
        model = aios.ClientModel(client, "large")
        agent = aios.LlmAgent("asker", model, max_output_tokens=5, model_retry=never)
        async with aios.Runtime(agents=[agent]) as runtime:
            with pytest.raises(aios.RunFailedError):
                await (await runtime.start(agent, "go")).result()
    assert [body["max_completion_tokens"] for body in sent] == [16, 16]


@pytest.mark.parametrize("which", ["openai", "anthropic", "anthropic token"])
@pytest.mark.parametrize("status", [401, 200])
async def test_should_not_show_the_key_in_an_error(which: str, status: int) -> None:
    key = "sk-very-secret"
    message = f"{'x' * 490} wrong key: {key}"

    error = {"type": "authentication_error", "message": message}
    keys = {"auth_token" if "token" in which else "api_key": key}
    kind: Any = openai.OpenAI if which == "openai" else anthropic.Anthropic
    with serving((status, {"type": "error", "error": error})) as (url, _):
        model = aios.ClientModel(kind(base_url=url, **keys), "large")
        agent = aios.LlmAgent("asker", model)
        async with aios.Runtime(agents=[agent]) as runtime:
            run = await runtime.start(agent, "go")
            with pytest.raises(aios.RunFailedError) as failed:
                await run.result()
            journal = [recorded.event.data for recorded in await run.journal()]
    assert failed.value.code == "MODEL_UNAUTHORIZED"
    assert "xxx" in str(failed.value)
    assert "wrong key" in str(journal)
    assert "sk-" not in str(journal)
