import assert from "node:assert/strict";
import { test } from "node:test";

import {
  AgentNotFoundError,
  InvalidParametersError,
  TaskError,
  TaskTimeoutError,
  type TaskRequest,
} from "../src/index.js";
import { client, unique } from "./support.js";

const { processTask } = client;

async function agentOf(agentType: string): Promise<string> {
  const { items } = await client.agents({ agent_type: agentType });
  assert.ok(items[0] !== undefined, `there is an agent of the type ${agentType}`);
  return items[0].id;
}

test("should process a task", async () => {
  const request: TaskRequest = {
    taskId: unique("task"),
    agentId: await agentOf("adder"),
    parameters: { a: 1, b: 2 },
    timeout: 60,
  };
  const { taskId, agentId } = request;
  assert.deepEqual(await processTask(request), { taskId, agentId, result: 3 });
  // The same request is the same task.
  assert.deepEqual(await processTask<number>(request), { taskId, agentId, result: 3 });
});

test("should tell a task that takes too long from one that fails otherwise", async () => {
  const agentId = await agentOf("sleeper");
  const late = processTask({ taskId: unique("late"), agentId, parameters: {}, timeout: 0.2 });
  await assert.rejects(late, TaskTimeoutError);

  const adder = await agentOf("adder");
  const invalid = processTask({ taskId: unique("bad"), agentId: adder, parameters: { a: "one" } });
  await assert.rejects(invalid, InvalidParametersError);

  const missing = processTask({ taskId: unique("task"), agentId: "missing", parameters: {} });
  await assert.rejects(missing, AgentNotFoundError);

  const failing = await agentOf("failing");
  await assert.rejects(
    processTask({ taskId: unique("failing"), agentId: failing, parameters: {} }),
    (error) => error instanceof TaskError && error.code === "CARD_DECLINED",
  );
});
