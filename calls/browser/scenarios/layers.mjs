import { atLeast, atMost, pause, until, yardstick } from '../stage.mjs';

const codecs = (codec, mime) => async (stage) => {
  const a = await stage.participant('ann', { codec, resolution: 'h720' });
  const b = await stage.participant('bob', { publish: false });
  await b.moving('ann');
  const got = await b.ask(() => window.call.received('ann', 'camera'));
  if (got.codec.toLowerCase() !== mime) throw new Error(`got ${got.codec}, want ${mime}`);
  await b.resizes('ann');
  return `${(await a.ask(() => window.call.sent())).length} encodings`;
};

export const alone = {
  'a small view gets a low layer, and a large one the high layer back': yardstick(async (stage) => {
    await stage.participant('ann', { adaptive: false, resolution: 'h720' });
    const b = await stage.participant('bob', { publish: false });
    await b.moving('ann');
    await b.ask(() => window.call.resize('ann', 1280, 720));
    await b.sees(720, 'ann');
    await pause(1000); // its key frame is past: a browser hears no question for another within 300 ms
    let begun = Date.now();
    await b.ask(() => window.call.resize('ann', 300, 168));
    await b.sees(180, 'ann');
    const down = stage.figure('layer switch down', 'ms', Date.now() - begun, { most: 3000 });
    await b.moving('ann');
    begun = Date.now();
    await b.ask(() => window.call.resize('ann', 1280, 720));
    await b.sees(720, 'ann');
    const up = stage.figure('layer switch up', 'ms', Date.now() - begun, { most: 3000 });
    await b.moving('ann');
    return `down after ${down} ms, up after ${up} ms`;
  }),
  async 'an upright view of a wide picture gets a layer of its height'(stage) {
    await stage.participant('ann', { adaptive: false, resolution: 'h720' });
    const b = await stage.participant('bob', { publish: false });
    await b.moving('ann');
    await b.ask(() => window.call.resize('ann', 300, 168));
    await b.sees(180, 'ann');
    await b.ask(() => window.call.resize('ann', 160, 340));
    await b.sees(360, 'ann');
  },
  async 'who asks for fewer frames gets fewer, and then all again'(stage) {
    // of VP8 livekit-client makes no temporal layers by itself
    await stage.participant('ann', { codec: 'vp9', resolution: 'h360', publish: ['picture'] });
    const [b, c] = await Promise.all(['bob', 'cat'].map((name) => stage.participant(name, { publish: false, adaptive: false }))); // otherwise a client may not ask by hand
    await Promise.all([b.moving('ann'), c.moving('ann')]);
    // share is how many of the frames that cat gets bob gets, soon after he asks for so many a second
    const share = async (fps) => {
      await b.ask((n) => window.room.remoteParticipants.get('ann').getTrackPublication('camera').setVideoFPS(n), fps);
      await pause(1000);
      const read = () => Promise.all([b, c].map((p) => p.frames('ann')));
      const before = await read();
      await pause(4000);
      const after = await read();
      return (after[0] - before[0]) / (after[1] - before[1]);
    };
    const few = atMost('the share of frames that are left', await share(5), 0.6);
    const all = atLeast('the share of frames once more are asked for', await share(30), 0.8);
    return `${few.toFixed(2)} and ${all.toFixed(2)} of the frames`;
  },
  async 'a layer that its sender stops gives way to the next lower one, until it is there again'(stage) {
    const a = await stage.participant('ann', { adaptive: false, resolution: 'h720' });
    const b = await stage.participant('bob', { publish: false });
    await b.moving('ann');
    await b.ask(() => window.call.resize('ann', 1280, 720));
    await b.sees(720, 'ann');
    // as a browser does whose processor is too slow: the focus hears nothing of it
    const sends = (highest) => a.ask(async (on) => {
      const { sender } = window.room.localParticipant.getTrackPublication('camera').track;
      const parameters = sender.getParameters();
      parameters.encodings.find((e) => e.rid === 'f').active = on;
      await sender.setParameters(parameters);
    }, highest);
    let begun = Date.now();
    await sends(false);
    await b.sees(360, 'ann');
    const down = atMost('milliseconds until the lower layer is there', Date.now() - begun, 3000);
    await b.moving('ann');
    begun = Date.now();
    await sends(true);
    await b.sees(720, 'ann');
    const up = Date.now() - begun;
    await b.moving('ann');
    return `the lower one after ${down} ms, the high one again after ${up} ms`;
  },
  async 'a subscriber who says that its line is narrow'(stage) {
    await stage.participant('ann', { adaptive: false, resolution: 'h720' });
    const b = await stage.participant('bob', { publish: false });
    await b.moving('ann');
    await b.ask(() => window.call.resize('ann', 1280, 720));
    await b.sees(720, 'ann');
    await b.simulate('subscriber-bandwidth', 250_000);
    await b.sees(180, 'ann');
    await b.simulate('subscriber-bandwidth', 0);
    await b.sees(720, 'ann');
  },
  async 'H264 has layers too'(stage) {
    return codecs('h264', 'video/h264')(stage);
  },
  'what nobody sees is not sent': yardstick(async (stage) => {
    const a = await stage.participant('ann', { resolution: 'h720' });
    const b = await stage.participant('bob', { publish: false });
    await b.moving('ann');
    await b.ask(() => window.call.resize('ann', 300, 168));
    await b.sees(180, 'ann');
    const high = async () => Math.max(...(await a.ask(() => window.call.sent())).filter((s) => s.rid === 'f').map((s) => s.frames));
    await until('ann stops the high layer', 15000, async () => {
      const before = await high();
      await pause(1000);
      return (await high()) === before;
    });
    const begun = Date.now();
    await b.ask(() => window.call.resize('ann', 1280, 720));
    await b.sees(720, 'ann');
    return `high layer woken after ${stage.figure('a layer that slept is seen', 'ms', Date.now() - begun, { most: 8000 })} ms`;
  }),
  'a hidden picture is not sent, and comes back at once': yardstick(async (stage) => {
    await stage.participant('ann');
    const b = await stage.participant('bob', { publish: false });
    await b.moving('ann');
    await b.ask(() => window.call.hide('ann', true));
    await until('the packets end', 10000, async () => {
      const before = (await b.ask(() => window.call.received('ann', 'camera'))).packetsReceived;
      await pause(700);
      return (await b.ask(() => window.call.received('ann', 'camera'))).packetsReceived === before;
    });
    const begun = Date.now();
    await b.ask(() => window.call.hide('ann', false));
    await b.moving('ann');
    return `back after ${stage.figure('a hidden picture moves again', 'ms', Date.now() - begun, { most: 2500 })} ms`;
  }),
};
