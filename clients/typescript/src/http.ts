import { AiosError, ConnectionError, InvalidResponseError } from "./errors.js";
import type { components } from "./schema.js";

/** How requests are repeated. */
export interface RetryOptions {
  /**
   * Most attempts of a request, with the first; 5 by default. While the service says that an earlier attempt is
   * being handled (`REQUEST_IN_PROGRESS`), attempts are not counted, unless this is 1.
   */
  readonly attempts: number;
  /** Pause after the first failure, in milliseconds, which doubles; 200 by default. */
  readonly initialDelayMs: number;
  /** Longest pause, in milliseconds; 5,000 by default. */
  readonly maxDelayMs: number;
}

/** Options of a client. */
export interface ClientOptions {
  /**
   * A bearer token, or what returns one for each attempt. A function is called once more with the token that
   * the service has refused (401), so that it returns another one.
   */
  readonly token?: string | ((refused?: string) => string | Promise<string>);
  /** Sent as `X-API-Key`. */
  readonly apiKey?: string;
  /** How long each attempt may take, in milliseconds; 30,000 by default. */
  readonly timeoutMs?: number;
  readonly retry?: Partial<RetryOptions>;
  /**
   * W3C trace context of every request, or a function that returns the current one, for example that of the
   * active span of OpenTelemetry.
   * It is passed on to everything that the request starts, signals, cancels or publishes.
   */
  readonly traceparent?: string | (() => string | undefined);
  /** Used instead of the global `fetch`. */
  readonly fetch?: typeof globalThis.fetch;
}

export type Query = Readonly<Record<string, string | number | boolean | undefined>>;

/** A request below the URL of the service. */
export interface ApiRequest {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  /** Parts of the path, which are encoded. */
  readonly path: readonly string[];
  readonly query?: Query;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  /** Whether a second attempt has no second effect; yes by default. */
  readonly repeatable?: boolean;
  /** How long the service is asked to wait, in milliseconds. */
  readonly waitMs?: number;
  readonly signal?: AbortSignal;
}

/** An answer with its status and its `ETag`. */
export interface Tagged<T> {
  readonly body: T;
  readonly status: number;
  readonly tag: string | null;
}

/** Longest `Retry-After` that a request waits for, in milliseconds. */
const MAX_RETRY_AFTER_MS = 60_000;

/** Longest time of a timer, in milliseconds. A longer one would end at once. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** Sends requests to one service. */
export class Http {
  readonly timeoutMs: number;
  /** The URL, without a slash at its end. */
  readonly base: string;
  readonly #options: ClientOptions;
  readonly #retry: RetryOptions;
  readonly #fetch: typeof globalThis.fetch;
  /** Whether a request has succeeded, so that the URL is that of a service. */
  readonly #success: { has: boolean };

  constructor(url: string, options: ClientOptions, success = { has: false }) {
    const parsed = new URL(url);
    if (parsed.protocol !== "http:" && parsed.protocol !== "https:") {
      throw new TypeError(`the URL of a service begins with http:// or https://, not ${parsed.protocol}`);
    }
    if (parsed.username !== "" || parsed.password !== "") {
      throw new TypeError("the URL of a service contains credentials; use `token` or `apiKey`");
    }
    this.base = `${parsed.origin}${parsed.pathname.replace(/\/+$/, "")}`;
    this.#options = options;
    this.#success = success;
    this.#retry = { attempts: 5, initialDelayMs: 200, maxDelayMs: 5_000, ...options.retry };
    this.timeoutMs = options.timeoutMs ?? 30_000;
    this.#fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
  }

  /** The same service, for requests with a trace context. */
  withTraceparent(traceparent: string): Http {
    return new Http(this.base, { ...this.#options, traceparent }, this.#success);
  }

  /** Sends a request, repeats it where that is safe, and returns the JSON of the answer. */
  async json<T>(request: ApiRequest): Promise<T> {
    return (await this.tagged<T>(request)).body;
  }

  /** The same, with the status and the `ETag` of the answer. */
  async tagged<T>(request: ApiRequest): Promise<Tagged<T>> {
    const headers: Record<string, string> = { ...request.headers };
    if (request.method === "POST") {
      // The same key in every attempt, so that the service handles the request once.
      headers["idempotency-key"] = newId();
    }
    let openUntil: number | undefined;
    for (let attempt = 1; ; ) {
      try {
        return await this.#attempt<T>({ ...request, headers });
      } catch (error) {
        const openFor = openForMs(error);
        openUntil ??= openFor === undefined ? undefined : Date.now() + openFor;
        // A process that was killed keeps the key of its request: these attempts are not counted, unless there
        // is only one.
        const isOpen = openFor !== undefined && openUntil !== undefined && Date.now() < openUntil;
        const pause = this.pause(error, isOpen ? 1 : attempt, request.repeatable ?? true);
        if (pause === undefined) {
          throw error;
        }
        await sleep(pause, request.signal);
        attempt += isOpen ? 0 : 1;
      }
    }
  }

  /** How long to wait before the next attempt; `undefined` if there is none. */
  pause(error: unknown, attempt: number, repeatable: boolean): number | undefined {
    if (!(error instanceof AiosError) || !error.retryable || attempt >= this.#retry.attempts) {
      return undefined;
    }
    if (!repeatable && error.status !== 429) {
      return undefined;
    }
    const asked = error.retryAfterMs ?? 0;
    return asked > MAX_RETRY_AFTER_MS ? undefined : Math.max(asked, this.delay(attempt));
  }

  /**
   * How long to wait, after all attempts of a request, for a service that is away and that was there before;
   * `undefined` if the error is another one. `pauseMs` is the time unless the service asks for more.
   */
  outage(error: unknown, pauseMs: number): number | undefined {
    if (!this.#success.has || !(error instanceof AiosError) || !error.retryable) {
      return undefined;
    }
    return Math.max(error.retryAfterMs ?? 0, pauseMs);
  }

  /** The pause after a failed attempt, half of it random. */
  delay(attempt: number): number {
    const grown = this.#retry.initialDelayMs * 2 ** Math.min(attempt - 1, 30);
    return Math.min(grown, this.#retry.maxDelayMs) * (1 - Math.random() / 2);
  }

  async #attempt<T>(request: ApiRequest): Promise<Tagged<T>> {
    const limit = new Limit(this.timeoutMs + (request.waitMs ?? 0), request.signal);
    try {
      const response = await this.send(request, limit.signal);
      const text = await response.text();
      try {
        const body = JSON.parse(text) as T;
        return { body, status: response.status, tag: response.headers.get("etag") };
      } catch (cause) {
        throw invalid(response, "the answer is not JSON", cause);
      }
    } catch (error) {
      throw limit.explain(error);
    } finally {
      limit.end();
    }
  }

  /**
   * Sends a request once, or twice if a token of a function has been refused. An answer that is not a success
   * is an error.
   */
  async send(request: ApiRequest, signal: AbortSignal): Promise<Response> {
    const url = new URL(`${this.base}/${request.path.map(encode).join("/")}`);
    for (const [name, value] of Object.entries(request.query ?? {})) {
      if (value !== undefined) {
        url.searchParams.set(name, String(value));
      }
    }
    const { token } = this.#options;
    const first = typeof token === "function" ? await within(token, undefined, signal) : token;
    let response = await this.#sendWith(request, url, first, signal);
    if (response.status === 401 && typeof token === "function") {
      // A second 401 is the answer: another token would not help.
      await response.body?.cancel();
      response = await this.#sendWith(request, url, await within(token, first, signal), signal);
    }
    if (!response.ok) {
      throw await refusal(response);
    }
    this.#success.has = true;
    return response;
  }

  async #sendWith(
    request: ApiRequest,
    url: URL,
    token: string | undefined,
    signal: AbortSignal,
  ): Promise<Response> {
    const init: RequestInit = {
      method: request.method,
      headers: { ...this.#headers(token), ...request.headers },
      redirect: "error",
      signal,
    };
    if (request.body !== undefined) {
      init.body = serialised(request.body);
      (init.headers as Record<string, string>)["content-type"] = "application/json";
    }
    return this.#fetch(url, init);
  }

  #headers(token: string | undefined): Record<string, string> {
    const headers: Record<string, string> = { accept: "application/json" };
    const { apiKey, traceparent } = this.#options;
    const trace = typeof traceparent === "function" ? traceparent() : traceparent;
    if (trace !== undefined) {
      headers["traceparent"] = trace;
    }
    if (token !== undefined) {
      headers["authorization"] = `Bearer ${checked("token", token)}`;
    }
    if (apiKey !== undefined) {
      headers["x-api-key"] = checked("API key", apiKey);
    }
    return headers;
  }
}

/** Ends an attempt after a time, or when its caller asks for it. */
export class Limit {
  readonly #controller = new AbortController();
  readonly #caller: AbortSignal | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isLate = false;

  constructor(timeoutMs: number, caller: AbortSignal | undefined) {
    this.#caller = caller;
    if (caller?.aborted === true) {
      this.#controller.abort();
    }
    caller?.addEventListener("abort", this.#abort);
    this.restart(timeoutMs);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Gives the attempt this much more time from now on. */
  restart(timeoutMs: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#isLate = true;
      this.#controller.abort();
    }, timer(timeoutMs));
  }

  /** Gives the attempt all time, until {@link restart}. */
  pause(): void {
    clearTimeout(this.#timer);
  }

  /** Ends the request, if it is in progress, and frees what it holds. */
  end(): void {
    clearTimeout(this.#timer);
    this.#caller?.removeEventListener("abort", this.#abort);
    this.#controller.abort();
  }

  readonly #abort = (): void => this.#controller.abort();

  /** The error that an attempt ends with. */
  explain(error: unknown): unknown {
    if (error instanceof AiosError) {
      return error;
    }
    if (this.#caller?.aborted === true) {
      return this.#caller.reason;
    }
    if (this.#isLate) {
      const message = "the service did not answer in time";
      return new ConnectionError(message, { code: "REQUEST_TIMEOUT", cause: error });
    }
    const message = `the service cannot be reached: ${reason(error)}`;
    return new ConnectionError(message, { code: "SERVICE_UNREACHABLE", cause: error });
  }
}

/** How long an earlier attempt with the same key may still be handled, in milliseconds. */
function openForMs(error: unknown): number | undefined {
  if (!(error instanceof AiosError) || error.code !== "REQUEST_IN_PROGRESS") {
    return undefined;
  }
  const seconds = (error.details as { open_for_seconds?: unknown } | null | undefined)?.open_for_seconds;
  return typeof seconds === "number" ? seconds * 1000 : undefined;
}

function reason(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return cause instanceof Error ? cause.message : String(cause);
}

/** A token of a function, which does not know the signal. It may be needed by other callers, and continues. */
function within(
  token: (refused?: string) => string | Promise<string>,
  refused: string | undefined,
  signal: AbortSignal,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason);
    if (signal.aborted) {
      abort();
      return;
    }
    signal.addEventListener("abort", abort, { once: true });
    const called = (async () => token(refused))();
    called.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

/** A credential that can stand in a header. */
function checked(name: string, secret: string): string {
  if (!/^[\x21-\x7e]+$/.test(secret)) {
    const message = `the ${name} is empty or has characters that cannot stand in a header`;
    throw new AiosError(message, { code: "INVALID_CLIENT_CONFIGURATION" });
  }
  return secret;
}

function encode(part: string): string {
  // A URL cannot have these as parts of its path, however they are encoded.
  if (part === "" || part === "." || part === "..") {
    const message = `an id cannot be ${JSON.stringify(part)}, which cannot be part of a URL`;
    throw new AiosError(message, { code: "INVALID_REQUEST" });
  }
  try {
    return encodeURIComponent(part);
  } catch (cause) {
    const message = `an id cannot be ${JSON.stringify(part)}, which is not a text of Unicode`;
    throw new AiosError(message, { code: "INVALID_REQUEST", cause });
  }
}

/** The JSON of a body. A value without one, such as a `bigint`, is refused before anything is sent. */
function serialised(body: unknown): string {
  try {
    return JSON.stringify(body);
  } catch (cause) {
    const message = `the values of the request cannot be written as JSON: ${reason(cause)}`;
    throw new AiosError(message, { code: "INVALID_REQUEST", cause });
  }
}

/** After which time a request may succeed, if the answer says so in seconds. */
export function retryAfter(response: Response): { retryAfterMs?: number } {
  const seconds = Number(response.headers.get("retry-after") ?? Number.NaN);
  return Number.isFinite(seconds) ? { retryAfterMs: seconds * 1000 } : {};
}

async function refusal(response: Response): Promise<AiosError> {
  const text = await response.text();
  const extra = retryAfter(response);
  let error: components["schemas"]["ErrorBody"] | undefined;
  try {
    error = (JSON.parse(text) as components["schemas"]["ErrorDocument"]).error;
  } catch {
    // Not from the service: from something before it, such as a proxy.
  }
  if (typeof error?.code !== "string") {
    const message = `the answer has the status ${response.status} and no error of the API`;
    if ([429, 502, 503, 504].includes(response.status)) {
      const init = { code: "SERVICE_UNREACHABLE", status: response.status, ...extra };
      return new AiosError(message, init);
    }
    const remedy = "does the URL name the API, up to and including its prefix such as /api/v1?";
    return invalid(response, `${message}; ${remedy}`);
  }
  const { code, message, details } = error;
  return new AiosError(message, { code, details, status: response.status, ...id(response), ...extra });
}

function invalid(response: Response, message: string, cause?: unknown): InvalidResponseError {
  const init = { code: "INVALID_RESPONSE", status: response.status, cause, ...id(response) };
  return new InvalidResponseError(message, init);
}

function id(response: Response): { requestId?: string } {
  const requestId = response.headers.get("x-request-id");
  return requestId === null ? {} : { requestId };
}

/** A time that a timer can have. */
export function timer(ms: number): number {
  return Math.min(ms, MAX_TIMER_MS);
}

/** Waits, unless the caller gives up. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(signal.reason);
      return;
    }
    const abort = (): void => {
      clearTimeout(pending);
      reject(signal?.reason);
    };
    const pending = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, timer(ms));
    signal?.addEventListener("abort", abort, { once: true });
  });
}

/** A new unique id. */
export function newId(): string {
  if (typeof globalThis.crypto?.randomUUID === "function") {
    return globalThis.crypto.randomUUID();
  }
  // Pages without TLS, and Node.js 18, have no `crypto.randomUUID`.
  const digit = (): string => Math.floor(Math.random() * 16).toString(16);
  return Array.from({ length: 32 }, digit).join("");
}
