// What must hold once nothing happens any more: everybody knows the same, as the model has it, and gets what it wishes and may have.

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const sorted = (o) => Object.fromEntries(Object.entries(o).sort(([a], [b]) => (a < b ? -1 : 1)));

// judge compares two surveys of everybody, a second apart, with the model. It gives what is wrong, each with a key; of those in moves it is
// enough if they hold once.
export function judge(people, before, now, counted) {
  const wrong = [], moved = [];
  const claim = (ok, text) => ok || wrong.push(text);
  const moves = (ok, key, text) => (ok ? moved.push(key) : wrong.push(`${key}: ${text}`));
  const present = people.filter((p) => p.present);
  for (const a of present) {
    const all = now[a.name];
    if (all.state !== 'connected') {
      wrong.push(`${a.name} is ${all.state}`);
      continue;
    }
    const names = present.filter((p) => p !== a).map((p) => p.name).sort();
    const seen = Object.keys(all.others).sort();
    claim(same(seen, names), `${a.name} has [${seen}], want [${names}]`);
    myself(a, all.self, claim);
    for (const b of present) {
      if (b === a || !all.others[b.name] || now[b.name].state !== 'connected') continue;
      const self = now[b.name].self, seen = all.others[b.name], who = `${a.name} of ${b.name}`;
      for (const what of ['sid', 'name', 'metadata']) claim(seen[what] === self[what], `${who}: ${what} ${seen[what]}, want ${self[what]}`);
      claim(same(sorted(seen.attributes), sorted(self.attributes)), `${who}: attributes ${JSON.stringify(seen.attributes)}, want ${JSON.stringify(self.attributes)}`);
      claim(same(seen.may, self.may), `${who}: may ${JSON.stringify(seen.may)}, want ${JSON.stringify(self.may)}`);
      const sids = (p) => sorted(Object.fromEntries(Object.entries(p.tracks).map(([source, t]) => [source, `${t.sid}${t.muted ? ' muted' : ''}`])));
      claim(same(sids(seen), sids(self)) && seen.count === self.count, `${who}: ${seen.count} tracks ${JSON.stringify(sids(seen))}, want ${self.count}: ${JSON.stringify(sids(self))}`);
      for (const [source, t] of Object.entries(seen.tracks)) {
        if (self.tracks[source]?.sid !== t.sid) continue;
        const last = before[a.name]?.others[b.name]?.tracks[source];
        track({ a, b, who: `${who} (${source})`, t, own: { source, ...self.tracks[source] }, permits: now[b.name].permits, last: last?.sid === t.sid && last?.mid === t.mid ? last : null, claim, moves });
      }
    }
    for (const [mid, packets] of Object.entries(all.stray)) {
      claim(packets === (before[a.name]?.stray[mid] ?? packets), `${a.name} gets packets on section ${mid}, which is of no track`);
    }
  }
  const want = present.map((p) => `${p.name} ${Object.keys(p.tracks).length}`).sort();
  claim(!counted || same(counted, want), `the focus counts [${counted}], want [${want}]`);
  return { wrong, moved };
}

// myself: what a page thinks that it does is what the model says.
function myself(p, self, claim) {
  const tracks = (of) => sorted(Object.fromEntries(Object.entries(of).map(([s, t]) => [s, t.muted])));
  claim(same(tracks(self.tracks), tracks(p.tracks)), `${p.name} publishes ${JSON.stringify(tracks(self.tracks))}, want ${JSON.stringify(tracks(p.tracks))}`);
  for (const what of ['name', 'metadata']) claim(self[what] === p.about[what], `${p.name} has ${what} ${self[what]}, want ${p.about[what]}`);
  claim(same(sorted(self.attributes), sorted(p.about.attributes)), `${p.name} has attributes ${JSON.stringify(self.attributes)}, want ${JSON.stringify(p.about.attributes)}`);
  claim(self.may.canPublish === p.may.publish && self.may.canPublishData === p.may.data, `${p.name} may ${JSON.stringify(self.may)}, want ${JSON.stringify(p.may)}`);
}

// track: a gets of b's track what it wishes and may have, and nothing else.
function track({ a, b, who, t, own, permits, last, claim, moves }) {
  const allowed = !permits || permits.includes(a.name);
  claim(t.allowed === allowed, `${who}: ${t.allowed ? 'allowed' : 'not allowed'}, want the reverse`);
  claim(t.subscribed === (t.desired && allowed), `${who}: ${t.subscribed ? 'there' : 'not there'}, though desired: ${t.desired}, allowed: ${allowed}`);
  if (!t.subscribed || !last) return;
  const packets = t.packets - last.packets, video = t.kind === 'video';
  if (own.muted || (video && !t.enabled)) {
    // of a voice nothing comes; a picture that its own client has muted is passed on, and is black
    const comes = video ? t.frames > last.frames && (!own.muted || b.hushed[own.source]) : packets > 0;
    claim(!comes, `${who}: comes, though ${own.muted ? 'muted' : 'not enabled'}`);
    return;
  }
  if (b.forced[own.source]) return;
  if (!video) {
    moves(packets > 10, `${who} sounds`, 'no sound comes');
    moves(t.samples > last.samples && (!fine(a, b) || t.concealed - last.concealed < 0.5 * (t.samples - last.samples)), `${who} is clear`, 'most of the sound is concealed');
    return;
  }
  if (a.line.down.kbps || b.line.up.kbps) return;
  moves(t.frames > last.frames, `${who} moves`, 'the picture stands');
  if (t.frames === last.frames) return;
  const want = height(t, own);
  if (want && fine(a, b)) moves(Math.abs(t.height - want) <= 4, `${who} as asked`, `${t.height} lines, want ${want}`);
}

const fine = (a, b) => !a.line.down.loss && !a.line.down.kbps && !a.line.down.delay && !b.line.up.loss && !b.line.up.kbps;

// height is that of the layer that should come; 0: nothing can be said.
function height(t, own) {
  if (own.sends.length === 0 || own.sends.some((s) => s.limit && s.limit !== 'none')) return 0;
  const whole = Math.max(...own.sends.map((s) => s.height ?? 0));
  if (!whole || whole < 270) return 0;
  // a browser leaves the lowest layers out of a small picture in one stream: what a quality stands for is then not known here
  if (own.sends.length === 1 && t.quality < 2) return 0;
  // by quality, as livekit-client 2.23.0 numbers the layers: simulcast of two has none of the highest
  const layers = own.sends.length > 1 ? [180, 270] : [67, 135, 270], best = layers[t.quality];
  const area = t.asked && t.asked.width * t.asked.height;
  if (t.asked && (t.quality === undefined || area < (best * best * 16) / 9)) return layers.find((h) => h >= t.asked.height * 0.95) ?? 270;
  return best ?? 270;
}
