import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from "node:http";
import { connect, createServer, type AddressInfo } from "node:net";

import { AiosClient, type ClientOptions } from "../src/index.js";

const url = process.env["AIOS_URL"];
if (url === undefined) {
  throw new Error("AIOS_URL is the URL of a service, such as http://127.0.0.1:8080/api/v1");
}

/** The URL of the running service. */
export const SERVICE: string = url;

/** Repeats without long pauses. */
export const QUICK: ClientOptions = { retry: { initialDelayMs: 1, maxDelayMs: 5 } };

export const client = new AiosClient(SERVICE, QUICK);

/** A server that is closed when the block ends. */
export interface Server {
  readonly url: string;
  readonly count: () => number;
  readonly close: () => void;
}

/** Passes connections on to the service, and cuts each of them after some bytes of its answers. */
export async function proxy(limitOf: (connection: number) => number): Promise<Server> {
  const target = new URL(SERVICE);
  let connections = 0;
  const server = createServer((incoming) => {
    let left = limitOf(connections);
    connections += 1;
    const outgoing = connect(Number(target.port), target.hostname);
    incoming.on("data", (data) => outgoing.write(data));
    outgoing.on("data", (data) => {
      incoming.write(data.subarray(0, left));
      left -= data.length;
      if (left <= 0) {
        incoming.end();
        outgoing.destroy();
      }
    });
    for (const [one, other] of [[incoming, outgoing], [outgoing, incoming]] as const) {
      one.on("error", () => other.destroy());
      one.on("close", () => other.destroy());
    }
  });
  const port = await listen(server);
  return {
    url: `http://127.0.0.1:${port}${target.pathname}`,
    count: () => connections,
    close: () => server.close(),
  };
}

/** A server that answers by itself. */
export async function fake(
  answer: (request: IncomingMessage, response: ServerResponse, number: number) => void,
): Promise<Server> {
  let requests = 0;
  const server = createHttpServer((request, response) => {
    answer(request, response, requests);
    requests += 1;
  });
  const port = await listen(server);
  return {
    url: `http://127.0.0.1:${port}`,
    count: () => requests,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

async function listen(server: {
  listen(port: number, host: string, done: () => void): unknown;
  address(): string | AddressInfo | null;
}): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
}

/** An id that no other test has. */
export function unique(name: string): string {
  return `${name}-${process.pid}-${Math.random().toString(36).slice(2)}`;
}
