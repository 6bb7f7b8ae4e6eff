"""Prints the microseconds of a turn of LangGraph with the SQLite saver: a response with one tool call,
and the call.

Each step is saved before the next one begins (`durability="sync"`), as aios does.
"""

import operator
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph

TURNS = int(sys.argv[1])
RUNS = int(sys.argv[2])


class State(TypedDict):
    messages: Annotated[list[dict[str, Any]], operator.add]


def model(state: State) -> dict[str, Any]:
    turn = sum(message["role"] == "assistant" for message in state["messages"])
    if turn == TURNS:
        return {"messages": [{"role": "assistant", "content": "done"}]}
    call = {"id": str(turn), "name": "look", "arguments": {"number": turn}}
    return {"messages": [{"role": "assistant", "calls": [call]}]}


def tools(state: State) -> dict[str, Any]:
    call = state["messages"][-1]["calls"][0]
    result = {"role": "tool", "call_id": call["id"], "content": str(call["arguments"]["number"])}
    return {"messages": [result]}


def next_node(state: State) -> str:
    return "tools" if "calls" in state["messages"][-1] else END


graph = StateGraph(State)
graph.add_node("model", model)
graph.add_node("tools", tools)
graph.add_edge(START, "model")
graph.add_conditional_edges("model", next_node, ["tools", END])
graph.add_edge("tools", "model")

with tempfile.TemporaryDirectory() as folder:
    connection = sqlite3.connect(Path(folder) / "checkpoints.db", check_same_thread=False)
    agent = graph.compile(checkpointer=SqliteSaver(connection))
    took = []
    for run in range(RUNS + 1):
        config = {"configurable": {"thread_id": str(run)}, "recursion_limit": 4 * TURNS + 4}
        begin = time.perf_counter()
        prompt = {"messages": [{"role": "user", "content": "go"}]}
        agent.invoke(prompt, config, durability="sync")
        took.append(time.perf_counter() - begin)
    print(statistics.median(took[1:]) / TURNS * 1e6)
