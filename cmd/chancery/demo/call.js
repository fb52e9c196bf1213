// The room's call, as Matrix clients hold it: each member publishes to the focus of its own homeserver and listens on the
// foci of the others. Who is in the call is said by state events in the room; media go through LiveKit's client.

import { Room as MediaRoom, RoomEvent, Track } from "livekit-client";

const MEMBER = "org.matrix.msc3401.call.member";
const EXPIRES = 4 * 60 * 60 * 1000;
const LEAVE_DELAY = 18_000;
const RESTART_EACH = 5_000;
// The pauses before a focus is tried again, in milliseconds: on a slow machine a connection may take longer than is waited for it.
const PAUSES = [500, 1500, 3000];
const DELAYED = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/";

// callMembers lists who is in the room's call, the first to come first.
export function callMembers(room) {
  const now = Date.now();
  return room
    .stateOf(MEMBER)
    .filter((event) => event.content.application === "m.call" && event.content.call_id === "" && event.content.device_id)
    .filter((event) => room.membership(event.sender) === "join")
    .map((event) => ({
      userId: event.sender,
      deviceId: event.content.device_id,
      identity: event.sender + ":" + event.content.device_id,
      since: event.content.created_ts ?? event.origin_server_ts,
      expires: event.content.expires ?? EXPIRES,
      focus: event.content.foci_preferred?.[0]?.livekit_service_url,
    }))
    .filter((member) => member.since + member.expires > now)
    .sort((a, b) => a.since - b.since);
}

// Call is our part in one room's call. It tells "change" whenever what is to be shown has changed, "ended" when it is over.
export class Call extends EventTarget {
  media = new Map(); // focus -> MediaRoom, once it is connected
  opening = new Set(); // foci that are being tried
  microphone = true;
  camera = true;
  screen = false;
  state = "joining";

  constructor(client, room) {
    super();
    this.client = client;
    this.room = room;
    this.key = `_${client.userId}_${client.deviceId}_m.call`;
    this.startedAt = Date.now();
    this.onHide = () => this.vanish();
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  async join() {
    this.focus = await this.ownFocus();
    await this.connect(this.focus, true);
    await this.announce();
    this.state = "joined";
    addEventListener("pagehide", this.onHide);
    this.follow();
    await this.publish();
    this.changed();
  }

  // ownFocus asks our homeserver for its focus.
  async ownFocus() {
    try {
      const answer = await this.client.request("GET", "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports");
      const livekit = answer.rtc_transports?.find((transport) => transport.type === "livekit");
      if (livekit) return livekit.livekit_service_url;
    } catch {
      // The older way of saying it comes next.
    }
    const known = await this.client.request("GET", "/.well-known/matrix/client");
    const focus = known["org.matrix.msc4143.rtc_foci"]?.find((f) => f.type === "livekit");
    if (!focus) throw new Error("This ministry has no call focus");
    return focus.livekit_service_url;
  }

  // connect opens one focus, our own to publish on, another's to listen; again if that fails, unless it does not want us.
  async connect(focus, own) {
    if (this.media.has(focus) || this.opening.has(focus)) return;
    this.opening.add(focus);
    try {
      for (let tries = 0; ; tries++) {
        try {
          return await this.open(focus, own);
        } catch (error) {
          if (error.refused || tries === PAUSES.length || this.state === "ended") throw error;
        }
        await new Promise((resolve) => setTimeout(resolve, PAUSES[tries]));
        if (this.state === "ended") return;
      }
    } finally {
      this.opening.delete(focus);
    }
  }

  async open(focus, own) {
    const media = new MediaRoom({ adaptiveStream: true, dynacast: true, disconnectOnPageLeave: false });
    for (const event of [
      RoomEvent.ParticipantConnected, RoomEvent.ParticipantDisconnected, RoomEvent.TrackSubscribed, RoomEvent.TrackUnsubscribed,
      RoomEvent.TrackMuted, RoomEvent.TrackUnmuted, RoomEvent.LocalTrackPublished, RoomEvent.LocalTrackUnpublished,
      RoomEvent.ActiveSpeakersChanged, RoomEvent.Reconnecting, RoomEvent.Reconnected, RoomEvent.ConnectionStateChanged,
    ]) {
      media.on(event, () => this.changed());
    }
    try {
      const response = await fetch(focus + "/sfu/get", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ room: this.room.id, openid_token: await this.client.openId(), device_id: this.client.deviceId }),
      });
      const answer = await response.json();
      if (!response.ok) throw Object.assign(new Error(answer.error || "The focus refused us"), { refused: response.status < 500 && response.status !== 429 });
      await media.connect(answer.url, answer.jwt);
      if (this.state === "ended") throw new Error("The call is over");
    } catch (error) {
      media.disconnect();
      throw error;
    }
    this.media.set(focus, media);
    media.on(RoomEvent.Disconnected, () => {
      if (this.media.get(focus) === media) this.media.delete(focus);
      if (own && this.state !== "ended") this.end("The call was ended by the server");
      else this.changed();
    });
  }

  async publish() {
    const local = this.media.get(this.focus)?.localParticipant;
    const open = async (what, turn) => {
      try {
        await turn();
      } catch (error) {
        this[what] = false;
        this.dispatchEvent(new CustomEvent("notice", { detail: `Your ${what} cannot be used: ${error.message}` }));
      }
      this.changed();
    };
    await open("camera", () => local.setCameraEnabled(this.camera));
    await open("microphone", () => local.setMicrophoneEnabled(this.microphone));
  }

  // announce tells the room that we are in the call, after a leave has been laid by for the case that we vanish.
  async announce() {
    try {
      const later = await this.client.sendState(this.room, MEMBER, this.key, {}, "?org.matrix.msc4140.delay=" + LEAVE_DELAY);
      this.delayId = later.delay_id;
    } catch {
      // Without delayed events the call works; who vanishes stays in the list until the membership expires.
    }
    await this.client.sendState(this.room, MEMBER, this.key, {
      application: "m.call",
      call_id: "",
      scope: "m.room",
      device_id: this.client.deviceId,
      membershipID: this.client.userId + ":" + this.client.deviceId,
      expires: EXPIRES,
      "m.call.intent": "video",
      focus_active: { type: "livekit", focus_selection: "multi_sfu" },
      foci_preferred: [{ type: "livekit", livekit_service_url: this.focus, livekit_alias: this.room.id }],
    });
    if (this.delayId) this.restarting = setInterval(() => this.restart(), RESTART_EACH);
  }

  async restart() {
    try {
      await this.client.request("POST", DELAYED + this.delayId + "/restart", {});
    } catch (error) {
      if (error.status === 404 && this.state === "joined") {
        clearInterval(this.restarting);
        await this.announce().catch(() => {});
      }
    }
  }

  // follow opens the foci of those who are in the call and closes those that nobody uses. It is called after each sync.
  follow() {
    if (this.state !== "joined") return;
    const wanted = new Set(callMembers(this.room).map((member) => member.focus).filter(Boolean));
    wanted.add(this.focus);
    for (const focus of wanted) {
      if (!this.media.has(focus)) {
        this.connect(focus, false).catch((error) => {
          this.dispatchEvent(new CustomEvent("notice", { detail: `Another ministry's focus: ${error.message}` }));
        });
      }
    }
    for (const [focus, media] of this.media) {
      if (!wanted.has(focus)) {
        this.media.delete(focus);
        media.disconnect();
      }
    }
    this.changed();
  }

  // tiles lists what is to be shown: ourselves first, then the others; a shared screen is a tile of its own.
  tiles() {
    const tiles = [];
    const add = (participant, member, local) => {
      const source = (kind) => participant?.getTrackPublication(kind);
      const screen = source(Track.Source.ScreenShare);
      if (screen?.track && !screen.isMuted) {
        tiles.unshift({ key: member.identity + "/screen", ...member, local, screen: true, video: screen.track });
      }
      const camera = source(Track.Source.Camera);
      const microphone = source(Track.Source.Microphone);
      tiles.push({
        key: member.identity,
        ...member,
        local,
        video: camera?.track && !camera.isMuted ? camera.track : null,
        audio: local ? null : microphone?.track,
        muted: !microphone || microphone.isMuted,
        speaking: !!participant?.isSpeaking,
        connecting: !participant,
      });
    };
    for (const member of callMembers(this.room)) {
      if (member.identity === this.client.userId + ":" + this.client.deviceId) continue;
      const media = this.media.get(member.focus);
      add(media?.remoteParticipants.get(member.identity), member, false);
    }
    const me = { userId: this.client.userId, identity: this.client.userId + ":" + this.client.deviceId };
    const own = this.media.get(this.focus);
    if (own) add(own.localParticipant, me, true);
    return tiles;
  }

  async toggle(what) {
    const local = this.media.get(this.focus)?.localParticipant;
    if (!local) return;
    this[what] = !this[what];
    this.changed();
    try {
      if (what === "microphone") await local.setMicrophoneEnabled(this.microphone);
      if (what === "camera") await local.setCameraEnabled(this.camera);
      if (what === "screen") await local.setScreenShareEnabled(this.screen);
    } catch (error) {
      this[what] = !this[what];
      if (error.name !== "NotAllowedError") this.dispatchEvent(new CustomEvent("notice", { detail: error.message }));
    }
    this.changed();
  }

  async leave() {
    this.end();
    await this.client.sendState(this.room, MEMBER, this.key, {}).catch(() => {});
    if (this.delayId) await this.client.request("POST", DELAYED + this.delayId + "/cancel", {}).catch(() => {});
  }

  // vanish is the last word of a window that closes: the laid-by leave is sent now.
  vanish() {
    if (this.delayId) {
      fetch(DELAYED + this.delayId + "/send", { method: "POST", body: "{}", keepalive: true, headers: { "Content-Type": "application/json" } });
    }
    this.end();
  }

  end(reason) {
    if (this.state === "ended") return;
    this.state = "ended";
    clearInterval(this.restarting);
    removeEventListener("pagehide", this.onHide);
    for (const media of this.media.values()) media.disconnect();
    this.media.clear();
    this.dispatchEvent(new CustomEvent("ended", { detail: reason }));
  }
}
