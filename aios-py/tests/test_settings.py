"""Settings from files, the environment, mounted secrets and code."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, TypedDict, cast

import aios
import pydantic
import pytest


@dataclasses.dataclass
class Tls:
    ca: str = ""


@dataclasses.dataclass
class Mail:
    host: str
    port: int = 25
    password: aios.Secret | None = None
    tls: Tls | None = None


class Shop(pydantic.BaseModel):
    name: str
    limit: float = 1.5
    key: pydantic.SecretStr | None = None
    token: aios.Secret | None = None


@dataclasses.dataclass
class Even:
    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError("must be even")


@dataclasses.dataclass
class Numbers:
    first: Even


class Post(TypedDict, total=False):
    stamps: list[str]


def load(folder: Path, *args: Any, environment: dict[str, str], **kwargs: Any) -> aios.Settings:
    (folder / "config").mkdir(exist_ok=True)
    return aios.Settings.load(*args, folder=folder / "config", environment=environment, **kwargs)


def test_should_merge_layers_and_name_the_origin_of_each_value(tmp_path: Path) -> None:
    config, more = tmp_path / "config", tmp_path / "more"
    config.mkdir()
    more.mkdir()
    (config / "base.yaml").write_text(
        "log:\n  level: debug\nagent:\n  timeout: 5m\nhttp:\n  listen: 0.0.0.0:1\n"
        "mail:\n  host: base\n  tls:\n    ca: ${CA:-none}\n"
    )
    (config / "production.yaml").write_text("http:\n  listen: 0.0.0.0:2\n  max_body_bytes: 7\n")
    (more / "a.yaml").write_text("http:\n  request_timeout: 2s\n")
    (tmp_path / "secret").write_text("hunter2\n")
    settings = load(
        tmp_path,
        {"mail": Mail, "shop": Shop, "post": Post, "own": dict[str, Any]},
        environment={
            "AIOS_ENV": "production",
            "AIOS_CONFIG_DIR": str(more),
            "AIOS_HTTP_RATE_LIMIT__REQUESTS": "9",
            "AIOS_DATABASE_URL": "postgres://app:hunter2@db/shop",
            "AIOS_MAIL_PORT": "26",
            "AIOS_MAIL_PASSWORD_FILE": str(tmp_path / "secret"),
            "AIOS_SHOP_LIMIT": "2.5",
            "AIOS_SHOP_KEY": "hunter2",
            "AIOS_SHOP_TOKEN": "hunter2",
            "AIOS_POST_STAMPS": "a, b",
            "AIOS_OPENAI_API_KEY": "hunter2",
            "AIOS_SOMETHING_ELSE": "x",
        },
        defaults={"shop.name": "default", "broker.url": "memory://"},
        values={"shop.name": "code"},
    )
    assert settings.environment == "production"
    assert (settings.log.level, settings.agent.timeout) == ("debug", 300.0)
    http = settings.http
    assert (http.listen, http.max_body_bytes, http.request_timeout) == ("0.0.0.0:2", 7, 2.0)
    assert (http.rate_limit and http.rate_limit.requests, settings.shutdown.deadline) == (9, 30.0)
    assert settings.process.roles == ["engine", "api", "agents"]
    expected = Mail("base", 26, aios.Secret("hunter2"), Tls("none"))
    assert settings.section("mail", Mail) == expected
    shop = settings.section("shop", Shop)
    assert (shop.name, shop.limit) == ("code", 2.5)
    assert shop.key is not None
    assert shop.token is not None
    assert shop.key.get_secret_value() == shop.token.expose() == "hunter2"
    assert settings.section("post") == {"stamps": ["a", "b"]}
    assert settings.section("own") == {}
    assert settings.ignored_variables == ["AIOS_SOMETHING_ELSE"]
    origins = {entry.key: entry.origin for entry in settings.entries}
    assert origins["mail.port"] == settings.origin("mail.port") == "AIOS_MAIL_PORT"
    assert origins["mail.host"].endswith("config/base.yaml:8:3")
    assert origins["broker.url"] == "default"
    assert origins["shop.name"] == "code"
    assert settings.origin("redis.url") is None
    options = settings.runtime_options()
    assert isinstance(options["store"], aios.Secret)
    assert options["store"].expose() == "postgres://app:hunter2@db/shop"
    # No secret is printed.
    printed = [repr(settings), str(settings), repr(settings.entries), repr(shop), repr(options)]
    printed += [str(settings.database), str(settings.section("mail")), repr(settings._sections)]
    assert "hunter2" not in "".join(printed)
    assert "app:***@db" in repr(settings.database)
    with pytest.raises(aios.InvalidDataError):
        aios._aios.dumps({"password": settings.section("mail").password})


def test_should_report_all_faults(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "base.yaml").write_text(
        "databse:\n  url: memory://\nlog:\n  level: loud\nopenai:\n  api_key: sk-hunter2\n"
        "mail:\n  hots: mx\n  password: hunter2\n"
    )
    with pytest.raises(aios.ConfigurationError) as caught:
        load(tmp_path, {"mail": Mail}, environment={"AIOS_MAIL_PORT": "many"})
    error = caught.value
    assert (error.code, error.retryable) == ("INVALID_SETTINGS", False)
    assert "hunter2" not in str(error)
    by_key = {fault["key"]: fault for fault in error.details}
    assert by_key["databse"]["fault"] == "unknown name; did you mean database?"
    assert "expected one of off, error" in by_key["log.level"]["fault"]
    assert "secret must not be in a file" in by_key["openai.api_key"]["fault"]
    assert "secret must not be in a file" in by_key["mail.password"]["fault"]
    assert "did you mean mail.host" in by_key["mail.hots"]["fault"]
    assert "AIOS_MAIL_HOST" in by_key["mail.host"]["fault"]
    assert by_key["mail.port"]["origin"] == "AIOS_MAIL_PORT"
    assert str(error).startswith(f"the configuration has {len(error.details)} faults:")


def test_should_report_what_a_type_refuses(tmp_path: Path) -> None:
    with pytest.raises(aios.ConfigurationError) as caught:
        load(tmp_path, {"numbers": Numbers}, environment={"AIOS_NUMBERS_FIRST__NUMBER": "3"})
    assert caught.value.code == "INVALID_SETTINGS"
    assert "must be even" in caught.value.details[0]["fault"]


def test_should_read_again(tmp_path: Path) -> None:
    file = tmp_path / "config" / "base.yaml"
    file.parent.mkdir()
    file.write_text("log: {level: info}\n")
    settings = load(tmp_path, {"mail": Mail}, environment={"AIOS_MAIL_HOST": "mx"})
    file.write_text("log: {level: debug}\n")
    again = settings.reload()
    assert (settings.log.level, again.log.level) == ("info", "debug")
    assert again.section("mail", Mail).host == "mx"


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"Mail": Mail}, "must be \\[a-z\\]"),
        ({"log": Mail}, "exists already"),
        ({"number": int}, "must be a mapping"),
        ({"mail": len}, "can't be read"),
    ],
)
def test_should_refuse_invalid_sections(tmp_path: Path, sections: Any, says: str) -> None:
    with pytest.raises(aios.ConfigurationError, match=says):
        load(tmp_path, sections, environment={"AIOS_MAIL_HOST": "mx"})


def test_should_name_unknown_sections_and_missing_urls(tmp_path: Path) -> None:
    settings = load(tmp_path, {"mail": dict[str, Any]}, environment={})
    with pytest.raises(aios.ConfigurationError, match="own sections: mail"):
        settings.section("post")
    with pytest.raises(aios.ConfigurationError, match="is a dict, not a Mail"):
        settings.section("mail", Mail)
    with pytest.raises(aios.ConfigurationError, match="AIOS_DATABASE_URL") as caught:
        settings.runtime_options()
    assert caught.value.code == "INVALID_SETTINGS"
    agents = load(tmp_path, environment={"AIOS_PROCESS_ROLES": "agents"})
    assert agents.runtime_options()["store"] is None
    assert not agents.process.has("engine")


def test_should_refuse_a_secret_without_a_text() -> None:
    for wrong in (None, 5, b"text"):
        with pytest.raises(TypeError, match="the text of a secret must be a str, not a ") as raised:
            aios.Secret(cast("Any", wrong))
        assert "text'" not in str(raised.value)


def test_should_be_a_secret_in_every_place() -> None:
    secret = aios.Secret("hunter2")
    assert f"{secret} {secret!r} {[secret]}".count("hunter2") == 0
    assert secret == aios.Secret("hunter2") != aios.Secret("other")
    assert secret != "hunter2"
    assert len({secret, aios.Secret("hunter2")}) == 1
    model = Shop(name="x", token=secret)
    assert "hunter2" not in model.model_dump_json()
    with pytest.raises(pydantic.ValidationError, match="a secret is a string"):
        Shop.model_validate({"name": "x", "token": 7})
    assert "hunter2" not in repr(aios.Provider("openai:x", secret))
    assert aios.Provider("openai:x", secret).bind().settings.count("hunter2") == 1


async def test_should_open_a_runtime_with_settings(tmp_path: Path) -> None:
    environment = {"AIOS_DATABASE_URL": f"sqlite://{tmp_path}/aios.db"}
    settings = load(tmp_path, environment=environment)
    async with aios.Runtime(**settings.runtime_options()) as runtime:
        assert (await runtime.runs()).rows == []
    assert (tmp_path / "aios.db").exists()


PROGRAM = """
import logging

import aios


def app(settings: aios.Settings) -> aios.Runtime:
    logging.getLogger("shop").info("made for %s", settings.environment, extra={"token": "hunter2"})
    logging.getLogger("shop").debug("quiet")
    return aios.Runtime(**settings.runtime_options())


plain = aios.Runtime()
"""


def serve(folder: Path, app: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    (folder / "app.py").write_text(PROGRAM)
    return subprocess.Popen(
        [sys.executable, "-m", "aios", *arguments, app],
        cwd=folder,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            process.terminate()
            process.wait(60)
            return lines
    raise AssertionError("".join(lines))


def test_should_honour_the_settings_in_the_program(tmp_path: Path) -> None:
    process = serve(
        tmp_path,
        "app:app",
        "serve",
        AIOS_ENV="production",
        AIOS_DATABASE_URL=f"sqlite://{tmp_path}/aios.db",
        AIOS_HTTP_LISTEN="127.0.0.1:0",
        AIOS_LOG_FORMAT="json",
        AIOS_LOG_REDACT="token",
        AIOS_LOG_TARGETS__ASYNCIO="error",
    )
    lines = [json.loads(line) for line in read_until(process, "listening on")]
    made = next(line for line in lines if line["target"] == "shop")
    assert (made["message"], made["level"], made["token"]) == ("made for production", "INFO", "***")
    assert lines[-1]["message"].startswith("listening on http://127.0.0.1:")
    assert (tmp_path / "aios.db").exists()
    assert "quiet" not in str(lines)


def test_should_warn_about_settings_that_an_object_cannot_take(tmp_path: Path) -> None:
    arguments = ("serve", "--listen", "127.0.0.1:0")
    process = serve(tmp_path, "app:plain", *arguments, AIOS_DATABASE_URL="memory://")
    lines = read_until(process, "listening on")
    assert any("database.url is set (AIOS_DATABASE_URL)" in line for line in lines)


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_should_end_with_the_report(tmp_path: Path, command: str) -> None:
    process = serve(tmp_path, "app:app", command, AIOS_LOG_LEVEL="loud", AIOS_AGENT_TIMEOUT="soon")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "the configuration has 2 faults" in errors
    assert "AIOS_AGENT_TIMEOUT: agent.timeout: expected a duration" in errors


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_should_start_with_sections_of_the_program(tmp_path: Path, command: str) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "base.yaml").write_text("smtp: {host: mx}\n")
    environment = {"AIOS_HTTP_CLIENT_TIMEOUT": "5s", "AIOS_HTTP_LISTEN": "127.0.0.1:0"}
    process = serve(tmp_path, "app:plain", command, **environment)
    ready = {"serve": "listening on", "worker": "started process"}
    lines = read_until(process, ready[command])
    for name in (
        "config/base.yaml:1:1: smtp: unknown name; did you mean http?",
        "AIOS_HTTP_CLIENT_TIMEOUT: unknown name",
    ):
        assert sum(name in line for line in lines) == 1, lines
