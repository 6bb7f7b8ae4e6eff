import { AiosError, InvalidResponseError } from "./errors.js";
import { Limit, sleep, type Http, type Query } from "./http.js";
import type { components } from "./schema.js";

/** An event of the log, with its position. */
export type RecordedEvent = components["schemas"]["Resource_Event"];

/** How long a stream may be silent, in milliseconds. The service sends a comment every 15 s. */
const SILENCE_MS = 45_000;

/** How long a stream without events has to last to count as one that works, in milliseconds. */
const LASTING_MS = 10_000;

/** A message of a stream. */
interface Message {
  kind?: string;
  id?: number;
  data?: string;
}

/** Most characters of a message: a line or a message that never ends would fill the memory. */
const MAX_LENGTH = 64 * 1024 * 1024;

/** Splits the text of server-sent events into messages. */
export class Parser {
  /** Parts of the last line, which is not complete. */
  #parts: string[] = [];
  #length = 0;
  #message: Message = {};

  push(text: string): Message[] {
    const messages: Message[] = [];
    const lines = text.split("\n");
    const rest = lines.pop() ?? "";
    if (lines.length > 0) {
      lines[0] = this.#parts.join("") + lines[0];
      [this.#parts, this.#length] = [[], 0];
    }
    this.#parts.push(rest);
    this.#length += rest.length;
    for (const line of lines) {
      const message = this.#take(line.endsWith("\r") ? line.slice(0, -1) : line);
      if (message !== undefined) {
        messages.push(message);
      }
    }
    if (this.#length + (this.#message.data?.length ?? 0) > MAX_LENGTH) {
      const message = `an event has more than ${MAX_LENGTH} characters`;
      throw new InvalidResponseError(message, { code: "INVALID_RESPONSE" });
    }
    return messages;
  }

  #take(line: string): Message | undefined {
    if (line === "") {
      const message = this.#message;
      this.#message = {};
      return message.id === undefined && message.data === undefined ? undefined : message;
    }
    // A line that begins with a colon is a comment.
    const colon = line.indexOf(":");
    const name = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") {
      this.#message.kind = value;
    } else if (name === "id" && /^\d+$/.test(value)) {
      this.#message.id = Number(value);
    } else if (name === "data") {
      const { data } = this.#message;
      this.#message.data = data === undefined ? value : `${data}\n${value}`;
    }
    return undefined;
  }
}

/** An open connection. */
interface Open {
  readonly limit: Limit;
  readonly reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly decoder: TextDecoder;
  readonly parser: Parser;
  readonly since: number;
  hasEvents: boolean;
}

/** The error of a stream that cannot be read, in its last message. */
function failure(data: string | undefined): AiosError {
  const { code, message, details } = JSON.parse(data ?? "{}") as components["schemas"]["ErrorBody"];
  return new AiosError(message, { code, details });
}

/** Whether an answer is a stream of events, and not for example a page of another server. */
function isEventStream(response: Response): boolean {
  return response.headers.get("content-type")?.startsWith("text/event-stream") ?? false;
}

/**
 * Messages of a stream, in order. When the connection breaks or the service ends the stream, it connects
 * again after the last message. It reads no faster than it is asked.
 */
export class Messages {
  readonly #http: Http;
  readonly #path: readonly string[];
  readonly #query: Query;
  readonly #signal: AbortSignal | undefined;
  #after: number | undefined;
  #open: Open | undefined;
  #ready: Message[] = [];
  #failures = 0;
  /** How many streams the service has ended in turn, soon and without an event. */
  #empty = 0;
  #isOver = false;

  constructor(
    http: Http,
    path: readonly string[],
    query: Query,
    after: number | undefined,
    signal: AbortSignal | undefined,
  ) {
    this.#http = http;
    this.#path = path;
    this.#query = query;
    this.#after = after;
    this.#signal = signal;
  }

  /** Id of the last message; `undefined` until a stream of new messages has begun. */
  get after(): number | undefined {
    return this.#after;
  }

  /** The next message that has not come before; `undefined` at the end. */
  async next(): Promise<Message | undefined> {
    for (;;) {
      const message = await this.#message();
      if (message === undefined) {
        return undefined;
      }
      const { id, kind } = message;
      const isKnown = id !== undefined && this.#after !== undefined && id <= this.#after;
      if (id !== undefined && !isKnown) {
        this.#after = id;
      }
      if (!isKnown || kind === "end") {
        return message;
      }
    }
  }

  /** Ends the stream. */
  close(): void {
    this.#isOver = true;
    this.#disconnect();
  }

  #disconnect(): void {
    this.#open?.limit.end();
    this.#open = undefined;
  }

  /** The next message; `undefined` at the end. */
  async #message(): Promise<Message | undefined> {
    while (!this.#isOver) {
      const message = this.#ready.shift();
      if (message?.kind === "failure") {
        this.close();
        throw failure(message.data);
      }
      if (message !== undefined) {
        return message;
      }
      try {
        await (this.#open === undefined ? this.#connect() : this.#read(this.#open));
      } catch (error) {
        if (!this.#isOver) {
          await this.#failed(error);
        }
      }
    }
    return undefined;
  }

  async #connect(): Promise<void> {
    const limit = new Limit(this.#http.timeoutMs, this.#signal);
    const headers: Record<string, string> = { accept: "text/event-stream" };
    if (this.#after !== undefined) {
      headers["last-event-id"] = String(this.#after);
    }
    try {
      const request = { method: "GET", path: this.#path, query: this.#query, headers } as const;
      const response = await this.#http.send(request, limit.signal);
      if (response.status === 204 || response.body === null) {
        limit.end();
        this.#isOver = true;
        return;
      }
      if (!isEventStream(response)) {
        await response.body.cancel();
        throw new InvalidResponseError("the answer is not a stream of events", {
          code: "INVALID_RESPONSE",
          status: response.status,
        });
      }
      const reader = response.body.getReader();
      const [decoder, parser] = [new TextDecoder(), new Parser()];
      this.#open = { limit, reader, decoder, parser, since: Date.now(), hasEvents: false };
      // Nothing is late while there is no reader.
      limit.pause();
    } catch (error) {
      limit.end();
      throw limit.explain(error);
    }
  }

  async #read(open: Open): Promise<void> {
    let chunk: ReadableStreamReadResult<Uint8Array>;
    open.limit.restart(SILENCE_MS);
    try {
      chunk = await open.reader.read();
    } catch (error) {
      throw open.limit.explain(error);
    } finally {
      open.limit.pause();
    }
    if (chunk.done) {
      await this.#ended(open);
      return;
    }
    this.#ready = open.parser.push(open.decoder.decode(chunk.value, { stream: true }));
    if (this.#ready.length > 0) {
      this.#failures = 0;
      open.hasEvents ||= this.#ready.some((message) => message.data !== undefined);
    }
  }

  /** The service ends a stream after some minutes, and when a run has ended. */
  async #ended(open: Open): Promise<void> {
    this.#disconnect();
    const hasWorked = open.hasEvents || Date.now() - open.since >= LASTING_MS;
    this.#empty = hasWorked ? 0 : this.#empty + 1;
    if (this.#empty > 0) {
      await sleep(this.#http.delay(this.#empty), this.#signal);
    }
  }

  /** Decides whether to try again. */
  async #failed(error: unknown): Promise<void> {
    this.#disconnect();
    this.#failures += 1;
    const pause = this.#http.pause(error, this.#failures, true);
    if (pause === undefined) {
      this.#failures = 0;
      // An error that may pass leaves the stream usable: the next call tries again.
      this.#isOver = !(error instanceof AiosError && error.retryable);
      throw error;
    }
    await sleep(pause, this.#signal);
  }
}

/**
 * Events of the log or of a run, in order, each once: `for await (const event of stream)`.
 *
 * When the connection breaks or the service ends the stream, it connects again after the last event. It
 * reads no faster than it is asked. Leave the loop, or call {@link close}, to end it.
 */
export class EventStream implements AsyncIterableIterator<RecordedEvent> {
  readonly #messages: Messages;

  /** Use `client.events` or `run.events` instead. */
  constructor(
    http: Http,
    path: readonly string[],
    query: Query,
    after: number | undefined,
    signal: AbortSignal | undefined,
  ) {
    this.#messages = new Messages(http, path, query, after, signal);
  }

  /** Position after which further events come; `undefined` until a stream of new events has begun. */
  get position(): number | undefined {
    return this.#messages.after;
  }

  /** Waits until the stream has a beginning, so that no event that is recorded from now on is missed. */
  async begin(): Promise<number> {
    for (;;) {
      const { after } = this.#messages;
      if (after !== undefined) {
        return after;
      }
      if ((await this.#messages.next()) === undefined) {
        throw new InvalidResponseError("the stream ended before it began", {
          code: "INVALID_RESPONSE",
        });
      }
    }
  }

  async next(): Promise<IteratorResult<RecordedEvent, undefined>> {
    for (;;) {
      const message = await this.#messages.next();
      if (message === undefined) {
        return { done: true, value: undefined };
      }
      if (message.data !== undefined) {
        return { done: false, value: JSON.parse(message.data) as RecordedEvent };
      }
    }
  }

  async return(): Promise<IteratorResult<RecordedEvent, undefined>> {
    this.close();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Ends the stream. */
  close(): void {
    this.#messages.close();
  }
}

/** An item of an output stream, or a reset. */
export interface OutputItem<T = unknown> {
  /** Place in the stream. Offsets increase, with gaps. */
  readonly offset: number;
  /** The writer: the id of a task, the idempotency key of a step, or `workflow`. */
  readonly writer: string;
  /** `reset` if the earlier items of this writer are void, because an attempt begins again. */
  readonly kind: "item" | "reset";
  /** The item; `undefined` of a reset. */
  readonly item?: T;
}

/**
 * The items of an output stream of a run, in order, each once: first those that are stored, then new ones.
 * It ends where the stream ends, at the latest with its run.
 */
export class OutputStream<T = unknown> implements AsyncIterableIterator<OutputItem<T>> {
  readonly #messages: Messages;

  /** Use `run.stream` instead. */
  constructor(
    http: Http,
    path: readonly string[],
    after: number,
    signal: AbortSignal | undefined,
  ) {
    this.#messages = new Messages(http, path, {}, after, signal);
  }

  async next(): Promise<IteratorResult<OutputItem<T>, undefined>> {
    for (;;) {
      const message = await this.#messages.next();
      if (message === undefined || message.kind === "end") {
        this.close();
        return { done: true, value: undefined };
      }
      const { id, kind, data } = message;
      if (id !== undefined && data !== undefined && (kind === "item" || kind === "reset")) {
        const fields = JSON.parse(data) as { writer: string; item?: T };
        return { done: false, value: { offset: id, kind, ...fields } };
      }
    }
  }

  async return(): Promise<IteratorResult<OutputItem<T>, undefined>> {
    this.close();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Ends the stream. */
  close(): void {
    this.#messages.close();
  }
}
