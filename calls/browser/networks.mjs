// Plays what needs whole servers: node networks.mjs SCENARIO FACTS ; the Go tests of cmd/chancery run it. FACTS is JSON: the
// focus's url, tokens by name, and where the controls of the test are.
// Prints a line of JSON: {name, ok, note}.
import { atMost, open, pause, until } from './stage.mjs';

const [name, text] = process.argv.slice(2);
const facts = JSON.parse(text);

const scenarios = {
  // Nothing but TURN over TLS, on the port where the signalling is too.
  async tlsAlone(stage) {
    const begun = Date.now();
    const people = await enter(stage, { turn: 'turns:', publish: true });
    await meet(people);
    const took = Date.now() - begun;
    for (const p of people) {
      const got = await until(`${p.name} has a way`, 5000, () => p.ask(() => window.call.candidate()));
      if (got !== 'relay tls') throw new Error(`${p.name}'s media travel by ${got}, want relay tls`);
    }
    return `everybody saw and heard everybody after ${took} ms`;
  },
  // Nothing but IPv6: the focus has no other address.
  async sixAlone(stage) {
    const people = await enter(stage);
    await meet(people);
    for (const p of people) {
      const there = await p.ask(async () => {
        const stats = await window.room.engine.pcManager.publisher.getStats();
        const pair = [...stats.values()].find((s) => s.type === 'candidate-pair' && s.nominated && s.state === 'succeeded');
        return stats.get(pair?.remoteCandidateId)?.address;
      });
      if (there !== facts.address) throw new Error(`${p.name}'s media go to ${there}, want ${facts.address}`);
    }
  },
  // The room mutes anna: nobody hears her, her client shows it, and unmuting herself changes nothing until the room lets her.
  async mutedByTheRoom(stage) {
    const people = await enter(stage);
    const [anna, ben] = people;
    await meet(people);
    let since = Date.now();
    await control('mute');
    await ben.saw('muted', whoIs(anna), 3000, since);
    const seen = Date.now() - since;
    await until('anna is shown as muted', 3000, () => anna.ask(() => !window.room.localParticipant.isMicrophoneEnabled));
    await unheard(ben, anna);
    await anna.ask(() => window.room.localParticipant.setMicrophoneEnabled(true));
    await unheard(ben, anna);
    await ben.moving(whoIs(anna)); // her picture goes on
    since = Date.now();
    await control('unmute');
    await anna.ask(() => window.room.localParticipant.setMicrophoneEnabled(false));
    await anna.ask(() => window.room.localParticipant.setMicrophoneEnabled(true));
    await ben.saw('unmuted', whoIs(anna), 3000, since);
    await ben.hears(whoIs(anna));
    await meet(people);
    return `seen after ${atMost('seen, in ms', seen, 1000)} ms`;
  },
  // The call becomes view-only: what ben publishes ends, and he learns it; the moderator goes on. Then he may again.
  async viewOnly(stage) {
    const people = await enter(stage);
    const [anna, ben] = people;
    await meet(people);
    const since = Date.now();
    await control('close');
    await anna.saw('unpublished:camera', whoIs(ben), 3000, since);
    await anna.saw('unpublished:microphone', whoIs(ben), 3000, since);
    const seen = Date.now() - since;
    await until('ben may not publish', 3000, () => ben.ask(() => !window.room.localParticipant.permissions.canPublish && window.room.localParticipant.trackPublications.size === 0));
    await ben.moving(whoIs(anna));
    await ben.hears(whoIs(anna));
    await control('open');
    await until('ben may publish', 3000, () => ben.ask(() => window.room.localParticipant.permissions.canPublish));
    await ben.ask(() => Promise.all(['picture', 'tone'].map((what) => window.call.publish(what))));
    await meet(people);
    return `seen after ${atMost('seen, in ms', seen, 1000)} ms`;
  },
  // The process on which the call lives is killed: its clients are back on another, and nobody asks for a token.
  homeKilled: (stage) => homeGone(stage, 'kill', 8000),
  // It is told to give its calls away, by the admin listener.
  homeDrained: (stage) => homeGone(stage, 'drain'),
  // It gets a signal to end.
  homeStopped: (stage) => homeGone(stage, 'stop'),
};

// homeGone: everybody is in one call, whose home goes away as the test's controls do it. All are back on another focus within
// five seconds, and see one another's first picture within so many milliseconds.
async function homeGone(stage, how, media = 5000) {
  const people = await enter(stage);
  await meet(people);
  const homes = await Promise.all(people.map(nodeOf));
  if (new Set(homes).size !== 1) throw new Error(`the call is on ${homes}, want one focus`);
  const begun = Date.now();
  await control(how);
  const back = await Promise.all(people.map((p) => p.saw('reconnected', '', 20000, begun)));
  await meet(people);
  const firsts = await Promise.all(people.flatMap((a) => people.filter((b) => b !== a).map((b) => a.ask((w) => window.call.first(w), whoIs(b)))));
  const now = await Promise.all(people.map(nodeOf));
  if (new Set(now).size !== 1 || now[0] === homes[0]) throw new Error(`the call is on ${now}, want one focus other than ${homes[0]}`);
  const slowest = atMost('the last was back, in ms', Math.max(...back) - begun, 5000);
  const seen = atMost('everybody saw everybody, in ms', Math.max(...firsts) - begun, media);
  return `back ${back.map((at) => at - begun).join(', ')} ms after it was told, slowest ${slowest}; everybody saw everybody after ${seen} ms`;
}

// enter lets everybody in, each by an address of its own if there are several.
function enter(stage, options) {
  return Promise.all(Object.entries(facts.tokens).map(([n, token], i) =>
    stage.participant(n, { token, url: facts.urls?.[i % facts.urls.length] ?? facts.url, publish: ['picture', 'tone'], ...options })));
}

// control has the test do something.
async function control(what) {
  const answer = await fetch(`${facts.controls}/${what}`, { method: 'POST' });
  if (!answer.ok) throw new Error(`${what}: ${answer.status} ${await answer.text()}`);
}

// whoIs is a participant's identity: the token's subject.
const whoIs = (p) => JSON.parse(Buffer.from(facts.tokens[p.name].split('.')[1], 'base64url')).sub;

// unheard: no packet of who's voice comes for a second.
async function unheard(p, who) {
  const packets = async () => (await p.ask((w) => window.call.received(w), whoIs(who))).packetsReceived;
  await pause(300); // what was on its way
  const before = await packets();
  await pause(1000);
  const after = await packets();
  if (after !== before) throw new Error(`${p.name} got ${after - before} packets of ${who.name}'s voice, want none`);
}

// nodeOf names the focus that a participant is on.
const nodeOf = (p) => p.ask(() => window.room.engine.latestJoinResponse.serverInfo.nodeId);

// meet: everybody sees and hears everybody else.
function meet(people) {
  return Promise.all(people.flatMap((a) => people.filter((b) => b !== a).flatMap((b) => [a.moving(whoIs(b)), a.hears(whoIs(b))])));
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
