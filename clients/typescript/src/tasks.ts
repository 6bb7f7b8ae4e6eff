import { AiosError, RunError, taskError } from "./errors.js";
import { newId, type Http } from "./http.js";
import { RunHandle } from "./run.js";
import type { components } from "./schema.js";

/** A task for one agent. */
export interface TaskRequest {
  /** Id of the task; a second request with the same id and parameters is the same task. */
  taskId: string;
  /** The agent that has to do it. */
  agentId: string;
  /** Parameters of the task. */
  parameters: Record<string, unknown>;
  /** How many seconds the task may take; without a limit unless given. */
  timeout?: number;
}

/** The answer of an agent. */
export interface TaskResponse<T = unknown> {
  taskId: string;
  agentId: string;
  result: T;
}

/** Assigns a task to an agent and waits for its answer; see `AiosClient.processTask`. */
export async function processTask<T>(http: Http, request: TaskRequest): Promise<TaskResponse<T>> {
  const { taskId, agentId, parameters, timeout } = request;
  try {
    const run = await http.json<components["schemas"]["Document_Run"]>({
      method: "POST",
      path: ["agents", agentId, "tasks"],
      body: { run_id: taskId || newId(), parameters, total_timeout_seconds: timeout },
    });
    const result = await new RunHandle<T>(http, run.data.id).result();
    return { taskId, agentId, result };
  } catch (error) {
    const isGone =
      error instanceof AiosError && ["AGENT_NOT_FOUND", "AGENT_DELETED"].includes(error.code);
    if (error instanceof RunError || isGone) {
      throw taskError(taskId, error.message, { code: error.code, details: error.details, cause: error });
    }
    throw error;
  }
}
