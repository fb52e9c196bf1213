// A small Matrix client: just what the demo's page shows. It keeps rooms as plain data and tells listeners what changed.

export class MatrixError extends Error {
  constructor(status, body) {
    super(body.error || body.errcode || `The server answered ${status}`);
    this.status = status;
    this.code = body.errcode || "M_UNKNOWN";
    this.retryAfter = body.retry_after_ms;
  }
}

const SESSION = "chancery.session";
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const enc = encodeURIComponent;

// Room is what we know of one room. Events are kept as the server sent them.
export class Room {
  constructor(id) {
    this.id = id;
    this.state = new Map(); // "type\0key" -> event
    this.timeline = []; // oldest first
    this.known = new Set();
    this.typing = [];
    this.receipts = new Map(); // user -> event id
    this.unread = 0;
    this.prevBatch = null;
    this.complete = false; // nothing older is left
  }

  stateEvent(type, key = "") {
    return this.state.get(type + "\0" + key);
  }

  stateOf(type) {
    return [...this.state.values()].filter((event) => event.type === type);
  }

  get name() {
    return (
      this.stateEvent("m.room.name")?.content.name ||
      this.stateEvent("m.room.canonical_alias")?.content.alias ||
      this.members.map((m) => m.name).join(", ") ||
      "A room without a name"
    );
  }

  get topic() {
    return this.stateEvent("m.room.topic")?.content.topic || "";
  }

  get members() {
    return this.stateOf("m.room.member")
      .filter((event) => event.content.membership === "join")
      .map((event) => ({ id: event.state_key, name: this.nameOf(event.state_key) }))
      .sort((a, b) => a.name.localeCompare(b.name));
  }

  membership(user) {
    return this.stateEvent("m.room.member", user)?.content.membership;
  }

  nameOf(user) {
    return this.stateEvent("m.room.member", user)?.content.displayname || user.slice(1).split(":")[0];
  }

  apply(event) {
    if (event.state_key !== undefined) this.state.set(event.type + "\0" + event.state_key, event);
  }

  // add puts an event at the end (or the beginning) of the timeline, once.
  add(event, atStart = false) {
    if (this.known.has(event.event_id)) return;
    this.known.add(event.event_id);
    if (event.type === "m.room.redaction") {
      const target = event.redacts || event.content.redacts;
      const redacted = this.timeline.find((e) => e.event_id === target);
      if (redacted) {
        redacted.content = {};
        redacted.redacted = true;
      }
    }
    const txn = event.unsigned?.transaction_id;
    if (txn) this.timeline = this.timeline.filter((e) => e.local !== txn);
    if (atStart) this.timeline.unshift(event);
    else {
      // What has not been sent yet stays at the end.
      const at = this.timeline.findIndex((e) => e.local);
      this.timeline.splice(at < 0 ? this.timeline.length : at, 0, event);
    }
  }
}

export class Client extends EventTarget {
  rooms = new Map();
  invites = new Map();
  since = null;
  online = true;

  get loggedIn() {
    return !!this.session;
  }
  get userId() {
    return this.session?.user_id;
  }
  get deviceId() {
    return this.session?.device_id;
  }
  get server() {
    return this.userId?.slice(this.userId.indexOf(":") + 1);
  }

  // request speaks to the homeserver that served this page; it waits out rate limits.
  async request(method, path, body, { signal, anonymous } = {}) {
    for (let attempt = 0; ; attempt++) {
      const headers = {};
      if (this.session && !anonymous) headers.Authorization = "Bearer " + this.session.access_token;
      if (body !== undefined) headers["Content-Type"] = "application/json";
      const response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
      const answer = await response.json().catch(() => ({}));
      if (response.ok) return answer;
      const error = new MatrixError(response.status, answer);
      if (error.status === 429 && attempt < 5) {
        await wait(error.retryAfter || 1000);
        continue;
      }
      if (error.code === "M_UNKNOWN_TOKEN" && !anonymous) this.forget();
      throw error;
    }
  }

  restore() {
    try {
      this.session = JSON.parse(sessionStorage.getItem(SESSION));
    } catch {
      this.session = null;
    }
    return this.loggedIn;
  }

  async login(user, password) {
    this.session = await this.request(
      "POST",
      "/_matrix/client/v3/login",
      {
        type: "m.login.password",
        identifier: { type: "m.id.user", user },
        password,
        initial_device_display_name: "Chancery demo page",
      },
      { anonymous: true },
    );
    // One window, one login: two windows may be two people.
    sessionStorage.setItem(SESSION, JSON.stringify(this.session));
  }

  forget() {
    sessionStorage.removeItem(SESSION);
    this.session = null;
    this.stop();
    this.dispatchEvent(new Event("logout"));
  }

  async logout() {
    this.stop();
    try {
      await this.request("POST", "/_matrix/client/v3/logout", {});
    } catch {
      // The session is dropped here in any case.
    }
    this.forget();
  }

  stop() {
    this.polling?.abort();
  }

  // run follows /sync until stop; each answer is told as an "update" with the rooms that changed.
  async run() {
    this.polling = new AbortController();
    const { signal } = this.polling;
    const filter = JSON.stringify({ room: { timeline: { limit: 40 } }, presence: { not_types: ["*"] } });
    let pause = 500;
    while (!signal.aborted) {
      const query = new URLSearchParams({ timeout: this.since ? "30000" : "0", filter });
      if (this.since) query.set("since", this.since);
      try {
        const answer = await this.request("GET", "/_matrix/client/v3/sync?" + query, undefined, { signal });
        pause = 500;
        this.since = answer.next_batch;
        const changed = this.take(answer);
        this.setOnline(true);
        this.dispatchEvent(new CustomEvent("update", { detail: changed }));
      } catch (error) {
        if (signal.aborted || !this.session) return;
        this.setOnline(false);
        await wait(pause);
        pause = Math.min(pause * 2, 8000);
      }
    }
  }

  setOnline(online) {
    if (this.online === online) return;
    this.online = online;
    this.dispatchEvent(new Event("online"));
  }

  // take applies one /sync answer and returns the IDs of the rooms that changed.
  take(answer) {
    const changed = new Set();
    for (const [id, data] of Object.entries(answer.rooms?.join ?? {})) {
      changed.add(id);
      this.invites.delete(id);
      const room = this.rooms.get(id) ?? this.rooms.set(id, new Room(id)).get(id);
      if (data.timeline?.limited) {
        room.timeline = room.timeline.filter((event) => event.local);
        room.known.clear();
        room.prevBatch = null;
        room.complete = false;
      }
      room.prevBatch ??= data.timeline?.prev_batch;
      for (const event of data.state?.events ?? []) room.apply(event);
      for (const event of data.timeline?.events ?? []) {
        room.apply(event);
        room.add(event);
      }
      room.unread = data.unread_notifications?.notification_count ?? room.unread;
      for (const event of data.ephemeral?.events ?? []) this.ephemeral(room, event);
    }
    for (const [id, data] of Object.entries(answer.rooms?.invite ?? {})) {
      changed.add(id);
      const room = new Room(id);
      for (const event of data.invite_state?.events ?? []) room.apply(event);
      this.invites.set(id, room);
    }
    for (const id of Object.keys(answer.rooms?.leave ?? {})) {
      changed.add(id);
      this.rooms.delete(id);
      this.invites.delete(id);
    }
    return changed;
  }

  ephemeral(room, event) {
    if (event.type === "m.typing") room.typing = event.content.user_ids.filter((user) => user !== this.userId);
    if (event.type !== "m.receipt") return;
    for (const [eventId, kinds] of Object.entries(event.content)) {
      for (const user of Object.keys(kinds["m.read"] ?? {})) room.receipts.set(user, eventId);
    }
  }

  // say sends a text; it stands in the timeline at once and is replaced when it comes back.
  async say(room, body) {
    const content = body.startsWith("/me ") ? { msgtype: "m.emote", body: body.slice(4) } : { msgtype: "m.text", body };
    const txn = "page" + Date.now().toString(36) + Math.random().toString(36).slice(2, 8);
    const echo = { local: txn, event_id: txn, type: "m.room.message", sender: this.userId, content, origin_server_ts: Date.now() };
    room.timeline.push(echo);
    const tell = () => this.dispatchEvent(new CustomEvent("update", { detail: new Set([room.id]) }));
    tell();
    try {
      await this.request("PUT", `/_matrix/client/v3/rooms/${enc(room.id)}/send/m.room.message/${txn}`, content);
    } catch (error) {
      echo.failed = error.message;
      tell();
    }
  }

  sendState(room, type, key, content, query = "") {
    return this.request("PUT", `/_matrix/client/v3/rooms/${enc(room.id)}/state/${enc(type)}/${enc(key)}${query}`, content);
  }

  // older fetches a page of history before what is held; it says whether anything came.
  async older(room) {
    if (room.complete || room.loading || !room.prevBatch) return false;
    room.loading = true;
    try {
      const query = new URLSearchParams({ dir: "b", limit: "40", from: room.prevBatch });
      const page = await this.request("GET", `/_matrix/client/v3/rooms/${enc(room.id)}/messages?${query}`);
      for (const event of page.chunk) room.add(event, true);
      room.prevBatch = page.end ?? room.prevBatch;
      room.complete = !page.end || page.chunk.length === 0;
      return page.chunk.length > 0;
    } finally {
      room.loading = false;
    }
  }

  typing(room, typing) {
    const path = `/_matrix/client/v3/rooms/${enc(room.id)}/typing/${enc(this.userId)}`;
    return this.request("PUT", path, { typing, timeout: 12000 }).catch(() => {});
  }

  read(room) {
    const last = room.timeline.findLast((event) => !event.local);
    if (!last || room.receipts.get(this.userId) === last.event_id) return;
    room.receipts.set(this.userId, last.event_id);
    room.unread = 0;
    this.request("POST", `/_matrix/client/v3/rooms/${enc(room.id)}/receipt/m.read/${enc(last.event_id)}`, {}).catch(() => {});
  }

  join(roomId) {
    return this.request("POST", `/_matrix/client/v3/join/${enc(roomId)}`, {});
  }

  // openId gives a token with which another service can ask our server who we are.
  openId() {
    return this.request("POST", `/_matrix/client/v3/user/${enc(this.userId)}/openid/request_token`, {});
  }
}
