// An OpenID provider for the tests: `node provider.mjs PORT KEY_ID [RESOURCE]`. It signs with a new RSA key,
// and gives the client `tea` tokens for the resource, `https://aios.example` unless given. Prints its URL
// when it listens.

import { generateKeyPairSync } from "node:crypto";
import Provider from "oidc-provider";

const [port, kid, resource = "https://aios.example"] = process.argv.slice(2);
const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
const scopes = "runs:read tasks:create";
const issuer = `http://127.0.0.1:${port}`;

const provider = new Provider(issuer, {
  jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), kid, alg: "RS256", use: "sig" }] },
  scopes: scopes.split(" "),
  clients: [
    {
      client_id: "tea",
      client_secret: "the secret of the tests",
      grant_types: ["client_credentials"],
      redirect_uris: [],
      response_types: [],
    },
  ],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => resource,
      getResourceServerInfo: (_context, audience) => ({
        scope: scopes,
        audience,
        accessTokenFormat: "jwt",
        accessTokenTTL: 300,
        jwt: { sign: { alg: "RS256" } },
      }),
    },
  },
});

provider.listen(Number(port), "127.0.0.1", () => console.log(issuer));
