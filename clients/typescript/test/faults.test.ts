import assert from "node:assert/strict";
import { test } from "node:test";

import { AiosClient, AiosError, ConnectionError, hasCode, tokenGrant } from "../src/index.js";
import { QUICK, fake } from "./support.js";

const RUN = { data: { id: "r1", type: "run", attributes: {} }, meta: {} };

/** A server that answers with these statuses in turn, then with a run. */
async function faulty(...statuses: number[]) {
  const keys: (string | undefined)[] = [];
  const server = await fake((request, response, number) => {
    const key = request.headers["idempotency-key"];
    keys.push(typeof key === "string" ? key : undefined);
    const status = statuses[number] ?? 200;
    const codes: Record<number, string> = {
      409: "REQUEST_IN_PROGRESS",
      429: "RATE_LIMITED",
      500: "INTERNAL_ERROR",
      503: "STORE_TIMEOUT",
    };
    const code = codes[status];
    response.writeHead(status, { "content-type": "application/json", "retry-after": "0" });
    const error = { error: { code, message: "m", details: {} } };
    response.end(status === 200 ? JSON.stringify(RUN) : code ? JSON.stringify(error) : "<html>");
  });
  return { ...server, keys, client: new AiosClient(server.url, QUICK) };
}

const realNow = Date.now;

test("should repeat a request with the same key until it succeeds", async () => {
  const server = await faulty(503, 502, 429, 409);
  try {
    assert.equal((await server.client.start("w")).id, "r1");
    assert.equal(server.keys.length, 5);
    assert.ok(server.keys[0] !== undefined && new Set(server.keys).size === 1);
    await server.client.start("w");
    assert.notEqual(server.keys[5], server.keys[0]);
    await server.client.run("r1").status();
    assert.equal(server.keys[6], undefined);
  } finally {
    server.close();
  }
});

test("should repeat what could happen twice only if it did not happen", async () => {
  const server = await faulty(429, 503);
  try {
    const purge = server.client.handleDeadLetters("purge", "groups", "g", "all");
    await assert.rejects(purge, (error) => hasCode(error, "STORE_TIMEOUT"));
    assert.equal(server.keys.length, 2);
  } finally {
    server.close();
  }
});

test("should give up after the last attempt and at once on other faults", async () => {
  const server = await faulty(502, 502, 502, 502, 502, 500, 404);
  try {
    const status = () => server.client.run("r1").status();
    await assert.rejects(status(), (error) => error instanceof AiosError && error.status === 502);
    assert.equal(server.keys.length, 5);
    await assert.rejects(status(), (error) => hasCode(error, "INTERNAL_ERROR"));
    await assert.rejects(status(), (error) => hasCode(error, "INVALID_RESPONSE"));
    assert.equal(server.keys.length, 7);
  } finally {
    server.close();
  }
});

test("should wait for a result while the service is away", async () => {
  let asked = 0;
  const server = await fake((request, response) => {
    const isResult = request.url?.includes("/result") === true;
    asked += isResult ? 1 : 0;
    const isAway = isResult && asked <= 12;
    const ended = { data: { id: "r1", attributes: { status: "completed", result: "done" } } };
    response.writeHead(isAway ? 502 : 200, { "content-type": "application/json" });
    response.end(isAway ? "<html>" : JSON.stringify(isResult ? ended : RUN));
  });
  try {
    const unknown = new AiosClient(server.url, QUICK).run("r1").result();
    await assert.rejects(unknown, (error) => hasCode(error, "SERVICE_UNREACHABLE"));
    assert.equal(asked, 5);
    asked = 0;
    const client = new AiosClient(server.url, QUICK);
    assert.equal(await (await client.start("w")).result(), "done");
    assert.equal(asked, 13);
  } finally {
    server.close();
  }
});

test("should refuse values that cannot be sent without sending anything", async () => {
  const server = await faulty();
  try {
    const endless: { self?: unknown } = {};
    endless.self = endless;
    const requests = [
      () => server.client.start("w", 1n),
      () => server.client.start("w", endless),
      () => server.client.run("\ud800").status(),
      () => server.client.run("..").status(),
    ];
    for (const request of requests) {
      await assert.rejects(request(), (error) => {
        assert.ok(error instanceof AiosError && !error.retryable);
        return hasCode(error, "INVALID_REQUEST");
      });
    }
    assert.equal(server.keys.length, 0);
  } finally {
    server.close();
  }
});

test("should not wait for a service that does not answer", async () => {
  const server = await fake(() => {});
  try {
    const client = new AiosClient(server.url, { timeoutMs: 50, retry: { attempts: 1 } });
    await assert.rejects(client.me(), (error) => {
      assert.ok(error instanceof ConnectionError && error.code === "REQUEST_TIMEOUT");
      return true;
    });
  } finally {
    server.close();
  }
});

test("should take timeouts that are longer than a timer", async () => {
  const run = { data: { id: "r1", type: "run", attributes: {} }, meta: {} };
  const server = await fake((request, response) => {
    // An attempt with a timer of 1 ms would end before.
    const isToken = request.url === "/token";
    const answer = JSON.stringify(isToken ? { access_token: "t" } : run);
    setTimeout(() => response.end(answer), 100);
  });
  try {
    for (const timeoutMs of [Infinity, 2 ** 31]) {
      const token = tokenGrant({ url: `${server.url}/token`, timeoutMs });
      const patient = new AiosClient(server.url, { timeoutMs, retry: { attempts: 1 }, token });
      assert.equal((await patient.run("r1").status()).id, "r1");
    }
  } finally {
    server.close();
  }
});

test("should ask for no longer a wait than the service accepts", async () => {
  const waits: (string | null)[] = [];
  const server = await fake((request, response) => {
    waits.push(new URL(request.url ?? "", "http://localhost").searchParams.get("wait"));
    const attributes = { status: "paused", result: null, failure: null };
    response.end(JSON.stringify({ data: { id: "r1", type: "run-result", attributes }, meta: {} }));
  });
  try {
    const run = new AiosClient(server.url, QUICK).run("r1");
    for (const waitMs of [1_500, 30 * 24 * 60 * 60 * 1000, Infinity]) {
      assert.equal(await run.resultWithin(waitMs), undefined);
    }
    assert.deepEqual(waits, ["1500ms", "999999999ms", "999999999ms"]);
  } finally {
    server.close();
  }
});

test("should ask again after an answer that says that the run has not ended", async () => {
  const server = await fake((_, response, number) => {
    const attributes = { status: "completed", result: number === 0 ? null : "done", failure: null };
    response.writeHead(number === 0 ? 202 : 200, { "content-type": "application/json" });
    response.end(JSON.stringify({ data: { id: "r1", type: "run", attributes }, meta: {} }));
  });
  try {
    assert.equal(await new AiosClient(server.url, QUICK).run("r1").result(), "done");
    assert.equal(server.count(), 2);
  } finally {
    server.close();
  }
});

test("should wait for as long as an earlier attempt may be handled", async () => {
  let first = 0;
  const server = await fake((_, response, number) => {
    const isOpen = number >= first + 3 && number < first + 11;
    const status = number === first + 11 ? 200 : isOpen ? 409 : 502;
    response.writeHead(status, { "content-type": "application/json", "retry-after": "0" });
    const error = { code: "REQUEST_IN_PROGRESS", message: "m", details: { open_for_seconds: 30 } };
    response.end(status === 200 ? JSON.stringify(RUN) : isOpen ? JSON.stringify({ error }) : "<html>");
  });
  try {
    assert.equal((await new AiosClient(server.url, QUICK).start("w")).id, "r1");
    first = server.count() - 3;
    const once = new AiosClient(server.url, { retry: { attempts: 1 } });
    await assert.rejects(once.start("w"), (error) => hasCode(error, "REQUEST_IN_PROGRESS"));
  } finally {
    server.close();
  }
});

test("should not wait for a token longer than the attempt may take or the caller waits", async () => {
  const server = await faulty();
  try {
    const token = () => new Promise<string>(() => {});
    const late = new AiosClient(server.url, { token, timeoutMs: 20, retry: { attempts: 1 } });
    await assert.rejects(late.run("r1").status(), (error) => hasCode(error, "REQUEST_TIMEOUT"));
    const patient = new AiosClient(server.url, { token });
    const reason = new Error("the caller left");
    const aborted = AbortSignal.timeout(20);
    const controller = new AbortController();
    aborted.addEventListener("abort", () => controller.abort(reason));
    const result = patient.run("r1").result({ signal: controller.signal });
    await assert.rejects(result, (error) => error === reason);
    const failing = new AiosClient(server.url, {
      token: () => {
        throw reason;
      },
      retry: { attempts: 1 },
    });
    await assert.rejects(failing.run("r1").status(), (error) => (error as Error).cause === reason);
    assert.equal(server.count(), 0);
  } finally {
    server.close();
  }
});

test("should refuse a stream that is not one of events", async () => {
  const server = await fake((_, response) => {
    response.writeHead(200, { "content-type": "text/html" });
    response.end("<html>");
  });
  try {
    const client = new AiosClient(server.url, QUICK);
    const isInvalid = (error: unknown) => hasCode(error, "INVALID_RESPONSE");
    await assert.rejects(client.events().next(), isInvalid);
    await assert.rejects(client.events().begin(), isInvalid);
    await assert.rejects(client.run("r1").stream("tokens").next(), isInvalid);
    assert.equal(server.count(), 3);
  } finally {
    server.close();
  }
});

test("should report the failure of a stream", async () => {
  const failure = JSON.stringify({ code: "INVALID_ROW", message: "m", details: {} });
  const server = await fake((_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.end(`id: 4\n\nevent: failure\ndata: ${failure}\n\n`);
  });
  try {
    const client = new AiosClient(server.url, QUICK);
    for (const stream of [client.events({ after: 4 }), client.run("r1").stream("tokens")]) {
      await assert.rejects(stream.next(), (error) => {
        assert.ok(error instanceof AiosError && !error.retryable);
        return hasCode(error, "INVALID_ROW");
      });
      assert.equal((await stream.next()).done, true);
    }
    assert.equal(server.count(), 2);
  } finally {
    server.close();
  }
});

test("should connect less often to streams without events", async (t) => {
  let open = 0;
  const server = await fake((_, response) => {
    open += 1;
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.end("id: 4\n\n");
  });
  const stop = new AbortController();
  const pauses: number[] = [];
  const timers = globalThis.setTimeout;
  t.mock.method(globalThis, "setTimeout", (done: () => void, ms: number) => {
    const isPause = ms < 1_000;
    if (isPause) {
      pauses.push(ms);
    }
    if (pauses.length === 5) {
      stop.abort();
    }
    return timers(done, isPause ? 0 : ms);
  });
  try {
    const retry = { initialDelayMs: 1, maxDelayMs: 16 };
    const client = new AiosClient(server.url, { retry });
    await assert.rejects(client.events({ signal: stop.signal }).next());
    // Half of each pause is random.
    pauses.slice(0, 5).forEach((pause, index) => assert.ok(pause >= 2 ** index / 2, `${pauses}`));
    assert.ok(open >= 4);
  } finally {
    server.close();
  }
});

test("should take a token whatever its lifetime is written as", async () => {
  let answer = {};
  let status = 200;
  const server = await fake((_, response) => {
    response.writeHead(status, { "retry-after": "7" });
    response.end(JSON.stringify(answer));
  });
  try {
    for (const expires of ["3599", 3599.5]) {
      answer = { access_token: "t", expires_in: expires };
      const [token, before] = [tokenGrant({ url: server.url }), server.count()];
      const now = Date.now();
      await token();
      Date.now = () => now + 2_000_000;
      await token();
      assert.equal(server.count(), before + 1, `${expires}`);
      Date.now = realNow;
    }
    status = 429;
    await assert.rejects(tokenGrant({ url: server.url })(), (error) => {
      assert.ok(error instanceof AiosError && error.retryable && error.retryAfterMs === 7_000);
      return true;
    });
  } finally {
    Date.now = realNow;
    server.close();
  }
});

test("should retry a failed run, and tell what a page leaves out", async () => {
  const bodies: string[] = [];
  const server = await fake((request, response) => {
    let text = "";
    request.on("data", (data) => (text += data));
    request.on("end", () => {
      bodies.push(`${request.url} ${text}`);
      response.writeHead(200, { "content-type": "application/json" });
      const page = { data: [], meta: { next: null, unreadable: ["r9"] } };
      response.end(JSON.stringify(request.method === "POST" ? RUN : page));
    });
  });
  try {
    const client = new AiosClient(server.url, QUICK);
    assert.equal((await client.run("r0").retry("r1")).id, "r1");
    assert.deepEqual(bodies, ['/runs/r0/actions/retry {"run_id":"r1"}']);
    assert.deepEqual((await client.runs()).unreadable, ["r9"]);
    assert.deepEqual((await client.run("r0").journal()).unreadable, ["r9"]);
  } finally {
    server.close();
  }
});

test("should pass a trace on to every command", async () => {
  const [trace, other] = ["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-1-2-01"];
  const traces: (string | undefined)[] = [];
  const server = await fake((request, response) => {
    traces.push(request.headers["traceparent"] as string | undefined);
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify(RUN));
  });
  try {
    const client = new AiosClient(server.url, QUICK);
    const command = async (traced: AiosClient) => {
      const run = await traced.start("w");
      await run.signal("s");
      await run.cancel();
      await run.pause();
      await run.resume();
      await run.fork(1);
      await run.retry();
      await traced.run("r1").signal("s");
      await traced.task("greeter");
      await traced.signalWithStart("w", "r1", { name: "s" });
      await traced.publish("a.b.c");
    };
    await command(client);
    assert.deepEqual(new Set(traces), new Set([undefined]));
    traces.length = 0;
    await command(client.withTraceparent(trace));
    await client.run("r1").withTraceparent(trace).signal("s");
    await command(new AiosClient(server.url, { ...QUICK, traceparent: trace }));
    assert.deepEqual(new Set(traces), new Set([trace]));
    assert.equal(traces.length, 23);
    traces.length = 0;
    const currents = [trace, undefined, other];
    const current = new AiosClient(server.url, { ...QUICK, traceparent: () => currents.shift() });
    for (let number = 0; number < 3; number += 1) {
      await current.run("r1").signal("s");
    }
    await client.withTraceparent(trace).start("w", null, { traceparent: other });
    assert.deepEqual(traces, [trace, undefined, other, other]);
  } finally {
    server.close();
  }
});

test("should tell all faults of a request", async () => {
  const faults = [{ path: "$.input", message: "is missing" }];
  const server = await fake((_, response) => {
    response.writeHead(422, { "content-type": "application/json" });
    const error = { code: "INVALID_REQUEST", message: "m", details: { faults } };
    response.end(JSON.stringify({ error }));
  });
  try {
    const refused = new AiosClient(server.url, QUICK).start("w");
    await assert.rejects(refused, (error) => error instanceof AiosError && error.faults[0]?.path === "$.input");
    assert.deepEqual(new AiosError("m", { code: "C" }).faults, []);
  } finally {
    server.close();
  }
});
