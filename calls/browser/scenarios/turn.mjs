import { until } from '../stage.mjs';

// through lets two meet by TURN alone, of a kind: what the nominated pair's own candidate says of it.
async function through(stage, pattern, kind) {
  const people = await stage.participants(['ann', 'bob'], { turn: pattern, publish: ['picture', 'tone'] });
  await stage.all();
  for (const p of people) {
    const got = await until(`${p.name} has a way`, 5000, () => p.ask(() => window.call.candidate()));
    if (got !== `relay ${kind}`) throw new Error(`${p.name}'s media travel by ${got}, want relay ${kind}`);
  }
}

export default {
  async 'TURN over UDP alone suffices'(stage) {
    await through(stage, 'turn:.*transport=udp', 'udp');
  },
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
  async 'TURN over TCP alone suffices'(stage) {
    await through(stage, 'turn:.*transport=tcp', 'tcp');
  },
};
