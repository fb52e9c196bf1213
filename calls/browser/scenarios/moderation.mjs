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
