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

test("should ask for no longer a wait than the service takes", async () => {
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
