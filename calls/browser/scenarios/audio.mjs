import { atLeast, atMost, pause, until } from '../stage.mjs';

// rate is how many packets of a sound p sends in a second.
async function rate(p, source = 'microphone') {
  const read = () => p.ask((s) => window.call.sentSound(s), source);
  const before = await read();
  await pause(2000);
  return ((await read()).packets - before.packets) / 2;
}

const voice = (options) => async (stage) => {
  const ways = [await stage.relay(), await stage.relay()];
  await stage.participant('ann', { publish: ['voice'], relay: ways[0], ...options });
  const b = await stage.participant('bob', { publish: false, relay: ways[1], ...options });
  const c = await stage.participant('cat', { publish: false, lacks: 'audio/red', ...options });
  await Promise.all([b.hears('ann'), c.hears('ann')]);
  const [told] = (await stage.admin('GetParticipant', { identity: 'ann' })).tracks; // a browser's own counters call it Opus
  if (told.mime_type !== 'audio/red') throw new Error(`ann sends ${told.mime_type}, want audio/red`);
  const read = (p) => p.ask(() => window.call.received('ann', 'microphone'));
  const concealed = async (p, ms) => {
    const before = await read(p);
    await pause(ms);
    const after = await read(p);
    return 100 * (after.concealedSamples - before.concealedSamples) / (after.totalSamplesReceived - before.totalSamplesReceived);
  };
  await ways[0].change({ up: { loss: 0.1 } });
  await pause(1000);
  const lost = await Promise.all([concealed(b, 8000), concealed(c, 8000)]);
  atMost('percent of the sound concealed', Math.max(...lost), 5);
  const [with_, bare] = (await Promise.all([read(b), read(c)])).map((r) => r.bytesReceived / r.packetsReceived);
  atLeast('bytes a packet with copies, beside those without', with_ / bare, 1.5);
  return `of ten percent lost on the way up ${lost.map((l) => l.toFixed(1)).join(' and ')} % were concealed; ${with_.toFixed(0)} and ${bare.toFixed(0)} bytes a packet`;
};

// together: sound and picture stay together, by what the browser is told of their clocks, also when the picture takes another layer and when the
// camera rests. Browsers play tracks together that are of one stream; ours are of one each, for which the page has to see.
const together = (options) => async (stage) => {
  const a = await stage.participant('ann', { resolution: 'h720', publish: ['camera', 'tone'], ...options });
  const b = await stage.participant('bob', { publish: false, one: true, ...options });
  await b.moving('ann');
  // how far both are apart, and how old what is played is, in milliseconds. The clock of RTP begins in 1900.
  const read = () => b.ask(async () => {
    const [sound, picture] = (await Promise.all(['microphone', 'camera'].map((s) => window.call.received('ann', s)))).map((r) => r.estimatedPlayoutTimestamp);
    return sound && picture && { apart: sound - picture, old: Date.now() + 2208988800000 - Math.min(sound, picture), young: Date.now() + 2208988800000 - Math.max(sound, picture) };
  });
  const notes = [];
  const stay = async (when) => {
    const worst = { apart: 0, old: 0, young: Infinity };
    for (let i = 0; i < 4; i++) {
      const got = await until(`${when}: bob's browser knows both clocks`, 10000, read);
      worst.apart = Math.max(worst.apart, Math.abs(got.apart));
      worst.old = Math.max(worst.old, got.old);
      worst.young = Math.min(worst.young, got.young);
      await pause(500);
    }
    atMost(`${when}: milliseconds apart`, worst.apart, 150);
    atMost(`${when}: milliseconds old`, worst.old, 300);
    atLeast(`${when}: milliseconds old at least`, worst.young, -20);
    notes.push(`${when} ${worst.apart} ms apart, ${worst.young} to ${worst.old} old`);
  };
  await stay('at first');
  for (const [width, height, layer] of [[300, 168, 180], [1280, 720, 720]]) {
    await b.ask((w, h) => window.call.resize('ann', w, h), width, height);
    await b.sees(layer, 'ann');
    await stay(`with ${layer} lines`);
  }
  await a.ask(() => window.room.localParticipant.setCameraEnabled(false));
  await b.saw('muted', 'ann');
  await pause(2000);
  await a.ask(() => window.room.localParticipant.setCameraEnabled(true));
  await b.moving('ann');
  await stay('after a rest');
  return notes.join('; ');
};

export default {
  async 'a microphone is silent while nobody speaks'(stage) {
    const a = await stage.participant('ann', { publish: ['voice'] });
    const b = await stage.participant('bob', { publish: false });
    await b.hears('ann');
    const loud = atLeast('packets a second of speech', await rate(a), 40);
    await a.ask(() => window.volume(0));
    await pause(1000);
    const soft = atMost('packets a second of silence', await rate(a), 15);
    await a.ask(() => window.volume(1));
    await until('ann speaks again', 5000, async () => (await rate(a)) > 40);
    return `${loud} packets a second of speech, ${soft} of silence`;
  },
  async 'a microphone that wants it goes on in silence'(stage) {
    const a = await stage.participant('ann', { publish: ['tone'] });
    const b = await stage.participant('bob', { publish: false });
    await b.hears('ann');
    await a.ask(() => window.volume(0));
    await pause(1000);
    return `${atLeast('packets a second of silence', await rate(a), 40)} packets a second of silence`;
  },
  async 'music keeps its two channels, a voice has one'(stage) {
    const notes = [];
    for (const single of [true, false]) {
      const [ann, bob] = [`ann${+single}`, `bob${+single}`];
      const a = await stage.participant(ann, { publish: ['music', 'microphone'], single });
      const b = await stage.participant(bob, { publish: false, single });
      await b.hears(ann);
      const [left, right] = await until('the music is heard', 10000, async () => {
        const loud = await b.ask((w) => window.call.sides(w, 'screen_share_audio'), ann).catch(() => [0]);
        return loud[0] > 0.05 && loud;
      });
      atMost('loudness of the silent channel, beside the other', right / left, 0.2);
      const sent = await a.ask(() => Promise.all(['screen_share_audio', 'microphone'].map((s) => window.call.sentSound(s))));
      const stereo = sent.map((s) => /(^|;) *stereo=1/.test(s.fmtp));
      if (!stereo[0] || stereo[1]) throw new Error(`music is sent with ${sent[0].fmtp}, the voice with ${sent[1].fmtp}`);
      notes.push(`${single ? 'one connection' : 'two'}: left ${left.toFixed(2)}, right ${right.toFixed(2)}`);
    }
    return notes.join('; ');
  },
};

export const alone = {
  'sound and picture stay together': together({}),
  'sound and picture stay together, with two peer connections': together({ single: false }),
  async 'a voice leaves its copies at home where the line is narrow'(stage) {
    const way = await stage.relay();
    await stage.participant('ann', { publish: ['picture', 'voice'] });
    const b = await stage.participant('bob', { publish: false, relay: way, pause: true });
    await Promise.all([b.moving('ann'), b.hears('ann')]);
    const read = () => b.ask(() => window.call.received('ann', 'microphone'));
    const size = async (ms) => {
      const before = await read();
      await pause(ms);
      const after = await read();
      return {
        bytes: (after.bytesReceived - before.bytesReceived) / (after.packetsReceived - before.packetsReceived),
        lost: 100 * (after.concealedSamples - before.concealedSamples) / (after.totalSamplesReceived - before.totalSamplesReceived),
      };
    };
    const wide = await size(2000);
    const since = Date.now();
    await way.change({ down: { kbps: 100 } });
    await b.saw('stream paused', 'ann', 30000, since);
    await pause(4000);
    const narrow = await size(5000);
    atMost('bytes a packet on a narrow line, beside a wide one', narrow.bytes / wide.bytes, 0.7);
    atMost('percent of the sound concealed', narrow.lost, 3);
    return `${wide.bytes.toFixed(0)} bytes a packet, ${narrow.bytes.toFixed(0)} at 100 kbit/s, ${narrow.lost.toFixed(1)} % concealed there`;
  },
  'a voice that carries its own copies': voice({ single: true }),
  'a voice that carries its own copies, with two connections': voice({ single: false }),
};
