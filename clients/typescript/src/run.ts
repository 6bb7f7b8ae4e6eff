import { AiosError, RunError } from "./errors.js";
import { EventStream, OutputStream, type RecordedEvent } from "./events.js";
import { newId, sleep, type Http } from "./http.js";
import type { components } from "./schema.js";

type Schemas = components["schemas"];

/** A page of a list. */
export interface Page<T> {
  readonly items: readonly T[];
  /** What to pass as `after` for the next page; `null` on the last one. */
  readonly next: string | null;
  /** Ids of resources of this page that the service cannot read. */
  readonly unreadable: readonly string[];
}

/** How long the service is asked to wait for the end of a run in one request, in milliseconds. */
const WAIT_MS = 20_000;
/** Longest wait that the service accepts, in milliseconds. It waits for less. */
export const MAX_WAIT_MS = 999_999_999;
/** Pause between two such requests, in milliseconds. */
const PAUSE_MS = 100;
/** Longest pause while the service is unavailable, in milliseconds. */
const MAX_OUTAGE_PAUSE_MS = 5_000;

/** The status of an answer to a wait in which the run has not ended. */
export const ACCEPTED = 202;

/** A run of the service, whichever process executes it. */
export class RunHandle<T = unknown> {
  readonly #http: Http;

  /** Use `client.run` instead. */
  constructor(
    http: Http,
    /** Id of the run. */
    readonly id: string,
  ) {
    this.#http = http;
  }

  /** The same run, for requests in a W3C trace context; see `AiosClient.withTraceparent`. */
  withTraceparent(traceparent: string): RunHandle<T> {
    return new RunHandle<T>(this.#http.withTraceparent(traceparent), this.id);
  }

  /** The current state of the run. */
  async status(): Promise<Schemas["Resource_Run"]> {
    const request = { method: "GET", path: ["runs", this.id] } as const;
    return (await this.#http.json<Schemas["Document_Run"]>(request)).data;
  }

  /**
   * Waits until the run ends and returns its result. Follows a run that continues as another one. Keeps waiting
   * while the service or its store is unavailable, once a request of the client has succeeded; `signal` limits
   * the wait.
   *
   * @throws {@link RunError} if the run failed, was cancelled or is blocked.
   */
  async result(options: { readonly signal?: AbortSignal } = {}): Promise<T> {
    for (let outageMs = PAUSE_MS; ; ) {
      let pauseMs: number | undefined = PAUSE_MS;
      try {
        const ended = await this.#poll(WAIT_MS, options.signal);
        if (ended !== undefined) {
          return ended.result;
        }
        outageMs = PAUSE_MS;
      } catch (error) {
        pauseMs = this.#http.outage(error, outageMs);
        if (pauseMs === undefined) {
          throw error;
        }
        outageMs = Math.min(2 * outageMs, MAX_OUTAGE_PAUSE_MS);
      }
      await sleep(pauseMs, options.signal);
    }
  }

  /** Waits at most about this long; `undefined` if the run has not ended. */
  async resultWithin(waitMs: number): Promise<{ readonly result: T } | undefined> {
    return this.#poll(waitMs, undefined);
  }

  async #poll(
    waitMs: number,
    signal: AbortSignal | undefined,
  ): Promise<{ readonly result: T } | undefined> {
    const wait = Math.min(waitMs, MAX_WAIT_MS);
    const { body: answer, status: code } = await this.#http.tagged<Schemas["Document_RunResult"]>({
      method: "GET",
      path: ["runs", this.id, "result"],
      query: { wait: `${Math.round(wait)}ms` },
      waitMs: wait,
      ...(signal === undefined ? {} : { signal }),
    });
    if (code === ACCEPTED) {
      return undefined;
    }
    const { status, result, failure } = answer.data.attributes;
    switch (status) {
      case "completed":
        return { result: result as T };
      case "failed":
      case "cancelled":
      case "blocked": {
        const { code = "RUN_FAILED", message = "", details } = failure ?? {};
        const text = `run ${answer.data.id} ${status === "failed" ? "failed" : `is ${status}`}: ${message}`;
        throw new RunError(answer.data.id, status, text, { code, details });
      }
      default:
        return undefined;
    }
  }

  /** A page of the events of the run. `after` is a version. */
  async journal(page: { limit?: number; after?: string } = {}): Promise<Page<RecordedEvent>> {
    const request = { method: "GET", path: ["runs", this.id, "journal"], query: page } as const;
    const { data, meta } = await this.#http.json<Schemas["Listing_Event"]>(request);
    return { items: data, next: meta.next, unreadable: meta.unreadable ?? [] };
  }

  /** Follows the events of the run after a position in the log, up to the event that ends it. */
  events(options: { readonly after?: number; readonly signal?: AbortSignal } = {}): EventStream {
    const path = ["runs", this.id, "events"];
    return new EventStream(this.#http, path, {}, options.after ?? 0, options.signal);
  }

  /** Follows an output stream of the run: the items after an offset, and then new ones. */
  stream<I = unknown>(
    name: string,
    options: { readonly after?: number; readonly signal?: AbortSignal } = {},
  ): OutputStream<I> {
    const path = ["runs", this.id, "streams", name];
    return new OutputStream<I>(this.#http, path, options.after ?? 0, options.signal);
  }

  /**
   * Sends a signal. It is kept until the workflow waits for it. A signal with the same `id` is sent to the run
   * only once.
   */
  async signal(
    name: string,
    payload: unknown = null,
    options: { readonly id?: string } = {},
  ): Promise<void> {
    await this.#act("signal", { name, payload, id: options.id });
  }

  /** Requests cancellation. The run compensates and ends as cancelled. */
  async cancel(reason?: string): Promise<void> {
    await this.#act("cancel", { reason });
  }

  /** Ends the run as cancelled at once, without the rest of its compensations. */
  async terminate(reason?: string): Promise<void> {
    await this.#act("cancel", { reason, terminate: true });
  }

  /** Pauses the run. */
  async pause(): Promise<void> {
    await this.#act("pause", {});
  }

  /** Resumes a paused run, and tries a blocked one again. */
  async resume(): Promise<void> {
    await this.#act("resume", {});
  }

  /** Starts a new run with a copy of the journal up to an operation. */
  async fork(operation: number, newRunId: string = newId()): Promise<RunHandle<T>> {
    const run = await this.#act("fork", { operation, run_id: newRunId });
    return new RunHandle<T>(this.#http, run.data.id);
  }

  /**
   * Retries a failed run from the operation with which it failed: starts a new run with a copy of the journal up
   * to that operation.
   */
  async retry(newRunId: string = newId()): Promise<RunHandle<T>> {
    const run = await this.#act("retry", { run_id: newRunId });
    return new RunHandle<T>(this.#http, run.data.id);
  }

  #act(name: string, body: unknown): Promise<Schemas["Document_Run"]> {
    const path = ["runs", this.id, "actions", name];
    return this.#http.json({ method: "POST", path, body });
  }
}

/** Whether an error is one of the client with this code. */
export function hasCode(error: unknown, code: string): error is AiosError {
  return error instanceof AiosError && error.code === code;
}
