// What the monkey can do. An act is plain data when it is planned, {who, act, ...}, so that a play can be printed and played again:
// may() says whether it makes sense as things are, plan() draws its details and changes the model as the act will, and play() does it.
import { pause } from '../stage.mjs';

const kinds = { camera: 'small', microphone: 'tone', screen_share: 'still' };
export const sources = Object.keys(kinds);
const SIZES = [[160, 90], [320, 180], [480, 270], [960, 540]];
const local = (p, fn, ...args) => p.page.ask(fn, ...args);
const publication = (how) => `(s) => window.room.localParticipant.getTrackPublication(s)?.${how}`;
const remote = (how) => `(w, s, x) => window.room.remoteParticipants.get(w)?.getTrackPublication(s)?.${how}`;
const close = (page) => page.page.context().close();
const may = (p, source) => p.may.publish && (!p.may.sources.length || p.may.sources.includes(source));

// speak says something, and whether that was while the client tried to come back. livekit-client 2.23.0 keeps such a thing for the end of a
// resume, and forgets it where it begins anew instead (until two seconds after it says that it is back), or where nothing of it has arrived
// yet: lastMessageSeq is 0 then, which it takes for none. (RTCEngine.resumeConnection, ReliableDataChannel.send)
const speak = async (text) => {
  const trying = () => window.room.engine.attemptingReconnect, before = trying();
  await window.room.localParticipant.publishData(new TextEncoder().encode(text), { reliable: true });
  return before || trying();
};

// view: an act on what somebody gets of somebody's track.
const view = (weight, which, draw, play) => ({
  weight,
  may: (p, { tracks }) => p.present && tracks(p).some(which),
  plan(p, { dice, tracks }) {
    const of = dice.of(tracks(p).filter(which));
    return { of: of.who, source: of.source, ...draw(dice) };
  },
  play,
});
const picture = (t) => t.source !== 'microphone';
const own = (test) => (p) => p.present && sources.some((s) => test(p, s));
// mine: an act on one's own track.
const mine = (weight, test, change, play) => ({
  weight,
  may: own(test),
  plan(p, { dice }) {
    const source = dice.of(sources.filter((s) => test(p, s)));
    change(p, source);
    return { source };
  },
  play: (p, { source }) => play(p, source),
});
// line: an act on how the line of somebody fares.
const line = (weight, test, change, play) => ({ weight, may: (p) => p.present && p.relay && test(p), plan: change, play });
// trouble: the client has to come back by itself.
const trouble = (weight, scenario, test = () => true) => ({ weight, may: (p) => p.present && test(p), plan: (p) => ((p.troubled = true), {}), play: (p) => p.page.simulate(scenario) });
// order: a moderator's act, about somebody.
const order = (weight, test, plan, play) => ({ weight, moderates: true, may: (p, all) => p.present && test(p, all), plan, play });

export const acts = {
  publish: mine(9, (p, s) => !p.tracks[s] && may(p, s), (p, s) => (p.tracks[s] = { muted: !!p.forced[s] }), (p, s) => delete p.hushed[s] && local(p, (k) => window.call.publish(k).then(() => 0), kinds[s])),
  unpublish: mine(3, (p, s) => p.tracks[s], (p, s) => delete p.tracks[s], (p, s) => local(p, (k) => {
    const pub = window.room.localParticipant.getTrackPublication(k);
    return pub && window.room.localParticipant.unpublishTrack(pub.track).then(() => 0);
  }, s)),
  mute: mine(4, (p, s) => p.tracks[s] && !p.tracks[s].muted, (p, s) => (p.tracks[s].muted = true), (p, s) => p.page.ask(publication('mute().then(() => 0)'), s)),
  unmute: mine(6, (p, s) => p.tracks[s]?.muted && !p.forced[s], (p, s) => (p.tracks[s].muted = false), (p, s) => delete p.hushed[s] && p.page.ask(publication('unmute().then(() => 0)'), s)),

  resize: view(6, picture, (dice) => ({ size: dice.of(SIZES) }), (p, { of, source, size }) => local(p, (w, h, o, s) => window.call.views(o, s) && window.call.resize(o, w, h, s), ...size, of, source)),
  hide: view(2, picture, (dice) => ({ hidden: dice.chance(0.5) }), (p, { of, source, hidden }) => local(p, (o, h, s) => window.call.views(o, s) && window.call.hide(o, h, s), of, hidden, source)),
  unsubscribe: view(3, () => true, () => ({}), (p, { of, source }) => p.page.ask(remote('setSubscribed(false)'), of, source)),
  subscribe: view(5, () => true, () => ({}), (p, { of, source }) => p.page.ask(remote('setSubscribed(true)'), of, source)),
  quality: view(3, picture, (dice) => ({ quality: dice.of([0, 1, 2, 2]) }), (p, { of, source, quality }) => p.page.ask(remote('setVideoQuality(x)'), of, source, quality)),
  rate: view(1, picture, (dice) => ({ fps: dice.of([5, 10, 30]) }), (p, { of, source, fps }) => p.page.ask(remote('setVideoFPS(x)'), of, source, fps)),
  enable: view(2, picture, (dice) => ({ on: dice.chance(0.6) }), (p, { of, source, on }) => p.page.ask(remote('setEnabled(x)'), of, source, on)),

  permit: {
    weight: 3, may: (p) => p.present,
    plan: (p, { dice, names }) => ({ only: dice.chance(0.5) ? null : names.filter((n) => n !== p.name && dice.chance(0.5)) }),
    play: (p, { only }) => local(p, (o) => window.room.localParticipant.setTrackSubscriptionPermissions(!o, (o ?? []).map((n) => ({ participantIdentity: n, allowAll: true }))), only),
  },
  describe: {
    weight: 3, may: (p) => p.present,
    plan(p, { dice }) {
      const what = dice.of(['setMetadata', 'setName', 'setAttributes']), value = `${what} ${dice.int(1000)}`;
      if (what === 'setMetadata') p.about.metadata = value;
      if (what === 'setName') p.about.name = value;
      if (what === 'setAttributes') p.about.attributes = { ...p.about.attributes, hand: value };
      return { what, value };
    },
    play: (p, { what, value }) => local(p, (m, v) => window.room.localParticipant[m](m === 'setAttributes' ? { hand: v } : v), what, value),
  },
  say: {
    weight: 8, may: (p) => p.present && p.may.data,
    plan: (p, { dice }) => ({ count: 1 + dice.int(12), bytes: dice.of([10, 10, 1000, 12000]) }),
    async play(p, { count, bytes }, { words }) {
      for (let i = 0; i < count; i++) {
        const n = words.next(p);
        const late = await p.page.ask(speak, `m${n} `.padEnd(bytes, 'x')).catch((e) => {
          words.unsay(n);
          throw e;
        });
        if (late) words.unsay(n);
      }
    },
  },

  // the client does not say goodbye to its socket, or is told to come back
  'cut the socket': line(3, () => true, (p) => ((p.troubled = true), {}), (p) => p.relay.change({ cut: true })),
  'shut the door': line(1, () => true, (p, { dice }) => ((p.troubled = true), { ms: dice.of([1000, 3000, 6000]) }), async (p, { ms }) => {
    await p.relay.change({ cut: true, shut: true });
    await pause(ms);
    await p.relay.change({ shut: false });
  }),
  silence: line(1, (p) => !p.tcp, (p, { dice }) => ((p.troubled = true), { ms: dice.of([1000, 4000, 8000]) }), async (p, { ms }) => {
    await p.relay.change({ up: { loss: 1 }, down: { loss: 1 } });
    await pause(ms);
    await p.relay.change({ up: p.line.up, down: p.line.down });
  }),
  worsen: line(2, (p) => !p.tcp, (p, { dice }) => ({ line: (p.line = dice.of([{ up: {}, down: { kbps: 250 } }, { up: { loss: 0.05 }, down: { loss: 0.05 } }, { up: {}, down: { delay: 100, swing: 40 } }, { up: { kbps: 300 }, down: {} }])) }), (p, { line: l }) => p.relay.change(l)),
  mend: line(3, (p) => p.line.up.kbps || p.line.up.loss || Object.keys(p.line.down).length, (p) => ((p.line = { up: {}, down: {} }), {}), (p) => p.relay.change({ up: {}, down: {} })),
  resume: trouble(2, 'resume-reconnect'),
  'lose the socket': trouble(2, 'signal-reconnect'),
  'begin anew': trouble(2, 'full-reconnect'),
  'be told to begin anew': trouble(2, 'leave-full-reconnect'),
  'lose the socket twice': trouble(1, 'disconnect-signal-on-resume'),
  'take TCP': trouble(0.5, 'force-tcp', (p) => !p.relay),

  join: { weight: 12, may: (p) => !p.present, plan: (p, { enter }) => (enter(p), {}), play: (p, _, { come }) => come(p) },
  leave: { weight: 1.5, may: (p, { present }) => p.present && present() > 2, plan: (p, { go }) => (go(p), {}), async play(p) {
    await local(p, () => window.room.disconnect());
    await close(p.page);
  } },
  'close the page': { weight: 1.5, may: (p, { present }) => p.present && present() > 2, plan: (p, { go }) => (go(p), {}), play: (p) => close(p.page) },
  'come twice': { weight: 1, may: (p) => p.present && !p.troubled, plan: (p, { enter }) => (enter(p), {}), async play(p, _, { come }) {
    const before = p.page, since = Date.now();
    await come(p);
    await before.saw('disconnected', '2', 5000, since); // DUPLICATE_IDENTITY
    await close(before);
  } },

  'mute somebody': order(2, (p) => sources.some((s) => p.tracks[s] && !p.tracks[s].muted), (p, { dice }) => {
    const source = dice.of(sources.filter((s) => p.tracks[s] && !p.tracks[s].muted));
    p.tracks[source].muted = true;
    return { source };
  }, async (p, { source }, { stage }) => {
    const there = await stage.admin('GetParticipant', { identity: p.name });
    const track = there.tracks.find((t) => t.source.toLowerCase() === source);
    if (!track) return;
    await stage.admin('MutePublishedTrack', { identity: p.name, track_sid: track.sid, muted: true });
    p.hushed[source] = true;
  }),
  'remove somebody': order(1, (p, { present }) => !p.troubled && present() > 2, (p, { go }) => (go(p), {}), async (p, _, { stage }) => {
    const since = Date.now(), { page } = p;
    await stage.admin('RemoveParticipant', { identity: p.name });
    await page.saw('disconnected', '4', 5000, since); // PARTICIPANT_REMOVED
    await close(page);
  }),
  'permit somebody': order(2, () => true, (p, { dice }) => {
    const now = dice.of([{ publish: true, data: true, sources: [] }, { publish: true, data: true, sources: [] }, { publish: false, data: true, sources: [] }, { publish: true, data: false, sources: ['microphone', 'camera'] }]);
    p.may = now;
    for (const s of sources) if (!may(p, s)) delete p.tracks[s];
    return { now };
  }, (p, { now }, { stage }) => stage.admin('UpdateParticipant', { identity: p.name, permission: { can_subscribe: true, can_publish: now.publish, can_publish_data: now.data, can_update_metadata: true, can_publish_sources: now.sources.map((s) => s.toUpperCase()) } })),
  'silence somebody': order(1, (p, { rules }) => rules, (p, { dice }) => {
    const forced = { microphone: dice.chance(0.4), camera: dice.chance(0.3) };
    forced.screen_share = forced.camera;
    p.forced = forced;
    for (const s of sources) if (p.tracks[s] && forced[s]) p.tracks[s].muted = true;
    return { forced };
  }, (p, { forced }, { stage }) => stage.order({ identity: p.name, mute: forced.microphone, no_video: forced.camera })),

  'kill the focus': { weight: 0.7, once: true, may: (p, { apart }) => apart && p.present, plan: (p, { all }) => {
    for (const q of all) q.troubled = true;
    return {};
  }, async play(p, _, { stage }) {
    await stage.apart('kill');
    await stage.apart('start');
  } },
};
