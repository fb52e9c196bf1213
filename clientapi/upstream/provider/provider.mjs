// A real identity provider for the tests:   node provider.mjs '{"clients":[...],"people":{"anna":{"email":...}}}'
// Prints its issuer, and ends when its input does. Whoever names one of the people is let in, with any password.

import http from "node:http";
import Provider from "oidc-provider";

const wish = JSON.parse(process.argv[2]);
const server = http.createServer();

// Nobody is asked for consent: the operator of the provider has given it.
async function loadExistingGrant(ctx) {
  const { client, provider, session } = ctx.oidc;
  const known = session.grantIdFor(client.clientId);
  if (known) return provider.Grant.find(known);
  const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
  grant.addOIDCScope("openid profile email");
  await grant.save();
  return grant;
}

server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: wish.clients,
    async findAccount(ctx, sub) {
      const claims = wish.people[sub];
      return claims && { accountId: sub, claims: async () => ({ sub, ...claims }) };
    },
    claims: { openid: ["sub"], profile: ["name", "given_name", "family_name", "preferred_username", "groups"], email: ["email", "email_verified"] },
    conformIdTokenClaims: wish.conform !== false,
    cookies: { keys: ["for tests alone"] },
    features: { backchannelLogout: { enabled: true }, rpInitiatedLogout: { enabled: true }, devInteractions: { enabled: true } },
    // The tests' servers stand on this machine, where the provider would not go by itself.
    fetch: (url, options) => fetch(url, { ...options, dispatcher: undefined }),
    loadExistingGrant,
  });
  provider.on("server_error", (ctx, error) => console.error(error.stack));
  provider.on("backchannel.error", (ctx, error) => console.error("backchannel", error.message));
  server.on("request", provider.callback());
  console.log(issuer);
});

process.stdin.on("end", () => process.exit(0)).resume();
