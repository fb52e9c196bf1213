// The stage: the tiles of a call and the bar of buttons under them.

import { avatar, h, houseTag, icon } from "./dom.js";

export class Stage {
  constructor(room, call, houseOf) {
    this.room = room;
    this.call = call;
    this.houseOf = houseOf;
    this.tiles = new Map(); // key -> tile
    this.grid = h("div.grid");
    this.time = h("span.time");
    this.buttons = {
      microphone: this.button("microphone", "mic", "Microphone"),
      camera: this.button("camera", "video", "Camera"),
      screen: this.button("screen", "screen", "Share your screen"),
    };
    this.element = h("section.stage", { "aria-label": "Call" }, this.grid,
      h("div.bar", this.time,
        h("div.buttons", Object.values(this.buttons),
          h("button.round.hangup", { type: "button", title: "Leave the call", "aria-label": "Leave the call", onclick: () => call.leave() }, icon("leave"))),
        (this.count = h("span.count"))));
    this.clock = setInterval(() => this.tick(), 1000);
    new ResizeObserver(() => this.arrange()).observe(this.grid);
    this.draw();
    this.tick();
  }

  button(what, name, label) {
    return h("button.round", { type: "button", title: label, "aria-label": label, "data-toggle": what, onclick: () => this.call.toggle(what) }, icon(name));
  }

  tick() {
    const seconds = Math.floor((Date.now() - this.call.startedAt) / 1000);
    this.time.textContent = `${String(Math.floor(seconds / 60)).padStart(2, "0")}:${String(seconds % 60).padStart(2, "0")}`;
  }

  draw() {
    const wanted = this.call.tiles();
    for (const [key, tile] of this.tiles) {
      if (!wanted.some((w) => w.key === key)) {
        tile.drop();
        this.tiles.delete(key);
      }
    }
    for (const [i, want] of wanted.entries()) {
      let tile = this.tiles.get(want.key);
      if (!tile) this.tiles.set(want.key, (tile = new Tile(this.room, this.houseOf)));
      tile.draw(want);
      if (this.grid.children[i] !== tile.element) this.grid.insertBefore(tile.element, this.grid.children[i] ?? null);
    }
    for (const [what, button] of Object.entries(this.buttons)) {
      const on = this.call[what];
      button.classList.toggle("off", !on && what !== "screen");
      button.classList.toggle("lit", on && what === "screen");
      button.setAttribute("aria-pressed", String(on));
      const name = { microphone: "mic", camera: "video", screen: "screen" }[what];
      button.replaceChildren(icon(name, !on && what !== "screen"));
    }
    const people = wanted.filter((w) => !w.screen).length;
    this.count.textContent = this.call.state === "joining" ? "Joining…" : people === 1 ? "Only you so far" : `${people} in the call`;
    this.arrange();
  }

  // arrange finds the number of columns that gives the largest tiles; a tile is at most 16:9 wide and at least square.
  arrange() {
    const n = Math.max(1, this.tiles.size);
    const gap = 10;
    const { clientWidth: width, clientHeight: height } = this.grid;
    let best = { area: 0 };
    for (let columns = 1; columns <= n; columns++) {
      const rows = Math.ceil(n / columns);
      const room = { w: (width - gap * (columns - 1)) / columns, h: (height - gap * (rows - 1)) / rows };
      const w = Math.floor(Math.min(room.w, (room.h * 16) / 9));
      const h = Math.floor(Math.min(room.h, w));
      if (w * h > best.area) best = { area: w * h, columns, w, h };
    }
    if (!best.area) return;
    this.grid.style.setProperty("--columns", best.columns);
    this.grid.style.setProperty("--tile-w", best.w + "px");
    this.grid.style.setProperty("--tile-h", best.h + "px");
  }

  drop() {
    clearInterval(this.clock);
    for (const tile of this.tiles.values()) tile.drop();
    this.element.remove();
  }
}

// Tile is one person, or one shared screen.
class Tile {
  constructor(room, houseOf) {
    this.room = room;
    this.houseOf = houseOf;
    this.element = h("div.tile");
    this.picture = h("video", { autoplay: true, playsInline: true, muted: true });
    this.sound = h("audio", { autoplay: true });
    this.face = h("div.face");
    this.label = h("div.label");
    this.element.append(this.face, this.picture, this.sound, this.label);
  }

  draw(want) {
    const name = this.room.nameOf(want.userId);
    const house = this.houseOf(want.userId);
    this.element.dataset.identity = want.identity;
    this.element.style.setProperty("--house", house.accent);
    this.element.classList.toggle("speaking", want.speaking && !want.screen);
    this.element.classList.toggle("mirrored", want.local && !want.screen);
    this.element.classList.toggle("screen", !!want.screen);
    this.element.classList.toggle("dark", !want.video);
    this.swap("video", this.picture, want.video);
    this.swap("audio", this.sound, want.audio);
    const mark = [name, want.local, want.muted, want.screen, want.connecting].join("|");
    if (mark === this.mark) return;
    this.mark = mark;
    this.face.replaceChildren(avatar(name, want.userId, house));
    const title = want.screen ? `${name}’s screen` : want.local ? "You" : name;
    this.label.replaceChildren(...[want.muted && !want.screen ? icon("mic", true) : null, h("strong", title), want.local ? null : houseTag(house), want.connecting ? h("small", "connecting…") : null].filter(Boolean));
  }

  swap(kind, element, track) {
    if (this[kind] === track) return;
    this[kind]?.detach(element);
    this[kind] = track;
    track?.attach(element);
  }

  drop() {
    this.swap("video", this.picture, null);
    this.swap("audio", this.sound, null);
    this.element.remove();
  }
}
