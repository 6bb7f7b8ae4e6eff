"""Values of which only a part could be written are refused where they are passed."""

from __future__ import annotations

import dataclasses
import datetime
import math
import zoneinfo
from collections.abc import Callable
from typing import Any

import aios
import pydantic
import pytest
from aios._aios import dumps, loads
from aios._types.convert import Converter

SECRET = pydantic.SecretStr("hunter2")


class Login(pydantic.BaseModel):
    user: str
    password: pydantic.SecretStr


@aios.agent("logs_in")
async def log_in(context: aios.TaskContext, login: Login) -> str:
    return login.password.get_secret_value()


@aios.workflow("returns")
async def returns(context: aios.WorkflowContext, how: str) -> Any:
    login = Login(user="ada", password=SECRET)
    if how == "step":
        return await context.step("login", lambda: login)
    if how == "task":
        return await context.task("logs_in", login)
    if how == "child":
        return await context.child("takes", login)
    return login


@aios.workflow("takes")
async def takes(context: aios.WorkflowContext, login: Login | None = None) -> str:
    login = await context.signal("login", result=Login) if login is None else login
    return login.password.get_secret_value()


def check_refusal(error: BaseException) -> None:
    text = str(error)
    assert "field password of Login is a secret" in text
    assert "aios.Settings" in text
    assert "hunter2" not in text


@pytest.mark.parametrize("how", ["step", "task", "child", "result"])
async def test_should_refuse_a_secret_in_a_workflow(how: str) -> None:
    async with aios.Runtime(agents=[log_in], workflows=[returns, takes]) as runtime:
        with pytest.raises(aios.RunFailedError) as raised:
            await (await runtime.start(returns, how)).result()
        check_refusal(raised.value)


async def test_should_refuse_a_secret_from_a_client() -> None:
    login = Login(user="ada", password=SECRET)
    async with aios.Runtime(agents=[log_in], workflows=[takes]) as runtime:
        run = await runtime.start(takes)
        calls: list[Callable[[], Any]] = [
            lambda: runtime.start(takes, login),
            lambda: runtime.task("logs_in", login),
            lambda: run.signal("login", login),
        ]
        for call in calls:
            with pytest.raises(aios.InvalidDataError) as raised:
                await call()
            check_refusal(raised.value)


@dataclasses.dataclass
class Plain:
    password: Any


class Shown(pydantic.BaseModel):
    password: pydantic.SecretStr

    @pydantic.field_serializer("password", when_used="json")
    def show(self, password: pydantic.SecretStr) -> str:
        return password.get_secret_value()


class Anything(pydantic.BaseModel):
    part: Any


class Own(pydantic.BaseModel):
    key: aios.Secret


class Aliased(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(serialize_by_alias=True)
    password: pydantic.SecretStr = pydantic.Field(alias="passWord")


class Logins(pydantic.RootModel[dict[str, list[Login]]]):
    pass


@pydantic.dataclasses.dataclass
class Account:
    keys: tuple[pydantic.SecretBytes, ...]


LOGIN = Login(user="ada", password=SECRET)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (SECRET, "SecretStr is not JSON-serialisable: secrets are never serialised"),
        (aios.Secret("hunter2"), "Secret is not JSON-serialisable: secrets are never serialised"),
        (Plain(SECRET), "/password: SecretStr is not JSON-serialisable"),
        ([LOGIN], "/0: field password of Login is a secret"),
        (Anything(part={"a": [SECRET]}), "field part.a.0 of Anything is a secret"),
        (Own(key=aios.Secret("hunter2")), "field key of Own is a secret, of which only '***'"),
        (Aliased(passWord=SECRET), "field password of Aliased is a secret"),
        (Logins({"a": [LOGIN]}), "field a.0.password of Logins is a secret"),
        (Account((pydantic.SecretBytes(b"x"),)), "field keys.0 of Account is a secret"),
        (Anything(part=math.inf), "field part of Anything is inf, which is not valid JSON"),
        (math.nan, "NaN is not valid JSON"),
        (datetime.time(12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")), "has no fixed offset"),
        (datetime.timedelta(days=200_000, microseconds=1), "is not exact as a float"),
    ],
)
def test_should_name_what_cannot_be_written(value: Any, fault: str) -> None:
    with pytest.raises(aios.InvalidDataError) as raised:
        dumps(value)
    assert fault in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "value",
    [
        Shown(password=SECRET),
        Login(user="ada", password=pydantic.SecretStr("")),
        Anything(part={"number": 1.5, "nothing": None}),
        datetime.time(12, tzinfo=datetime.UTC),
        datetime.timedelta(days=90_000, microseconds=1),
    ],
)
def test_should_read_what_it_has_written(value: Any) -> None:
    assert Converter(type(value)).read(loads(dumps(value))) == value
