// What runs in each window of the encryption tests: a matrix-js-sdk client with its crypto, and a few words to steer it.

import * as sdk from "matrix-js-sdk";
import { SlidingSync } from "matrix-js-sdk/lib/sliding-sync";

export let client;
let sliding; // the client's sliding sync; none where it uses the older one
const read = [];
const waiting = [];

// heard remembers a readable message, and wakes who waits for it.
function heard(event) {
  if (event.getType() !== "m.room.message" || event.isDecryptionFailure()) return;
  read.push({ room: event.getRoomId(), body: event.getContent().body, encrypted: event.isEncrypted() });
  for (const wake of waiting.splice(0)) wake();
}

window.signIn = async (baseUrl, user, password, slide = false) => {
  const session = await sdk.createClient({ baseUrl }).loginRequest({
    type: "m.login.password",
    identifier: { type: "m.id.user", user },
    password,
  });
  client = sdk.createClient({ baseUrl, userId: session.user_id, accessToken: session.access_token, deviceId: session.device_id });
  await client.initRustCrypto({ useIndexedDB: false });
  client.on(sdk.RoomEvent.Timeline, heard);
  client.on(sdk.MatrixEventEvent.Decrypted, heard);
  const ready = new Promise((done) => client.on(sdk.ClientEvent.Sync, (state) => state === "PREPARED" && done()));
  if (slide) {
    const wanted = { timeline_limit: 1, required_state: [["*", "*"]] };
    sliding = new SlidingSync(baseUrl, new Map([["all", { ranges: [[0, 0]], ...wanted, filters: {} }]]), { ...wanted, timeline_limit: 20 }, client, 20_000);
    sliding.on("SlidingSync.Lifecycle", (state, answer, error) => {
      if (error) console.warn("sliding sync: " + error.message);
      // Grow the window until it covers the list.
      const count = answer?.lists?.all?.count ?? 0;
      if (state === "COMPLETE" && count > sliding.getListParams("all").ranges[0][1] + 1) sliding.setListRanges("all", [[0, count - 1]]);
    });
  }
  await client.startClient({ initialSyncLimit: 20, slidingSync: sliding });
  await ready;
  return session.user_id;
};

window.createEncryptedRoom = async (guest) => {
  const room = await client.createRoom({
    preset: "private_chat",
    invite: [guest],
    initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
  });
  return room.room_id;
};

window.joinWhenInvited = async (roomId) => {
  await until(() => client.getRoom(roomId)?.getMyMembership() === "invite");
  await client.joinRoom(roomId);
  await until(() => client.getRoom(roomId)?.getMyMembership() === "join" && client.getRoom(roomId).hasEncryptionStateEvent());
};

window.memberJoined = (roomId, user) => until(() => client.getRoom(roomId)?.getMember(user)?.membership === "join");
window.say = (roomId, body) => client.sendTextMessage(roomId, body);

window.readsText = async (roomId, body) => {
  for (;;) {
    const found = read.find((event) => event.room === roomId && event.body === body);
    if (found) return found;
    await new Promise((wake) => waiting.push(wake));
  }
};

window.rename = (roomId, name) => client.setRoomName(roomId, name);
window.named = (roomId, name) => until(() => client.getRoom(roomId)?.name === name);
window.plainRoom = async (name, bodies) => {
  const room = await client.createRoom({ preset: "private_chat", name });
  for (const body of bodies) await client.sendTextMessage(room.room_id, body);
  return room.room_id;
};
const bodies = (roomId) => client.getRoom(roomId)?.getLiveTimeline().getEvents().map((event) => event.getContent().body).filter(Boolean) ?? [];
// A room of which the list tells only the last message is subscribed to, and shows the others too.
window.expands = async (roomId, all) => {
  await until(() => bodies(roomId).length > 0);
  const before = bodies(roomId);
  sliding.modifyRoomSubscriptions(new Set([roomId]));
  await until(() => bodies(roomId).length >= all.length);
  return [before, bodies(roomId)];
};
window.types = (roomId) => client.sendTyping(roomId, true, 20_000);
window.seesTyping = (roomId, user) => until(() => client.getRoom(roomId)?.getMember(user)?.typing);
window.reads = async (roomId) => client.sendReadReceipt(client.getRoom(roomId).getLiveTimeline().getEvents().at(-1));
window.seesRead = (roomId, user) => until(() => {
  const events = client.getRoom(roomId).getLiveTimeline().getEvents();
  return client.getRoom(roomId).getEventReadUpTo(user) === events.at(-1).getId();
});

// until waits for a condition that each sync may make true.
async function until(condition) {
  while (!condition()) await new Promise((done) => setTimeout(done, 50));
}
