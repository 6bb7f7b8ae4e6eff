import { AiosError, ConnectionError, InvalidResponseError } from "./errors.js";
import { retryAfter, timer } from "./http.js";

/** How tokens are got from an OAuth2 token endpoint (RFC 6749). */
export interface TokenGrant {
  /** The token endpoint, such as `https://id.example.com/token`. */
  readonly url: string;
  /** For `grant_type=client_credentials`, or the client of a user. */
  readonly clientId?: string;
  readonly clientSecret?: string;
  /** For `grant_type=password`, of an endpoint for development. */
  readonly username?: string;
  readonly password?: string;
  /** Permissions that are asked for, separated by spaces. */
  readonly scope?: string;
  /** Further parameters that the provider needs, such as `resource`. */
  readonly parameters?: Readonly<Record<string, string>>;
  /** How long a request may take, in milliseconds; 30,000 by default. */
  readonly timeoutMs?: number;
}

/** Lifetime of a token whose answer has none, in seconds. */
const LIFETIME_SECONDS = 60;

/**
 * What returns a valid token, for the option `token` of a client. A token is used until 4/5 of its lifetime
 * have passed, or until the service refuses it; callers wait while one of them asks for the next one.
 */
export function tokenGrant(grant: TokenGrant): (refused?: string) => Promise<string> {
  let latest: { readonly token: string; readonly renewAt: number } | undefined;
  let pending: Promise<string> | undefined;
  const renew = async (): Promise<string> => {
    const asked = Date.now();
    const { token, seconds } = await request(grant);
    latest = { token, renewAt: asked + seconds * 800 };
    return token;
  };
  return async (refused) => {
    // Another caller may have replaced it already.
    if (refused !== undefined && latest?.token === refused) {
      latest = undefined;
    }
    if (latest !== undefined && Date.now() < latest.renewAt) {
      return latest.token;
    }
    pending ??= renew().finally(() => {
      pending = undefined;
    });
    return pending;
  };
}

async function request(grant: TokenGrant): Promise<{ token: string; seconds: number }> {
  const fields = {
    grant_type: grant.username === undefined ? "client_credentials" : "password",
    client_id: grant.clientId,
    client_secret: grant.clientSecret,
    username: grant.username,
    password: grant.password,
    scope: grant.scope,
    ...grant.parameters,
  };
  const body = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined) {
      body.set(name, value);
    }
  }
  const headers = { accept: "application/json" };
  const signal = AbortSignal.timeout(timer(grant.timeoutMs ?? 30_000));
  let response: Response;
  try {
    response = await fetch(grant.url, { method: "POST", body, headers, redirect: "error", signal });
  } catch (cause) {
    const message = "the token endpoint cannot be reached";
    throw new ConnectionError(message, { code: "SERVICE_UNREACHABLE", cause });
  }
  const answer = (await response.json().catch(() => ({}))) as Record<string, unknown>;
  if (!response.ok) {
    const reason = `${String(answer["error"] ?? response.status)} ${String(answer["error_description"] ?? "")}`;
    const isAway = response.status === 429 || response.status >= 500;
    const code = isAway ? "SERVICE_UNREACHABLE" : "UNAUTHENTICATED";
    const message = `the token endpoint refuses the grant: ${reason.trim()}`;
    throw new AiosError(message, { code, status: response.status, ...retryAfter(response) });
  }
  const { access_token: token, expires_in: seconds } = answer;
  if (typeof token !== "string") {
    const message = "the answer of the token endpoint has no access token";
    throw new InvalidResponseError(message, { code: "INVALID_RESPONSE", status: response.status });
  }
  return { token, seconds: lifetime(seconds) };
}

/** The lifetime of a token, in seconds. It is a hint, which some issuers write as a text. */
function lifetime(expiresIn: unknown): number {
  const isText = typeof expiresIn === "string" && expiresIn.trim() !== "";
  const seconds = isText ? Number(expiresIn) : expiresIn;
  return typeof seconds === "number" && Number.isFinite(seconds) && seconds >= 0 ? seconds : LIFETIME_SECONDS;
}
