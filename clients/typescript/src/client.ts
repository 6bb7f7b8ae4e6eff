import { InvalidResponseError } from "./errors.js";
import { EventStream, type RecordedEvent } from "./events.js";
import { Http, newId, type ApiRequest, type ClientOptions, type Query } from "./http.js";
import { ACCEPTED, MAX_WAIT_MS, RunHandle, type Page } from "./run.js";
import type { components, operations } from "./schema.js";
import { processTask, type TaskRequest, type TaskResponse } from "./tasks.js";

type Schemas = components["schemas"];
/** The query of an operation. */
type QueryOf<O extends keyof operations> = NonNullable<operations[O]["parameters"]["query"]>;

/** How a run begins. */
export interface StartOptions {
  /** Id of the run; a new UUID unless given. Starting again with the same id and input is the same run. */
  readonly id?: string;
  /** When the run begins. */
  readonly startAt?: Date;
  /** After how many seconds the run begins. */
  readonly delaySeconds?: number;
  /** Correlation id of all events that the run causes. */
  readonly correlationId?: string;
  /** W3C trace context of all that the run causes. */
  readonly traceparent?: string;
}

/** An agent, and the version of its desired state. */
export interface VersionedAgent {
  readonly agent: Schemas["Resource_Agent"];
  /** The `ETag` of the agent. It changes when the agent is replaced, deleted or restarted. */
  readonly version: string;
}

/** A client of one service. */
export class AiosClient {
  #http: Http;

  /**
   * @param url Where the API is mounted, such as `https://aios.example.com/api/v1`.
   */
  constructor(url: string, options: ClientOptions = {}) {
    this.#http = new Http(url, options);
  }

  /**
   * The same client for requests in a W3C trace context, which is passed on to everything that they start, signal,
   * cancel or publish. A start with a context of its own has that one.
   */
  withTraceparent(traceparent: string): AiosClient {
    const http = this.#http.withTraceparent(traceparent);
    const client = new AiosClient(http.base);
    client.#http = http;
    return client;
  }

  /** Starts a run of the latest version of a workflow. */
  async start<T = unknown>(
    workflow: string,
    input: unknown = null,
    options: StartOptions = {},
  ): Promise<RunHandle<T>> {
    return this.#started(["workflows", workflow, "actions", "execute"], options.traceparent, {
      input,
      run_id: options.id ?? newId(),
      start_at: options.startAt?.toISOString(),
      delay_seconds: options.delaySeconds,
      correlation_id: options.correlationId,
    });
  }

  /** Sends a signal to a run, and starts the run first if it does not exist. */
  async signalWithStart<T = unknown>(
    workflow: string,
    runId: string,
    signal: { readonly name: string; readonly payload?: unknown; readonly id?: string },
    input: unknown = null,
    options: Pick<StartOptions, "correlationId" | "traceparent"> = {},
  ): Promise<RunHandle<T>> {
    const path = ["workflows", workflow, "actions", "signal-with-start"];
    return this.#started(path, options.traceparent, {
      run_id: runId,
      input,
      signal: { payload: null, id: newId(), ...signal },
      correlation_id: options.correlationId,
    });
  }

  /** Assigns a task to agents of a type, as a run with a single task. */
  async task<T = unknown>(
    agentType: string,
    parameters: unknown = null,
    options: {
      readonly agentId?: string;
      readonly id?: string;
      readonly timeoutSeconds?: number;
      readonly totalTimeoutSeconds?: number;
      /** How often and when failed attempts are repeated. */
      readonly retry?: Schemas["TaskRetry"];
      /** Correlation id of all events that the task causes. */
      readonly correlationId?: string;
      /** W3C trace context of all that the task causes. */
      readonly traceparent?: string;
    } = {},
  ): Promise<RunHandle<T>> {
    return this.#started(["tasks"], options.traceparent, {
      agent_type: agentType,
      parameters,
      agent_id: options.agentId,
      run_id: options.id ?? newId(),
      timeout_seconds: options.timeoutSeconds,
      total_timeout_seconds: options.totalTimeoutSeconds,
      retry: options.retry,
      correlation_id: options.correlationId,
    });
  }

  /**
   * Assigns a task to one agent and waits for its answer. May be taken out of the client:
   * `const { processTask } = client`.
   *
   * @throws {@link TaskTimeoutError} if the task takes longer than its timeout,
   * {@link InvalidParametersError} if the parameters do not fit the agent, {@link AgentNotFoundError} if
   * there is no such agent, {@link TaskError} if the task fails for another reason.
   */
  readonly processTask = <T = unknown>(request: TaskRequest): Promise<TaskResponse<T>> =>
    processTask<T>(this.#http, request);

  /** A handle of a run. Sends no request. */
  run<T = unknown>(id: string): RunHandle<T> {
    return new RunHandle<T>(this.#http, id);
  }

  async runs(query: QueryOf<"list_runs"> = {}): Promise<Page<Schemas["Resource_Run"]>> {
    return this.#page(["runs"], query);
  }

  async tasks(query: QueryOf<"list_tasks"> = {}): Promise<Page<Schemas["Resource_Task"]>> {
    return this.#page(["tasks"], query);
  }

  /** The task with this id. */
  async taskWithId(id: string): Promise<Schemas["Resource_Task"]> {
    return this.#one(["tasks", id]);
  }

  /** Waits at most about this long for the end of a task; `undefined` if it has not ended. */
  async taskResult(
    id: string,
    waitMs: number,
  ): Promise<Schemas["Resource_TaskResult"] | undefined> {
    const wait = Math.min(waitMs, MAX_WAIT_MS);
    const { body, status } = await this.#http.tagged<Schemas["Document_TaskResult"]>({
      method: "GET",
      path: ["tasks", id, "result"],
      query: { wait: `${Math.round(wait)}ms` },
      waitMs: wait,
    });
    return status === ACCEPTED ? undefined : body.data;
  }

  /** Requests cancellation of a task that was assigned outside of a workflow, together with its run. */
  async cancelTask(id: string, reason?: string): Promise<Schemas["Resource_Task"]> {
    const path = ["tasks", id, "actions", "cancel"];
    const request = { method: "POST", path, body: { reason } } as const;
    return (await this.#http.json<Schemas["Document_Task"]>(request)).data;
  }

  async agents(query: QueryOf<"list_agents"> = {}): Promise<Page<Schemas["Resource_Agent"]>> {
    return this.#page(["agents"], query);
  }

  async agent(id: string): Promise<Schemas["Resource_Agent"]> {
    return this.#one(["agents", id]);
  }

  /** An agent, with the version that a change can expect. */
  async versionedAgent(id: string): Promise<VersionedAgent> {
    return this.#versioned({ method: "GET", path: ["agents", id] });
  }

  /** Creates an agent, which every process with a factory of its type hosts. */
  async createAgent(
    agentType: string,
    name: string,
    config: unknown = null,
    options: { readonly id?: string } = {},
  ): Promise<VersionedAgent> {
    const body = { agent_type: agentType, name, config, id: options.id };
    return this.#versioned({ method: "POST", path: ["agents"], body });
  }

  /** Gives an agent another name and config. `version` is the expected one, or `*` for any. */
  async replaceAgent(
    id: string,
    name: string,
    config: unknown,
    version: string,
  ): Promise<VersionedAgent> {
    const headers = { "if-match": version };
    const [path, body] = [["agents", id], { name, config }];
    return this.#versioned({ method: "PUT", path, body, headers, repeatable: false });
  }

  /** Deletes an agent. `version` is the expected one, or `*` for any. */
  async deleteAgent(id: string, version: string): Promise<Schemas["Resource_Agent"]> {
    const headers = { "if-match": version };
    const request = { method: "DELETE", path: ["agents", id], headers, repeatable: false } as const;
    return (await this.#http.json<Schemas["Document_Agent"]>(request)).data;
  }

  /** Lets every process that hosts an agent create it again. */
  async restartAgent(id: string): Promise<Schemas["Resource_Agent"]> {
    const path = ["agents", id, "actions", "restart"];
    const request = { method: "POST", path, body: {} } as const;
    return (await this.#http.json<Schemas["Document_Agent"]>(request)).data;
  }

  /** The types of agents that processes host or have hosted. */
  async agentTypes(): Promise<readonly Schemas["Resource_AgentType"][]> {
    return (await this.#page<Schemas["Resource_AgentType"]>(["agent-types"], {})).items;
  }

  async workflows(
    query: QueryOf<"list_workflows"> = {},
  ): Promise<Page<Schemas["Resource_Workflow"]>> {
    return this.#page(["workflows"], query);
  }

  /** A version of a workflow (`name@version`), or its highest version (`name`). */
  async workflow(id: string): Promise<Schemas["Resource_Workflow"]> {
    return this.#one(["workflows", id]);
  }

  /** A page of the log. `next` is the position after which the next page begins. */
  async log(query: QueryOf<"list_events"> = {}): Promise<Page<RecordedEvent>> {
    return this.#page(["events"], query);
  }

  /** Follows the log: events after a position, if there is one, and then new ones. */
  events(
    options: {
      /** `*` stands for one segment of a type, `#` for any number. */
      readonly pattern?: string;
      readonly after?: number;
      readonly signal?: AbortSignal;
    } = {},
  ): EventStream {
    const { pattern, after, signal } = options;
    return new EventStream(this.#http, ["events", "stream"], { pattern }, after, signal);
  }

  /**
   * Follows the events about an agent, and about the tasks that are assigned to this one agent: those after a
   * position in the log, if there is one, and then new ones.
   */
  agentEvents(
    id: string,
    options: { readonly after?: number; readonly signal?: AbortSignal } = {},
  ): EventStream {
    return new EventStream(this.#http, ["agents", id, "events"], {}, options.after, options.signal);
  }

  /** Publishes an event to the broker. */
  async publish(
    type: string,
    data: unknown = null,
    options: {
      readonly id?: string;
      readonly correlationId?: string;
      /** W3C trace context of the event. */
      readonly traceparent?: string;
    } = {},
  ): Promise<Schemas["Resource_Event"]> {
    const body = { type, data, id: options.id ?? newId(), correlation_id: options.correlationId };
    const headers = traced(options.traceparent);
    const request = { method: "POST", path: ["events"], body, headers } as const;
    return (await this.#http.json<Schemas["Document_Event"]>(request)).data;
  }

  /** A page of the dead letters of a group or a mailbox, the oldest first. */
  async deadLetters(
    kind: "groups" | "mailboxes",
    name: string,
    query: QueryOf<"list_dead_letters"> = {},
  ): Promise<Page<Schemas["Resource_Letter"]>> {
    return this.#page(["dead-letters", kind, name], query);
  }

  /** Sends dead letters back to where they came from, or deletes them. Returns how many. */
  async handleDeadLetters(
    action: "redrive" | "purge",
    kind: "groups" | "mailboxes",
    name: string,
    ids: readonly string[] | "all",
  ): Promise<number> {
    const path = ["dead-letters", kind, name, "actions", action];
    const body = ids === "all" ? { all: true } : { ids };
    const request = { method: "POST", path, body, repeatable: false } as const;
    return (await this.#http.json<Schemas["Document_Handled"]>(request)).data.attributes.count;
  }

  /** A page of the projections that have a saved position, in the order of their names. */
  async projections(
    query: QueryOf<"list_projections"> = {},
  ): Promise<Page<Schemas["Resource_Projection"]>> {
    return this.#page(["projections"], query);
  }

  async projection(name: string): Promise<Schemas["Resource_Projection"]> {
    return this.#one(["projections", name]);
  }

  /**
   * Deletes the saved position of a projection that no process runs, and returns the projection as it was. One of
   * the same name that is started later begins again.
   */
  async retireProjection(name: string): Promise<Schemas["Resource_Projection"]> {
    return this.#ofProjection(name, "retire", {});
  }

  /** A page of the events that a projection could not apply and has skipped. */
  async projectionDeadLetters(
    name: string,
    query: QueryOf<"list_projection_dead_letters"> = {},
  ): Promise<Page<Schemas["Resource_SkippedEvent"]>> {
    return this.#page(["projections", name, "dead-letters"], query);
  }

  /** Requests that a projection applies a skipped event again. */
  async redriveProjection(
    name: string,
    position: number,
  ): Promise<Schemas["Resource_Projection"]> {
    return this.#ofProjection(name, "redrive", { position });
  }

  async engines(query: QueryOf<"list_engines"> = {}): Promise<Page<Schemas["Resource_Engine"]>> {
    return this.#page(["engines"], query);
  }

  async shards(): Promise<readonly Schemas["Resource_Shard"][]> {
    return (await this.#page<Schemas["Resource_Shard"]>(["shards"], {})).items;
  }

  /** Who the credentials belong to, and what they allow. */
  async me(): Promise<Schemas["Resource_Me"]> {
    return this.#one(["me"]);
  }

  async #started<T>(
    path: readonly string[],
    traceparent: string | undefined,
    body: unknown,
  ): Promise<RunHandle<T>> {
    const headers = traced(traceparent);
    const request = { method: "POST", path, body, headers } as const;
    const run = await this.#http.json<Schemas["Document_Run"]>(request);
    return new RunHandle<T>(this.#http, run.data.id);
  }

  async #ofProjection(
    name: string,
    action: string,
    body: unknown,
  ): Promise<Schemas["Resource_Projection"]> {
    const path = ["projections", name, "actions", action];
    const request = { method: "POST", path, body } as const;
    return (await this.#http.json<Schemas["Document_Projection"]>(request)).data;
  }

  async #versioned(request: ApiRequest): Promise<VersionedAgent> {
    const { body, tag } = await this.#http.tagged<Schemas["Document_Agent"]>(request);
    if (tag === null) {
      throw new InvalidResponseError("an agent has no ETag", { code: "INVALID_RESPONSE" });
    }
    return { agent: body.data, version: tag };
  }

  async #one<R>(path: readonly string[]): Promise<R> {
    return (await this.#http.json<{ data: R }>({ method: "GET", path })).data;
  }

  async #page<R>(path: readonly string[], query: object): Promise<Page<R>> {
    const request = { method: "GET", path, query: present(query) } as const;
    const { data, meta } = await this.#http.json<{ data: R[]; meta: Schemas["ListMeta"] }>(request);
    return { items: data, next: meta.next, unreadable: meta.unreadable ?? [] };
  }
}

/** The header of a trace context, if there is one. */
function traced(traceparent: string | undefined): Record<string, string> {
  return traceparent === undefined ? {} : { traceparent };
}

/** The parameters that have a value. */
function present(query: object): Query {
  const entries = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  return Object.fromEntries(entries) as Query;
}
