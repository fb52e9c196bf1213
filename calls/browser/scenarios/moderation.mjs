import { atMost, until, yardstick } from '../stage.mjs';

export default {
  async 'a track muted by the room'(stage) {
    const [a, b] = await stage.participants(['ann', 'bob']);
    await stage.all();
    const ann = await stage.admin('GetParticipant', { identity: 'ann' });
    const since = Date.now();
    await stage.admin('MutePublishedTrack', { identity: 'ann', track_sid: ann.tracks.find((t) => t.source === 'MICROPHONE').sid, muted: true });
    const seen = (await b.saw('muted', 'ann', 3000, since)) - since;
    await until('ann is muted', 3000, () => a.ask(() => !window.room.localParticipant.isMicrophoneEnabled));
    return `seen after ${atMost('seen after', seen, 1000)} ms`;
  },
  async 'what was changed of a participant holds when it joins anew'(stage) {
    const [a, b] = await stage.participants(['ann', 'bob']);
    await stage.all();
    await stage.admin('UpdateParticipant', {
      identity: 'ann', name: 'Anna', attributes: { desk: '7' },
      permission: { canSubscribe: true, canPublish: true, canPublishData: true, canPublishSources: ['MICROPHONE'] },
    });
    const holds = async (when) => {
      const refused = await a.ask(() => window.room.localParticipant.setCameraEnabled(true).then(() => '', (e) => e.message));
      if (!/permission/.test(refused)) throw new Error(`${when}: a camera is taken: ${refused}`);
      await until(`${when}: bob sees and hears what is left of ann`, 10000, () => b.ask(() => {
        const ann = window.room.remoteParticipants.get('ann');
        return ann?.name === 'Anna' && ann.attributes.desk === '7' && ann.trackPublications.size === 1 && ann.isMicrophoneEnabled && !!ann.getTrackPublication('microphone').track;
      }));
    };
    await until('the camera of ann has ended', 5000, () => a.ask(() => window.room.localParticipant.trackPublications.size === 1));
    await holds('at once');
    await new Promise((done) => setTimeout(done, 1500)); // until the client has its new token
    const since = Date.now();
    await a.simulate('full-reconnect');
    await a.saw('reconnected', '', 15000, since);
    await holds('after a full reconnect');
  },
  'a participant removed within a second': yardstick(async (stage) => {
    const [a, b] = await stage.participants(['ann', 'bob']);
    await stage.all();
    const since = Date.now();
    await stage.admin('RemoveParticipant', { identity: 'ann' });
    const seen = (await b.saw('left', 'ann', 20000, since)) - since;
    await a.saw('disconnected', '4', 3000, since); // PARTICIPANT_REMOVED
    return `seen after ${stage.figure('a removal is seen', 'ms', seen, { most: 1000 })} ms`;
  }),
  async 'a call that is closed'(stage) {
    const people = await stage.participants(['ann', 'bob'], { publish: false });
    const since = Date.now();
    await stage.admin('DeleteRoom', {});
    await Promise.all(people.map((p) => p.saw('disconnected', '5', 3000, since))); // ROOM_DELETED
  },
};
