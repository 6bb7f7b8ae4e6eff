"""Stores that the user of the process may not write."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import aios
import pytest

#: A user without permissions, for tests that run as root.
UNPRIVILEGED = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    # Below `/tmp`, because other users may not enter the folders of pytest.
    path = Path(tempfile.mkdtemp())
    path.chmod(0o777)
    yield path
    path.chmod(0o777)
    shutil.rmtree(path)


async def open_store(url: str) -> None:
    async with aios.Runtime(url):
        pass


def as_unprivileged(url: str) -> str:
    """Opens a store without permissions; returns what happens."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(UNPRIVILEGED)
            os.setuid(UNPRIVILEGED)
        try:
            asyncio.run(open_store(url))
            text = "opened"
        except BaseException as error:
            text = f"{type(error).__name__} {getattr(error, 'code', None)} {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return text


def unreadable(folder: Path) -> None:
    (folder / "aios.db").touch()
    (folder / "aios.db").chmod(0)


def closed(folder: Path) -> None:
    folder.chmod(0o555)


def closed_with_a_store(folder: Path) -> None:
    asyncio.run(open_store(f"sqlite://{folder}/aios.db"))
    for file in folder.iterdir():
        file.chmod(0o666)
    folder.chmod(0o555)


@pytest.mark.parametrize("prepare", [unreadable, closed, closed_with_a_store])
def test_should_name_the_file_and_the_remedy(prepare: Callable[[Path], None], folder: Path) -> None:
    prepare(folder)
    text = as_unprivileged(f"sqlite://{folder}/aios.db")
    assert text.startswith("ConfigurationError INVALID_STORE_CONFIGURATION"), text
    assert f"{folder}/aios.db" in text
    assert "let the user of this process write the file and its folder" in text
