import { atMost, pause, until } from '../stage.mjs';

// The client waits two seconds of its own after a resume before it says "reconnected". That signalling is back shows
// before, in what it hears of others.
async function resume(stage, options) {
  const way = await stage.relay();
  const [a, b] = await Promise.all([stage.participant('ann', { ...options, relay: way }), stage.participant('bob', options)]);
  await stage.all();
  const cut = Date.now();
  await way.change({ cut: true });
  await a.saw('reconnecting', '', 2000, cut);
  const metadata = `met ${cut}`;
  await b.ask((m) => window.room.localParticipant.setMetadata(m), metadata);
  await until('ann hears of bob again', 10000, () => a.ask((m) => window.room.remoteParticipants.get('bob')?.metadata === m, metadata));
  const back = Date.now() - cut;
  const said = (await a.saw('reconnected', '', 10000, cut)) - cut;
  if (await b.ask(() => window.call.saw('left', 'ann'))) throw new Error('bob saw ann leave though she only resumed');
  await stage.all();
  return `signalling back after ${atMost('signalling back', back, 2000)} ms; the client says so after ${said} ms`;
}

export default {
  async 'a lost socket is resumed within two seconds'(stage) {
    return resume(stage, {});
  },
  async 'a lost socket is resumed with two peer connections'(stage) {
    return resume(stage, { single: false });
  },
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
  async 'eight seconds without signalling'(stage) {
    const way = await stage.relay();
    const [a] = await Promise.all([stage.participant('ann', { relay: way }), stage.participant('bob')]);
    await stage.all();
    await way.change({ cut: true, shut: true });
    await pause(8000);
    const open = Date.now();
    await way.change({ shut: false });
    await a.saw('reconnected', '', 20000, open);
    const said = Date.now() - open;
    await stage.all();
    return `back ${said} ms after signalling was possible again`;
  },
  async 'a full reconnect when the client asks for it'(stage) {
    const [a] = await stage.participants(['ann', 'bob']);
    await stage.all();
    const cut = Date.now();
    await a.simulate('full-reconnect');
    const said = (await a.saw('reconnected', '', 15000, cut)) - cut;
    await stage.all();
    return `joined anew after ${said} ms`;
  },
  async 'a full reconnect when the focus asks for it'(stage) {
    const [a] = await stage.participants(['ann', 'bob']);
    await stage.all();
    const cut = Date.now();
    await a.simulate('leave-full-reconnect');
    const said = (await a.saw('reconnected', '', 15000, cut)) - cut;
    await stage.all();
    return `joined anew after ${said} ms`;
  },
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
  async 'twelve seconds without UDP'(stage) {
    const way = await stage.relay();
    const [a] = await Promise.all([stage.participant('ann', { relay: way }), stage.participant('bob')]);
    await stage.all();
    await way.change({ up: { loss: 1 }, down: { loss: 1 } });
    await pause(12000);
    const open = Date.now();
    await way.change({ up: {}, down: {} });
    await stage.all(stage.people, 30000);
    return `media back after ${Date.now() - open} ms; ann noticed: ${await a.ask(() => window.call.events.filter((e) => e.what.startsWith('reconn')).length)}`;
  },
};

export const alone = {
  async 'a killed focus comes back, and everybody with it'(stage) {
    const url = await stage.apart('start');
    await stage.participants(['ann', 'bob'], { url, publish: ['picture', 'tone'] });
    await stage.all();
    const cut = Date.now();
    await stage.apart('kill');
    await stage.apart('start');
    const up = Date.now();
    await Promise.all(stage.people.map((p) => p.saw('reconnected', '', 30000, cut)));
    await stage.all();
    const back = Date.now();
    return `media back ${atMost('media back', back - up, 10000)} ms after the new focus answered, ${back - cut} ms after the kill`;
  },
  async 'a stopped focus sends everybody to come back'(stage) {
    const url = await stage.apart('start');
    await stage.participants(['ann', 'bob'], { url, publish: ['picture', 'tone'] });
    await stage.all();
    const cut = Date.now();
    await stage.apart('stop');
    await Promise.all(stage.people.map((p) => p.saw('reconnecting', '', 3000, cut)));
    await stage.apart('start');
    const up = Date.now();
    await Promise.all(stage.people.map((p) => p.saw('reconnected', '', 30000, cut)));
    await stage.all();
    return `media back ${Date.now() - up} ms after the new focus answered`;
  },
};
