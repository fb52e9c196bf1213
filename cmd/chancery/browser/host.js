// The client around Element Call in the tests: it shows the call in a frame, and answers it over the widget API with its
// own matrix-js-sdk client, as Element Web does with its own.

import * as sdk from "matrix-js-sdk";
import { ClientWidgetApi, Widget, WidgetDriver } from "matrix-widget-api";
import { client } from "./encrypted.js";

// Driver is the host's half of the widget API: what the call asks for, done by the client.
class Driver extends WidgetDriver {
  constructor(roomId) {
    super();
    this.roomId = roomId;
  }

  // The user is asked by a real client; ours trusts the one call that it opened.
  async validateCapabilities(requested) {
    window.granted = [...requested];
    return requested;
  }

  async sendEvent(type, content, stateKey = null, roomId = null) {
    const room = roomId ?? this.roomId;
    let sent;
    if (stateKey !== null) sent = await client.sendStateEvent(room, type, content, stateKey);
    else if (type === "m.room.redaction") sent = await client.redactEvent(room, content.redacts);
    else sent = await client.sendEvent(room, type, content);
    return { roomId: room, eventId: sent.event_id };
  }

  async sendStickyEvent(sticky, type, content, roomId = null) {
    const room = roomId ?? this.roomId;
    return { roomId: room, eventId: (await client._unstable_sendStickyEvent(room, sticky, null, type, content)).event_id };
  }

  async sendDelayedEvent(delay, type, content, stateKey = null, roomId = null) {
    const room = roomId ?? this.roomId;
    const sent = stateKey !== null
      ? await client._unstable_sendDelayedStateEvent(room, { delay }, type, content, stateKey)
      : await client._unstable_sendDelayedEvent(room, { delay }, null, type, content);
    return { roomId: room, delayId: sent.delay_id };
  }

  async sendDelayedStickyEvent(delay, sticky, type, content, roomId = null) {
    const room = roomId ?? this.roomId;
    return { roomId: room, delayId: (await client._unstable_sendStickyDelayedEvent(room, sticky, { delay }, null, type, content)).delay_id };
  }

  async cancelScheduledDelayedEvent(delayId) {
    await client._unstable_cancelScheduledDelayedEvent(delayId);
  }
  async restartScheduledDelayedEvent(delayId) {
    await client._unstable_restartScheduledDelayedEvent(delayId);
  }
  async sendScheduledDelayedEvent(delayId) {
    await client._unstable_sendScheduledDelayedEvent(delayId);
  }

  async sendToDevice(type, encrypted, contents) {
    if (!encrypted) {
      await client.sendToDevice(type, new Map(Object.entries(contents).map(([user, devices]) => [user, new Map(Object.entries(devices))])));
      return;
    }
    const alike = new Map(); // content -> who gets it
    for (const [userId, devices] of Object.entries(contents)) {
      for (const [deviceId, content] of Object.entries(devices)) {
        const text = JSON.stringify(content);
        alike.set(text, [...(alike.get(text) ?? []), { userId, deviceId }]);
      }
    }
    for (const [text, devices] of alike) await client.encryptAndSendToDevice(type, devices, JSON.parse(text));
  }

  async readRoomState(roomId, type, stateKey) {
    const state = client.getRoom(roomId)?.getLiveTimeline().getState(sdk.EventTimeline.FORWARDS);
    const found = stateKey === undefined ? state?.getStateEvents(type) : [state?.getStateEvents(type, stateKey)];
    return (found ?? []).filter(Boolean).map((event) => event.getEffectiveEvent());
  }

  async readRoomTimeline(roomId, type, msgtype, stateKey, limit) {
    const events = (client.getRoom(roomId)?.getLiveTimeline().getEvents() ?? []).filter((event) =>
      event.getType() === type && (msgtype === undefined || event.getContent().msgtype === msgtype) && (stateKey === undefined || event.getStateKey() === stateKey));
    return events.slice(limit ? -limit : 0).reverse().map((event) => event.getEffectiveEvent());
  }

  async readStickyEvents(roomId) {
    return [...(client.getRoom(roomId)?._unstable_getStickyEvents() ?? [])].map((event) => event.getEffectiveEvent());
  }

  async readEventRelations(eventId, roomId, relation, type, from, to, limit, dir) {
    const { events, nextBatch, prevBatch } = await client.relations(roomId ?? this.roomId, eventId, relation ?? null, type ?? null, { from, to, limit, dir });
    return { chunk: events.map((event) => event.getEffectiveEvent()), nextBatch, prevBatch };
  }

  async askOpenID(observer) {
    observer.update({ state: "allowed", token: await client.getOpenIdToken() });
  }

  async *getTurnServers() {
    const { uris, username, password } = await client.turnServer();
    yield { uris, username, password };
  }

  async getRtcTransports() {
    return { rtc_transports: await client._unstable_getRTCTransports() };
  }

  getKnownRooms() {
    return client.getVisibleRooms().map((room) => room.roomId);
  }

  processError(error) {
    return error instanceof sdk.MatrixError ? { matrix_api_error: error.asWidgetApiErrorData() } : undefined;
  }
}

// callRoom makes an encrypted room in which everybody may call.
window.callRoom = async (guests) => {
  const room = await client.createRoom({
    preset: "private_chat",
    name: "Cabinet",
    invite: guests,
    initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
    power_level_content_override: { events: { "org.matrix.msc3401.call.member": 0 } },
  });
  return room.room_id;
};

// allJoined waits until the room has these members, and the client has keys of a device of each: call keys go to devices.
window.allJoined = async (roomId, users) => {
  const missing = async () => {
    const room = client.getRoom(roomId);
    const absent = users.filter((user) => room?.getMember(user)?.membership !== "join");
    if (absent.length) return `no member ${absent}`;
    const devices = await client.getCrypto().getUserDeviceInfo(users, true);
    return users.filter((user) => !devices.get(user)?.size).map((user) => `no device of ${user}`).join();
  };
  for (const deadline = Date.now() + 30_000; ; await new Promise((done) => setTimeout(done, 100))) {
    const what = await missing();
    if (!what) return;
    if (Date.now() > deadline) throw new Error(`${client.getUserId()} has ${what} in ${roomId}`);
  }
};

window.kick = (roomId, user) => client.kick(roomId, user);

// openCall shows Element Call in a frame, which then waits in its lobby.
window.openCall = (roomId, path) => {
  const id = "call";
  const params = new URLSearchParams({
    widgetId: id, parentUrl: location.href.split("#")[0], roomId, userId: client.getUserId(), deviceId: client.getDeviceId(),
    baseUrl: client.baseUrl, intent: "join_existing", perParticipantE2EE: "true", allowIceFallback: "false",
    header: "none", confineToRoom: "true", lang: "en", theme: "light",
  });
  const url = new URL(path + "#?" + params.toString().replaceAll("+", "%20"), location.href).href;
  const frame = document.createElement("iframe");
  frame.allow = "camera; microphone; display-capture; autoplay";
  frame.style.cssText = "position:fixed;inset:0;width:100%;height:100%;border:0";
  frame.src = url;
  document.body.append(frame);

  const api = new ClientWidgetApi(
    new Widget({ id, creatorUserId: client.getUserId(), type: "m.custom", url, waitForIframeLoad: false, data: {} }), frame, new Driver(roomId));
  window.said = []; // what the call told its host
  for (const action of ["set_always_on_screen", "io.element.join", "io.element.device_mute", "im.vector.hangup", "io.element.close"]) {
    api.on(`action:${action}`, (event) => {
      event.preventDefault();
      window.said.push(action);
      api.transport.reply(event.detail, {});
    });
  }
  api.setViewedRoomId(roomId);

  const lost = (error) => console.info(`not fed: ${error.message}`);
  const feed = (event) => {
    if (event.getRoomId() !== roomId || event.isBeingDecrypted() || event.isDecryptionFailure()) return;
    api.feedEvent(event.getEffectiveEvent()).catch(lost);
  };
  const listening = [
    [client, sdk.ClientEvent.Event, feed],
    [client, sdk.MatrixEventEvent.Decrypted, feed],
    [client.getRoom(roomId), sdk.RoomStickyEventsEvent.Update, (added, updated) => [...added, ...updated.map((pair) => pair.current)].forEach(feed)],
    [client, sdk.RoomStateEvent.Events, (event) => {
      if (event.getRoomId() === roomId) api.feedStateUpdate(event.getEffectiveEvent()).catch(lost);
    }],
    [client, sdk.ClientEvent.ReceivedToDeviceMessage, ({ message, encryptionInfo }) => {
      api.feedToDevice(message, encryptionInfo !== null).catch(lost);
    }],
  ];
  for (const [source, name, hear] of listening) source.on(name, hear);

  // hangUp has the call leave; it may close before it has answered.
  window.hangUp = () => void api.transport.send("im.vector.hangup", {}).catch(lost);
  // closeCall takes the frame away.
  window.closeCall = () => {
    for (const [source, name, hear] of listening) source.off(name, hear);
    api.stop();
    frame.remove();
  };
};
