// The demo's page: who is signed in, which room is open, and the call, drawn again whenever one of them changes.

import { Call, callMembers } from "./call.js";
import { avatar, h, houseTag, icon, seal, toast } from "./dom.js";
import { loginView } from "./login.js";
import { Client } from "./matrix.js";
import { Stage } from "./stage.js";
import { Timeline } from "./timeline.js";

const root = document.getElementById("app");
const client = new Client();
let demo;

// houseOf finds the ministry that a user ID belongs to.
function houseOf(userId) {
  const server = userId.slice(userId.indexOf(":") + 1);
  return demo.houses.find((house) => house.server === server) ?? { name: server, server, accent: "#6b7280" };
}

async function start() {
  demo = await (await fetch("/demo/demo.json")).json();
  demo.house = demo.houses.find((house) => house.server === demo.server);
  document.title = `${demo.house.name} · Chancery`;
  document.documentElement.style.setProperty("--accent", demo.house.accent);
  client.addEventListener("logout", () => showLogin());
  if (client.restore()) showDesk();
  else showLogin();
}

function showLogin() {
  desk?.drop();
  desk = null;
  root.replaceChildren(loginView(demo, async (user, password) => {
    await client.login(user, password);
    showDesk();
  }));
}

let desk = null;

function showDesk() {
  desk = new Desk();
  root.replaceChildren(desk.element);
  client.rooms.clear();
  client.since = null;
  client.run();
}

// Desk is what a person works at: rooms to the left, the open room in the middle, its people to the right.
class Desk {
  constructor() {
    this.room = null;
    this.call = null;
    this.timeline = new Timeline(client, houseOf);
    this.rooms = h("nav.rooms", { "aria-label": "Rooms" });
    this.head = h("header.head");
    this.banner = h("div.banner");
    this.middle = h("div.middle");
    this.people = h("aside.members", { "aria-label": "Members" });
    this.typing = h("div.typing", { "aria-live": "polite" });
    this.offline = h("div.offline", "Not connected. Trying again…");
    this.input = h("textarea", { rows: 1, placeholder: "Write a message", "aria-label": "Write a message", oninput: () => this.written(), onkeydown: (e) => this.key(e) });
    this.sendButton = h("button.send", { type: "submit", title: "Send", "aria-label": "Send" }, icon("send"));
    this.composer = h("form.composer", { onsubmit: (e) => { e.preventDefault(); this.send(); } }, this.input, this.sendButton);
    this.chat = h("section.chat", this.timeline.element, this.typing, this.composer);
    this.middle.append(this.chat);
    this.element = h("div.desk",
      h("div.sidebar",
        h("div.mark", seal(38), h("div", h("strong", "Chancery"), h("small", demo.house.name))),
        this.rooms,
        h("div.me", (this.me = h("div.person")), h("button.plain", { title: "Sign out", "aria-label": "Sign out", onclick: () => this.signOut() }, icon("out")))),
      h("main.room", this.offline, this.head, this.banner, this.middle),
      this.people);
    this.onUpdate = () => this.update();
    this.onOnline = () => this.offline.classList.toggle("shown", !client.online);
    this.onFocus = () => this.room && document.hasFocus() && client.read(this.room);
    client.addEventListener("update", this.onUpdate);
    client.addEventListener("online", this.onOnline);
    addEventListener("focus", this.onFocus);
  }

  drop() {
    client.removeEventListener("update", this.onUpdate);
    client.removeEventListener("online", this.onOnline);
    removeEventListener("focus", this.onFocus);
    this.call?.end();
  }

  async signOut() {
    if (this.call) await this.call.leave();
    await client.logout();
  }

  update() {
    for (const id of client.invites.keys()) {
      if (!this.joining?.has(id)) {
        (this.joining ??= new Set()).add(id);
        client.join(id).catch((error) => toast(error.message));
      }
    }
    if (this.room) this.room = client.rooms.get(this.room.id) ?? null;
    if (this.call && this.call.room !== client.rooms.get(this.call.room.id)) this.call.end("You are no longer in the room");
    this.room ??= this.favourite();
    this.call?.follow();
    this.draw();
    this.onFocus();
  }

  // favourite is the room to begin with: the demo's, or the first.
  favourite() {
    const rooms = [...client.rooms.values()];
    return rooms.find((room) => room.id === demo.room) ?? rooms[0] ?? null;
  }

  draw() {
    this.drawRooms();
    this.element.classList.toggle("empty", !this.room);
    if (!this.room) {
      this.head.replaceChildren(h("div.title", h("h1", client.since ? "No room yet" : "One moment…")));
      this.people.replaceChildren();
      return;
    }
    this.drawHead();
    this.drawBanner();
    this.drawPeople();
    this.drawTyping();
    this.timeline.draw(this.room);
  }

  drawRooms() {
    const rooms = [...client.rooms.values()].sort((a, b) => a.name.localeCompare(b.name));
    this.rooms.replaceChildren(h("h2", "Rooms"), ...rooms.map((room) => {
      const inCall = callMembers(room).length;
      return h("button.entry", { class: room === this.room ? "open" : "", onclick: () => { this.room = room; this.draw(); this.onFocus(); } },
        h("span.hash", "#"), h("span.name", room.name), inCall ? icon("video") : null, room.unread ? h("span.unread", String(room.unread)) : null);
    }));
    const name = this.room?.nameOf(client.userId) ?? client.userId.slice(1).split(":")[0];
    this.me.replaceChildren(avatar(name, client.userId, demo.house), h("span.who", h("strong", name), h("small", client.userId)));
  }

  drawHead() {
    const members = this.room.members;
    const talking = callMembers(this.room);
    const inThisCall = this.call?.room === this.room;
    this.head.replaceChildren(
      h("div.title", h("h1", this.room.name), h("p", this.room.topic || `${members.length} members`)),
      h("div.faces", { title: members.map((m) => m.name).join(", ") }, members.slice(0, 4).map((m) => avatar(m.name, m.id, houseOf(m.id), true))),
      inThisCall
        ? h("button.callbutton.leave", { onclick: () => this.call.leave() }, icon("leave"), h("span", "Leave"))
        : h("button.callbutton", { "data-action": "join-call", disabled: !!this.call, onclick: () => this.joinCall() }, icon("video"), h("span", talking.length ? "Join call" : "Start call")));
  }

  drawBanner() {
    const talking = callMembers(this.room);
    const show = talking.length > 0 && this.call?.room !== this.room;
    this.banner.classList.toggle("shown", show);
    if (!show) return;
    const names = talking.map((m) => this.room.nameOf(m.userId));
    this.banner.replaceChildren(h("span.pulse"),
      h("span.words", h("strong", "A call is on. "), names.slice(0, 3).join(", ") + (names.length > 3 ? ` and ${names.length - 3} more` : "") + (names.length === 1 ? " is there." : " are there.")),
      h("button.primary", { disabled: !!this.call, onclick: () => this.joinCall() }, "Join"));
  }

  drawPeople() {
    const talking = new Set(callMembers(this.room).map((m) => m.userId));
    const byHouse = new Map();
    for (const member of this.room.members) {
      const house = houseOf(member.id);
      byHouse.set(house, [...(byHouse.get(house) ?? []), member]);
    }
    const order = [...byHouse].sort(([a], [b]) => (b === demo.house) - (a === demo.house) || a.name.localeCompare(b.name));
    this.people.replaceChildren(h("h2", "Members"), ...order.flatMap(([house, members]) => [
      h("h3", houseTag(house), h("small", house.server)),
      ...members.map((m) => h("div.person",
        avatar(m.name, m.id, house),
        h("span.who", h("strong", m.name), h("small", talking.has(m.id) ? "in the call" : m.id.split(":")[0])),
        talking.has(m.id) ? icon("video") : null)),
    ]));
  }

  drawTyping() {
    const names = this.room.typing.map((user) => this.room.nameOf(user));
    this.typing.classList.toggle("shown", names.length > 0);
    if (names.length) this.typing.replaceChildren(h("span.dots", h("i"), h("i"), h("i")), `${names.join(", ")} ${names.length === 1 ? "is" : "are"} writing`);
  }

  // written grows the field with its text, and tells the others that we are writing.
  written() {
    this.input.style.height = "auto";
    this.input.style.height = Math.min(this.input.scrollHeight, 160) + "px";
    const writing = this.input.value.trim() !== "";
    if (!this.room) return;
    if (writing && Date.now() - (this.toldTyping ?? 0) > 8000) {
      this.toldTyping = Date.now();
      client.typing(this.room, true);
    } else if (!writing && this.toldTyping) {
      this.toldTyping = 0;
      client.typing(this.room, false);
    }
  }

  key(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.send();
    }
  }

  send() {
    const body = this.input.value.trim();
    if (!body || !this.room) return;
    this.input.value = "";
    this.written();
    this.timeline.follows = true;
    client.say(this.room, body);
  }

  async joinCall() {
    const room = this.room;
    const call = (this.call = new Call(client, room));
    const stage = (this.stage = new Stage(room, call, houseOf));
    this.middle.classList.add("calling");
    this.middle.prepend(stage.element);
    call.addEventListener("change", () => stage.draw());
    call.addEventListener("notice", (event) => toast(event.detail));
    call.addEventListener("ended", (event) => {
      if (event.detail) toast(event.detail);
      stage.drop();
      this.middle.classList.remove("calling");
      if (this.call === call) this.call = null;
      this.draw();
    });
    this.draw();
    try {
      await call.join();
    } catch (error) {
      await call.leave();
      toast(`The call cannot be joined: ${error.message}`);
    }
    this.draw();
  }
}

start().catch((error) => root.replaceChildren(h("p.fatal", "The page cannot start: " + error.message)));
