// A client as apps are: it registers itself, sends its person to the server's pages, and goes on when they come back.
// Everything OAuth is matrix-js-sdk's.

import { OAuth2, isValidAuthMetadata } from "matrix-js-sdk/lib/oauth/index.js";
import { createClient } from "matrix-js-sdk/lib/matrix.js";
import { MSC4108SecureChannel } from "matrix-js-sdk/lib/rendezvous/channels/index.js";
import { MSC4108SignInWithQR } from "matrix-js-sdk/lib/rendezvous/MSC4108SignInWithQR.js";
import { MSC4108RendezvousSession } from "matrix-js-sdk/lib/rendezvous/transports/index.js";
import { initAsync, QrCodeData } from "@matrix-org/matrix-sdk-crypto-wasm";

const redirect = `${location.origin}/callback`;
let meeting, qr;

async function discover(base) {
  const metadata = await (await fetch(`${base}/_matrix/client/v1/auth_metadata`)).json();
  if (!isValidAuthMetadata(metadata)) throw new Error(`matrix-js-sdk does not like ${JSON.stringify(metadata)}`);
  return metadata;
}

const register = (metadata) => OAuth2.registerClient(metadata, {
  client_name: "Element", client_uri: "https://element.example/", application_type: "native", redirect_uris: ["http://127.0.0.1/callback"],
  policy_uri: "https://element.example/privacy", tos_uri: "https://element.example/terms",
});

function restored() {
  const { metadata, clientId, deviceId, codeVerifier } = JSON.parse(sessionStorage.getItem("request"));
  return new OAuth2(metadata, { clientId, deviceId, codeVerifier });
}

const told = (error) => error.error ?? error.errcode ?? error.message;

window.app = {
  // begin registers, and says where to send the person.
  async begin(base, prompt) {
    const metadata = await discover(base);
    const auth = new OAuth2(metadata, { clientId: await register(metadata) });
    const state = crypto.randomUUID();
    sessionStorage.setItem("request", JSON.stringify({ base, metadata, state, ...auth.context }));
    return auth.generateAuthorizationCodeGrantUrl(state, redirect, "fragment", prompt);
  },

  // finish takes the answer from the address, and refuses one that belongs to no request of this window's.
  async finish() {
    const answer = new URLSearchParams(location.hash.slice(1));
    if (answer.get("state") !== JSON.parse(sessionStorage.getItem("request")).state) return { refused: "wrong state" };
    if (answer.get("error")) return { refused: answer.get("error") };
    sessionStorage.setItem("code", answer.get("code"));
    return restored().completeAuthorizationCodeGrant(answer.get("code"), redirect).catch((error) => ({ refused: told(error) }));
  },

  // again comes with the same code once more.
  again: () => restored().completeAuthorizationCodeGrant(sessionStorage.getItem("code"), redirect).catch((error) => ({ refused: told(error) })),
  refresh: (token) => restored().performRefreshTokenGrant(token).catch((error) => ({ refused: told(error) })),
  revoke: (token) => restored().revokeToken(token),

  async whoami(token) {
    const { base } = JSON.parse(sessionStorage.getItem("request"));
    const answer = await fetch(`${base}/_matrix/client/v3/account/whoami`, { headers: { Authorization: `Bearer ${token}` } });
    return { code: answer.status, ...(await answer.json()) };
  },

  // link begins the device grant, and linked waits for its end.
  async link(base) {
    const metadata = await discover(base);
    window.device = new OAuth2(metadata, { clientId: await register(metadata) });
    window.grant = await window.device.startDeviceAuthorizationGrant();
    sessionStorage.setItem("request", JSON.stringify({ base, metadata, ...window.device.context }));
    return window.grant;
  },
  linked: () => window.device.waitForDeviceAuthorizationGrant(window.grant),

  // Sign-in by a QR code. show is the device that is in: it opens a meeting place and shows the code, here as its bytes.
  async show(base, accessToken, userId) {
    await initAsync("/crypto.wasm");
    const client = createClient({ baseUrl: base, accessToken, userId });
    client.getCrypto = () => ({ exportSecretsBundle: async () => ({ cross_signing: { master_key: "a secret" } }) });
    meeting = new MSC4108RendezvousSession({ client });
    await meeting.send("");
    qr = new MSC4108SignInWithQR(new MSC4108SecureChannel(meeting), false, client);
    await qr.generateCode();
    return [...qr.code];
  },

  // approve waits for the new device's wish, and says on which page the person approves it.
  async approve() {
    await qr.negotiateProtocols();
    return (await qr.deviceAuthorizationGrant()).verificationUri;
  },

  // scan is the new device, which reads the code and asks to be let in.
  async scan(code, base) {
    await initAsync("/crypto.wasm");
    const data = QrCodeData.fromBytes(new Uint8Array(code));
    meeting = new MSC4108RendezvousSession({ url: data.rendezvousUrl });
    qr = new MSC4108SignInWithQR(new MSC4108SecureChannel(meeting, data.publicKey), true);
    await qr.negotiateProtocols();
    const metadata = await discover(base);
    const clientId = await register(metadata);
    sessionStorage.setItem("request", JSON.stringify({ base, clientId }));
    await qr.deviceAuthorizationGrant({ metadata, clientId, deviceId: crypto.randomUUID().slice(0, 10) });
  },

  // complete is the new device's end, and share the other's.
  async complete() {
    const tokens = await qr.completeLoginOnNewDevice(JSON.parse(sessionStorage.getItem("request")));
    return { tokens, ...(await qr.shareSecrets()) };
  },
  share: () => qr.shareSecrets(),
  checkCode: () => qr.checkCode,

  // Two devices at a meeting place: one opens it, the other comes by its address.
  async meet(base, text) {
    meeting = new MSC4108RendezvousSession({ fallbackRzServer: `${base}/_matrix/client/unstable/org.matrix.msc4108/rendezvous` });
    await meeting.send(text);
    return meeting.url;
  },
  come: (url) => { meeting = new MSC4108RendezvousSession({ url }); },
  send: (text) => meeting.send(text),
  receive: () => meeting.receive(),
  part: () => meeting.close(),
};
