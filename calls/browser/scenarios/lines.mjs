import { atLeast, atMost, named, other, pause, until, yardstick } from '../stage.mjs';

// concealed: the share of who's sound that p had to invent in the next ms, in percent.
async function concealed(p, who, ms) {
  const read = () => p.ask((w) => window.call.received(w, 'microphone'), who);
  const before = await read();
  await pause(ms);
  const after = await read();
  return 100 * (after.concealedSamples - before.concealedSamples) / (after.totalSamplesReceived - before.totalSamplesReceived);
}

// stops narrows bob's line to 100 kbit/s: the picture stops and the sound goes on, until the line is wide again.
async function stops(stage, wish, name) {
  const way = await stage.relay();
  await stage.participant('ann', { publish: ['camera', 'tone'] });
  const b = await stage.participant('bob', { relay: way, publish: false, ...wish });
  await b.moving('ann');
  await pause(8000); // a browser that has seen little mistakes pictures that come late for a clock that goes slow, and holds those after the silence back
  let since = Date.now();
  await way.change({ down: { kbps: 100 } });
  const told = (await b.saw('stream paused', 'ann', 10000, since).catch((e) => { if (!other) throw e; })) ?? 0; // others may not pause
  const stopped = told ? stage.figure(`${name}: the picture is paused`, 'ms', told - since, { most: 4000 }) : 'never';
  await pause(4000);
  const lost = stage.figure(`${name}: sound concealed`, '%', await concealed(b, 'ann', 5000), { most: 3 });
  since = Date.now();
  await way.change({ down: {} });
  if (told) await b.saw('stream active', 'ann', 30000, since);
  await b.moving('ann');
  const back = stage.figure(`${name}: the picture moves once the limit is lifted`, 'ms', Date.now() - since, { most: 8000 });
  return `stopped after ${stopped} ms, ${lost.toFixed(1)} % of the sound concealed meanwhile, back after ${back} ms`;
}

const lossy = (options) => yardstick(async (stage) => {
  const ways = [await stage.relay(), await stage.relay()];
  const [a, b] = await Promise.all(['ann', 'bob'].map((n, i) => stage.participant(n, { ...options, relay: ways[i], publish: ['camera', 'tone'] })));
  await stage.all();
  for (const way of ways) await way.change({ up: { loss: 0.05 }, down: { loss: 0.05 } });
  await pause(2000);
  const frozen = async (p, who) => (await p.ask((w) => window.call.received(w, 'camera'), who)).totalFreezesDuration;
  const before = await frozen(b, 'ann');
  const lost = await Promise.all([concealed(a, 'bob', 10000), concealed(b, 'ann', 10000)]);
  stage.figure(named('5 % lost: frozen in 10 s', options), 's', (await frozen(b, 'ann')) - before, { most: 2.5 });
  stage.figure(named('5 % lost: sound concealed', options), '%', Math.max(...lost), { most: 3 });
  return `${lost.map((l) => l.toFixed(1)).join(' and ')} % of the sound concealed`;
});

const narrow = (options) => yardstick(async (stage) => {
  const way = await stage.relay();
  await stage.participant('ann', { ...options, resolution: 'h720' });
  const b = await stage.participant('bob', { ...options, relay: way, publish: false });
  await b.moving('ann');
  await b.ask(() => window.call.resize('ann', 1280, 720));
  await b.sees(720, 'ann');
  await way.change({ down: { kbps: 250 } });
  await pause(8000);
  const before = await b.frames('ann');
  const sound = concealed(b, 'ann', 10000);
  await pause(10000);
  const rate = ((await b.frames('ann')) - before) / 10;
  const height = await b.height('ann');
  const lost = stage.figure(named('250 kbit/s: sound concealed', options), '%', await sound, { most: 3 });
  await way.change({ down: {} });
  const open = Date.now();
  await b.sees(720, 'ann', 60000);
  const back = stage.figure(named('250 kbit/s: the high layer is back once the limit is lifted', options), 'ms', Date.now() - open, { most: 8000 });
  stage.figure(named('250 kbit/s: frames', options), '/s', rate, { least: 10 });
  return `${rate.toFixed(1)} frames/s of ${height} lines, ${lost.toFixed(1)} % of the sound concealed; the high layer back after ${back} ms`;
});

export default {
  async 'a bad line is called so, and a good one again'(stage) {
    const way = await stage.relay();
    const [, b] = await Promise.all([stage.participant('ann'), stage.participant('bob', { relay: way, publish: ['microphone'] })]);
    await b.moving('ann');
    await b.saw('quality excellent', 'bob', 20000);
    let since = Date.now();
    await way.change({ up: { loss: 0.4 }, down: { loss: 0.4 } });
    await b.saw('quality poor', 'bob', 15000, since);
    const bad = Date.now() - since;
    since = Date.now();
    await way.change({ up: {}, down: {} });
    await b.saw('quality excellent', 'bob', 30000, since);
    return `poor after ${bad} ms, excellent again after ${Date.now() - since} ms`;
  },
};

export const alone = {
  'a picture that the line cannot carry stops, and the client is told': yardstick((stage) => stops(stage, { pause: true }, '100 kbit/s')),
  'a picture stops too for a client that has not said that it may, and adapts its streams': yardstick((stage) => stops(stage, {}, '100 kbit/s, nothing said')),
  'five percent of the packets lost each way': lossy({}),
  'five percent of the packets lost each way, with two peer connections': lossy({ single: false }),
  'a downlink of 250 kbit/s, and the limit lifted': narrow({}),
  'a downlink of 250 kbit/s, and the limit lifted, with two peer connections': narrow({ single: false }),
  async 'a narrow line carries the screen, and of the camera what is left'(stage) {
    const way = await stage.relay();
    const a = await stage.participant('ann', { resolution: 'h720', publish: ['camera', 'tone'] });
    const b = await stage.participant('bob', { relay: way, publish: false, pause: true });
    await b.moving('ann');
    await b.ask(() => window.call.resize('ann', 1280, 720));
    await b.sees(720, 'ann');
    await a.ask(() => window.call.publish('film'));
    await b.moving('ann', 40000, 'screen_share');
    // rates are how many frames a second of both come in the next ms
    const rates = async (ms) => {
      const read = () => Promise.all(['screen_share', 'camera'].map((source) => b.frames('ann', source)));
      const before = await read();
      await pause(ms);
      const after = await read();
      return after.map((n, i) => ((n - before[i]) * 1000) / ms);
    };
    const [film] = await rates(5000);
    await way.change({ down: { kbps: 500 } });
    await pause(5000);
    const [screen, camera] = await rates(12000);
    atLeast('the share of the frames of the screen', screen / film, 0.6);
    atMost('frames a second of the camera', camera, 8);
    return `${film.toFixed(1)} frames a second of the screen on a wide line; ${screen.toFixed(1)} on a narrow one, and ${camera.toFixed(1)} of the camera`;
  },
  async 'a narrow line carries more of who speaks'(stage) {
    const way = await stage.relay();
    const [a, c] = await Promise.all(['ann', 'cat'].map((n) => stage.participant(n, { resolution: 'h720', publish: ['camera', 'tone'] })));
    await c.ask(() => window.volume(0));
    const b = await stage.participant('bob', { relay: way, publish: false, pause: true });
    const others = ['ann', 'cat'];
    for (const who of others) {
      await b.moving(who);
      await b.ask((w) => window.call.resize(w, 1280, 720), who);
    }
    await Promise.all(others.map((who) => b.sees(720, who)));
    await way.change({ down: { kbps: 300 } }); // less than the least layers of both
    const speaks = async (who, other) => {
      const since = Date.now();
      await until(`bob sees ${who} alone`, 20000, async () => {
        const before = await Promise.all([b.frames(who), b.frames(other)]);
        await pause(1000);
        const after = await Promise.all([b.frames(who), b.frames(other)]);
        return after[0] >= before[0] + 5 && after[1] === before[1];
      });
      const took = Date.now() - since;
      await Promise.all([b.moving(who), b.still(other, 4000)]);
      return took;
    };
    const first = await speaks('ann', 'cat');
    await a.ask(() => window.volume(0));
    await c.ask(() => window.volume(1));
    const second = await speaks('cat', 'ann');
    return `the line was settled after ${first} ms, and anew ${second} ms after another speaks`;
  },
  async 'a narrow line of a browser that knows REMB alone'(stage) {
    const way = await stage.relay();
    await stage.participant('ann', { publish: ['camera', 'tone'], resolution: 'h720' });
    const b = await stage.participant('bob', { relay: way, publish: false, remb: true });
    await b.moving('ann');
    await b.ask(() => window.call.resize('ann', 1280, 720));
    await b.sees(720, 'ann');
    await pause(5000);
    let since = Date.now();
    await way.change({ down: { kbps: 400 } });
    await until('bob sees less of ann', 20000, async () => (await b.height('ann')) < 720);
    const down = Date.now() - since;
    if (down > 5000) throw new Error(`less after ${down} ms: its reports alone tell as much`);
    await pause(3000);
    const lost = await concealed(b, 'ann', 8000);
    if (lost > 10) throw new Error(`${lost.toFixed(1)} % of the sound concealed`);
    since = Date.now();
    await way.change({ down: {} });
    await b.sees(720, 'ann', 60000);
    return `less after ${down} ms, ${lost.toFixed(1)} % of the sound concealed, the high layer back after ${Date.now() - since} ms`;
  },
};
