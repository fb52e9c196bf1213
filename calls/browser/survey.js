// What a page knows and gets, as plain data: for a test that compares it with what others know and wish.

// survey tells everything of a room: itself, the others, and what of their media comes.
export async function survey(room, { engine } = room) {
  const { publisher, subscriber } = engine.pcManager ?? {};
  const [out, inn] = await Promise.all([publisher?.getStats(), (subscriber ?? publisher)?.getStats()]);
  const sections = (subscriber ?? publisher)?.getTransceivers() ?? [];
  const come = new Map([...(inn?.values() ?? [])].filter((s) => s.type === 'inbound-rtp').map((s) => [s.mid, s]));
  const used = new Set();
  const received = (track) => {
    const mid = sections.find((t) => t.receiver === track.receiver)?.mid;
    used.add(mid);
    const s = come.get(mid) ?? {};
    return { mid, packets: s.packetsReceived ?? 0, frames: s.framesDecoded ?? 0, height: s.frameHeight ?? 0, samples: s.totalSamplesReceived ?? 0, energy: s.totalAudioEnergy ?? 0, concealed: (s.concealedSamples ?? 0) - (s.silentConcealedSamples ?? 0), keys: s.keyFramesDecoded };
  };
  const sent = [...(out?.values() ?? [])].filter((s) => s.type === 'outbound-rtp');
  const others = {};
  for (const p of room.remoteParticipants.values()) {
    others[p.identity] = person(p, (pub) => ({
      desired: pub.isDesired, enabled: pub.isEnabled, allowed: pub.permissionStatus === 'allowed', subscribed: pub.isSubscribed,
      stream: pub.track?.streamState, asked: pub.videoDimensionsAdaptiveStream ?? pub.requestedVideoDimensions, quality: pub.requestedMaxQuality,
      told: pub.track?.isMuted ?? pub.isMuted, codec: pub.trackInfo?.mimeType, ...(pub.track ? received(pub.track) : {}),
    }));
  }
  return {
    state: room.state, metadata: room.metadata,
    self: person(room.localParticipant, (pub) => ({
      sends: sent.filter((s) => s.mid === midOf(publisher, pub.track?.sender)).map((s) => ({ rid: s.rid, active: s.active, frames: s.framesSent, height: s.frameHeight, limit: s.qualityLimitationReason })),
    })),
    permits: room.localParticipant.allParticipantsAllowedToSubscribe ? null : room.localParticipant.participantTrackPermissions.map((p) => p.participantIdentity),
    others,
    // packets on sections that belong to no track of anybody
    stray: Object.fromEntries([...come].filter(([mid]) => !used.has(mid)).map(([mid, s]) => [mid, s.packetsReceived])),
  };
}

const midOf = (transport, sender) => transport?.getTransceivers().find((t) => t.sender === sender)?.mid;

// person is a participant, with its tracks by source.
function person(p, more) {
  const { canPublish, canPublishData, canPublishSources = [] } = p.permissions ?? {};
  return {
    sid: p.sid, name: p.name ?? '', metadata: p.metadata ?? '', attributes: { ...p.attributes }, may: { canPublish, canPublishData, canPublishSources: [...canPublishSources].sort() },
    tracks: Object.fromEntries([...p.trackPublications.values()].map((pub) => [pub.source, { sid: pub.trackSid, kind: pub.kind, muted: pub.isMuted, ...more(pub) }])),
    count: p.trackPublications.size,
  };
}
