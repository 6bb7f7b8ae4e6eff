/** What an error is about, in addition to its message. */
export interface ErrorInit {
  /** Stable name of the kind of error, for example `"RUN_NOT_FOUND"`. */
  readonly code: string;
  /** The HTTP status, if the service answered. */
  readonly status?: number;
  /** Details for programs. */
  readonly details?: unknown;
  /** Id of the request, as in the log of the service. */
  readonly requestId?: string;
  /** After how many milliseconds the same request may succeed. */
  readonly retryAfterMs?: number;
  readonly cause?: unknown;
}

/** A fault of a request that the service refused. */
export interface Fault {
  /** Path of the value, or of the field that is missing or unknown, as in `$.retry.max_attempts`. */
  readonly path: string;
  /** What is wrong with it. */
  readonly message: string;
}

/** Base class of all errors of the client. */
export class AiosError extends Error {
  readonly code: string;
  readonly status: number | undefined;
  readonly details: unknown;
  readonly requestId: string | undefined;
  readonly retryAfterMs: number | undefined;

  constructor(message: string, init: ErrorInit) {
    super(message, init.cause === undefined ? undefined : { cause: init.cause });
    this.name = new.target.name;
    this.code = init.code;
    this.status = init.status;
    this.details = init.details;
    this.requestId = init.requestId;
    this.retryAfterMs = init.retryAfterMs;
  }

  /** The faults of the body, if the service refused the request for them; at most 100. */
  get faults(): readonly Fault[] {
    const { faults } = (this.details ?? {}) as { faults?: unknown };
    return Array.isArray(faults) ? (faults as Fault[]) : [];
  }

  /** Whether the same request may succeed later. */
  get retryable(): boolean {
    // The attempt before is still being handled.
    const isHandled = this.code === "REQUEST_IN_PROGRESS";
    return isHandled || [429, 502, 503, 504].includes(this.status ?? 0);
  }
}

/** The service cannot be reached, did not answer in time, or the connection broke. */
export class ConnectionError extends AiosError {
  override get retryable(): boolean {
    return true;
  }
}

/** The answer is not one of the API. */
export class InvalidResponseError extends AiosError {
  override get retryable(): boolean {
    return false;
  }
}

/** A run failed, was cancelled or is blocked; `code` and `details` are those of its failure. */
export class RunError extends AiosError {
  constructor(
    /** Id of the run. */
    readonly runId: string,
    /** How the run ended. */
    readonly runStatus: "failed" | "cancelled" | "blocked",
    message: string,
    init: ErrorInit,
  ) {
    super(message, init);
  }
}

/** A task failed; the subclass says how. */
export class TaskError extends AiosError {
  constructor(
    /** Id of the task that was asked for. */
    readonly taskId: string,
    message: string,
    init: ErrorInit,
  ) {
    super(message, init);
  }
}

/** A task took longer than its timeout. */
export class TaskTimeoutError extends TaskError {}

/** The parameters of a task do not fit the agent. */
export class InvalidParametersError extends TaskError {}

/** There is no such agent. */
export class AgentNotFoundError extends TaskError {}

/** The error of a task whose failure has this code. */
export function taskError(taskId: string, message: string, init: ErrorInit): TaskError {
  switch (init.code) {
    case "TASK_TIMEOUT":
      return new TaskTimeoutError(taskId, message, init);
    case "INVALID_PARAMETERS":
      return new InvalidParametersError(taskId, message, init);
    case "AGENT_NOT_FOUND":
      return new AgentNotFoundError(taskId, message, init);
    default:
      return new TaskError(taskId, message, init);
  }
}
