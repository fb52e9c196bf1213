import { atLeast, atMost, pause, until } from '../stage.mjs';

// rate is how many bytes p gets of who's camera in a second.
async function rate(p, who, ms = 3000) {
  const got = () => p.ask((w) => window.call.received(w, 'camera'), who);
  const before = await got();
  await pause(ms);
  const after = await got();
  return ((after.bytesReceived - before.bytesReceived) * 1000) / ms;
}

// announced checks what the others are told of ann's camera.
async function announced(p, mime, mode) {
  const info = await p.ask(() => {
    const track = window.room.remoteParticipants.get('ann').getTrackPublication('camera').trackInfo;
    return { mime: track.mimeType.toLowerCase(), codecs: track.codecs.map((c) => ({ mime: c.mimeType.toLowerCase(), mode: c.videoLayerMode, layers: c.layers.length })) };
  });
  const first = info.codecs[0];
  if (info.mime !== mime || first.mime !== mime || first.mode !== mode) throw new Error(`got ${JSON.stringify(info)}, want ${mime} in mode ${mode}`);
}

const onePerStream = 1, severalPerStream = 2;

// scalable: a camera whose layers come in one stream. A small view gets a small picture and a part of the bytes, a large one
// the large picture again, and who comes later sees it at once.
const scalable = (codec, options = {}) => async (stage) => {
  const mime = 'video/' + codec;
  const a = await stage.participant('ann', { codec, resolution: 'h720', publish: ['camera'], ...options });
  const b = await stage.participant('bob', { publish: false, ...options });
  await b.moving('ann');
  const received = await b.ask(() => window.call.received('ann', 'camera'));
  if (received.codec.toLowerCase() !== mime) throw new Error(`got ${received.codec}, want ${mime}`);
  await announced(b, mime, severalPerStream);
  const streams = (await a.ask(() => window.call.sent())).length;
  if (streams !== 1) throw new Error(`got ${streams} streams, want 1`);
  await b.ask(() => window.call.resize('ann', 1280, 720));
  await b.sees(720, 'ann', 40000);
  const large = await rate(b, 'ann');
  let begun = Date.now();
  await b.ask(() => window.call.resize('ann', 300, 168));
  await b.sees(180, 'ann');
  const down = Date.now() - begun;
  await b.moving('ann');
  const small = await rate(b, 'ann');
  begun = Date.now();
  await b.ask(() => window.call.resize('ann', 1280, 720));
  await b.sees(720, 'ann');
  const up = Date.now() - begun;
  await b.moving('ann');
  const times = [];
  for (const name of ['cat', 'dan', 'eve']) {
    const late = await stage.participant(name, { publish: false, ...options });
    const first = await until(`${name} gets a first frame`, 10000, () => late.ask(() => window.call.first('ann')));
    // two connections are two handshakes: there it is what lies behind them that counts
    times.push(first - (options.single === false ? await late.saw('subscribed:camera', 'ann') : late.begun));
    await late.ask(() => window.room.disconnect());
  }
  const middle = atMost('milliseconds until a late joiner sees it', times.sort((x, y) => x - y)[1], 1000);
  await b.moving('ann');
  return `small view after ${down} ms with ${Math.round((100 * small) / large)} % of the bytes, large one after ${up} ms; a late joiner sees it after ${middle} ms (${times.join(', ')})`;
};

export const alone = {
  async 'VP9 layers in one stream'(stage) {
    return scalable('vp9')(stage);
  },
  async 'VP9 layers in one stream, for clients with two peer connections'(stage) {
    return scalable('vp9', { single: false })(stage);
  },
  async 'VP9 layers in one stream, encrypted'(stage) {
    return scalable('vp9', { secret: 'a shared secret' })(stage);
  },
  async 'AV1 layers in one stream'(stage) {
    return scalable('av1')(stage);
  },
  async 'a narrow line and VP9'(stage) {
    const way = await stage.relay();
    await stage.participant('ann', { codec: 'vp9', resolution: 'h720', publish: ['camera'] });
    const b = await stage.participant('bob', { relay: way, publish: false });
    await b.moving('ann');
    await b.ask(() => window.call.resize('ann', 1280, 720));
    await b.sees(720, 'ann', 40000);
    await way.change({ down: { kbps: 300 } });
    await pause(8000);
    const before = await b.frames('ann');
    await pause(10000);
    const frames = ((await b.frames('ann')) - before) / 10;
    const height = await b.height('ann');
    await way.change({ down: {} });
    const open = Date.now();
    await b.sees(720, 'ann', 60000);
    const back = atMost('milliseconds until the high layer is back', Date.now() - open, 15000);
    atLeast('frames per second', frames, 5);
    return `${frames.toFixed(1)} frames/s of ${height} lines; the high layer back after ${back} ms`;
  },
  async 'H264 layers in a stream each'(stage) {
    await stage.participant('ann', { codec: 'h264', resolution: 'h720', publish: ['camera'] });
    const b = await stage.participant('bob', { publish: false });
    await b.moving('ann');
    const got = (await b.ask(() => window.call.received('ann', 'camera'))).codec;
    if (got.toLowerCase() !== 'video/h264') throw new Error(`got ${got}, want video/h264`);
    await announced(b, 'video/h264', onePerStream);
    await b.ask(() => window.call.resize('ann', 300, 168));
    await b.sees(180, 'ann');
    await b.moving('ann');
    return got;
  },
};
