// A monkey on livekit-client's pages: node monkey.mjs [SEED...]. Without seeds it draws them for MONKEY_SECONDS (300). For each seed some
// people enter a call, do random things at once, in rounds, and after each round everything is compared (monkey/judge.mjs). The focus is
// named as for run.mjs. MONKEY_PLAY is a file with a play to play again, as MONKEY_OUT (a folder) gets one for each that went wrong.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { open, pause } from './stage.mjs';
import { acts, sources } from './monkey/acts.mjs';
import { judge } from './monkey/judge.mjs';

const { MONKEY_SECONDS = 300, MONKEY_ROUNDS = 8, MONKEY_PLAY, MONKEY_OUT, MONKEY_TELL, MONKEY_APART } = process.env;
const patience = 40000, SLOW = 12000; // milliseconds; a play that was so slow to settle is kept, too

// Dice are the same for the same seed.
class Dice {
  constructor(seed) {
    this.state = seed >>> 0;
  }
  next() { // mulberry32
    let t = (this.state = (this.state + 0x6d2b79f5) >>> 0);
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }
  int(n) { return Math.floor(this.next() * n); }
  of(list) { return list[this.int(list.length)]; }
  chance(p) { return this.next() < p; }
  weighed(list) {
    let left = this.next() * list.reduce((sum, [, w]) => sum + w, 0);
    return (list.find(([, w]) => (left -= w) < 0) ?? list.at(-1))[0];
  }
}

// Words are what was said, by number, so that what is heard can be judged.
class Words {
  constructor() {
    this.said = [];
    this.n = 0;
  }
  next(p) {
    this.said.push({ who: p.name, page: p.page, n: ++this.n, round: this.round });
    return this.n;
  }
  // unsay: nobody has to have heard it.
  unsay(n) {
    this.said = this.said.filter((w) => w.n !== n);
  }
  // judge: who stayed all through the round has heard what those said who did so too, in order, and nothing twice.
  judge(name, heard, stayed) {
    const wrong = [];
    for (const who of new Set(heard.map((h) => h[0]))) {
      const got = heard.filter((h) => h[0] === who).map((h) => h[1]);
      const at = got.findIndex((n, i) => i && n <= got[i - 1]);
      if (at > 0) wrong.push(`${name} heard ${got[at]} of ${who} after ${got[at - 1]}`);
    }
    const all = new Set(heard.map((h) => h[1]));
    const missed = this.said.filter((w) => w.round === this.round && w.who !== name && stayed.has(w.who) && !all.has(w.n));
    if (stayed.has(name) && missed.length) wrong.push(`${name} has not heard ${missed.map((w) => `${w.n} of ${w.who}`)}`);
    return wrong;
  }
}

class Play {
  constructor(stage, setup) {
    Object.assign(this, { stage, setup, words: new Words(), rounds: [], log: [], slowest: { ms: 0 }, begun: Date.now() });
    this.people = setup.people.map((s) => ({
      ...s, present: false, tracks: {}, about: {}, may: {}, forced: {}, hushed: {}, line: { up: {}, down: {} },
    }));
  }
  by(name) { return this.people.find((p) => p.name === name); }
  context(dice) {
    return {
      dice, stage: this.stage, words: this.words, all: this.people, names: this.people.map((p) => p.name), rules: this.setup.rules, apart: this.setup.apart,
      present: () => this.people.filter((p) => p.present).length,
      tracks: (p) => this.people.filter((q) => q !== p && q.present).flatMap((q) => Object.keys(q.tracks).map((source) => ({ who: q.name, source }))),
      enter: (p) => Object.assign(p, { present: true, fresh: true, tracks: {}, about: { name: '', metadata: '', attributes: {} }, may: { publish: true, data: true, sources: [] } }),
      go: (p) => Object.assign(p, { present: false }),
      come: (p) => this.come(p),
    };
  }
  async come(p) {
    if (p.wayed && !p.relay) p.relay = await this.stage.relay(this.setup.apart);
    p.page = await this.stage.participant(p.name, { ...p.options, relay: p.relay, publish: false });
  }

  // plan draws a round: lanes that run side by side, each a list of acts.
  plan(dice) {
    const context = this.context(dice), lanes = new Map(), add = (lane, act) => lanes.set(lane, [...(lanes.get(lane) ?? []), act]);
    for (let n = 2 + dice.int(this.setup.wild); n > 0; n--) {
      const p = dice.of(this.people);
      const can = Object.entries(acts).filter(([name, a]) => a.may(p, context) && !(a.once && this.done?.has(name))).map(([name, a]) => [name, a.weight]);
      const name = dice.weighed(can), a = acts[name];
      if (a.once) (this.done ??= new Set()).add(name);
      const aside = a.moderates && name !== 'remove somebody' && dice.chance(0.5);
      add(a.once ? 'fate' : aside ? 'moderator' : p.name, { who: p.name, act: name, wait: dice.of([0, 0, 0, 50, 300, 1000]), ...a.plan(p, context) });
    }
    return [...lanes.values()];
  }

  // round plays lanes, and waits until all is well. It gives what is not.
  async round(lanes, i) {
    this.words.round = i;
    const there = new Map(this.people.filter((p) => p.page && p.alive).map((p) => [p, p.page]));
    const begun = Date.now(), wrong = [];
    const context = this.context();
    // who does several things at once, or comes back by itself meanwhile: then what the page says of itself holds
    const touched = {};
    for (const [l, lane] of lanes.entries()) for (const a of lane) (touched[a.who] ??= new Set()).add(l);
    const unsure = new Set(Object.keys(touched).filter((w) => touched[w].size > 1));
    this.shaken = new Set(lanes.flat().filter((a) => a.act === 'permit somebody').map((a) => a.who));
    const fate = lanes.flat().some((a) => acts[a.act].once);
    for (const p of this.people) if (p.troubled || fate) unsure.add(p.name);
    await Promise.all(lanes.map(async (lane) => {
      for (const { who, act, wait, ...details } of lane) {
        await pause(wait);
        const p = this.by(who), at = Date.now();
        try {
          await within(`${who}: ${act}`, 35000, acts[act].play(p, details, context));
        } catch (e) {
          const text = `${who}: ${act} ${JSON.stringify(details)}: ${String(e).split('\n')[0]}`;
          if (unsure.has(who)) this.note(`round ${i}: ${text}`);
          else wrong.push(text);
        }
        this.note(`round ${i}: ${at - begun} to ${Date.now() - begun} ms ${who}: ${act} ${JSON.stringify(details)}`);
      }
    }));
    if (wrong.length) return wrong;
    for (const p of this.people) p.troubled = false;
    for (const p of this.people) p.alive = p.present;
    return this.settle(unsure, there, begun);
  }

  // keep writes the play down, with what the pages noted of it.
  async keep(seed, wrong) {
    if (!MONKEY_OUT) return;
    const pages = {};
    for (const p of this.people.filter((q) => q.page)) {
      const events = await p.page.ask(() => window.call.events).catch(() => []);
      pages[p.name] = { events: events.map((e) => ({ ...e, what: e.what.slice(0, 60), at: e.at - this.begun })), log: p.page.log.slice(-80) };
    }
    writeFileSync(join(MONKEY_OUT, `${seed}-${this.words.round}.json`), JSON.stringify({ seed, setup: this.setup, rounds: this.rounds, wrong, log: this.log, last: this.last, pages }, null, 1));
  }
  // settled notes how long it took until all was well, and what was it last.
  async settled(ms, held) {
    this.note(`settled after ${ms} ms${held.length ? `, held up by ${held.slice(0, 3).join('; ')}` : ''}`);
    if (ms > this.slowest.ms) this.slowest = { ms, round: this.words.round, held: held.slice(0, 3) };
    if (ms > SLOW) await this.keep(this.setup.seed, held);
  }
  async survey() {
    const all = {};
    await Promise.all(this.people.filter((p) => p.present).map(async (p) => (all[p.name] = await within(`survey of ${p.name}`, 20000, p.page.ask(() => window.call.survey())))));
    return all;
  }
  async counted() {
    const { participants } = await this.stage.admin('ListParticipants', {}).catch(() => ({ participants: [] }));
    return participants.map((p) => `${p.identity} ${p.tracks?.length ?? 0}`).sort();
  }

  async settle(unsure, there, begun) {
    const end = Date.now() + patience, moved = new Set();
    let held = [];
    for (;;) {
      const before = await this.survey();
      await pause(1000);
      const now = await this.survey();
      for (const name of unsure) if (now[name]?.state === 'connected') adopt(this.by(name), now[name].self);
      const verdict = judge(this.people, before, now, await this.counted());
      for (const m of verdict.moved) moved.add(m);
      const wrong = verdict.wrong.filter((w) => !moved.has(w.split(': ')[0]));
      wrong.push(...await this.heard(there, begun), ...await this.events(unsure, begun));
      if (!wrong.length) return await this.settled(Date.now() - end + patience, held), [];
      held = wrong;
      if (Date.now() > end) return this.last = { before, now }, wrong;
    }
  }
  // moves that hold once are named by what is wrong without them
  async heard(there, begun) {
    const stayed = new Set(), heard = {};
    for (const p of this.people.filter((q) => q.present)) {
      const got = await p.page.ask((since) => ({
        words: window.call.events.filter((e) => /^data:m\d/.test(e.what)).map((e) => [e.who, Number(e.what.match(/^data:m(\d+)/)[1])]),
        anew: window.call.events.some((e) => e.what === 'restarting' && e.at >= since),
      }), begun - 100);
      heard[p.name] = got.words;
      if (there.get(p) === p.page && !got.anew && !this.shaken.has(p.name)) stayed.add(p.name);
    }
    return Object.entries(heard).flatMap(([name, words]) => this.words.judge(name, words, stayed));
  }
  async events(unsure, begun) {
    const wrong = [];
    for (const p of this.people.filter((q) => q.present)) {
      const events = await p.page.ask((since) => window.call.events.filter((e) => e.at >= since && /^(disconnected|restarting|encryption error)/.test(e.what)), begun);
      for (const e of events) {
        if (e.what === 'restarting' && unsure.has(p.name)) continue;
        wrong.push(`${p.name}: ${e.what} ${e.who} after ${e.at - begun} ms`);
      }
    }
    return wrong;
  }
  note(text) {
    this.log.push(text);
    if (MONKEY_TELL) console.error(text);
  }
}

// adopt takes what a page says of itself into the model.
function adopt(p, self) {
  p.tracks = Object.fromEntries(Object.entries(self.tracks).map(([s, t]) => [s, { muted: t.muted }]));
  p.hushed = {};
  p.about = { name: self.name, metadata: self.metadata, attributes: self.attributes };
  p.may = { publish: self.may.canPublish, data: self.may.canPublishData, sources: p.may.sources };
}

async function within(what, ms, promise) {
  let timer;
  const late = new Promise((_, no) => (timer = setTimeout(() => no(new Error(`${what}: not within ${ms} ms`)), ms)));
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

// setting draws who is there.
function setting(dice) {
  const names = ['ann', 'bob', 'cat', 'dan', 'eve', 'fay'].slice(0, 4 + dice.int(3));
  const secret = dice.chance(0.3) ? 'a shared secret' : undefined;
  const apart = MONKEY_APART ? MONKEY_APART === '1' : dice.chance(0.3);
  return {
    apart, rules: !apart, wild: dice.of([6, 14, 30]),
    people: names.map((name) => {
      const tcp = dice.chance(0.15), codec = dice.weighed([['vp8', 5], ['vp9', 2], ['av1', secret ? 0 : 1], ['h264', 1]]);
      return { name, wayed: !tcp && dice.chance(0.5), tcp, options: { single: dice.chance(0.6), codec, adaptive: dice.chance(0.7), secret, tcp } };
    }),
  };
}

// perform plays one seed, or a play that was kept.
async function perform(house, seed, kept) {
  const dice = new Dice(seed), setup = kept?.setup ?? setting(dice);
  const stage = house.stage(`monkey ${seed}`);
  const play = new Play(stage, { seed, ...setup });
  const { begun } = play;
  if (setup.apart) stage.url = await stage.apart('start');
  let wrong = [];
  const count = kept ? kept.rounds.length : Number(MONKEY_ROUNDS);
  try {
    for (let i = 0; i < count && !wrong.length; i++) {
      let lanes;
      if (kept) lanes = play.replan(kept.rounds[i]);
      else lanes = i ? play.plan(dice) : play.opening(dice);
      play.rounds.push(lanes);
      wrong = await play.round(lanes, i);
    }
  } catch (e) {
    wrong = [String(e.stack)];
  }
  const verdict = { seed, ok: !wrong.length, rounds: play.rounds.length, acts: play.rounds.flat(2).length, people: setup.people.length, apart: setup.apart, ms: Date.now() - begun, slowest: play.slowest, wrong };
  console.log(JSON.stringify(verdict));
  if (wrong.length) await play.keep(seed, wrong);
  await stage.close();
  return verdict.ok;
}

Play.prototype.opening = function (dice) {
  const context = this.context(dice);
  return this.people.map((p) => {
    const lane = [{ who: p.name, act: 'join', wait: dice.int(300), ...acts.join.plan(p, context) }];
    for (const source of sources) {
      if (!dice.chance(source === 'screen_share' ? 0.2 : 0.7)) continue;
      p.tracks[source] = { muted: false };
      lane.push({ who: p.name, act: 'publish', wait: 0, source });
    }
    return lane;
  });
};
// replan changes the model as a kept round does, and gives the round.
Play.prototype.replan = function (lanes) {
  const context = this.context();
  for (const p of this.people) p.troubled = true; // what the pages say of themselves holds
  for (const a of lanes.flat()) {
    const p = this.by(a.who);
    if (a.act === 'join' || a.act === 'come twice') context.enter(p);
    if (['leave', 'close the page', 'remove somebody'].includes(a.act)) context.go(p);
    if (a.act === 'silence somebody') p.forced = a.forced;
    if (a.act === 'worsen') p.line = a.line;
    if (a.act === 'mend') p.line = { up: {}, down: {} };
  }
  return lanes;
};

const house = await open();
let failed = 0;
if (MONKEY_PLAY) {
  const kept = JSON.parse(readFileSync(MONKEY_PLAY, 'utf8'));
  failed += !(await perform(house, kept.seed, kept));
} else {
  const seeds = process.argv.slice(2).map(Number), end = Date.now() + MONKEY_SECONDS * 1000;
  const next = () => (process.argv.length > 2 ? seeds.shift() : Date.now() < end ? Math.floor(Math.random() * 1e9) : undefined);
  for (let seed; (seed = next()) !== undefined; ) failed += !(await perform(house, seed));
}
await house.close();
process.exit(failed ? 1 : 0);
