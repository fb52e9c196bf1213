// What the scenarios are played on: one browser, a small web server for the page, and participants.
import { build } from 'esbuild';
import { createHmac } from 'node:crypto';
import { createServer } from 'node:http';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const here = dirname(fileURLToPath(import.meta.url));
const { FOCUS_URL, FOCUS_KEY, FOCUS_SECRET, STAGE_URL } = process.env;

// other: the scenarios are played on another server than ours, which is measured and not judged.
export const other = !!process.env.OTHER;
// yardstick marks a scenario that measures something that any server of the protocol can be asked.
export const yardstick = (act) => Object.assign(act, { yardstick: true });
// named is the name of what is measured, which says so where participants have two peer connections.
export const named = (name, options) => (options.single === false ? `${name}, two peer connections` : name);
// LeftOut says why a scenario cannot be played here.
export class LeftOut extends Error {}

const encode = (v) => Buffer.from(JSON.stringify(v)).toString('base64url');
// token holds for so many seconds, and the minute that a focus gives it because clocks differ.
export function token(identity, video, life = 3600) {
  const now = Math.floor(Date.now() / 1000);
  const body = encode({ alg: 'HS256', typ: 'JWT' }) + '.' + encode({ iss: FOCUS_KEY, sub: identity, nbf: now - 100, exp: now + life, video });
  return body + '.' + createHmac('sha256', FOCUS_SECRET).update(body).digest('base64url');
}

export async function until(what, ms, test) {
  const end = Date.now() + ms;
  for (;;) {
    const got = await test();
    if (got) return got;
    if (Date.now() > end) throw new Error(`${what}: not within ${ms} ms`);
    await new Promise((r) => setTimeout(r, 20));
  }
}
export const pause = (ms) => new Promise((r) => setTimeout(r, ms));
export function atMost(what, got, most) {
  if (got > most && !other) throw new Error(`${what}: got ${got}, want at most ${most}`);
  return got;
}
export function atLeast(what, got, least) {
  if (!(got >= least) && !other) throw new Error(`${what}: got ${got}, want at least ${least}`);
  return got;
}

// open starts the browser and serves the page.
export async function open() {
  const bundle = async (entry) => (await build({ entryPoints: [entry], bundle: true, write: false, format: 'esm', logLevel: 'error' })).outputFiles[0].text;
  const files = {
    '/': ['text/html', '<!doctype html><meta charset=utf-8><script type=module src=/page.js></script>'],
    '/page.js': ['text/javascript', await bundle(join(here, 'page.js'))],
    '/worker.js': ['text/javascript', await bundle(join(here, 'node_modules/livekit-client/dist/livekit-client.e2ee.worker.mjs'))],
  };
  const server = createServer((req, res) => {
    const file = files[new URL(req.url, 'http://x').pathname];
    if (!file) return res.writeHead(404).end();
    res.writeHead(200, { 'content-type': file[0] }).end(file[1]);
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const home = `http://127.0.0.1:${server.address().port}/`;
  const chrome = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? chrome, headless: true,
    args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
      '--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream', '--autoplay-policy=no-user-gesture-required',
      '--disable-backgrounding-occluded-windows', '--disable-renderer-backgrounding', '--disable-background-timer-throttling',
      ...(process.env.CHROME_ARGS?.split('\n') ?? [])],
  });
  return {
    stage: (name) => new Stage(browser, home, name),
    async close() {
      await browser.close();
      server.close();
    },
  };
}

async function control(path) {
  const res = await fetch(STAGE_URL + path, { method: 'POST' });
  if (res.status === 501) throw new LeftOut(await res.text());
  return res.json();
}

let serial = 0;

class Stage {
  constructor(browser, home, name) {
    this.browser = browser;
    this.home = home;
    this.room = `${name} ${++serial} ${Date.now()}`;
    this.url = FOCUS_URL;
    this.people = [];
    this.contexts = [];
    this.figures = [];
  }

  // figure keeps what was measured, for the table beside other servers, and judges ours.
  figure(name, unit, value, { most = Infinity, least = -Infinity } = {}) {
    this.figures.push({ name, unit, value });
    return atLeast(name, atMost(name, value, most), least);
  }

  // page opens a page without joining: a window of its own, since tabs behind others draw once a second.
  async page(name) {
    const context = await this.browser.newContext();
    this.contexts.push(context);
    const page = await context.newPage();
    const p = new Participant(this, name, page);
    this.people.push(p);
    await page.goto(this.home);
    await page.waitForFunction(() => window.call);
    return p;
  }

  // participant opens a page and joins. options.relay is what relay() gave; options.grants go into the token, unless there is one.
  async participant(name, { grants, relay, url, token, ...options } = {}) {
    const p = await this.page(name);
    if (relay) options.relay = { from: relay.from, to: relay.to };
    p.begun = Date.now();
    p.joined = await p.ask((u, t, o) => window.call.join(u, t, o), relay?.url ?? url ?? this.url, token ?? this.token(name, grants), options);
    return p;
  }
  participants(names, options) {
    return Promise.all(names.map((n) => this.participant(n, options)));
  }
  token(name, grants, life) {
    return token(name, { room: this.room, roomJoin: true, canUpdateOwnMetadata: true, ...grants }, life);
  }

  // relay opens a way to the focus that can be made worse with change(), or to the one in a process of its own.
  async relay(apart = false) {
    const way = await control(apart ? '/relay?apart' : '/relay');
    way.change = async (what) => {
      const res = await fetch(`${STAGE_URL}/relay/${way.id}`, { method: 'POST', body: JSON.stringify(what) });
      if (!res.ok) throw new Error(`relay: ${res.status}`);
    };
    return way;
  }
  // apart starts ("start"), kills or stops the focus in a process of its own, and gives its address.
  async apart(what) {
    return (await control(`/process/${what}`)).url;
  }
  // order has what a homeserver's room would say of somebody hold from now on: {identity, mute, no_video}.
  async order(what) {
    const res = await fetch(`${STAGE_URL}/order`, { method: 'POST', body: JSON.stringify({ room: this.room, ...what }) });
    if (!res.ok) throw new Error(`order: ${res.status}`);
  }
  // admin calls the room service.
  async admin(method, body) {
    const res = await fetch(`${this.url.replace('ws', 'http')}/twirp/livekit.RoomService/${method}`, {
      method: 'POST', body: JSON.stringify({ room: this.room, ...body }),
      headers: { 'content-type': 'application/json', authorization: `Bearer ${token('admin', { room: this.room, roomAdmin: true, roomCreate: true })}` },
    });
    if (!res.ok) throw new Error(`${method}: ${res.status} ${await res.text()}`);
    return res.json();
  }

  // rule puts the call under a rule of those that the test's focus knows by the room's name: "locked", "begun by nobody".
  rule(what) {
    this.room += `, ${what}`;
  }

  // all: everybody sees and hears everybody else.
  all(people = this.people, ms) {
    return Promise.all(people.flatMap((a) => people.filter((b) => b !== a).flatMap((b) => [a.moving(b.name, ms), a.hears(b.name, ms)])));
  }
  // anew gives how long after since everybody saw a first frame of everybody else's new picture.
  async anew(since, ms = 40000) {
    const times = await Promise.all(this.people.flatMap((a) => this.people.filter((b) => b !== a).map((b) =>
      until(`${a.name} sees ${b.name}'s new picture`, ms, async () => {
        const first = await a.ask((w) => window.call.first(w), b.name);
        return first > since && first;
      }))));
    return Math.max(...times) - since;
  }
  async tell() {
    for (const p of this.people) {
      for (const line of p.log) console.error(p.name, line);
      for (const e of await p.ask(() => window.call?.events).catch(() => []) ?? []) console.error(p.name, JSON.stringify(e));
    }
  }
  async close() {
    await Promise.all(this.contexts.map((c) => c.close().catch(() => {})));
  }
}

class Participant {
  constructor(stage, name, page) {
    Object.assign(this, { stage, name, page, log: [] });
    page.on('console', (m) => this.log.push(m.text()));
    page.on('pageerror', (e) => this.log.push(String(e)));
  }
  // ask runs fn in the page.
  ask(fn, ...args) {
    return this.page.evaluate(([source, a]) => (0, eval)(`(${source})`)(...a), [String(fn), args]);
  }
  // saw waits for an event and gives when it was.
  saw(what, who = '', ms = 5000, since = 0) {
    return until(`${this.name} notices ${what} ${who}`, ms, () => this.ask((w, o, s) => window.call.saw(w, o, s), what, who, since));
  }
  frames(who, source = 'camera') {
    return this.ask((w, s) => window.call.frames(w, s), who, source);
  }
  height(who, source = 'camera') {
    return this.ask((w, s) => window.call.height(w, s), who, source);
  }
  // moving: at least 10 more frames of who come, and the picture changes.
  async moving(who, ms = 40000, source = 'camera') {
    const begin = await this.frames(who, source);
    const before = await this.ask((w, s) => window.call.picture(w, s), who, source);
    await until(`${this.name} sees ${who} (${source}) move`, ms, async () =>
      (await this.frames(who, source)) >= begin + 10 && (await this.ask((w, s) => window.call.picture(w, s), who, source)) !== before);
  }
  // still: no frame of who comes for ms.
  async still(who, ms = 1000, source = 'camera') {
    const before = await this.frames(who, source);
    await pause(ms);
    const after = await this.frames(who, source);
    if (after !== before) throw new Error(`${this.name} got ${after - before} frames of ${who} (${source}) in ${ms} ms, want none`);
  }
  // hears: the sound of who grows.
  async hears(who, ms = 40000) {
    const before = await this.ask((w) => window.call.heard(w), who);
    await until(`${this.name} hears ${who}`, ms, async () => (await this.ask((w) => window.call.heard(w), who)) > before);
  }
  sees(height, who, ms = 20000) {
    return until(`${this.name} sees ${height} lines of ${who}`, ms, async () => (await this.height(who)) === height);
  }
  // resizes: its view of the camera of who becomes small, and large again; the layers of a camera of 720 lines follow, and go on.
  async resizes(who) {
    for (const [width, height, layer] of [[300, 168, 180], [1280, 720, 720]]) {
      await this.ask((name, w, h) => window.call.resize(name, w, h), who, width, height);
      await this.sees(layer, who);
      await this.moving(who);
    }
  }
  others(n, ms = 5000) {
    return until(`${this.name} counts ${n} others`, ms, async () => (await this.ask(() => window.room.remoteParticipants.size)) === n);
  }
  say(text, options = { reliable: true }) {
    return this.ask((t, o) => window.room.localParticipant.publishData(new TextEncoder().encode(t), o), text, options);
  }
  simulate(scenario, arg) {
    return this.ask((s, a) => window.room.simulateScenario(s, a).catch(() => 0), scenario, arg);
  }
}
