// Plays what needs whole servers: node networks.mjs SCENARIO FACTS ; the Go tests of cmd/chancery run it. FACTS is JSON: the
// focus's url, tokens by name, and where the controls of the test are.
// Prints a line of JSON: {name, ok, note}.
import { atMost, open, until } from './stage.mjs';

const [name, text] = process.argv.slice(2);
const facts = JSON.parse(text);

const scenarios = {
  // Nothing but TURN over TLS, on the port where the signalling is too.
  async tlsAlone(stage) {
    const begun = Date.now();
    const people = await Promise.all(Object.entries(facts.tokens).map(([n, token]) => stage.participant(n, { token, url: facts.url, turn: 'turns:' })));
    await meet(people);
    const took = Date.now() - begun;
    for (const p of people) {
      const got = await until(`${p.name} has a way`, 5000, () => p.ask(() => window.call.candidate()));
      if (got !== 'relay tls') throw new Error(`${p.name}'s media travel by ${got}, want relay tls`);
    }
    return `everybody saw and heard everybody after ${took} ms`;
  },
  // The process on which the call lives is killed: its clients are back on another, and nobody asks for a token.
  async homeKilled(stage) {
    const people = await Promise.all(Object.entries(facts.tokens).map(([n, token]) => stage.participant(n, { token, url: facts.url, publish: ['picture', 'tone'] })));
    await meet(people);
    const begun = Date.now();
    await fetch(facts.controls + '/kill', { method: 'POST' });
    const back = await Promise.all(people.map((p) => p.saw('reconnected', '', 20000, begun)));
    await meet(people);
    const media = Date.now() - begun;
    const slowest = atMost('the last was back, in ms', Math.max(...back) - begun, 5000);
    return `back ${back.map((at) => at - begun).join(' and ')} ms after the kill, slowest ${slowest}; everybody saw and heard everybody after ${media} ms`;
  },
};

// meet: everybody sees and hears everybody else. Identities are the tokens' subjects.
function meet(people) {
  return Promise.all(people.flatMap((a) => people.filter((b) => b !== a).flatMap((b) => {
    const who = JSON.parse(Buffer.from(facts.tokens[b.name].split('.')[1], 'base64url')).sub;
    return [a.moving(who), a.hears(who)];
  })));
}

const house = await open();
const stage = house.stage(name);
let failed = false;
try {
  console.log(JSON.stringify({ name, ok: true, note: await scenarios[name](stage) }));
} catch (e) {
  failed = true;
  console.log(JSON.stringify({ name, ok: false, note: String(e.stack ?? e).split('\n').slice(0, 4).join(' | ') }));
  await stage.tell();
}
await stage.close();
await house.close();
process.exit(failed ? 1 : 0);
