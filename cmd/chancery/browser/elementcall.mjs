// Element Call itself, unmodified, as a widget in a small host page of our own: three people of two ministries.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const app = join(here, "node_modules/@element-hq/element-call-embedded/dist");
const wasm = join(here, "node_modules/@matrix-org/matrix-sdk-crypto-wasm/pkg/matrix_sdk_crypto_wasm_bg.wasm");
const types = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json", ".wasm": "application/wasm", ".woff2": "font/woff2", ".mp3": "audio/mpeg", ".ogg": "audio/ogg" };

// What an operator may set for Element Call. The picture is small: three people encode on one machine here.
const config = (mode) => JSON.stringify({
  matrix_rtc_mode: mode,
  matrix_rtc_session: { wait_for_key_rotation_ms: 1000 },
  media_quality: { video: { max_resolution: 360, max_framerate: 15, max_bitrate: 400_000, simulcast_layers: [{ height: 180, bitrate: 120_000 }] } },
});

// serve gives the host page at / and Element Call at /call/.
async function serve(mode) {
  const { outputFiles } = await build({ entryPoints: [join(here, "host.js")], bundle: true, format: "esm", write: false, logLevel: "error", define: { global: "globalThis" } });
  const own = {
    "/": [".html", '<!doctype html><meta charset="utf-8"><title>Host</title><script type="module" src="/host.js"></script>'],
    "/host.js": [".js", outputFiles[0].text],
    "/call/config.json": [".json", config(mode)],
  };
  const server = createServer(async (request, response) => {
    const path = new URL(request.url, "http://host").pathname;
    const found = own[path] ?? [extname(path), await readFile(path.startsWith("/call/") ? join(app, normalize(path.slice(5))) : extname(path) === ".wasm" ? wasm : "/nonexistent").catch(() => null)];
    if (found[1] === null) return response.writeHead(404).end();
    response.writeHead(200, { "Content-Type": types[found[0]] ?? "application/octet-stream", "Cache-Control": "max-age=600" }).end(found[1]);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return server;
}

// person is one browser with the host page, and later the call in its frame.
class Person {
  constructor(desk, seat, page) {
    Object.assign(this, { desk, page, ...seat });
    this.sockets = []; // the focuses' sockets that the call opened
    page.on("websocket", (socket) => {
      const entry = { url: socket.url(), closed: 0 };
      socket.on("close", () => { entry.closed = Date.now(); });
      this.sockets.push(entry);
    });
  }

  async call(room) {
    await this.page.evaluate(([id, path]) => openCall(id, path), [room, "/call/index.html"]);
    this.frame = await (await this.page.waitForSelector("iframe")).contentFrame();
    await this.frame.click('[data-testid="lobby_joinCall"]');
    await this.frame.waitForSelector('[data-testid="incall_leave"]');
    this.desk.say(`${this.name} is in the call`);
  }

  // leave has the host hang up, and waits until the call asks to be closed.
  async leave() {
    await this.page.evaluate(() => hangUp());
    await this.page.waitForFunction(() => said.includes("io.element.close"));
    await this.page.evaluate(() => closeCall());
  }

  // sees waits until the tiles of so many others show changing pictures.
  async sees(others) {
    const deadline = Date.now() + this.desk.patience;
    for (let before = [], now; ; before = now) {
      now = await this.frame.evaluate(() => probe.remotes());
      const moving = now.filter((tile) => tile.width > 0 && before.some((was) => was.name === tile.name && tile.shown > was.shown && tile.sum !== was.sum));
      if (now.length === others && moving.length === others) {
        this.desk.say(`${this.name} sees ${others} other${others > 1 ? "s" : ""} moving: ${now.map((tile) => `${tile.name} ${tile.width}x${tile.height}`).join(", ")}`);
        return now;
      }
      if (Date.now() > deadline) {
        await this.desk.picture(this.page, this.name);
        throw new Error(`${this.name} sees ${moving.length} of ${others} others moving; tiles: ${JSON.stringify(now)}; members: ${await this.frame.evaluate(() => probe.members())}`);
      }
      await this.page.waitForTimeout(300);
    }
  }

  // seesSomebody waits until a tile moves, unless nobody else is in the call, or the end comes first.
  async seesSomebody(end) {
    const deadline = Date.now() + this.desk.patience;
    for (let before = []; Date.now() < end; ) {
      const [now, members] = await this.frame.evaluate(() => [probe.remotes(), probe.members()]);
      if (now.some((tile) => before.some((was) => was.name === tile.name && tile.shown > was.shown))) return;
      if (members.every((member) => member === this.id)) return;
      if (Date.now() > deadline) {
        await this.desk.picture(this.page, this.name);
        throw new Error(`${this.name} sees nobody move; tiles: ${JSON.stringify(now)}; members: ${members}`);
      }
      before = now;
      await this.page.waitForTimeout(500);
    }
  }

  // gaveUp says whether the focus was killed while the call connected for the first time. livekit-client waits for the connection that it had
  // begun with, though it has another one within seconds: after 15 s the app shows that it failed, and the person calls again.
  async gaveUp(killed) {
    const lost = this.sockets.some((socket) => socket.url.includes("/rtc") && Math.abs(socket.closed - killed) < 20_000);
    return lost && (await this.frame.evaluate(() => document.body.innerText)).includes("Failed to connect to Livekit server");
  }

  // gone waits until somebody is neither a member of the call nor on a tile, and says how long that took at most.
  async gone(who, others, since) {
    const seen = await this.desk.within(this.frame.evaluate((args) => probe.gone(...args), [who.id, who.name, others]), `${this.name} sees ${who.name} go`)
      .catch(async (error) => {
        await this.desk.picture(this.page, this.name);
        throw new Error(`${error.message}; ${await this.frame.evaluate(() => `members ${probe.members()}, tiles ${JSON.stringify(probe.remotes())}`)}`);
      });
    this.desk.say(`${this.name} saw the member go after ${seen.member - since()} ms, the tile after ${seen.tile - since()} ms`);
    return Math.max(seen.member, seen.tile) - since();
  }
}

// checkEncryption holds that each stream goes through the encryption worker, with a key of its own sender.
async function checkEncryption(people) {
  const keys = {};
  for (const person of people) {
    for (const tile of await person.sees(people.length - 1)) {
      if (tile.unencrypted) throw new Error(`${person.name} is told that ${tile.name} is not encrypted`);
    }
    const told = await person.frame.evaluate(() => probe.told);
    const streams = told.filter((one) => ["encode", "decode"].includes(one.kind) && one.identity);
    const identities = (kind) => new Set(streams.filter((one) => one.kind === kind).map((one) => one.identity));
    const [sent, received] = [identities("encode"), identities("decode")];
    if (sent.size !== 1 || received.size !== people.length - 1) throw new Error(`${person.name} encrypts as ${[...sent]} and decrypts from ${[...received]}, want one and ${people.length - 1}`);
    for (const { worker, identity } of streams) {
      const enabled = told.filter((one) => one.kind === "enable" && one.worker === worker && one.identity === identity).map((one) => one.enabled);
      // The client may have it off for as long as it has not heard how the first track is sent.
      if (enabled.at(-1) !== true || enabled.slice(enabled.indexOf(true)).includes(false)) throw new Error(`${person.name} has the encryption of ${identity} on and off: ${enabled}`);
    }
    keys[person.name] = await person.frame.evaluate(() => probe.keys());
  }
  for (const owner of people) {
    const ours = keys[owner.name][owner.id];
    if (!ours) throw new Error(`${owner.name} has no key of their own`);
    for (const viewer of people) {
      const theirs = keys[viewer.name][owner.id] ?? {};
      const shared = Object.keys(theirs).filter((index) => ours[index] !== undefined);
      if (!shared.length || shared.some((index) => ours[index] !== theirs[index])) throw new Error(`${viewer.name} has not the key of ${owner.name}`);
      if (viewer !== owner && Object.values(keys[viewer.name][viewer.id]).some((key) => Object.values(ours).includes(key))) throw new Error(`${viewer.name} and ${owner.name} share a key`);
    }
  }
}

// meet opens a window for each person of the facts, with the host page, and signs them in.
async function meet(desk, server) {
  const home = `http://127.0.0.1:${server.address().port}/`;
  const people = await Promise.all(desk.facts.people.map(async (seat) => {
    const page = await desk.window(seat.name, { width: 560, height: 420 }, { quiet: true });
    await page.addInitScript({ path: join(here, "probe.js") });
    const person = new Person(desk, seat, page);
    await page.goto(home);
    await page.waitForFunction(() => globalThis.openCall);
    person.id = await desk.ask(page, "signIn", seat.url, seat.user, seat.password);
    return person;
  }));
  desk.say(`${people.length} people are signed in, with crypto`);
  return people;
}

// elementCall is the scenario. The desk lends window, within, ask, say, patience, picture and the facts.
export async function elementCall(desk) {
  const { facts, say } = desk;
  const server = await serve(facts.mode);
  try {
    const people = await meet(desk, server);
    const [anna, jonas, claire] = people;
    const room = await desk.ask(anna.page, "callRoom", [jonas.id, claire.id]);
    for (const guest of [jonas, claire]) {
      await desk.ask(guest.page, "joinWhenInvited", room);
      await desk.ask(anna.page, "memberJoined", room, guest.id);
    }
    await Promise.all(people.map((person) => desk.ask(person.page, "allJoined", room, people.map((one) => one.id))));
    say("all are in the encrypted room, and know one another's devices");

    await anna.call(room);
    await Promise.all([jonas.call(room), claire.call(room)]);
    await checkEncryption(people);
    for (const person of people) {
      const foci = new Set(person.sockets.filter((socket) => !socket.closed && socket.url.includes("/rtc")).map((socket) => new URL(socket.url).host));
      if (foci.size !== 2) throw new Error(`${person.name} is at the focus of ${[...foci]}, want both ministries'`);
    }
    say("each of three people sends with a key of their own, through the own ministry's focus, and is decrypted at the others");
    await desk.picture(anna.page, "three");

    // Jonas is removed from the room: gone for both others within a second.
    let since = 0;
    const going = [anna, claire].map((person) => person.gone(jonas, 1, () => since));
    since = Date.now();
    const kicked = desk.ask(anna.page, "kick", room, jonas.id).then(() => Date.now() - since);
    const [near, far] = await Promise.all(going);
    say(`the request took ${await kicked} ms`);
    say(`the removed one is gone after ${near} ms here, ${far} ms at the other ministry`);
    for (const took of [near, far]) if (took > facts.kickWithin) throw new Error(`the removed one was gone after ${took} ms, want ${facts.kickWithin}`);
    await jonas.page.close();
    await Promise.all([anna.sees(1), claire.sees(1)]);

    // Claire's tab crashes.
    const devtools = await claire.page.context().newCDPSession(claire.page);
    const crashed = new Promise((done) => claire.page.once("crash", done));
    const crashing = anna.gone(claire, 0, () => since);
    since = Date.now();
    devtools.send("Page.crash").catch(() => {}); // there is nobody left to answer
    await desk.within(crashed, "the tab's crash");
    const took = await crashing;
    say(`the crashed one is gone after ${took} ms`);
    if (took > facts.crashWithin) throw new Error(`the crashed one was gone after ${took} ms, want ${facts.crashWithin}`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

// elementSoak lets people come and go in the call of a room for a while: each time they must see somebody move, and that
// the focus is killed in the middle must not throw out who is in the call.
export async function elementSoak(desk) {
  const { facts, say } = desk;
  const server = await serve(facts.mode);
  const [end, killed] = [Date.now() + facts.length, Date.now() + facts.killAt];
  const pause = (ms) => new Promise((done) => setTimeout(done, Math.max(0, Math.min(ms, end - Date.now()))));
  let joins = 0;
  const stay = async (person) => {
    await person.call(facts.room);
    joins++;
    await person.seesSomebody(end);
    await pause(10_000 + Math.random() * 60_000);
    await person.seesSomebody(end); // still, or again
    await person.leave();
  };
  try {
    const people = await meet(desk, server);
    await Promise.all(people.map(async (person) => {
      while (Date.now() < end - 20_000) {
        await stay(person).catch(async (error) => {
          if (!(await person.gaveUp(killed))) throw error;
          say(`${person.name} was connecting when the focus was killed, and calls again`);
          await person.page.evaluate(() => closeCall());
        });
        await pause(Math.random() * 10_000);
      }
    }));
    say(`${joins} joins in Element Call`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}
