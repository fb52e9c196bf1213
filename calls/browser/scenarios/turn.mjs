import { until } from '../stage.mjs';

// through lets two meet by TURN alone, of a kind: what the nominated pair's own candidate says of it.
const through = (pattern, kind, options) => async (stage) => {
  const people = await stage.participants(['ann', 'bob'], { ...options, turn: pattern, publish: ['picture', 'tone'] });
  await stage.all();
  for (const p of people) {
    const got = await until(`${p.name} has a way`, 5000, () => p.ask(() => window.call.candidate()));
    if (got !== `relay ${kind}`) throw new Error(`${p.name}'s media travel by ${got}, want relay ${kind}`);
  }
};

export default {
  'TURN over UDP alone suffices': through('turn:.*transport=udp', 'udp'),
  'TURN over UDP alone suffices, with two peer connections': through('turn:.*transport=udp', 'udp', { single: false }),
  'TURN over TCP alone suffices': through('turn:.*transport=tcp', 'tcp'),
  'TURN over TCP alone suffices, with two peer connections': through('turn:.*transport=tcp', 'tcp', { single: false }),
  async 'a client that asks for TURN comes back through it'(stage) {
    const [a] = await stage.participants(['ann', 'bob'], { publish: ['picture', 'tone'] });
    await stage.all();
    const since = Date.now();
    await a.simulate('force-tls');
    await a.saw('reconnected', '', 15000, since);
    await stage.all();
    const kind = await a.ask(() => window.call.candidate());
    if (kind !== 'relay tcp') throw new Error(`ann's media travel by ${kind}, want relay tcp`);
  },
};
