// What runs in each participant's page: a thin hand for the test around the unmodified livekit-client.
import { ExternalE2EEKeyProvider, Room, RoomEvent, Track, VideoPresets } from 'livekit-client';

const events = [];
const watches = new Map(); // identity -> {video, frames, first}
let room;

const note = (what, who = '') => events.push({ what, who, at: Date.now() });

function watch(identity, track) {
  const video = track.attach();
  video.style.cssText = 'position:fixed;left:0;top:0;width:640px;height:360px'; // in view: adaptive streams pause what is not
  video.muted = true;
  document.body.append(video);
  const w = { video, frames: 0, first: 0, width: 0, height: 0 };
  watches.set(identity + ':' + track.source, w);
  const tick = (_, m) => {
    w.frames++;
    w.first ||= Date.now();
    w.width = m.width;
    w.height = m.height;
    video.requestVideoFrameCallback(tick);
  };
  video.requestVideoFrameCallback(tick);
}

function picture(identity, source = 'camera') {
  const w = watches.get(identity + ':' + source);
  if (!w || !w.width) return '';
  const c = new OffscreenCanvas(32, 18).getContext('2d');
  c.drawImage(w.video, 0, 0, 32, 18);
  return String.fromCharCode(...c.getImageData(0, 0, 32, 18).data).slice(0, 2000);
}

window.call = {
  events,
  async join(url, token, { single = true, publish = true, secret, adaptive = true, resolution = 'h360' } = {}) {
    const options = {
      adaptiveStream: adaptive, dynacast: true, singlePeerConnection: single,
      publishDefaults: { simulcast: true, red: false, videoCodec: 'vp8' },
      videoCaptureDefaults: { resolution: { ...VideoPresets[resolution].resolution, frameRate: 15 } },
    };
    if (secret) {
      const keyProvider = new ExternalE2EEKeyProvider();
      await keyProvider.setKey(secret);
      options.encryption = { keyProvider, worker: new Worker('/worker.js', { type: 'module' }) };
    }
    room = new Room(options);
    window.room = room;
    const on = (event, what) => room.on(event, (a, b, c) => note(what, (c ?? a)?.identity ?? ''));
    on(RoomEvent.ParticipantConnected, 'joined');
    on(RoomEvent.ParticipantDisconnected, 'left');
    room.on(RoomEvent.Reconnecting, () => note('reconnecting'));
    room.on(RoomEvent.SignalReconnecting, () => note('reconnecting'));
    room.on(RoomEvent.Reconnected, () => note('reconnected'));
    room.on(RoomEvent.Disconnected, (reason) => note('disconnected', String(reason)));
    room.on(RoomEvent.TrackMuted, (pub, p) => note('muted', p.identity));
    room.on(RoomEvent.TrackUnmuted, (pub, p) => note('unmuted', p.identity));
    room.on(RoomEvent.TrackUnpublished, (pub, p) => note('unpublished:' + pub.source, p.identity));
    room.on(RoomEvent.DataReceived, (data, p) => note('data:' + new TextDecoder().decode(data), p?.identity));
    room.on(RoomEvent.ActiveSpeakersChanged, (list) => list.forEach((p) => note('speaks', p.identity)));
    room.on(RoomEvent.EncryptionError, (e) => note('encryption error ' + e.message));
    room.on(RoomEvent.TrackSubscribed, (track, pub, p) => {
      note('subscribed:' + track.source, p.identity);
      if (track.kind === Track.Kind.Video) watch(p.identity, track);
      else document.body.append(track.attach());
    });
    room.on(RoomEvent.TrackUnsubscribed, (track, pub, p) => {
      note('unsubscribed:' + track.source, p.identity);
      track.detach();
      watches.get(p.identity + ':' + track.source)?.video.remove();
      watches.delete(p.identity + ':' + track.source);
    });
    const begun = Date.now();
    await room.connect(url, token);
    const connected = Date.now() - begun;
    if (secret) await room.setE2EEEnabled(true);
    if (publish) await room.localParticipant.enableCameraAndMicrophone();
    return { connected };
  },
  frames: (identity, source = 'camera') => watches.get(identity + ':' + source)?.frames ?? 0,
  first: (identity, source = 'camera') => watches.get(identity + ':' + source)?.first ?? 0,
  height: (identity, source = 'camera') => watches.get(identity + ':' + source)?.height ?? 0,
  picture,
  resize(identity, width, height) {
    const v = watches.get(identity + ':camera').video;
    v.style.cssText = `position:fixed;left:0;top:0;width:${width}px;height:${height}px`;
  },
  heard: async (identity) => {
    const pub = room.remoteParticipants.get(identity)?.getTrackPublication(Track.Source.Microphone);
    const stats = await pub?.track?.getReceiverStats?.();
    return stats?.totalAudioEnergy ?? stats?.bytesReceived ?? 0;
  },
  saw: (what, who = '', since = 0) => events.find((e) => e.what === what && (!who || e.who === who) && e.at >= since)?.at ?? 0,
};
