"""A hand-written FastAPI application that stores a run for each request, served by uvicorn.

Prints the port. Each request is one commit to SQLite, in WAL mode with `synchronous=FULL`.
"""

import sqlite3
import sys
import threading
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

connection = sqlite3.connect(Path(sys.argv[1]) / "runs.db", check_same_thread=False)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("PRAGMA synchronous=FULL")
connection.execute(
    "CREATE TABLE runs (id TEXT PRIMARY KEY, workflow TEXT NOT NULL, input TEXT NOT NULL)"
)
lock = threading.Lock()
app = FastAPI()


class Start(BaseModel):
    run_id: str
    input: str


@app.post("/{workflow}/actions/execute", status_code=202)
def start(workflow: str, body: Start) -> dict[str, dict[str, str]]:
    with lock, connection:
        row = (body.run_id, workflow, body.input)
        connection.execute("INSERT INTO runs VALUES (?, ?, ?)", row)
    return {"data": {"id": body.run_id, "type": "run"}}


server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
socket = server.config.bind_socket()
# Connections that come before the server runs wait.
socket.listen(2048)
print(socket.getsockname()[1], flush=True)
server.run(sockets=[socket])
