import assert from "node:assert/strict";
import type { ServerResponse } from "node:http";
import { mock, test } from "node:test";

import { AiosClient, ConnectionError, hasCode } from "../src/index.js";
import { Parser } from "../src/events.js";
import { QUICK, client, fake, proxy, unique } from "./support.js";

/** Bytes of the head of an answer, which every cut connection lets through. */
const HEAD = 450;

test("should read messages wherever the text is cut", () => {
  const text = ':\n\nid: 7\ndata: {"a":1}\n\nid:8\r\ndata:a\r\ndata: b\r\n\r\nid: 9\n\nid: 10\ndata: cut';
  for (let length = 1; length <= text.length; length += 1) {
    const parser = new Parser();
    const found = [];
    for (let start = 0; start < text.length; start += length) {
      found.push(...parser.push(text.slice(start, start + length)));
    }
    assert.deepEqual(found, [{ id: 7, data: '{"a":1}' }, { id: 8, data: "a\nb" }, { id: 9 }]);
  }
});

test("should refuse a message that never ends", () => {
  const part = "x".repeat(1024 * 1024);
  for (const text of [part, `data: ${part}\n`]) {
    const parser = new Parser();
    const fill = () => {
      for (let size = 0; size < 65; size += 1) {
        parser.push(text);
      }
    };
    assert.throws(fill, (error) => hasCode(error, "INVALID_RESPONSE"));
  }
});

// A stream keeps its process alive until it is closed.
test("should follow the log without a gap or a repeat wherever connections are cut", async () => {
  for (let number = 0; number < 5; number += 1) {
    await (await client.start("welcome", "Ada")).result();
  }
  const beginning = client.events();
  const head = await beginning.begin();
  beginning.close();
  const cutting = await proxy((connection) => HEAD + 331 * (1 + (connection % 7)));
  try {
    const positions: (number | null | undefined)[] = [];
    for await (const event of new AiosClient(cutting.url, QUICK).events({ after: 0 })) {
      positions.push(event.attributes.position);
      assert.equal(event.attributes.position, positions.length);
      if (event.attributes.position === head) {
        break;
      }
    }
    assert.deepEqual(positions, Array.from({ length: head }, (_, index) => index + 1));
    assert.ok(cutting.count() > 5, `${cutting.count()} connections`);
  } finally {
    cutting.close();
  }
});

test("should miss no event if the first connection is cut before any", async () => {
  const cutting = await proxy((connection) => (connection === 0 ? HEAD : Number.MAX_SAFE_INTEGER));
  const events = new AiosClient(cutting.url, QUICK).events({ pattern: "workflows.approval.started" });
  try {
    await events.begin();
    const run = await client.start("approval", 0);
    const first = await events.next();
    assert.equal(first.value?.attributes.stream, `runs/${run.id}`);
    events.close();
    assert.equal((await events.next()).done, true);
    await run.cancel();
  } finally {
    events.close();
    cutting.close();
  }
});

test("should follow a run to its end", async () => {
  const run = await client.start("approval", 0, { id: unique("followed") });
  const types: string[] = [];
  let last = 0;
  for await (const event of run.events()) {
    if (types.length === 0) {
      await run.signal("approval", "yes");
    }
    types.push(event.attributes.type);
    last = event.attributes.position ?? last;
  }
  assert.equal(types.at(-1), "workflows.approval.completed");
  const { done } = await run.events({ after: last }).next();
  assert.equal(done, true);
  const beyond = run.events({ after: Number.MAX_SAFE_INTEGER }).next();
  await assert.rejects(beyond, { code: "INVALID_CURSOR" });
});

test("should end when its caller aborts it", async () => {
  const controller = new AbortController();
  const events = client.events({ pattern: "nothing.at.all", signal: controller.signal });
  await events.begin();
  const next = events.next();
  controller.abort(new Error("enough"));
  await assert.rejects(next, /enough/);
});

test("should report a service that is away and continue when it is back", async () => {
  const away = await fake((request) => request.socket.destroy());
  const events = new AiosClient(away.url, QUICK).run("r1").events();
  await assert.rejects(events.next(), ConnectionError);
  assert.equal(away.count(), 5);
  away.close();
  // An error that may pass: the next call tries again.
  await assert.rejects(events.next(), ConnectionError);
});

test("should count silence only while there is a reader", async () => {
  const event = (id: number): string => `id: ${id}\ndata: {"id":"e${id}"}\n\n`;
  let stream: ServerResponse | undefined;
  let cut = (): void => {};
  const isCut = new Promise<"cut">((resolve) => (cut = () => resolve("cut")));
  const server = await fake((_, response) => {
    stream = response;
    response.on("close", cut);
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(event(1));
  });
  mock.timers.enable({ apis: ["setTimeout"] });
  const events = new AiosClient(server.url, QUICK).events({ after: 0 });
  try {
    assert.equal((await events.next()).value?.id, "e1");
    mock.timers.tick(60_000);
    stream?.write(event(2));
    const second = await Promise.race([events.next(), isCut]);
    assert.ok(second !== "cut" && second.value?.id === "e2");
    const third = events.next();
    mock.timers.tick(60_000);
    assert.equal(await isCut, "cut");
    events.close();
    mock.timers.tick(60_000);
    assert.equal((await third).done, true);
  } finally {
    mock.timers.reset();
    events.close();
    server.close();
  }
});
