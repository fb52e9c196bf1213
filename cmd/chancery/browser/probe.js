// Runs in every frame before its own scripts: it sees what Element Call does with peer connections and its encryption
// worker, and reads the tiles. It changes nothing.

(() => {
  const peers = [];
  const told = []; // what the encryption workers were told, streams and keys aside
  const workers = []; // one for each focus
  const note = (worker, message) => {
    if (!workers.includes(worker)) workers.push(worker);
    if (message?.kind) told.push({ worker: workers.indexOf(worker), kind: message.kind, identity: message.data?.participantIdentity ?? message.participantIdentity, enabled: message.data?.enabled });
  };

  const Peer = window.RTCPeerConnection;
  window.RTCPeerConnection = class extends Peer {
    constructor(...args) {
      super(...args);
      peers.push(this);
    }
  };
  const Own = window.Worker;
  window.Worker = class extends Own {
    postMessage(message, ...more) {
      note(this, message);
      super.postMessage(message, ...more);
    }
  };
  const Transform = window.RTCRtpScriptTransform;
  if (Transform) {
    window.RTCRtpScriptTransform = class extends Transform {
      constructor(worker, options, ...more) {
        note(worker, options);
        super(worker, options, ...more);
      }
    };
  }

  const tiles = () => [...document.querySelectorAll('[data-testid="videoTile"]')];

  const nameOn = (tile) => tile.querySelector('[data-testid="name_tag"]')?.textContent ?? "";

  // remotes gives the tiles that show what a peer connection has received, with their videos.
  function remotes() {
    const received = new Set(peers.filter((peer) => peer.connectionState !== "closed").flatMap((peer) => peer.getReceivers()).map((receiver) => receiver.track.id));
    return tiles().map((tile) => [tile, tile.querySelector("video")]).filter(([, video]) => received.has(video?.srcObject?.getVideoTracks()[0]?.id));
  }

  // picture sums up the pixels that a video shows.
  function picture(video) {
    const canvas = new OffscreenCanvas(48, 27).getContext("2d");
    canvas.drawImage(video, 0, 0, 48, 27);
    return canvas.getImageData(0, 0, 48, 27).data.reduce((sum, value, i) => sum + value * ((i % 251) + 1), 0);
  }

  window.probe = {
    told,
    // remotes tells of each tile that shows somebody else's camera: the name on it, if any, and what was decoded.
    remotes: () => remotes().map(([tile, video]) => ({
      name: nameOn(tile), shown: video.getVideoPlaybackQuality().totalVideoFrames, width: video.videoWidth, height: video.videoHeight,
      sum: video.videoWidth ? picture(video) : 0, unencrypted: !!tile.querySelector('[aria-label="Not encrypted"]'),
    })),
    members: () => window.rtcSession?.memberships.map((member) => member.userId) ?? [],
    // gone waits until somebody is neither a member of the call nor on a tile, with so many others left, and gives the time of each.
    gone: (user, name, others) => new Promise((done) => {
      const seen = {};
      const look = setInterval(() => {
        if (!seen.member && !window.probe.members().includes(user)) seen.member = Date.now();
        if (!seen.tile && remotes().length <= others && !tiles().some((tile) => nameOn(tile) === name)) seen.tile = Date.now();
        if (!seen.member || !seen.tile) return;
        clearInterval(look);
        done(seen);
      }, 10);
    }),
    // keys gives the media keys that this frame holds: user, index, key.
    keys() {
      const held = {};
      const hear = (key, index, member) => {
        (held[member.userId] ??= {})[index] = [...key].map((byte) => byte.toString(16).padStart(2, "0")).join("");
      };
      window.rtcSession.on("encryption_key_changed", hear);
      window.rtcSession.reemitEncryptionKeys();
      window.rtcSession.off("encryption_key_changed", hear);
      return held;
    },
  };
})();
