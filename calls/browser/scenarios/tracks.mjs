import { pause, until } from '../stage.mjs';

const unsubscribe = (yes) => (who, y) => window.room.remoteParticipants.get(who).videoTrackPublications.forEach((p) => p.setSubscribed(y));

// firstHeard: who publishes hears of a track's first subscriber, and not of the next.
const firstHeard = (options) => async (stage) => {
  const a = await stage.participant('ann', { ...options, publish: ['picture', 'tone'] });
  const b = await stage.participant('bob', { ...options, publish: false, auto: false });
  await until('bob knows of the camera', 10000, () => b.ask(() => window.room.remoteParticipants.get('ann')?.videoTrackPublications.size === 1));
  const heard = () => a.ask(() => window.call.events.filter((e) => e.what.startsWith('heard:')).map((e) => e.what.slice(6)).sort().join(', '));
  const want = async (when, sources) => {
    const got = await heard();
    if (got !== sources) throw new Error(`${when}: ann has heard of "${got}", want "${sources}"`);
  };
  await want('while nobody gets anything', '');
  await b.ask(unsubscribe(), 'ann', true);
  await a.saw('heard:camera');
  await b.moving('ann');
  await want('with bob', 'camera');
  const c = await stage.participant('cat', { ...options, publish: false });
  await a.saw('heard:microphone');
  await Promise.all([c.moving('ann'), c.hears('ann')]);
  await want('with cat', 'camera, microphone');
};

export default {
  async 'muting and unmuting'(stage) {
    const [a, b] = await stage.participants(['ann', 'bob']);
    await stage.all();
    let since = Date.now();
    await a.ask(() => window.room.localParticipant.setMicrophoneEnabled(false));
    await b.saw('muted', 'ann', 3000, since);
    since = Date.now();
    await a.ask(() => window.room.localParticipant.setMicrophoneEnabled(true));
    await b.saw('unmuted', 'ann', 3000, since);
    await a.ask(() => window.room.localParticipant.setCameraEnabled(false));
    await until('the picture stands', 5000, async () => {
      const n = await b.frames('ann');
      await pause(500);
      return (await b.frames('ann')) === n;
    });
    await a.ask(() => window.room.localParticipant.setCameraEnabled(true));
    await stage.all();
  },
  async 'a section is used again for another track'(stage) {
    const [a, b] = await stage.participants(['ann', 'bob']);
    await stage.all();
    for (let i = 0; i < 3; i++) {
      const since = Date.now();
      await a.ask(async () => {
        const pub = [...window.room.localParticipant.videoTrackPublications.values()][0];
        await window.room.localParticipant.unpublishTrack(pub.track);
      });
      await b.saw('unpublished:camera', 'ann', 3000, since);
      await a.ask(() => window.room.localParticipant.setCameraEnabled(true));
      await b.moving('ann');
    }
  },
  async 'a shared screen beside the camera'(stage) {
    const [a, b] = await stage.participants(['ann', 'bob']);
    await a.ask(() => window.call.publish('screen'));
    await b.moving('ann', 40000, 'screen_share');
    await b.moving('ann');
    const since = Date.now();
    await a.ask(() => window.room.localParticipant.unpublishTrack(window.room.localParticipant.getTrackPublication('screen_share').track));
    await b.saw('unpublished:screen_share', 'ann', 3000, since);
    await b.moving('ann');
  },
  async 'a track that was announced and never sent goes away'(stage) {
    const [a, b] = await stage.participants(['ann', 'bob'], { publish: false });
    await b.others(1);
    await a.ask(async () => {
      const pub = await window.room.localParticipant.publishTrack(window.call.canvas(320, 180, 5), { source: 'screen_share', simulcast: false });
      await window.room.localParticipant.unpublishTrack(pub.track);
    });
    await until('ann has no tracks left', 5000, () => stage.admin('GetParticipant', { identity: 'ann' }).then((p) => p.tracks.length === 0 && !p.is_publisher));
  },
  async 'unsubscribing and subscribing again'(stage) {
    const [a, b] = await stage.participants(['ann', 'bob']);
    await stage.all();
    const since = Date.now();
    await b.ask(unsubscribe(), 'ann', false);
    await b.saw('unsubscribed:camera', 'ann', 3000, since);
    await b.ask(unsubscribe(), 'ann', true);
    await stage.all([a, b]);
  },
  async 'nothing is subscribed to where the client wants that'(stage) {
    await stage.participant('ann');
    const b = await stage.participant('bob', { publish: false, auto: false });
    await until('bob knows of the camera', 10000, () => b.ask(() => window.room.remoteParticipants.get('ann')?.videoTrackPublications.size === 1));
    await pause(1000);
    if (await b.ask(() => window.call.saw('subscribed:camera'))) throw new Error('bob got a track that he had not asked for');
    await b.ask(unsubscribe(), 'ann', true);
    await b.moving('ann');
  },
  async 'only those whom the publisher allows get its tracks'(stage) {
    const [a, b, c] = await stage.participants(['ann', 'bob', 'cat']);
    await stage.all();
    let since = Date.now();
    await a.ask(() => window.room.localParticipant.setTrackSubscriptionPermissions(false, [{ participantIdentity: 'bob', allowAll: true }]));
    await c.saw('permission not_allowed', 'ann', 3000, since);
    await c.saw('unsubscribed:camera', 'ann', 3000, since);
    await b.moving('ann');
    const [d] = await stage.participants(['dan']);
    const refused = () => d.ask(() => [...window.room.remoteParticipants.get('ann').trackPublications.values()].every((p) => p.permissionStatus === 'not_allowed'));
    await until('dan knows that he may not have it', 5000, refused);
    since = Date.now();
    await d.ask(unsubscribe(), 'ann', true);
    await d.saw('permission not_allowed', 'ann', 3000, since);
    await until('dan knows it still', 3000, refused);
    since = Date.now();
    await a.ask(() => window.room.localParticipant.setTrackSubscriptionPermissions(true));
    for (const one of [c, d]) await one.saw('permission allowed', 'ann', 3000, since);
    await stage.all();
  },
  'who publishes hears of the first who gets it': firstHeard({}),
  'who publishes hears of the first who gets it, with two peer connections': firstHeard({ single: false }),
  async 'what a microphone does is told when it changes'(stage) {
    const [a, b] = await Promise.all([stage.participant('ann', { publish: ['microphone'] }), stage.participant('bob', { publish: false })]);
    await b.hears('ann');
    const enhanced = 5; // TF_ENHANCED_NOISE_CANCELLATION
    for (const [turn, want] of [['Enable', true], ['Disable', false]]) {
      await a.ask((t) => window.room.localParticipant.getTrackPublication('microphone').track[`handleKrispNoiseFilter${t}`](), turn);
      await until(`bob knows of it: ${want}`, 3000, () =>
        b.ask((f, w) => window.room.remoteParticipants.get('ann').getTrackPublication('microphone').trackInfo.audioFeatures.includes(f) === w, enhanced, want));
    }
  },
  async 'who speaks is told'(stage) {
    const a = await stage.participant('ann', { publish: ['tone'] });
    const b = await stage.participant('bob', { publish: ['camera'] });
    await b.saw('speaks', 'ann', 5000);
    const since = Date.now();
    await a.ask(() => window.room.localParticipant.getTrackPublication('microphone').mute());
    await until('ann is silent', 5000, () => b.ask(() => !window.room.activeSpeakers.some((p) => p.identity === 'ann')));
    return `silent after ${Date.now() - since} ms`;
  },
  async 'what can be told of a line is told'(stage) {
    const [a, b] = await stage.participants(['ann', 'bob']);
    await stage.all();
    await b.saw('quality excellent', 'ann', 20000);
    await a.saw('quality excellent', 'ann', 20000);
    if (await b.ask(() => window.call.saw('quality lost'))) throw new Error('a line was called lost that is not');
  },
};
