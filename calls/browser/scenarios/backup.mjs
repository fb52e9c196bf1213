import { until } from '../stage.mjs';

const codec = async (p, who) => (await p.ask((w) => window.call.received(w, 'camera'), who))?.codec?.toLowerCase();
const gets = (p, who, mime) => until(`${p.name} gets ${mime} of ${who}`, 20000, async () => (await codec(p, who)) === mime);

// frames of ann's camera that were sent in each codec, as the browser counts them.
const sent = (p) => p.ask(async () => {
  const counts = {};
  const track = window.room.localParticipant.getTrackPublication('camera').track;
  for (const sender of [track.sender, ...[...track.simulcastCodecs.values()].map((c) => c.sender)]) {
    if (!sender) continue;
    const stats = await sender.getStats();
    for (const s of stats.values()) {
      const mime = s.type === 'outbound-rtp' && stats.get(s.codecId)?.mimeType.toLowerCase();
      if (mime) counts[mime] = (counts[mime] ?? 0) + (s.framesSent ?? 0);
    }
  }
  return counts;
});
const stands = (p, mime) => until(`${p.name} stops ${mime}`, 25000, async () => {
  const before = (await sent(p))[mime];
  await new Promise((r) => setTimeout(r, 1500));
  return (await sent(p))[mime] === before;
});

const PREFER_REGRESSION = 0, SIMULCAST = 1;

// play: ann sends codec with VP8 behind it; bob lacks the codec, cat has it.
const play = (name, policy, single) => async (stage) => {
  const mime = `video/${name}`;
  const a = await stage.participant('ann', { codec: name, backup: 'vp8', policy, single });
  const c = await stage.participant('cat', { publish: false, single });
  await c.moving('ann');
  await gets(c, 'ann', mime);
  const begun = Date.now();
  const b = await stage.participant('bob', { publish: false, lacks: mime, single });
  await b.moving('ann');
  const took = Date.now() - begun;
  await gets(b, 'ann', 'video/vp8');
  if (policy === SIMULCAST) {
    await gets(c, 'ann', mime);
    await c.moving('ann');
  } else {
    await gets(c, 'ann', 'video/vp8');
    await c.moving('ann');
    await stands(a, mime);
  }
  const told = (await stage.admin('GetParticipant', { identity: 'ann' })).tracks.find((t) => t.type === 'VIDEO');
  if (told.mime_type.toLowerCase() !== mime || told.codecs.length !== 2) throw new Error(`ann's track is told as ${JSON.stringify(told)}`);
  await a.ask(() => window.room.localParticipant.setCameraEnabled(false));
  await b.still('ann', 1000).catch(() => b.still('ann', 1000));
  await a.ask(() => window.room.localParticipant.setCameraEnabled(true));
  await Promise.all([b.moving('ann'), c.moving('ann')]);
  const since = Date.now();
  await a.ask(async () => {
    const pub = window.room.localParticipant.getTrackPublication('camera');
    await window.room.localParticipant.unpublishTrack(pub.track);
  });
  await Promise.all([b, c].map((p) => p.saw('unpublished:camera', 'ann', 5000, since)));
  return `bob saw ann after ${took} ms`;
};

export default {
  'everybody goes over to the second codec where one lacks the first': play('vp9', PREFER_REGRESSION, true),
  'everybody goes over to the second codec, with two connections': play('vp9', PREFER_REGRESSION, false),
  'both codecs beside one another': play('vp9', SIMULCAST, true),
  async 'a client that joins anew sends both codecs again'(stage) {
    const a = await stage.participant('ann', { codec: 'vp9', backup: 'vp8', policy: SIMULCAST });
    const b = await stage.participant('bob', { publish: false, lacks: 'video/vp9' });
    const c = await stage.participant('cat', { publish: false });
    await Promise.all([b.moving('ann'), c.moving('ann')]);
    const since = Date.now();
    await a.simulate('full-reconnect');
    await a.saw('reconnected', '', 15000, since);
    await Promise.all([b.moving('ann'), c.moving('ann')]);
    await gets(b, 'ann', 'video/vp8');
    await gets(c, 'ann', 'video/vp9');
  },
};
