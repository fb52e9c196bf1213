// What runs in each window of the encryption test: a matrix-js-sdk client with its crypto, and a few words to steer it.

import * as sdk from "matrix-js-sdk";

let client;
const read = [];
const waiting = [];

// heard remembers a readable message, and wakes who waits for it.
function heard(event) {
  if (event.getType() !== "m.room.message" || event.isDecryptionFailure()) return;
  read.push({ room: event.getRoomId(), body: event.getContent().body, encrypted: event.isEncrypted() });
  for (const wake of waiting.splice(0)) wake();
}

window.signIn = async (baseUrl, user, password) => {
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
  await client.startClient({ initialSyncLimit: 20 });
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

// until waits for a condition that each sync may make true.
async function until(condition) {
  while (!condition()) await new Promise((done) => setTimeout(done, 50));
}
