// A real identity provider for the tests, with its own pages to sign in on.

import Provider from "oidc-provider";

export async function openProvider(port, house) {
  const provider = new Provider(`http://127.0.0.1:${port}`, {
    clients: [{
      client_id: "chancery", client_secret: "the secret of the house",
      redirect_uris: [`${house}/_chancery/upstream/ministry/callback`],
      post_logout_redirect_uris: [`${house}/_chancery/upstream/loggedout`],
      backchannel_logout_uri: `${house}/_chancery/upstream/ministry/backchannel`, backchannel_logout_session_required: true,
    }],
    claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"] },
    features: { backchannelLogout: { enabled: true }, devInteractions: { enabled: true } },
    cookies: { keys: ["for the tests alone"] },
    findAccount: (_, sub) => ({ accountId: sub, claims: () => ({ sub, email: `${sub}@ministry.example`, email_verified: true, name: sub }) }),
  });
  const server = provider.listen(port, "127.0.0.1");
  await new Promise((resolve, reject) => { server.once("listening", resolve); server.once("error", reject); });
  return { provider, close: () => new Promise((resolve) => { server.close(resolve); server.closeAllConnections(); }) };
}
