import { atMost, named, pause, until, yardstick } from '../stage.mjs';

const two = { single: false };

// Before it does anything the client waits at random, up to half a second: what it takes after that is measured, from when it says that it
// reconnects. (livekit-client 2.23.0: DefaultReconnectPolicy)
const begins = (a, cut) => a.saw('reconnecting', '', 2000, cut);

// The client waits two seconds of its own after a resume before it says "reconnected": signalling is back before, and others are heard of.
const resume = (options) => yardstick(async (stage) => {
  const way = await stage.relay();
  const [a, b] = await Promise.all([stage.participant('ann', { ...options, relay: way }), stage.participant('bob', options)]);
  await stage.all();
  const cut = Date.now();
  await way.change({ cut: true });
  const begun = await begins(a, cut);
  const back = (await a.saw('signalling', '', 2000, cut)) - begun;
  const metadata = `met ${cut}`;
  await b.ask((m) => window.room.localParticipant.setMetadata(m), metadata);
  await until('ann hears of bob again', 10000, () => a.ask((m) => window.room.remoteParticipants.get('bob')?.metadata === m, metadata));
  atMost('ann hears of bob after', Date.now() - cut, 2000);
  const said = (await a.saw('reconnected', '', 10000, cut)) - begun;
  stage.figure(named('a lost socket: signalling is back', options), 'ms', back, { most: 1500 });
  stage.figure(named('a lost socket: the client says so', options), 'ms', said);
  if (await b.ask(() => window.call.saw('left', 'ann'))) throw new Error('bob saw ann leave though she only resumed');
  await stage.all();
  return `signalling back after ${back} ms; the client says so after ${said} ms`;
});

// When the client tries again is drawn by lot, up to seven seconds after its attempt before: what the focus has in its hands begins with
// the attempt that arrives.
const silence = (options) => yardstick(async (stage) => {
  const way = await stage.relay();
  const [a] = await Promise.all([stage.participant('ann', { ...options, relay: way }), stage.participant('bob', options)]);
  await stage.all();
  await way.change({ cut: true, shut: true });
  await pause(8000);
  const open = Date.now();
  await way.change({ shut: false });
  const said = await a.saw('reconnected', '', 40000, open);
  await stage.all();
  const tried = await a.saw('tries', '', 0, open);
  const back = stage.figure(named('eight seconds without signalling: back', options), 'ms', said - open);
  const after = stage.figure(named('eight seconds without signalling: the client says so after the attempt that arrives', options), 'ms', said - tried);
  return `back ${back} ms after signalling was possible again, ${after} ms after the client tried again`;
});

const anew = (scenario, name, options) => async (stage) => {
  const [a] = await stage.participants(['ann', 'bob'], options);
  await stage.all();
  const cut = Date.now();
  await a.simulate(scenario);
  const begun = await begins(a, cut);
  const media = stage.figure(named(`${name}: media are back`, options), 'ms', await stage.anew(begun), { most: 4000 });
  const said = stage.figure(named(`${name}: the client says so`, options), 'ms', (await a.saw('reconnected', '', 15000, cut)) - begun);
  await stage.all();
  return `media back after ${media} ms, the client says so after ${said} ms`;
};

const noUDP = (options) => yardstick(async (stage) => {
  const way = await stage.relay();
  const [a] = await Promise.all([stage.participant('ann', { ...options, relay: way }), stage.participant('bob', options)]);
  await stage.all();
  await way.change({ up: { loss: 1 }, down: { loss: 1 } });
  await pause(12000);
  const open = Date.now();
  await way.change({ up: {}, down: {} });
  await stage.all(stage.people, 30000);
  const back = stage.figure(named('twelve seconds without UDP: media are back', options), 'ms', Date.now() - open, { most: 6000 });
  return `media back after ${back} ms; ann noticed: ${await a.ask(() => window.call.events.filter((e) => e.what.startsWith('reconn')).length)}`;
});

const killed = (options) => yardstick(async (stage) => {
  const url = await stage.apart('start');
  await stage.participants(['ann', 'bob'], { ...options, url, publish: ['picture', 'tone'] });
  await stage.all();
  const cut = Date.now();
  await stage.apart('kill');
  await stage.apart('start');
  const up = Date.now();
  const back = stage.figure(named('killed and started again: media are back after the start', options), 'ms', await stage.anew(up), { most: 5100 });
  await Promise.all(stage.people.map((p) => p.saw('reconnected', '', 30000, cut)));
  await stage.all();
  return `media back ${back} ms after the new focus answered, ${up + back - cut} ms after the kill; all well after ${Date.now() - cut} ms`;
});

const stopped = (options) => yardstick(async (stage) => {
  const url = await stage.apart('start');
  await stage.participants(['ann', 'bob'], { ...options, url, publish: ['picture', 'tone'] });
  await stage.all();
  const cut = Date.now();
  await stage.apart('stop');
  await Promise.all(stage.people.map((p) => p.saw('reconnecting', '', 3000, cut)));
  await stage.apart('start');
  const up = Date.now();
  const back = stage.figure(named('stopped and started again: media are back after the start', options), 'ms', await stage.anew(up), { most: 6000 });
  await Promise.all(stage.people.map((p) => p.saw('reconnected', '', 30000, cut)));
  await stage.all();
  return `media back ${back} ms after the new focus answered`;
});

// The client holds its requests back until it has resumed, for two seconds, once it holds one; its offers go at once. So a track may be offered
// long before it is announced. (livekit-client 2.23.0: SignalClient.sendRequest)
const publishing = (options) => async (stage) => {
  const [a, b] = await stage.participants(['ann', 'bob'], { ...options, publish: false });
  await Promise.all([a.others(1), b.others(1)]);
  const cut = Date.now();
  const held = await a.ask(() => new Promise((done) => {
    window.room.engine.once('resuming', () => setTimeout(() => {
      window.room.localParticipant.setMetadata('held').catch(() => 0);
      setTimeout(() => done(window.room.engine.client.queuedRequests.length));
    }));
    window.room.simulateScenario('signal-reconnect');
  }));
  if (!held) throw new Error('the client holds nothing back');
  await a.saw('signalling', '', 5000, cut);
  await a.ask(() => Promise.all(['picture', 'tone'].map((what) => window.call.publish(what))));
  await b.ask(() => Promise.all(['picture', 'tone'].map((what) => window.call.publish(what))));
  await stage.all();
};

export default {
  'a lost socket is resumed within two seconds': resume({}),
  'a lost socket is resumed with two peer connections': resume(two),
  async 'who left meanwhile is gone after a resume'(stage) {
    const way = await stage.relay();
    const a = await stage.participant('ann', { relay: way, publish: false });
    const b = await stage.participant('bob', { publish: false });
    const c = await stage.participant('cat', { publish: false });
    await a.others(2);
    await way.change({ cut: true, shut: true });
    await a.saw('reconnecting', '', 3000);
    await b.ask(() => window.room.disconnect());
    await c.others(1);
    await way.change({ shut: false });
    await a.saw('reconnected', '', 15000);
    await a.others(1, 1000);
  },
  async 'pictures that begin while signalling is lost come after the resume'(stage) {
    const way = await stage.relay();
    const [a, b] = await Promise.all([stage.participant('ann', { publish: false }), stage.participant('bob', { relay: way, publish: false })]);
    const come = (n) => until(`bob sees ${n} pictures`, 20000, async () => (await b.ask(() => window.call.pictures())) === n);
    await a.ask(() => window.call.many(3)); // as many as he has sections for
    await come(3);
    const since = Date.now();
    await way.change({ cut: true, shut: true });
    await a.ask(() => window.call.many(2));
    await pause(500);
    await way.change({ shut: false });
    await b.saw('reconnected', '', 15000, since);
    await come(5);
  },
  'eight seconds without signalling': silence({}),
  'eight seconds without signalling, with two peer connections': silence(two),
  'a full reconnect when the client asks for it': yardstick(anew('full-reconnect', 'a full reconnect', {})),
  'a full reconnect when the client asks for it, with two peer connections': yardstick(anew('full-reconnect', 'a full reconnect', two)),
  'a full reconnect when the focus asks for it': anew('leave-full-reconnect', 'a full reconnect that the server asks for', {}),
  'a full reconnect when the focus asks for it, with two peer connections': anew('leave-full-reconnect', 'a full reconnect that the server asks for', two),
  async 'a client is given new tokens, and comes back with them when its own has expired'(stage) {
    const way = await stage.relay();
    const given = stage.token('ann', {}, -56); // and the minute: four seconds
    const a = await stage.participant('ann', { relay: way, token: given });
    await stage.participant('bob');
    await stage.all();
    const expired = async () => (await fetch(`${stage.url.replace('ws', 'http')}/rtc/validate?access_token=${given}`)).status === 401;
    await until('the first token has expired', 10000, expired);
    const first = await a.ask(() => window.call.token());
    if (first === given) throw new Error('ann has no token but the one that she came with');
    const life = (token) => JSON.parse(Buffer.from(token.split('.')[1], 'base64url')).exp - Date.now() / 1000;
    if (life(first) < 300) throw new Error(`ann's new token holds for ${life(first)} s: it ends before she is given another`);
    await until('ann is given another', 30000, async () => (await a.ask(() => window.call.token())) !== first);
    let since = Date.now();
    await way.change({ cut: true });
    await a.saw('reconnected', '', 15000, since);
    await stage.all();
    since = Date.now();
    await a.simulate('full-reconnect');
    await a.saw('reconnected', '', 15000, since);
    await stage.all();
    if (await a.ask(() => window.call.saw('disconnected'))) throw new Error('ann was sent away');
  },
  'what is published during a resume': publishing({}),
  'what is published during a resume, with two peer connections': publishing(two),
  async 'a socket lost during a resume'(stage) {
    for (const scenario of ['disconnect-signal-on-resume', 'disconnect-signal-on-resume-no-messages']) {
      stage.people.length = 0;
      stage.room += scenario;
      const [a] = await stage.participants(['ann', 'bob'], { resolution: 'h180' });
      await stage.all();
      const cut = Date.now();
      await a.simulate(scenario);
      await a.saw('reconnected', '', 20000, cut);
      await stage.all();
    }
  },
  async 'the focus sends a participant away'(stage) {
    const [a] = await stage.participants(['ann', 'bob'], { publish: false });
    const since = Date.now();
    await a.simulate('server-leave');
    await a.saw('disconnected', '', 5000, since);
  },
  'twelve seconds without UDP': noUDP({}),
  'twelve seconds without UDP, with two peer connections': noUDP(two),
};

export const alone = {
  'a killed focus comes back, and everybody with it': killed({}),
  'a killed focus comes back, and everybody with two peer connections': killed(two),
  'a stopped focus sends everybody to come back': stopped({}),
  'a stopped focus sends everybody with two peer connections to come back': stopped(two),
};
