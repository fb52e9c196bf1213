// A room's timeline: who said what, grouped by person and day, and what happened in between.

import { avatar, clock, day, h, houseTag, icon, linked } from "./dom.js";

const GROUP_WITHIN = 5 * 60 * 1000;

// happening puts a state event into words; null for what needs none.
function happening(room, event) {
  const name = room.nameOf(event.sender);
  const previous = event.unsigned?.prev_content ?? event.prev_content ?? {};
  switch (event.type) {
    case "m.room.create":
      return `${name} opened this room`;
    case "m.room.name":
      return `${name} named the room “${event.content.name}”`;
    case "m.room.member": {
      const about = room.nameOf(event.state_key);
      const self = event.state_key === event.sender;
      switch (event.content.membership) {
        case "join":
          return previous.membership === "join" ? null : `${about} joined`;
        case "invite":
          return `${name} invited ${about}`;
        case "leave":
          return self ? `${about} left` : `${name} removed ${about}`;
        case "ban":
          return `${name} banned ${about}`;
      }
      return null;
    }
    case "org.matrix.msc3401.call.member": {
      const joins = !!event.content.application;
      if (joins === !!previous.application) return null;
      return joins ? `${name} is in the call` : `${name} left the call`;
    }
  }
  return null;
}

// Timeline draws into one element, and redraws only what changed.
export class Timeline {
  constructor(client, houseOf) {
    this.client = client;
    this.houseOf = houseOf;
    this.list = h("div.events", { role: "log", "aria-label": "Messages" });
    this.element = h("div.timeline", { tabIndex: 0, onscroll: () => this.scrolled() }, this.list);
    this.drawn = new Map(); // key -> { mark, node }
    this.follows = true;
    new ResizeObserver(() => this.follows && this.toEnd()).observe(this.element);
  }

  toEnd() {
    this.element.scrollTop = this.element.scrollHeight;
  }

  async scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.element;
    this.follows = scrollHeight - scrollTop - clientHeight < 60;
    if (scrollTop < 120 && this.room && !this.room.loading && !this.room.complete) {
      const before = scrollHeight - scrollTop;
      if (await this.client.older(this.room).catch(() => false)) {
        this.draw(this.room);
        this.element.scrollTop = this.element.scrollHeight - before;
      }
    }
  }

  draw(room) {
    if (this.room !== room) {
      this.room = room;
      this.drawn.clear();
      this.list.replaceChildren();
      this.follows = true;
    }
    const nodes = [];
    const drawn = new Map();
    for (const item of this.items(room)) {
      const old = this.drawn.get(item.key);
      const entry = old?.mark === item.mark ? old : { mark: item.mark, node: item.draw() };
      drawn.set(item.key, entry);
      nodes.push(entry.node);
    }
    this.drawn = drawn;
    for (const child of [...this.list.children]) if (!nodes.includes(child)) child.remove();
    nodes.forEach((node, i) => this.list.children[i] !== node && this.list.insertBefore(node, this.list.children[i] ?? null));
    if (this.follows) this.toEnd();
    if (this.element.scrollHeight <= this.element.clientHeight && !room.complete && room.prevBatch) this.scrolled();
  }

  // items lists what is to be drawn: each with a key, a mark that changes when it must be drawn anew, and how.
  items(room) {
    const items = [];
    const readers = this.readers(room);
    let lastDay = "";
    let group = null;
    for (const event of room.timeline) {
      const today = day(event.origin_server_ts);
      const message = event.type === "m.room.message";
      const words = message ? null : happening(room, event);
      if (!message && !words) continue;
      if (today !== lastDay) {
        lastDay = today;
        group = null;
        items.push({ key: "day " + today, mark: today, draw: () => h("div.day", h("span", today)) });
      }
      if (!message) {
        group = null;
        items.push({ key: event.event_id, mark: words, draw: () => h("div.happening", words, h("time", clock(event.origin_server_ts))) });
        continue;
      }
      const first = !group || group.sender !== event.sender || event.origin_server_ts - group.ts > GROUP_WITHIN;
      group = { sender: event.sender, ts: event.origin_server_ts };
      const seen = (readers.get(event.event_id) ?? []).filter((reader) => reader.id !== event.sender);
      const mark = JSON.stringify([first, event.local ?? "", event.failed ?? "", !!event.redacted, room.nameOf(event.sender), seen.map((r) => r.id)]);
      items.push({ key: event.local ?? event.event_id, mark, draw: () => this.message(room, event, first, seen) });
    }
    return items;
  }

  // readers says for each event whose receipt stands there.
  readers(room) {
    const readers = new Map();
    for (const member of room.members) {
      const event = room.receipts.get(member.id);
      if (event && member.id !== this.client.userId) readers.set(event, [...(readers.get(event) ?? []), member]);
    }
    return readers;
  }

  message(room, event, first, seen) {
    const own = event.sender === this.client.userId;
    const house = this.houseOf(event.sender);
    const name = room.nameOf(event.sender);
    const { msgtype, body } = event.content;
    const text = event.redacted ? h("em.gone", "removed") : msgtype === "m.emote" ? h("em", `${name} `, linked(body ?? "")) : linked(body ?? "");
    const state = event.failed ? h("span.failed", "not sent: " + event.failed) : event.local ? h("span.sending", "sending") : h("time", clock(event.origin_server_ts));
    return h("div.message", { class: [own && "own", first && "first", msgtype === "m.notice" && "notice", event.local && "pending"].filter(Boolean).join(" "), "data-event": event.event_id },
      h("div.side", first && !own ? avatar(name, event.sender, house) : null),
      h("div.said",
        first && !own ? h("div.by", h("strong", name), houseTag(house)) : null,
        h("div.bubble", h("div.text", text), state),
        seen.length ? h("div.seen", { title: "Read by " + seen.map((m) => m.name).join(", ") }, icon("check"), seen.map((m) => avatar(m.name, m.id, this.houseOf(m.id), true))) : null));
  }
}
