import { named, until, yardstick } from '../stage.mjs';

const tcpAlone = (options) => yardstick(async (stage) => {
  const begun = Date.now();
  const [a, b] = await stage.participants(['ann', 'bob'], { ...options, tcp: true });
  await stage.all();
  stage.figure(named('TCP alone: everybody sees and hears everybody', options), 'ms', Date.now() - begun);
  const kinds = await Promise.all([a, b].map((p) => p.ask(() => window.call.protocol())));
  if (kinds.some((k) => k !== 'tcp')) throw new Error(`got ${kinds}, want tcp`);
});

export default {
  async 'three see and hear each other'(stage) {
    await stage.participants(['ann', 'bob', 'cat']);
    await stage.all();
  },
  async 'a client is told how many are there'(stage) {
    const [a, b] = [await stage.participant('ann', { publish: ['picture'] }), await stage.participant('bob', { publish: false })];
    const counts = (n, publishers) => until(`ann and bob count ${n}, of whom ${publishers} publish`, 8000, async () => // told within five seconds
      (await Promise.all([a, b].map((p) => p.ask((x, y) => window.room.numParticipants === x && window.room.numPublishers === y, n, publishers)))).every(Boolean));
    await counts(2, 1);
    const c = await stage.participant('cat', { publish: ['picture'] });
    await counts(3, 2);
    await c.ask(() => window.room.disconnect());
    await counts(2, 1);
  },
  async 'no STUN or TURN server is named but ours'(stage) {
    const { hostname } = new URL(stage.url);
    for (const [name, single] of [['ann', true], ['bob', false]]) {
      const p = await stage.participant(name, { single });
      const urls = await p.ask(() => [window.room.engine.pcManager.publisher, window.room.engine.pcManager.subscriber].filter(Boolean)
        .flatMap((t) => t.pc.getConfiguration().iceServers).flatMap((s) => s.urls));
      if (!urls.length) throw new Error(`${name} is named none: a client may use its own then`);
      const others = urls.filter((u) => u.replace(/^\w+:/, '').replace(/[:?].*/, '') !== hostname);
      if (others.length) throw new Error(`${name} is named ${others}`);
    }
  },
  async 'one and two peer connections meet'(stage) {
    await Promise.all([stage.participant('ann', { single: false }), stage.participant('bob', { single: false }), stage.participant('cat')]);
    await stage.all();
  },
  async 'a second join of an identity takes the place of the first'(stage) {
    const [a, b] = await stage.participants(['ann', 'bob']);
    await stage.all();
    const since = Date.now();
    const again = await stage.participant('ann');
    await a.saw('disconnected', '2', 3000, since); // DUPLICATE_IDENTITY
    await stage.all([again, b]);
  },
  async 'a client that asks for TCP comes back with TCP'(stage) {
    const [a] = await stage.participants(['ann', 'bob'], { publish: ['picture', 'tone'] });
    await stage.all();
    const since = Date.now();
    await a.simulate('force-tcp');
    await a.saw('reconnected', '', 15000, since);
    await stage.all();
    const kind = await a.ask(() => window.call.protocol());
    if (kind !== 'tcp') throw new Error(`got ${kind}, want tcp`);
  },
  'TCP alone suffices': tcpAlone({}),
  'TCP alone suffices, with two peer connections': tcpAlone({ single: false }),
};

// crowd lets a page that publishes nothing have all pictures of five others, more than a description of 256 KiB has sections for.
const crowd = (options) => async (stage) => {
  const each = 12, names = ['ann', 'bob', 'cat', 'dan', 'eve'];
  const others = await stage.participants(names, { publish: false, auto: false });
  await Promise.all(others.map((p) => p.ask((n) => window.call.many(n), each)));
  const p = await stage.participant('zoe', { ...options, publish: false });
  const n = each * names.length;
  await until(`zoe sees ${n} pictures`, 60000, async () => (await p.ask(() => window.call.pictures())) === n);
  const took = Date.now() - p.begun;
  const sections = options.single === false ? n : await p.ask(() => window.call.sections());
  if (sections < n) throw new Error(`got ${sections} sections, want ${n} for pictures, and more`);
  if (await p.ask(() => window.call.saw('reconnecting'))) throw new Error('zoe was sent away');
  return `${n} pictures after ${took} ms`;
};

// late joins one after the other, and gives the middle of the times after which they saw ann's first frame.
async function late(stage, options) {
  await stage.participants(['ann', 'bob']);
  await stage.all();
  const times = [];
  for (const name of ['cat', 'dan', 'eve']) {
    const p = await stage.participant(name, { ...options, publish: false });
    times.push((await until(`${name} gets a first frame`, 10000, () => p.ask(() => window.call.first('ann')))) - p.begun);
    await p.ask(() => window.room.disconnect());
  }
  return times.sort((x, y) => x - y);
}

export const alone = {
  'sixty cameras on one connection': crowd({}),
  'sixty cameras with two peer connections': crowd({ single: false }),
  'a late joiner sees video within a second': yardstick(async (stage) => {
    const times = await late(stage, {});
    stage.figure("a late joiner's first frame", 'ms', times[1], { most: 1000 });
    return `first frame after the call of join: ${times.join(', ')} ms`;
  }),
  'a late joiner with two peer connections sees video within a second': yardstick(async (stage) => {
    const times = await late(stage, { single: false });
    stage.figure("a late joiner's first frame, two peer connections", 'ms', times[1], { most: 1000 });
    return `first frame after the call of join: ${times.join(', ')} ms`;
  }),
};
