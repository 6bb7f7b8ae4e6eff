/** A typed client of the HTTP API of aios. See `AiosClient`. */
export { AiosClient, type StartOptions, type VersionedAgent } from "./client.js";
export {
  AgentNotFoundError,
  AiosError,
  ConnectionError,
  InvalidParametersError,
  InvalidResponseError,
  RunError,
  TaskError,
  TaskTimeoutError,
  type Fault,
} from "./errors.js";
export { EventStream, OutputStream, type OutputItem, type RecordedEvent } from "./events.js";
export type { ClientOptions, RetryOptions } from "./http.js";
export { hasCode, RunHandle, type Page } from "./run.js";
export type { components, operations, paths } from "./schema.js";
export type { TaskRequest, TaskResponse } from "./tasks.js";
export { tokenGrant, type TokenGrant } from "./token.js";
