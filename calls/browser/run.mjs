// Drives the pages: node run.mjs SCENARIO... ; the focus is named by FOCUS_URL, FOCUS_KEY and FOCUS_SECRET.
// Prints one line for each scenario: "ok NAME note" or "not ok NAME reason".
import { build } from 'esbuild';
import { createHmac } from 'node:crypto';
import { createServer } from 'node:http';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const here = dirname(fileURLToPath(import.meta.url));
const { FOCUS_URL: url, FOCUS_KEY: key, FOCUS_SECRET: secret } = process.env;

const encode = (v) => Buffer.from(JSON.stringify(v)).toString('base64url');
function token(room, identity) {
  const now = Math.floor(Date.now() / 1000);
  const body = encode({ alg: 'HS256', typ: 'JWT' }) + '.' + encode({
    iss: key, sub: identity, nbf: now - 10, exp: now + 3600, video: { room, roomJoin: true, canUpdateOwnMetadata: true },
  });
  return body + '.' + createHmac('sha256', secret).update(body).digest('base64url');
}

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
    '--disable-backgrounding-occluded-windows', '--disable-renderer-backgrounding', '--disable-background-timer-throttling'],
});

let serial = 0;
let people = [];
// participant opens a page and joins.
async function participant(room, name, options = {}) {
  const page = await (await browser.newContext()).newPage(); // a window of its own: tabs behind others draw once a second
  const p = { name, page, log: [] };
  people.push(p);
  page.on('console', (m) => p.log.push(m.text()));
  page.on('pageerror', (e) => p.log.push(String(e)));
  await page.goto(home);
  await page.waitForFunction(() => window.call);
  p.begun = Date.now();
  p.joined = await page.evaluate(([u, t, o]) => window.call.join(u, t, o), [url, token(room, name), options]);
  p.ask = (fn, ...args) => page.evaluate(fn, args);
  return p;
}

async function until(what, ms, test) {
  const end = Date.now() + ms;
  for (;;) {
    const got = await test();
    if (got) return got;
    if (Date.now() > end) throw new Error(`${what}: not within ${ms} ms`);
    await new Promise((r) => setTimeout(r, 25));
  }
}
const saw = (p, what, who, ms, since = 0) => until(`${p.name} notices ${what} ${who}`, ms, () => p.ask(([w, o, s]) => window.call.saw(w, o, s), what, who, since));
const frames = (p, who, source) => p.ask(([w, s]) => window.call.frames(w, s), who, source);

// moving: p sees at least 10 more frames of who, and the picture changes.
async function moving(p, who, ms = 40000, source = 'camera') {
  const begin = await frames(p, who, source);
  const before = await p.ask(([w, s]) => window.call.picture(w, s), who, source);
  await until(`${p.name} sees ${who} (${source}) move`, ms, async () =>
    (await frames(p, who, source)) >= begin + 10 && (await p.ask(([w, s]) => window.call.picture(w, s), who, source)) !== before);
}
const heard = (p, who, ms = 40000) => until(`${p.name} hears ${who}`, ms, async () => (await p.ask(([w]) => window.call.heard(w), who)) > 0);
async function all(people) {
  await Promise.all(people.flatMap((a) => people.filter((b) => b !== a).flatMap((b) => [moving(a, b.name), heard(a, b.name)])));
}

const scenarios = {
  async three(room) {
    const [a, b] = await Promise.all(['ann', 'bob'].map((n) => participant(room, n)));
    await all([a, b]);
    const c = await participant(room, 'cat');
    const first = await until('cat gets a first frame', 10000, () => c.ask(() => window.call.first('ann')));
    await all([a, b, c]);
    const left = Date.now();
    await c.ask(() => window.room.disconnect());
    const polite = (await saw(a, 'left', 'cat', 2000, left)) - left;
    const d = await participant(room, 'dan');
    await all([a, b, d]);
    const closed = Date.now();
    await d.page.close({ runBeforeUnload: false });
    const vanished = (await saw(a, 'left', 'dan', 3000, closed)) - closed;
    await all([a, b]);
    return `late joiner's first frame after ${first - c.begun} ms, leave seen after ${polite} ms, closed page after ${vanished} ms`;
  },
  async twoConnections(room) {
    const [a, b] = await Promise.all(['ann', 'bob'].map((n) => participant(room, n, { single: false })));
    const c = await participant(room, 'cat'); // one connection, in the same call
    await all([a, b, c]);
    await c.ask(() => window.room.localParticipant.setCameraEnabled(false));
    await saw(a, 'muted', 'cat', 3000);
    const back = Date.now();
    await c.ask(() => window.room.localParticipant.setCameraEnabled(true));
    await saw(a, 'unmuted', 'cat', 3000, back);
    await moving(a, 'cat');
    const cut = Date.now();
    await a.ask(() => window.room.simulateScenario('signal-reconnect'));
    await saw(a, 'reconnected', '', 10000, cut);
    await all([a, b, c]);
  },
  async resume(room) {
    const [a, b] = await Promise.all(['ann', 'bob'].map((n) => participant(room, n)));
    await all([a, b]);
    const cut = Date.now();
    await a.ask(() => window.room.simulateScenario('signal-reconnect'));
    const resumed = (await saw(a, 'reconnected', '', 10000, cut)) - cut;
    if (await b.ask(() => window.call.saw('left', 'ann'))) throw new Error('bob saw ann leave though she only resumed');
    await all([a, b]);
    const full = Date.now();
    await a.ask(() => window.room.simulateScenario('full-reconnect'));
    const rejoined = (await saw(a, 'reconnected', '', 15000, full)) - full;
    await all([a, b]);
    const ordered = Date.now();
    await a.ask(() => window.room.simulateScenario('server-leave').catch(() => 0));
    await saw(a, 'disconnected', '', 10000, ordered);
    return `resumed after ${resumed} ms, joined anew after ${rejoined} ms`;
  },
  async tracks(room) {
    const [a, b] = await Promise.all(['ann', 'bob'].map((n) => participant(room, n)));
    await all([a, b]);
    let since = Date.now();
    await a.ask(() => window.room.localParticipant.setMicrophoneEnabled(false));
    await saw(b, 'muted', 'ann', 3000, since);
    for (let i = 0; i < 3; i++) { // the section is used again, under another track
      since = Date.now();
      await a.ask(async () => {
        const pub = [...window.room.localParticipant.videoTrackPublications.values()][0];
        await window.room.localParticipant.unpublishTrack(pub.track);
      });
      await saw(b, 'unpublished:camera', 'ann', 3000, since);
      await a.ask(() => window.room.localParticipant.setCameraEnabled(true));
      await moving(b, 'ann');
    }
    // a second track of a kind
    await a.ask(async () => {
      const canvas = Object.assign(document.createElement('canvas'), { width: 640, height: 360 });
      const c = canvas.getContext('2d');
      let n = 0;
      setInterval(() => { c.fillStyle = `hsl(${(n += 7) % 360} 90% 50%)`; c.fillRect(0, 0, 640, 360); }, 66);
      await window.room.localParticipant.publishTrack(canvas.captureStream(15).getVideoTracks()[0], { source: 'screen_share', simulcast: false });
    });
    await moving(b, 'ann', 40000, 'screen_share');
    await moving(b, 'ann');
    // unsubscribe and subscribe again
    since = Date.now();
    await b.ask(() => window.room.remoteParticipants.get('ann').videoTrackPublications.forEach((p) => p.setSubscribed(false)));
    await saw(b, 'unsubscribed:camera', 'ann', 3000, since);
    await b.ask(() => window.room.remoteParticipants.get('ann').videoTrackPublications.forEach((p) => p.setSubscribed(true)));
    await moving(b, 'ann');
    await moving(b, 'ann', 40000, 'screen_share');
  },
  async layers(room) {
    const a = await participant(room, 'ann', { adaptive: false, resolution: 'h720' });
    const b = await participant(room, 'bob', { publish: false });
    await b.ask(() => 0);
    const height = () => b.ask(() => window.call.height('ann'));
    const see = (h, ms = 20000) => until(`bob sees ${h} lines`, ms, async () => (await height()) === h);
    await moving(b, 'ann');
    await b.ask(() => window.call.resize('ann', 1280, 720));
    await see(720);
    await b.ask(() => window.call.resize('ann', 300, 168));
    await see(180);
    await moving(b, 'ann');
    const begun = Date.now();
    await b.ask(() => window.call.resize('ann', 1280, 720));
    await see(720);
    const up = Date.now() - begun;
    await moving(b, 'ann');
    await a.ask(() => 0);
    return `back to the high layer after ${up} ms`;
  },
  async data(room) {
    const [a, b, c] = await Promise.all(['ann', 'bob', 'cat'].map((n) => participant(room, n, { publish: false, single: n !== 'cat' })));
    await Promise.all([saw(a, 'joined', '', 5000).catch(() => 0)]);
    await until('everybody is there', 5000, async () => (await Promise.all([a, b, c].map((p) => p.ask(() => window.room.remoteParticipants.size)))).every((n) => n === 2));
    const say = (p, text, options) => p.ask(([t, o]) => window.room.localParticipant.publishData(new TextEncoder().encode(t), o), text, options);
    await say(a, 'all', { reliable: true });
    await say(a, 'bob only', { reliable: true, destinationIdentities: ['bob'] });
    await say(c, 'lossy', { reliable: false });
    await saw(b, 'data:all', 'ann', 5000);
    await saw(c, 'data:all', 'ann', 5000);
    await saw(b, 'data:bob only', 'ann', 5000);
    await saw(a, 'data:lossy', 'cat', 5000);
    if (await c.ask(() => window.call.saw('data:bob only'))) throw new Error('cat got what was for bob');
    await a.ask(() => window.room.localParticipant.setMetadata('busy'));
    await until('bob sees the metadata', 3000, () => b.ask(() => window.room.remoteParticipants.get('ann').metadata === 'busy'));
    await a.ask(() => window.room.localParticipant.setAttributes({ hand: 'up' }));
    await until('cat sees the attribute', 3000, () => c.ask(() => window.room.remoteParticipants.get('ann').attributes.hand === 'up'));
  },
  async encrypted(room) {
    const [a, b] = await Promise.all(['ann', 'bob'].map((n) => participant(room, n, { secret: 'a shared secret' })));
    await all([a, b]);
    const c = await participant(room, 'cat', { secret: 'a shared secret' });
    await all([a, b, c]);
  },
  async twice(room) {
    const a = await participant(room, 'ann');
    const b = await participant(room, 'bob');
    await all([a, b]);
    const since = Date.now();
    const again = await participant(room, 'ann');
    await saw(a, 'disconnected', '2', 3000, since); // DUPLICATE_IDENTITY
    await all([again, b]);
  },
};

let failed = false;
for (const name of process.argv.slice(2).length ? process.argv.slice(2) : Object.keys(scenarios)) {
  const begun = Date.now();
  people = [];
  try {
    const text = await scenarios[name](`${name}-${++serial}-${begun}`);
    console.log(`ok ${name} ${text ?? ''} (${Date.now() - begun} ms)`);
  } catch (e) {
    failed = true;
    console.log(`not ok ${name} ${String(e.message).split('\n')[0]}`);
    if (process.env.VERBOSE) for (const p of people) for (const line of p.log) console.error(p.name, line);
  }
  for (const context of browser.contexts()) {
    if (process.env.VERBOSE) for (const e of await context.pages()[0]?.evaluate(() => window.call?.events).catch(() => []) ?? []) console.error(JSON.stringify(e));
    await context.close();
  }
}
await browser.close();
server.close();
process.exit(failed ? 1 : 0);
