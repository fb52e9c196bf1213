// What runs in each window of the encryption test: one device, as an app would keep it. Its keys and its sync live in the browser's
// database, so that closing the window and opening it again is what it is to a person: the app was closed for a while.

import * as sdk from "matrix-js-sdk";
import { CryptoEvent, VerificationPhase, VerifierEvent } from "matrix-js-sdk/lib/crypto-api";

let client;
let recoveryKey; // opens the secret storage
let backupMayHelp = false; // whether missing keys may be fetched from the backup
const late = new Set(); // events that could not be read when they came

// What the library says is kept for who asks afterwards: the newest lines.
const lines = [];
const note = (level) => (...said) => {
  lines.push(`${new Date().toISOString()} ${level} ${said.map((part) => (typeof part === "string" ? part : part?.stack ?? JSON.stringify(part))).join(" ")}`);
  if (lines.length > 20_000) lines.splice(0, 10_000);
};
const logger = { trace: () => {}, debug: note("debug"), info: note("info"), warn: note("warn"), error: note("error"), getChild: () => logger };
window.lines = () => lines;

const crypto = () => client.getCrypto();
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
// until waits for a condition that what comes from the server may make true.
const until = async (condition) => {
  for (;;) {
    const got = await condition();
    if (got) return got;
    await sleep(50);
  }
};

// The keys of the backup stay out of reach until they are wanted: a device that was there must have them from the senders.
const reach = (resource, options) => {
  const path = new URL(resource).pathname;
  if (path.endsWith("/sync")) return listen(resource, options);
  if (!backupMayHelp && path.includes("/room_keys/keys") && (options?.method ?? "GET") === "GET") {
    return Promise.resolve(new Response('{"errcode":"M_NOT_FOUND","error":"not yet"}', { status: 404, headers: { "Content-Type": "application/json" } }));
  }
  return fetch(resource, options);
};

let listening = 0; // questions for news that have no answer yet
const listen = async (resource, options) => {
  listening++;
  try {
    return await fetch(resource, options);
  } finally {
    listening--;
  }
};

// rest ends the app at a moment at which it waits for news. While it works on an answer it keeps what is in there step by step; a window
// that is shut between two steps would be a device that has lost keys, whatever the servers do.
window.rest = async () => {
  await until(() => listening > 0);
  client.stopClient();
};

// signIn makes a new device.
window.signIn = (baseUrl, user, password) =>
  sdk.createClient({ baseUrl }).loginRequest({ type: "m.login.password", identifier: { type: "m.id.user", user }, password });

// start opens the app on what the browser remembers of the session.
window.start = async (baseUrl, session) => {
  const store = new sdk.IndexedDBStore({ indexedDB: window.indexedDB, localStorage: window.localStorage, dbName: "sync" });
  client = sdk.createClient({
    baseUrl, store, logger, fetchFn: reach, userId: session.user_id, accessToken: session.access_token, deviceId: session.device_id,
    cryptoCallbacks: { getSecretStorageKey: async ({ keys }) => recoveryKey && [Object.keys(keys)[0], recoveryKey] },
  });
  await store.startup();
  await client.initRustCrypto();
  client.on(sdk.MatrixEventEvent.Decrypted, (event) => event.isDecryptionFailure() && late.add(event.getId()));
  client.on(sdk.ClientEvent.ReceivedToDeviceMessage, ({ message }) => message.type === GREETING && greetings.add(message.content.word));
  const ready = new Promise((done) => client.on(sdk.ClientEvent.Sync, (state) => state === "SYNCING" && done()));
  await client.startClient({ initialSyncLimit: 10, lazyLoadMembers: true, pendingEventOrdering: sdk.PendingEventOrdering.Detached });
  await ready;
};

// Greetings go from device to device, encrypted, on the way that room keys take.
const GREETING = "org.example.greeting";
const greetings = new Set();
window.greet = (word, devices) => client.encryptAndSendToDevice(GREETING, devices, { word });
window.greeted = (words) => until(() => words.every((word) => greetings.has(word)));

// synced waits for the next answer of the server to a sync.
window.synced = () => new Promise((done) => {
  const heard = (state) => state === "SYNCING" && (client.off(sdk.ClientEvent.Sync, heard), done());
  client.on(sdk.ClientEvent.Sync, heard);
});

// bootstrap makes the person's cross-signing keys, secret storage and backup, as the first device does.
window.bootstrap = async (password) => {
  const key = await crypto().createRecoveryKeyFromPassphrase();
  recoveryKey = key.privateKey;
  await crypto().bootstrapCrossSigning({
    authUploadDeviceSigningKeys: (ask) => ask({ type: "m.login.password", identifier: { type: "m.id.user", user: client.getUserId() }, password }),
  });
  await crypto().bootstrapSecretStorage({ createSecretStorageKey: async () => key, setupNewKeyBackup: true });
  await until(() => crypto().getActiveSessionBackupVersion());
  return [...key.privateKey];
};

// The library itself holds verifications by weak references only.
const verifications = [];

// compare runs a verification by emoji from where both have agreed to it, and gives the emoji.
async function compare(request, start) {
  verifications.push(request);
  if (start) await request.startVerification("m.sas.v1");
  const verifier = await until(() => request.verifier);
  const emoji = new Promise((done, fail) => {
    verifier.on(VerifierEvent.Cancel, () => fail(new Error("the verification was cancelled: " + request.cancellationCode)));
    const shown = (sas) => sas.confirm().then(() => done(sas.sas.emoji.map(([, name]) => name).join()), fail);
    const already = verifier.getShowSasCallbacks();
    if (already) shown(already);
    else verifier.on(VerifierEvent.ShowSas, shown);
  });
  await verifier.verify();
  await until(() => request.phase === VerificationPhase.Done);
  return emoji;
}

// knows waits until the keys of a device of the same person are here: a verification that it asks for before is ignored.
window.knows = (device) => until(async () => (await crypto().getUserDeviceInfo([client.getUserId()])).get(client.getUserId())?.has(device));

// vouch accepts the next request of another device of the same person, and compares the emoji.
window.vouch = async (device) => {
  const request = await until(() => crypto().getVerificationRequestsToDeviceInProgress(client.getUserId()).find((r) => r.otherDeviceId === device));
  await request.accept();
  return compare(request, false);
};

// prove asks the other devices for a verification; whoever accepts compares the emoji. The secrets come after it.
window.prove = async () => {
  await until(() => crypto().userHasCrossSigningKeys());
  const request = await crypto().requestOwnUserVerification();
  await until(() => request.phase === VerificationPhase.Ready);
  const emoji = await compare(request, true);
  await until(() => crypto().isCrossSigningReady());
  await until(() => crypto().getSessionBackupPrivateKey());
  await until(() => crypto().getActiveSessionBackupVersion());
  return emoji;
};

// recover signs this device with the keys from the secret storage, which the recovery key opens.
window.recover = async (key) => {
  recoveryKey = new Uint8Array(key);
  await until(() => crypto().userHasCrossSigningKeys());
  await crypto().bootstrapCrossSigning({});
  await crypto().loadSessionBackupPrivateKeyFromSecretStorage();
  await crypto().checkKeyBackupAndEnable();
  await until(() => crypto().isCrossSigningReady());
};

window.createRoom = async (guests, rotation) => {
  const content = { algorithm: "m.megolm.v1.aes-sha2", rotation_period_msgs: rotation };
  const made = await client.createRoom({ preset: "private_chat", invite: guests, initial_state: [{ type: "m.room.encryption", state_key: "", content }] });
  return made.room_id;
};

window.joinWhenInvited = async (roomId) => {
  await until(() => client.getRoom(roomId)?.getMyMembership() === "invite");
  await client.joinRoom(roomId);
};

// sees waits until the room is encrypted and everybody in it has joined.
window.sees = (roomId, people) => until(async () => {
  const room = client.getRoom(roomId);
  if (!room?.hasEncryptionStateEvent()) return false;
  return (await room.getEncryptionTargetMembers()).filter((m) => m.membership === "join").length === people;
});

// say sends a message and gives its event ID; while the server is away it tries again, as somebody who taps on “retry”.
window.say = async (roomId, body) => {
  const room = client.getRoom(roomId);
  let unsent;
  for (;;) {
    try {
      return (unsent ? await client.resendEvent(unsent, room) : await client.sendTextMessage(roomId, body)).event_id;
    } catch (error) {
      unsent = room.getPendingEvents().find((event) => event.status === sdk.EventStatus.NOT_SENT && event.getContent().body === body);
      if (!unsent) throw error;
      await sleep(300);
    }
  }
};

// trusts waits until each of the devices is known here, and known to be signed by its owner.
window.trusts = (devices) => until(async () => {
  for (const [user, device] of devices) {
    if (!(await crypto().getDeviceVerificationStatus(user, device))?.signedByOwner) return false;
  }
  return true;
});

// unread tries to read what the history holds of the messages that were sent (event IDs and bodies by room), and gives those that
// cannot be read within the time, with the reason. With help, missing keys are taken from the backup.
window.unread = async (sent, help, patience) => {
  const deadline = Date.now() + patience;
  const missing = new Map(Object.values(sent).flat());
  const here = new Map();
  backupMayHelp = help;
  for (;;) {
    for (const [roomId, messages] of Object.entries(sent)) {
      for await (const raw of history(roomId, messages.map(([id]) => id).filter((id) => !here.has(id)))) here.set(raw.event_id, new sdk.MatrixEvent(raw));
    }
    if (help) await crypto().restoreKeyBackup();
    for (const [id, body] of missing) {
      const event = here.get(id);
      if (!event) continue;
      if (!event.clearEvent || event.isDecryptionFailure()) await event.attemptDecryption(crypto(), { isRetry: true });
      if (event.getContent().body === body) missing.delete(id);
    }
    if (missing.size === 0 || Date.now() > deadline) break;
    await sleep(500);
  }
  backupMayHelp = false;
  return [...missing.keys()].map((id) => [id, here.has(id) ? `${here.get(id).decryptionFailureReason}: ${here.get(id).getContent().body}` : "not in the history"]);
};

// history pages back through the room until all the events came.
async function* history(roomId, wanted) {
  const left = new Set(wanted);
  for (let from = null; left.size > 0; ) {
    const page = await client.createMessagesRequest(roomId, from, 200, "b");
    for (const raw of page.chunk) {
      if (left.delete(raw.event_id)) yield raw;
    }
    if (!page.end || page.chunk.length === 0) return;
    from = page.end;
  }
}

// restore takes everything that the backup holds.
window.restore = async () => {
  backupMayHelp = true;
  const { imported, total } = await crypto().restoreKeyBackup();
  backupMayHelp = false;
  return { imported, total };
};

// shown gives the messages on the screen that stay undecryptable within the time, and how many were so when they came.
window.shown = async (patience) => {
  const bad = () => client.getRooms().flatMap((room) => room.getLiveTimeline().getEvents()).filter((event) => event.isDecryptionFailure());
  for (const deadline = Date.now() + patience; bad().length > 0 && Date.now() < deadline; ) await sleep(200);
  return { bad: bad().map((event) => [event.getId(), event.decryptionFailureReason]), late: late.size };
};

window.signOut = () => client.logout(true);
