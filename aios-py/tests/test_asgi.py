"""The HTTP API as an ASGI application, mounted into FastAPI and called by httpx."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import json
from collections.abc import AsyncIterator
from typing import Any

import aios
import httpx
import pytest
from aios import _aios
from conftest import LIMIT
from fastapi import FastAPI

from service import runtime, served

KEY = "5e0d1f6a0c5b4a7d8e9f5e0d1f6a0c5b"


def application(of: aios.Runtime, **options: Any) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with of:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/hello")
    async def hello() -> str:
        return "my own route"

    app.mount("/some/where", aios.asgi(of, **options))
    return app


@contextlib.asynccontextmanager
async def mounted(**options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        served(application(runtime(), **options)) as url,
        httpx.AsyncClient(base_url=f"{url}/some/where", timeout=60) as client,
    ):
        yield client


async def events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


async def start(client: httpx.AsyncClient, workflow: str, id: str, input: Any) -> httpx.Response:
    body = {"input": input, "run_id": id}
    return await client.post(f"/workflows/{workflow}/actions/execute", json=body)


async def test_should_serve_the_api_beside_own_routes() -> None:
    async with mounted() as client:
        own = await client.get(str(client.base_url.join("/hello")))
        assert own.json() == "my own route"
        started = await start(client, "welcome", "r/1 ü", "Ada")
        assert started.status_code == 202, started.text
        assert started.headers["location"] == "/some/where/runs/r%2F1%20%C3%BC"
        assert started.headers["content-type"] == "application/json"
        result = await client.get("/runs/r%2F1%20%C3%BC/result?wait=20s")
        assert result.json()["data"]["attributes"]["result"] == "Hello, Ada!"
        found = await client.get(str(client.base_url.join(started.headers["location"])))
        assert found.json()["data"]["id"] == "r/1 ü"
        missing = await client.get("/runs/nothing", headers={"x-request-id": "req-7"})
        assert (missing.status_code, missing.headers["x-request-id"]) == (404, "req-7")
        assert missing.json()["error"]["code"] == "RUN_NOT_FOUND"
        nowhere = await client.get("/nowhere")
        assert nowhere.json()["error"]["code"] == "ROUTE_NOT_FOUND"


async def test_should_stream_events_as_they_happen() -> None:
    async with mounted() as client:
        await start(client, "approval", "r1", 0)
        async with client.stream("GET", "/runs/r1/events") as response:
            assert response.headers["content-type"] == "text/event-stream"
            following = events(response)
            first = await anext(following)
            assert first["attributes"]["type"] == "workflows.approval.started"
            body = {"name": "approval", "payload": {"by": "Ada"}}
            signalled = await client.post("/runs/r1/actions/signal", json=body)
            assert signalled.status_code == 202
            rest = [event async for event in following]
        assert rest[-1]["attributes"]["type"] == "workflows.approval.completed"
        position = rest[-1]["attributes"]["position"]
        after = await client.get("/runs/r1/events", headers={"last-event-id": str(position)})
        assert after.status_code == 204


async def test_should_end_requests_whose_client_is_gone() -> None:
    of = runtime()
    async with served(application(of)) as url:
        async with httpx.AsyncClient(base_url=f"{url}/some/where") as client:
            await start(client, "approval", "r1", 0)
            async with client.stream("GET", "/events/stream") as response:
                await anext(response.aiter_bytes())
                assert _aios.NativeApi.in_progress(of._opened()) == 1
                for _ in range(5):
                    with pytest.raises(httpx.TimeoutException):
                        await client.get("/runs/r1/result?wait=20s", timeout=0.2)
        until = asyncio.get_running_loop().time() + LIMIT
        while _aios.NativeApi.in_progress(of._opened()) > 0:
            assert asyncio.get_running_loop().time() < until, "requests do not end"
            await asyncio.sleep(0.01)


async def test_should_read_bodies_in_parts_and_refuse_large_ones() -> None:
    async with mounted(max_body_bytes=100_000) as client:

        async def parts(size: int) -> AsyncIterator[bytes]:
            yield b'{"run_id": "r1", "input": "'
            for _ in range(size // 1000):
                yield b"x" * 1000
            yield b'"}'

        headers = {"content-type": "application/json"}
        path = "/workflows/welcome/actions/execute"
        started = await client.post(path, content=parts(50_000), headers=headers)
        assert started.status_code == 202, started.text
        result = await client.get("/runs/r1/result?wait=20s")
        assert len(result.json()["data"]["attributes"]["result"]) == 50_008
        large = await client.post(path, content=parts(200_000), headers=headers)
        assert (large.status_code, large.json()["error"]["code"]) == (413, "BODY_TOO_LARGE")
        malformed = await client.post(path, content=b"{", headers=headers)
        assert malformed.json()["error"]["code"] == "MALFORMED_REQUEST"


async def test_should_let_in_the_owners_of_keys_only() -> None:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    hash = aios.ApiKey.hash_of(KEY)
    assert len(hash) == 64
    keys = [
        aios.ApiKey(hash, "ada", ["runs:read"]),
        aios.ApiKey(aios.ApiKey.hash_of("old" + KEY), "bob", ["*"], past),
    ]
    async with mounted(api_keys=keys, rate_limit=(20, 3600)) as client:
        assert (await client.get("/runs")).status_code == 401
        ada = {"x-api-key": KEY}
        assert (await client.get("/runs", headers=ada)).status_code == 200
        assert (await client.get("/me", headers=ada)).json()["data"]["id"] == "ada"
        refused = await client.get("/tasks", headers=ada)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "PERMISSION_DENIED")
        assert (await client.get("/runs", headers={"x-api-key": "old" + KEY})).status_code == 401
        answers = [await client.get("/runs", headers=ada) for _ in range(20)]
        limited = answers[-1]
        assert (limited.status_code, "retry-after" in limited.headers) == (429, True)


async def test_should_answer_pages_of_allowed_origins_only() -> None:
    origin = "https://console.example"
    keys = [aios.ApiKey(aios.ApiKey.hash_of(KEY), "ada", ["runs:read"])]
    async with mounted(cors_origins=[origin], api_keys=keys) as client:
        headers = {"origin": origin, "x-api-key": KEY}
        allowed = await client.get("/runs", headers=headers)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == origin
        preflight = {"origin": origin, "access-control-request-method": "POST"}
        assert (await client.options("/tasks", headers=preflight)).status_code == 204
        headers["origin"] = "https://other.example"
        refused = await client.get("/runs", headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "ORIGIN_NOT_ALLOWED")


async def test_should_refuse_tokens_of_other_issuers(tmp_path: Any) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text('{"keys": []}')
    issuer = aios.TokenIssuer("https://issuer.example", "aios", str(keys), roles={"ops": ["*"]})
    async with mounted(token_issuers=[issuer]) as client:
        assert (await client.get("/runs")).status_code == 401
        headers = {"authorization": "Bearer eyJhbGciOiJub25lIn0.e30."}
        assert (await client.get("/runs", headers=headers)).status_code == 401


async def test_should_take_the_keys_of_an_issuer_from_its_discovery_or_a_url() -> None:
    asked: list[str] = []

    async def issuer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        asked.append(scope["path"])
        at = f"http://{scope['server'][0]}:{scope['server'][1]}"
        modulus = base64.urlsafe_b64encode(b"\xff" * 256).decode().rstrip("=")
        key = {"kty": "RSA", "kid": "k1", "alg": "RS256", "use": "sig", "e": "AQAB", "n": modulus}
        found: dict[str, Any] = {"keys": [key]}
        if scope["path"] == "/.well-known/openid-configuration":
            found = {"issuer": at, "jwks_uri": f"{at}/keys.json"}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(found).encode()})

    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    async with served(issuer) as url:
        for keys, expected in [
            (None, ["/.well-known/openid-configuration", "/keys.json"]),
            (f"{url}/keys.json", ["/keys.json"]),
        ]:
            asked.clear()
            token_issuer = aios.TokenIssuer(url, "aios", keys)
            async with mounted(token_issuers=[token_issuer]) as client:
                claims = {"iss": url, "aud": "aios", "sub": "ada", "exp": 4102444800}
                header = {"alg": "RS256", "kid": "k1", "typ": "JWT"}
                token = f"{part(header)}.{part(claims)}.{'A' * 342}"
                headers = {"authorization": f"Bearer {token}"}
                assert (await client.get("/runs", headers=headers)).status_code == 401
                assert asked[: len(expected)] == expected


async def test_should_open_and_close_the_runtime_with_its_server() -> None:
    of = runtime()
    async with (
        served(aios.asgi(of, prefix="/api/v1", health=True)) as url,
        httpx.AsyncClient(base_url=url, timeout=60) as client,
    ):
        assert (await client.get("/health/ready")).status_code == 200
        started = await start(client, "welcome", "r1", "Ada")
        assert started.status_code == 404
        client.base_url = httpx.URL(f"{url}/api/v1")
        started = await start(client, "welcome", "r1", "Ada")
        assert started.headers["location"] == "/api/v1/runs/r1"
    with pytest.raises(aios.RuntimeClosedError):
        await of.head()


async def test_should_answer_with_503_while_the_runtime_is_not_open() -> None:
    of = runtime()
    app = aios.asgi(of)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/runs")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "RUNTIME_CLOSED")
        id = answer.json()["meta"]["request_id"]
        assert (len(id), answer.headers["x-request-id"]) == (36, id)
        named = await client.get("/runs", headers={"x-request-id": "req-7"})
        assert (named.json()["meta"]["request_id"], named.headers["x-request-id"]) == (
            "req-7",
            "req-7",
        )
        odd = await client.get("/runs", headers={"x-request-id": 'a"b'})
        assert odd.json()["meta"]["request_id"] != 'a"b'
        for _ in range(2):
            async with of:
                assert (await client.get("/runs")).status_code == 200
        assert (await client.get("/runs")).status_code == 503


async def test_should_not_take_a_name_for_an_address_of_this_machine() -> None:
    of = runtime()
    transport = httpx.ASGITransport(app=aios.asgi(of), client=("testclient", 50000))
    async with of, httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/runs")).status_code == 401


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prefix": "api"}, "prefix"),
        ({"prefix": "/api/{x}"}, "prefix"),
        ({"prefix": "/"}, "prefix"),
        ({"api_keys": [aios.ApiKey("abc", "ada")]}, "64 hexadecimal digits"),
        ({"api_keys": [aios.ApiKey("0" * 64, "ada", ["runs"])]}, "permission"),
        ({"api_keys": [aios.ApiKey("0" * 64, "ada", "runs:read")]}, "a list"),
        ({"api_keys": ["secret"]}, "aios.ApiKey"),
        (
            {"api_keys": [aios.ApiKey("0" * 64, "ada", (), datetime.datetime(2030, 1, 1))]},
            "time zone",
        ),
        ({"token_issuers": ["https://a"]}, "aios.TokenIssuer"),
        ({"token_issuers": [aios.TokenIssuer("http://id.example", "aios")]}, "TokenIssuer"),
        (
            {"token_issuers": [aios.TokenIssuer("a", "aios", "http://id.example/keys.json")]},
            "TokenIssuer",
        ),
        ({"rate_limit": (0, 1.0)}, "rate_limit"),
        ({"max_body_bytes": 0}, "max_body_bytes"),
        ({"request_timeout": -1.0}, "seconds"),
        ({"cors_origins": ["https://a.example/path"]}, "cors_origins"),
        ({"cors_origins": "https://a.example"}, "cors_origins"),
    ],
)
def test_should_refuse_wrong_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises((aios.ConfigurationError, aios.InvalidDataError), match=text):
        aios.asgi(runtime(), **options)


def test_should_refuse_what_has_no_store() -> None:
    with pytest.raises(aios.ConfigurationError, match="store"):
        aios.asgi(aios.Client(None))
    with pytest.raises(aios.ConfigurationError, match=r"aios\.Runtime"):
        aios.asgi("runtime")  # type: ignore[arg-type]


async def test_should_answer_metrics_beside_the_api() -> None:
    async with mounted(metrics=True) as client:
        started = await start(client, "welcome", "r1", "Ada")
        assert started.status_code == 202, started.text
        await client.get("/runs/r1/result?wait=20s")
        metrics = await client.get("/metrics")
        assert metrics.status_code == 200
        labels = 'agent_type="greeter",outcome="completed"'
        assert f"\naios_agent_tasks_total{{{labels}}} " in metrics.text
    async with mounted() as client:
        assert (await client.get("/metrics")).status_code == 404
