// What runs in each participant's page: a thin hand for the test around the unmodified livekit-client.
import { BaseKeyProvider, ExternalE2EEKeyProvider, Room, RoomEvent, Track, VideoPresets } from 'livekit-client';
import { survey } from './survey.js';

const events = [];
const watches = new Map(); // identity -> {video, frames, first}
let room;

const note = (what, who = '') => events.push({ what, who, at: Date.now() });

// through changes the focus's candidates as the test wishes: the port of a relay in place of the focus's, or TCP alone.
let through = (line) => line;
// hidden keeps our own candidates from the server: one that reaches out would find another way around.
let hidden = false;
function useWay({ relay, tcp }) {
  if (!relay && !tcp) return;
  hidden = true;
  through = (line) => {
    const [foundation, component, protocol, priority, address, port, ...rest] = line.split(' ');
    if ((protocol.toLowerCase() === 'tcp') !== !!tcp) return null;
    return [foundation, component, protocol, priority, address, relay && port === relay.from ? relay.to : port, ...rest].join(' ');
  };
}
const { addIceCandidate, setRemoteDescription, createOffer, createAnswer } = RTCPeerConnection.prototype;
const told = Object.getOwnPropertyDescriptor(RTCPeerConnection.prototype, 'onicecandidate');
Object.defineProperty(RTCPeerConnection.prototype, 'onicecandidate', {
  ...told,
  set(fn) { told.set.call(this, fn && ((e) => (hidden && e.candidate ? undefined : fn.call(this, e)))); },
});
for (const [name, make] of Object.entries({ createOffer, createAnswer })) {
  RTCPeerConnection.prototype[name] = async function (...args) {
    const { type, sdp } = await make.apply(this, args);
    return { type, sdp: hidden ? sdp.replace(/^a=candidate:.*\r\n/gm, '') : sdp };
  };
}
RTCPeerConnection.prototype.addIceCandidate = function (c) {
  const line = c?.candidate && through(c.candidate);
  if (line === null) return Promise.resolve();
  return addIceCandidate.call(this, line ? { candidate: line, sdpMid: c.sdpMid, sdpMLineIndex: c.sdpMLineIndex, usernameFragment: c.usernameFragment } : c);
};
RTCPeerConnection.prototype.setRemoteDescription = function (d) {
  const sdp = d.sdp.split('\r\n').map((l) => (l.startsWith('a=candidate:') ? through(l.slice(2)) && 'a=' + through(l.slice(2)) : l)).filter((l) => l !== null).join('\r\n');
  return setRemoteDescription.call(this, { type: d.type, sdp });
};

// throughTURN lets the media travel through TURN alone, and of what the focus offers only through what matches: turns: for TLS.
function throughTURN(pattern) {
  const fits = new RegExp(`^${pattern}`);
  const narrowed = (config) => ({
    ...config, iceTransportPolicy: 'relay',
    iceServers: (config?.iceServers ?? []).map((s) => ({ ...s, urls: [s.urls].flat().filter((u) => fits.test(u)) })).filter((s) => s.urls.length),
  });
  const Native = window.RTCPeerConnection;
  const { setConfiguration } = Native.prototype;
  Native.prototype.setConfiguration = function (config) { return setConfiguration.call(this, narrowed(config)); };
  window.RTCPeerConnection = class extends Native {
    constructor(config, ...rest) { super(narrowed(config), ...rest); }
  };
}

// without lets the page's browser seem to have no decoder or encoder of a codec, such as video/vp9 or audio/red.
function without(mime) {
  const { createOffer, createAnswer } = RTCPeerConnection.prototype;
  const kind = mime.split('/')[0];
  const narrow = (pc) => {
    for (const t of pc.getTransceivers()) {
      if (t.receiver.track.kind !== kind || t.stopped) continue;
      t.setCodecPreferences(RTCRtpReceiver.getCapabilities(kind).codecs.filter((c) => c.mimeType.toLowerCase() !== mime));
    }
  };
  RTCPeerConnection.prototype.createOffer = function (...a) { narrow(this); return createOffer.apply(this, a); };
  RTCPeerConnection.prototype.createAnswer = function (...a) { narrow(this); return createAnswer.apply(this, a); };
}

// bare lets the page's browser seem to know no transport-wide feedback, but REMB, as older ones and some devices do.
function bare() {
  const { createOffer, createAnswer } = RTCPeerConnection.prototype;
  for (const [name, make] of Object.entries({ createOffer, createAnswer })) {
    RTCPeerConnection.prototype[name] = async function (...args) {
      const { type, sdp } = await make.apply(this, args);
      return { type, sdp: sdp.replace(/^a=(rtcp-fb:\S+ transport-cc|extmap:\S+ \S*transport-wide-cc\S*)\r\n/gm, '') };
    };
  }
}

// asOne has the page's browser play all tracks of a participant as one stream: what it is told of their clocks keeps sound and picture together.
function asOne() {
  const { setRemoteDescription } = RTCPeerConnection.prototype;
  RTCPeerConnection.prototype.setRemoteDescription = function ({ type, sdp }) {
    return setRemoteDescription.call(this, { type, sdp: sdp.replace(/^(a=(?:ssrc:\d+ )?msid:PA_\w+)\|\w+/gm, '$1|all') });
  };
}

// canvas is a picture that moves, for a second track. All of it changes, but it is simple, unless draw says otherwise.
function canvas(width, height, rate, draw = simple) {
  const canvas = Object.assign(document.createElement('canvas'), { width, height });
  const c = canvas.getContext('2d');
  let n = 0;
  const track = canvas.captureStream(rate).getVideoTracks()[0];
  const drawing = setInterval(() => (track.readyState === 'live' ? draw(c, width, height, n++) : clearInterval(drawing)), 1000 / rate);
  return track;
}
function simple(c, width, height, n) {
  c.fillStyle = `hsl(${(n * 7) % 360} 90% 50%)`;
  c.fillRect(0, 0, width, height);
}
// busy is as what a screen shows on which a film is played.
function busy(c, width, height) {
  for (let i = 0; i < 60; i++) {
    c.fillStyle = `hsl(${Math.random() * 360} 90% 50%)`;
    c.fillRect(Math.random() * width, Math.random() * height, width / 10, height / 10);
  }
}

// tone is a sound without pauses, so that what was concealed can be counted. window.volume makes it louder and softer.
let sounds;
function tone() {
  const audio = (sounds ??= new AudioContext());
  const source = audio.createOscillator(), out = audio.createMediaStreamDestination();
  const gain = audio.createGain();
  window.volume = (v) => { gain.gain.value = v; };
  source.connect(gain).connect(out);
  source.start();
  return out.stream.getAudioTracks()[0];
}

// music has two channels: a sound on the left, nothing on the right.
function music() {
  const audio = new AudioContext();
  const source = audio.createOscillator(), both = audio.createChannelMerger(2), out = audio.createMediaStreamDestination();
  out.channelCount = 2;
  source.connect(both, 0, 0);
  both.connect(out);
  source.start();
  return out.stream.getAudioTracks()[0];
}

// sides says how loud both channels of a sound are in the next 300 ms.
async function sides(track) {
  const audio = new AudioContext();
  const split = audio.createChannelSplitter(2);
  audio.createMediaStreamSource(new MediaStream([track])).connect(split);
  const meters = [0, 1].map((side) => {
    const meter = audio.createAnalyser();
    split.connect(meter, side);
    return meter;
  });
  await new Promise((done) => setTimeout(done, 300));
  const loud = meters.map((meter) => {
    const wave = new Float32Array(meter.fftSize);
    meter.getFloatTimeDomainData(wave);
    return Math.sqrt(wave.reduce((sum, v) => sum + v * v, 0) / wave.length);
  });
  await audio.close();
  return loud;
}

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

// Keys are those that each participant has for its own media, by index; its windows are those of Element Call.
class Keys extends BaseKeyProvider {
  constructor() {
    super({ ratchetWindowSize: 10, keyringSize: 256 });
  }
  // set: identity encrypts with what is made of secret from now on, and what says that it is of index is decrypted with it.
  async set(identity, secret, index = 0) {
    const bytes = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(`${identity}: ${secret}`));
    this.onSetEncryptionKey(await crypto.subtle.importKey('raw', bytes, 'HKDF', false, ['deriveBits', 'deriveKey']), identity, index);
  }
}

window.call = {
  events,
  canvas,
  tone,
  // options: single peer connection; what to publish (true: camera and microphone); a shared secret to encrypt with, or keys of each
  // participant ([identity, secret, index], its own last: livekit-client 2.23.0 begins with the index that was set last); the
  // way to the focus (relay, tcp, turn); the codec, one behind it, and when that takes its place; a codec that the browser lacks; whether
  // it lacks transport-wide feedback too; whether it plays all of a participant as one stream.
  async join(url, token, { single = true, publish = true, secret, keys, remb, adaptive = true, resolution = 'h360', codec = 'vp8', backup = false, policy, lacks, auto = true, pause, relay, tcp, turn, one } = {}) {
    useWay({ relay, tcp });
    if (turn) throughTURN(turn);
    if (lacks) without(lacks);
    if (remb) bare();
    if (one) asOne();
    const options = {
      adaptiveStream: adaptive, dynacast: true, singlePeerConnection: single,
      publishDefaults: { simulcast: true, red: false, videoCodec: codec, backupCodec: backup && { codec: backup }, backupCodecPolicy: policy },
      videoCaptureDefaults: { resolution: { ...VideoPresets[resolution].resolution, frameRate: 15 } },
    };
    if (secret || keys) {
      const keyProvider = (window.keys = keys ? new Keys() : new ExternalE2EEKeyProvider());
      if (keys) for (const key of keys) await keyProvider.set(...key);
      else await keyProvider.setKey(secret);
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
    room.on(RoomEvent.DataReceived, (data, p) => note('data:' + new TextDecoder().decode(data).trimEnd(), p?.identity));
    room.on(RoomEvent.ActiveSpeakersChanged, (list) => list.forEach((p) => note('speaks', p.identity)));
    room.on(RoomEvent.TrackStreamStateChanged, (pub, state, p) => note('stream ' + state, p.identity));
    room.on(RoomEvent.ConnectionQualityChanged, (q, p) => note('quality ' + q, p.identity));
    room.on(RoomEvent.TrackSubscriptionPermissionChanged, (pub, status, p) => note('permission ' + status, p.identity));
    room.on(RoomEvent.EncryptionError, (e) => note('encryption error ' + e.message));
    room.on(RoomEvent.LocalTrackSubscribed, (pub) => note('heard:' + pub.source));
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
    await room.connect(url, token, { autoSubscribe: auto, subscriberAllowPause: pause });
    const connected = Date.now() - begun;
    // each attempt to have signalling again, and its end: the room says "reconnecting" once, and "reconnected" two seconds later
    for (const way of ['resuming', 'restarting']) {
      room.engine.on(way, () => {
        note('tries');
        note(way);
      });
    }
    room.engine.on('signalResumed', () => note('signalling'));
    if (secret || keys) {
      await room.setE2EEEnabled(true);
      const { e2eeManager } = room.engine, { handleEncryptedData } = e2eeManager;
      e2eeManager.handleEncryptedData = (...args) => handleEncryptedData.apply(e2eeManager, args).catch((e) => {
        note('encryption error of data: ' + e.message);
        throw e;
      });
    }
    if (publish === true) await room.localParticipant.enableCameraAndMicrophone();
    else if (publish) await Promise.all(publish.map((what) => window.call.publish(what)));
    return { connected };
  },
  publish: (what) => ({
    camera: () => room.localParticipant.setCameraEnabled(true),
    microphone: () => room.localParticipant.setMicrophoneEnabled(true),
    tone: () => room.localParticipant.publishTrack(tone(), { source: 'microphone', dtx: false, red: false }),
    voice: () => room.localParticipant.publishTrack(tone(), { source: 'microphone', dtx: true, red: true }),
    music: () => room.localParticipant.publishTrack(music(), { source: 'screen_share_audio', forceStereo: true }),
    small: () => room.localParticipant.publishTrack(canvas(480, 270, 10), { source: 'camera' }),
    still: () => room.localParticipant.publishTrack(canvas(320, 180, 5), { source: 'screen_share', simulcast: false }),
    // a camera that needs no device: Chromium's false one stands still now and then when two pages open it anew at once
    picture: () => room.localParticipant.publishTrack(canvas(640, 360, 15), { source: 'camera' }),
    film: () => room.localParticipant.publishTrack(canvas(640, 360, 15, busy), { source: 'screen_share', simulcast: false, screenShareEncoding: { maxBitrate: 300_000, maxFramerate: 15 } }),
    screen: () => room.localParticipant.publishTrack(canvas(640, 360, 15), { source: 'screen_share', simulcast: false }),
  })[what](),
  // flood sends so many lossy packets of so many bytes, evenly over so many milliseconds: they read 0, 1, and so on.
  flood: async (n, bytes, ms) => {
    const begun = Date.now();
    for (let i = 0; i < n; i++) {
      await room.localParticipant.publishData(new TextEncoder().encode(String(i).padEnd(bytes)), { reliable: false });
      const due = begun + ((i + 1) * ms) / n;
      if (due > Date.now()) await new Promise((done) => setTimeout(done, due - Date.now()));
    }
  },
  // token is what the client would join with now.
  token: () => room.engine.token,
  // many small pictures, one after the other
  many: async (n) => {
    for (let i = 0; i < n; i++) await room.localParticipant.publishTrack(canvas(160, 90, 4), { source: 'unknown', simulcast: false });
  },
  // how many pictures of others have come, and how many media sections the own description has
  pictures: async () => {
    const tracks = [...room.remoteParticipants.values()].flatMap((p) => [...p.videoTrackPublications.values()]).map((p) => p.track).filter(Boolean);
    const stats = await Promise.all(tracks.map((t) => t.receiver?.getStats()));
    return stats.filter((s) => s && [...s.values()].some((r) => r.type === 'inbound-rtp' && r.framesDecoded > 0)).length;
  },
  sections: () => room.engine.pcManager.publisher.getLocalDescription().sdp.split('\r\nm=').length - 1,
  // encodings that the camera sends just now, as widths
  sent: async () => {
    const pub = room.localParticipant.getTrackPublication(Track.Source.Camera);
    const stats = await pub.track.sender.getStats();
    return [...stats.values()].filter((s) => s.type === 'outbound-rtp' && s.active !== false).map((s) => ({ rid: s.rid, frames: s.framesSent ?? 0, codec: s.codecId && stats.get(s.codecId)?.mimeType }));
  },
  // packets and the codec of a sound that is sent
  sentSound: async (source = 'microphone') => {
    const stats = await room.localParticipant.getTrackPublication(source).track.sender.getStats();
    const out = [...stats.values()].find((s) => s.type === 'outbound-rtp');
    return { packets: out.packetsSent, bytes: out.bytesSent, codec: stats.get(out.codecId)?.mimeType, fmtp: stats.get(out.codecId)?.sdpFmtpLine };
  },
  sides: (identity, source) => sides(room.remoteParticipants.get(identity).getTrackPublication(source).track.mediaStreamTrack),
  // what a receiver says of a track of identity
  received: async (identity, source = 'microphone') => {
    const track = room.remoteParticipants.get(identity)?.getTrackPublication(source)?.track;
    const stats = await track?.receiver?.getStats();
    const got = stats && [...stats.values()].find((s) => s.type === 'inbound-rtp');
    return got ? { ...got, codec: stats.get(got.codecId)?.mimeType } : null;
  },
  frames: (identity, source = 'camera') => watches.get(identity + ':' + source)?.frames ?? 0,
  first: (identity, source = 'camera') => watches.get(identity + ':' + source)?.first ?? 0,
  height: (identity, source = 'camera') => watches.get(identity + ':' + source)?.height ?? 0,
  picture,
  resize(identity, width, height, source = 'camera') {
    const v = watches.get(identity + ':' + source).video;
    v.style.cssText = `position:fixed;left:0;top:0;width:${width}px;height:${height}px`;
  },
  hide(identity, hidden, source = 'camera') {
    watches.get(identity + ':' + source).video.style.display = hidden ? 'none' : '';
  },
  views: (identity, source) => watches.has(identity + ':' + source),
  note,
  survey: () => survey(room),
  // udp or tcp: how the media travel
  protocol: async () => {
    const stats = await room.engine.pcManager.publisher.getStats();
    const pair = [...stats.values()].find((s) => s.type === 'candidate-pair' && s.nominated && s.state === 'succeeded');
    return stats.get(pair?.localCandidateId)?.protocol;
  },
  // the nominated pair's own candidate: its type, and how it reaches TURN
  candidate: async () => {
    const stats = await room.engine.pcManager.publisher.getStats();
    const pair = [...stats.values()].find((s) => s.type === 'candidate-pair' && s.nominated && s.state === 'succeeded');
    const own = stats.get(pair?.localCandidateId);
    return own && `${own.candidateType} ${own.relayProtocol ?? own.protocol}`;
  },
  heard: async (identity) => {
    const pub = room.remoteParticipants.get(identity)?.getTrackPublication(Track.Source.Microphone);
    const stats = await pub?.track?.getReceiverStats?.();
    return stats?.totalAudioEnergy ?? stats?.bytesReceived ?? 0;
  },
  saw: (what, who = '', since = 0) => events.find((e) => e.what === what && (!who || e.who === who) && e.at >= since)?.at ?? 0,
};
