import { pause, until } from '../stage.mjs';

// ring is the keys that somebody has: each participant's of index, its own last.
const ring = (own, names, secret, index = 0) => [...names.filter((n) => n !== own), own].map((n) => [n, secret, index]);

// give lets p have keys.
const give = (p, keys) => p.ask(async (list) => {
  for (const key of list) await window.keys.set(...key);
}, keys);

// stops: what is on its way comes to an end, and then nothing of who comes.
async function stops(p, who) {
  await until(`${p.name} sees no more of ${who}`, 10000, () => p.still(who, 300).then(() => true, () => false));
  await p.still(who, 1500);
}

// rotated is a call in which everybody has a key of its own; cat comes late. All change to the next one twice, and the first time cat hears
// of it late: it sees nothing that is encrypted with what it does not have, while its own media go on.
const rotated = (options) => async (stage) => {
  const names = ['ann', 'bob', 'cat'];
  const enter = (name) => stage.participant(name, { ...options, keys: ring(name, names, 'the first') });
  const [a, b] = await Promise.all(['ann', 'bob'].map(enter));
  await stage.all();
  const c = await enter('cat');
  await stage.all();
  const others = ['ann', 'bob'];
  await Promise.all([a, b].map((p) => give(p, ring(p.name, others, 'the second', 1))));
  await stage.all([a, b]);
  await Promise.all(others.map((who) => stops(c, who)));
  await Promise.all([a, b].flatMap((p) => [p.moving('cat'), p.hears('cat')]));
  const given = Date.now();
  await give(c, others.map((who) => [who, 'the second', 1]));
  await Promise.all(others.flatMap((who) => [c.moving(who), c.hears(who)]));
  const back = Date.now() - given;
  await Promise.all(stage.people.map((p) => give(p, ring(p.name, names, 'the third', 2))));
  await stage.all();
  return `who was late sees again ${back} ms after it has the keys`;
};

// sealed: data that are encrypted arrive at who has the key, in both kinds, and streams do; who has another reads nothing of them until it
// is given the right one.
const sealed = (options) => async (stage) => {
  const names = ['ann', 'bob', 'cat'];
  const [a, b, c] = await Promise.all(names.map((name) =>
    stage.participant(name, { ...options, publish: false, keys: ring(name, names, name === 'cat' ? 'another' : 'the first') })));
  await Promise.all(stage.people.map((p) => p.others(2)));
  await b.ask(() => window.room.registerTextStreamHandler('letters', async (reader) => window.call.note(`letter ${(await reader.readAll()).length}`)));
  for (const [from, to] of [[a, b], [b, a]]) {
    for (const kind of ['lossy', 'reliable']) {
      await from.say(kind, { reliable: kind === 'reliable' });
      await to.saw(`data:${kind}`, from.name);
    }
  }
  await a.ask(() => window.room.localParticipant.sendText('x'.repeat(50000), { topic: 'letters' }));
  await b.saw('letter 50000');
  await give(c, [['ann', 'the first']]);
  await a.say('now');
  await c.saw('data:now', 'ann');
  const read = await c.ask(() => window.call.events.filter((e) => e.what.startsWith('data:')).map((e) => e.what.slice(5)).join(', '));
  if (read !== 'now') throw new Error(`cat read "${read}", want "now" alone: for the rest it had no key`);
};

export default {
  'encrypted calls, with late joiners and new keys': rotated({}),
  'encrypted calls, with late joiners and new keys, with two peer connections': rotated({ single: false }),
  'encrypted data, and who has no key for them': sealed({}),
  'encrypted data, and who has no key for them, with two peer connections': sealed({ single: false }),
  async 'who has another key sees nothing'(stage) {
    await stage.participant('ann', { secret: 'the right secret' });
    const b = await stage.participant('bob', { secret: 'the wrong secret', publish: false });
    await b.saw('subscribed:camera', 'ann', 10000);
    await pause(2000);
    if (await b.frames('ann')) throw new Error('bob decoded what he has no key for');
  },
};

export const alone = {
  async 'a camera of H264 and a shared screen under encryption'(stage) {
    const secret = 'a shared secret';
    const a = await stage.participant('ann', { secret, codec: 'h264', resolution: 'h720', publish: ['camera'] });
    const b = await stage.participant('bob', { secret, publish: false });
    await b.moving('ann');
    const { codec } = await b.ask(() => window.call.received('ann', 'camera'));
    if (codec.toLowerCase() !== 'video/h264') throw new Error(`got ${codec}, want video/h264`);
    await a.ask(() => window.call.publish('screen'));
    await b.moving('ann', 40000, 'screen_share');
    await b.resizes('ann');
    const c = await stage.participant('cat', { secret: 'another', publish: false });
    const d = await stage.participant('dan', { secret, publish: false });
    await Promise.all([d.moving('ann'), d.moving('ann', 40000, 'screen_share')]);
    for (const source of ['camera', 'screen_share']) {
      if (!(await c.ask((s) => window.call.received('ann', s), source))?.bytesReceived) throw new Error(`cat gets nothing of the ${source}`);
      if (await c.frames('ann', source)) throw new Error(`cat decoded the ${source}, for which it has no key`);
    }
  },
  async 'layers change under encryption'(stage) {
    const secret = 'a shared secret';
    await stage.participant('ann', { secret, resolution: 'h720' });
    const b = await stage.participant('bob', { secret, publish: false });
    await b.moving('ann');
    await b.resizes('ann');
  },
};
