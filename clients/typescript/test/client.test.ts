import assert from "node:assert/strict";
import { test } from "node:test";

import { AiosClient, AiosError, RunError, hasCode, tokenGrant } from "../src/index.js";
import { QUICK, SERVICE, client, fake, unique } from "./support.js";

test("should start a run, wait for it and read what it leaves", async () => {
  const id = `${unique("run")}/ü`;
  const run = await client.start<string>("welcome", "Ada", { id });
  assert.equal(await run.result(), "Hello, Ada!");
  const again = await client.start("welcome", "Ada", { id });
  assert.equal(again.id, id);
  await assert.rejects(client.start("welcome", "Grace", { id }), (error) => hasCode(error, "RUN_EXISTS"));
  const { attributes } = await run.status();
  assert.deepEqual([attributes.status, attributes.result], ["completed", "Hello, Ada!"]);
  const journal = await run.journal({ limit: 2 });
  assert.deepEqual([journal.items.length, journal.next], [2, "2"]);
  const tasks = await client.tasks({ run_id: id });
  const task = tasks.items[0];
  assert.ok(task !== undefined);
  assert.deepEqual(await client.taskWithId(task.id), task);
  const ended = await client.taskResult(task.id, 20_000);
  assert.equal(ended?.attributes.status, "completed");
});

test("should page through all runs", async () => {
  const ids = new Set<string>();
  for (let number = 0; number < 3; number += 1) {
    const run = await client.start("welcome", "Ada", { id: unique("page") });
    await run.result();
    ids.add(run.id);
  }
  let after: string | undefined;
  do {
    const page = await client.runs({ workflow: "welcome", limit: 2, ...(after && { after }) });
    page.items.forEach((run) => ids.delete(run.id));
    after = page.next ?? undefined;
  } while (after !== undefined);
  assert.equal(ids.size, 0);
});

test("should control runs", async () => {
  const run = await client.start("approval", 0);
  await run.pause();
  assert.equal((await run.status()).attributes.status, "paused");
  assert.equal(await run.resultWithin(0), undefined);
  await run.resume();
  await run.signal("approval", { by: "Ada" });
  assert.deepEqual(await run.result(), { by: "Ada" });
  const greeted = await client.start<string>("welcome", "Ada");
  await greeted.result();
  assert.equal(await (await greeted.fork(0)).result(), "Hello, Ada!");
  const waiting = await client.start("approval", 0);
  await waiting.cancel("enough");
  await assert.rejects(waiting.result(), (error) => hasCode(error, "RUN_CANCELLED"));
  const early = await client.signalWithStart("approval", unique("early"), { name: "approval", payload: 1 }, 0);
  assert.equal(await early.result(), 1);
});

test("should report failures of runs and errors by code", async () => {
  const run = await client.start("failing");
  await assert.rejects(run.result(), (error) => {
    assert.ok(error instanceof RunError);
    assert.deepEqual([error.code, error.runId, error.runStatus], ["CARD_DECLINED", run.id, "failed"]);
    return true;
  });
  await assert.rejects(client.run("nothing").status(), (error) => {
    assert.ok(error instanceof AiosError);
    assert.deepEqual([error.code, error.status, error.retryable], ["RUN_NOT_FOUND", 404, false]);
    assert.ok(error.requestId !== undefined);
    assert.deepEqual(error.details, { id: "nothing" });
    return true;
  });
  for (const id of ["", ".", ".."]) {
    await assert.rejects(client.run(id).status(), (error) => hasCode(error, "INVALID_REQUEST"));
  }
  assert.throws(() => new AiosClient("ftp://a.example"), TypeError);
  assert.throws(() => new AiosClient("https://ada:secret@a.example"), TypeError);
});

test("should read the other resources", async () => {
  const agents = await client.agents({ agent_type: "greeter" });
  const agent = agents.items[0];
  assert.ok(agent !== undefined);
  assert.equal((await client.agent(agent.id)).attributes.agent_type, "greeter");
  assert.equal((await client.workflow("welcome")).id, "welcome@1");
  assert.ok((await client.workflows()).items.length >= 3);
  assert.equal((await client.shards()).length, 64);
  assert.ok((await client.engines()).items.length >= 1);
  assert.deepEqual((await client.me()).attributes.permissions, ["*"]);
  const event = await client.publish("orders.order.placed", { id: 7 }, { id: unique("event") });
  assert.deepEqual(event.attributes.data, { id: 7 });
  assert.deepEqual((await client.deadLetters("groups", "agents.greeter")).items, []);
  assert.equal(await client.handleDeadLetters("purge", "groups", "agents.greeter", "all"), 0);
  const log = await client.log({ pattern: "workflows.*.started", limit: 1 });
  assert.equal(log.items[0]?.type, "event");
});

test("should send a token", async () => {
  const stranger = new AiosClient(SERVICE, { token: () => Promise.resolve("not-a-token") });
  // Callers on the same machine are let in, whatever they send.
  assert.equal((await stranger.me()).id, "anonymous");
  for (const credentials of [{ token: "a\nb" }, { token: "" }, { apiKey: "…" }]) {
    const invalid = new AiosClient(SERVICE, credentials).me();
    await assert.rejects(invalid, (error) => hasCode(error, "INVALID_CLIENT_CONFIGURATION"));
  }
});

test("should create, replace, restart and delete an agent", async () => {
  const created = await client.createAgent("talker", unique("Ada"), { greeting: "Hi" });
  const { id } = created.agent;
  assert.equal(created.agent.attributes.agent_type, "talker");
  const replaced = await client.replaceAgent(id, unique("Grace"), { greeting: "Hey" }, created.version);
  assert.notEqual(replaced.version, created.version);
  await assert.rejects(client.deleteAgent(id, created.version), (error) =>
    hasCode(error, "PRECONDITION_FAILED"),
  );
  await client.restartAgent(id);
  const { version } = await client.versionedAgent(id);
  assert.ok((await client.deleteAgent(id, version)).attributes.deleted_at !== null);
  await assert.rejects(client.restartAgent(id), (error) => hasCode(error, "AGENT_DELETED"));
  assert.ok((await client.agentTypes()).some((type) => type.id === "talker"));
});

test("should follow an output stream to its end", async () => {
  const run = await client.start<number>("counting", 5);
  const items: unknown[] = [];
  let offset = 0;
  for await (const item of run.stream<number>("numbers")) {
    assert.ok(item.offset > offset);
    ({ offset } = item);
    items.push(item.item);
  }
  assert.deepEqual(items, [0, 1, 2, 3, 4]);
  assert.equal(await run.result(), 5);
  const rest = run.stream<number>("numbers", { after: offset });
  assert.deepEqual(await rest.next(), { done: true, value: undefined });
});

test("should list what was created in a time", async () => {
  const before = new Date().toISOString();
  const run = await client.start("welcome", "Ada");
  await run.result();
  const after = new Date(Date.now() + 60_000).toISOString();
  const runs = await client.runs({ created_after: before, created_before: after, workflow: "welcome" });
  assert.ok(runs.items.some(({ id }) => id === run.id));
  assert.deepEqual((await client.runs({ created_before: before, created_after: before })).items, []);
  const tasks = await client.tasks({ created_after: before, run_id: run.id });
  assert.equal(tasks.items.length, 1);
  const events = await client.log({ created_after: before, pattern: "workflows.*.started" });
  assert.ok(events.items.some(({ attributes }) => attributes.stream === `runs/${run.id}`));
});

test("should get tokens from a token endpoint and renew them", async () => {
  let asked = "";
  const endpoint = await fake((request, response, number) => {
    request.on("data", (data) => (asked = String(data)));
    request.on("end", () => {
      response.setHeader("content-type", "application/json");
      response.statusCode = asked.includes("wrong") ? 401 : 200;
      const granted = { access_token: `token-${number}`, expires_in: number === 0 ? 0 : 900 };
      response.end(JSON.stringify(asked.includes("wrong") ? { error: "invalid_client" } : granted));
    });
  });
  try {
    const grant = { url: endpoint.url, clientId: "console", clientSecret: "s3cret", scope: "runs:read" };
    const token = tokenGrant(grant);
    assert.deepEqual(await Promise.all([token(), token()]), ["token-0", "token-0"]);
    assert.equal(asked, "grant_type=client_credentials&client_id=console&client_secret=s3cret&scope=runs%3Aread");
    assert.deepEqual([await token(), await token()], ["token-1", "token-1"]);
    const refused = tokenGrant({ ...grant, clientSecret: "wrong" });
    await assert.rejects(refused(), (error) => hasCode(error, "UNAUTHENTICATED"));
  } finally {
    endpoint.close();
  }
});

test("should replace a token that is refused, once in each request", async () => {
  let asked = 0;
  const endpoint = await fake((request, response) => {
    request.resume();
    request.on("end", () => {
      asked += 1;
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify({ access_token: `token-${asked}`, expires_in: 900 }));
    });
  });
  const run = { data: { id: "r1", type: "run", attributes: { status: "paused" } }, meta: {} };
  let valid = "Bearer token-1";
  const sent: (string | undefined)[] = [];
  const service = await fake((request, response) => {
    const { authorization } = request.headers;
    sent.push(authorization);
    const isKnown = authorization === valid;
    const isStream = request.headers.accept === "text/event-stream";
    const error = { error: { code: "UNAUTHENTICATED", message: "m", details: {} } };
    response.writeHead(isKnown ? (isStream ? 204 : 200) : 401, { "content-type": "application/json" });
    response.end(isKnown ? JSON.stringify(run) : JSON.stringify(error));
  });
  try {
    const token = tokenGrant({ url: endpoint.url, clientId: "console" });
    const authenticated = new AiosClient(service.url, { ...QUICK, token });
    await authenticated.run("r1").status();
    valid = "Bearer token-2";
    await Promise.all([1, 2, 3].map(() => authenticated.run("r1").status()));
    assert.equal(asked, 2);
    valid = "Bearer token-3";
    assert.deepEqual(await authenticated.run("r1").events().next(), { done: true, value: undefined });
    assert.equal(asked, 3);
    valid = "Bearer of-no-user";
    sent.length = 0;
    await assert.rejects(authenticated.run("r1").status(), (error) => hasCode(error, "UNAUTHENTICATED"));
    assert.deepEqual(sent, ["Bearer token-3", "Bearer token-4"]);
    sent.length = 0;
    const fixed = new AiosClient(service.url, { ...QUICK, token: "fixed" });
    await assert.rejects(fixed.me(), (error) => hasCode(error, "UNAUTHENTICATED"));
    assert.deepEqual(sent, ["Bearer fixed"]);
  } finally {
    endpoint.close();
    service.close();
  }
});
