// People of two ministries with several devices each talk in encrypted rooms, while devices come, go and are offline, and the
// servers crash. Every device has to be able to read all that it is entitled to.

import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const STEP = 60_000; // the longest that one step of one device may take
const ROTATION = 5; // a new room key after so many messages, to have many of them
const RESTORE = 90_000; // devices send keys to the backup at their leisure
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// dice are random numbers that a seed repeats.
function dice(seed) {
  return (below) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };
}

export class Encryption {
  constructor(facts, say, newContext) {
    Object.assign(this, { facts, say, newContext, random: dice(facts.seed) });
    this.people = []; // { user, password, house, devices, key }
    this.rooms = [];
    this.sent = []; // { id, body, room, from }: what was acknowledged, at the number that was given out before it was sent
    this.begun = 0; // numbers given out
    this.target = 0; // how many messages there shall be
    this.allowed = Infinity; // how many there may be before the next disturbance
    this.came = 0;
    this.slept = { closed: 0, cut: 0, replaced: 0, crashes: 0 };
    this.read = { direct: 0, backup: 0, late: 0 };
    this.faults = [];
    this.answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  }

  async run() {
    await this.prepare();
    for (const person of this.facts.people) this.people.push({ ...person, devices: [] });
    await Promise.all(this.people.map((person) => this.firstDevice(person)));
    this.say(`${this.people.length} people have signed in, with cross-signing, secret storage and backup`);
    await this.furnish();
    await this.talk(2 * this.facts.rooms);
    await Promise.all(this.people.map(async (person) => {
      for (let n = 1; n < this.facts.devices; n++) await this.newDevice(person, n % 2 === 1);
    }));
    this.say(`${this.devices().length} devices are signed in and verified, and have restored the history`);
    await Promise.all(this.devices().map((device) => this.settle(device)));
    await this.greet();
    await Promise.all([this.talk(this.facts.messages), this.disturb()]);
    await Promise.all(this.devices().map((device) => this.wake(device)));
    this.say("everybody is there again; each device reads everything");
    for (const person of this.people) await Promise.all(person.devices.map((device) => this.audit(device, true)));
    await Promise.all(this.devices().map((device) => this.look(device)));
    return this.verdict();
  }

  devices() {
    return this.people.flatMap((person) => person.devices);
  }

  pick(list) {
    return list[this.random(list.length)];
  }

  // prepare bundles the page.
  async prepare() {
    const { outputFiles } = await build({ entryPoints: [join(here, "device.js")], bundle: true, format: "esm", write: false, logLevel: "error", define: { global: "globalThis" } });
    this.script = outputFiles[0].text;
    this.wasm = readFileSync(join(here, "node_modules/@matrix-org/matrix-sdk-crypto-wasm/pkg/matrix_sdk_crypto_wasm_bg.wasm"));
  }

  // appear opens a browser of its own for a new device, and signs in.
  async appear(person) {
    const device = { person, name: `${person.user} ${++this.came}`, context: await this.newContext(), awake: true, ready: false };
    await device.context.route("**/_test/**", (route) => {
      const path = new URL(route.request().url()).pathname;
      if (path.endsWith(".wasm")) return route.fulfill({ contentType: "application/wasm", body: this.wasm });
      if (path.endsWith(".js")) return route.fulfill({ contentType: "text/javascript", body: this.script });
      return route.fulfill({ contentType: "text/html", body: '<!doctype html><script type="module" src="/_test/device.js"></script>' });
    });
    await this.openWindow(device);
    device.session = await this.ask(device, "signIn", person.house, person.user, person.password);
    await this.ask(device, "start", person.house, device.session);
    person.devices.push(device);
    return device;
  }

  async openWindow(device) {
    device.page = await device.context.newPage();
    device.windows = (device.windows ?? 0) + 1;
    device.page.on("pageerror", (error) => this.say(`${device.name}: ${error.message}`));
    await device.page.goto(device.person.house + "/_test/");
    await device.page.waitForFunction(() => globalThis.signOut);
  }

  // ask runs one of the window's words, and gives up after a while.
  async ask(device, word, ...more) {
    return this.askFor(STEP, device, word, ...more);
  }

  async askFor(patience, device, word, ...more) {
    let timer;
    const late = new Promise((_, fail) => (timer = setTimeout(() => fail(new Error(`${device.name}: ${word} did not end within ${patience} ms`)), patience)));
    try {
      return await Promise.race([device.page.evaluate(([name, args]) => globalThis[name](...args), [word, more]), late]);
    } catch (error) {
      await this.keepLines(device);
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  // keepLines writes down what the device's library said, where the test wants it.
  async keepLines(device) {
    if (!this.facts.lines || !device.page || device.page.isClosed()) return;
    const lines = await device.page.evaluate(() => globalThis.lines?.() ?? []).catch(() => []);
    writeFileSync(join(this.facts.lines, `${device.name.replaceAll(" ", "-")}-${device.windows}.log`), lines.join("\n"));
  }

  async firstDevice(person) {
    const device = await this.appear(person);
    person.key = await this.ask(device, "bootstrap", person.password);
    person.id = device.session.user_id;
    device.since = 0;
    device.ready = true;
  }

  // furnish makes the rooms; everybody is in all of them before the first word.
  async furnish() {
    const room = async (n) => {
      const host = this.people[n % this.people.length];
      const guests = this.people.filter((person) => person !== host);
      const id = await this.ask(host.devices[0], "createRoom", guests.map((guest) => guest.id), ROTATION);
      for (const guest of guests) await this.ask(guest.devices[0], "joinWhenInvited", id);
      for (const person of this.people) await this.ask(person.devices[0], "sees", id, this.people.length);
      this.rooms.push(id);
    };
    for (let n = 0; n < this.facts.rooms; n += 5) await Promise.all(Array.from({ length: Math.min(5, this.facts.rooms - n) }, (_, i) => room(n + i)));
    this.say(`${this.rooms.length} encrypted rooms, everybody in each`);
  }

  // newDevice signs a person in once more, verifies the device by emoji or by the recovery key, and restores the history on it.
  async newDevice(person, byEmoji) {
    const device = await this.appear(person);
    if (byEmoji) {
      const voucher = person.devices.find((other) => other !== device && other.awake && other.ready);
      await this.ask(voucher, "knows", device.session.device_id);
      const [shown, compared] = await Promise.all([this.ask(voucher, "vouch", device.session.device_id), this.ask(device, "prove")]);
      if (shown !== compared) this.fault(`${device.name}: the emoji are ${compared}, and ${shown} on the other device`);
    } else {
      await this.ask(device, "recover", person.key);
    }
    const history = this.sent.filter(Boolean);
    // Clients fill the backup some seconds after they got a key.
    let { total } = await this.ask(device, "restore");
    for (let tries = 0; history.length > 0 && total === 0 && tries < 30; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 500));
      ({ total } = await this.ask(device, "restore"));
    }
    if (history.length > 0 && total === 0) this.fault(`${device.name}: the backup is empty after ${history.length} messages`);
    await this.readable(device, history, true, "of the history");
    device.ready = true;
    return device;
  }

  // settle waits until every device that is there trusts the new one: from then on all senders have to think of it.
  async settle(device) {
    const there = this.devices().filter((other) => other.awake && other.ready);
    await Promise.all(there.map((other) => this.ask(other, "trusts", [[device.person.id, device.session.device_id]])));
    device.since = Math.min(device.since ?? Infinity, this.begun);
  }

  // greet lets all devices that are there greet one another, twice. Two that begin to speak at the same moment open an Olm session each, and
  // then send a room key again, from the message on at which they have come. A device that gets both at once, since it was away, may keep
  // the later one. After the second greeting each has what the others sent before the first.
  async greet() {
    const there = this.devices().filter((one) => one.awake && one.ready);
    for (let round = 0; round < 2; round++) {
      const number = (this.greetings = (this.greetings ?? 0) + 1);
      const word = (one) => `${one.name}, greeting ${number}`;
      const others = (one) => there.filter((other) => other !== one);
      await Promise.all(there.map((one) => this.ask(one, "greet", word(one), others(one).map(({ person, session }) => ({ userId: person.id, deviceId: session.device_id })))));
      await Promise.all(there.map((one) => this.ask(one, "greeted", others(one).map(word))));
    }
  }

  // talk lets all devices that are awake speak until so many more messages are sent.
  async talk(messages) {
    this.target = this.begun + messages;
    this.talking = true;
    for (const device of this.devices()) this.speak(device);
    await this.reach(this.target);
    this.talking = false;
    await Promise.all(this.devices().map((device) => device.speaking));
  }

  // speak begins a device's part of the talk, beside the others'.
  speak(device) {
    if (!this.talking) return;
    device.speaking = (async () => {
      while (this.talking && device.awake && this.begun < this.target) {
        if (this.begun >= this.allowed) {
          await sleep(50);
          continue;
        }
        const n = this.begun++;
        const room = this.pick(this.rooms);
        const body = `message ${n}, ${Math.floor(this.random(2 ** 31)).toString(36)}`;
        const id = await this.askFor(2 * STEP, device, "say", room, body);
        this.sent[n] = { id, body, room, from: device.name };
        this.told();
        await sleep(this.random(2 * this.facts.pause));
      }
    })();
    device.speaking.catch((error) => this.stop(error));
  }

  // told counts, shows progress, and wakes who waits for a number of messages.
  told() {
    const done = this.sent.filter(Boolean).length;
    if (done % Math.max(50, this.facts.messages / 20) === 0) this.say(`${done} messages`);
    for (const wait of this.waiting ?? []) if (done >= wait.number) wait.done();
  }

  stop(error) {
    this.error ??= error;
    for (const wait of this.waiting ?? []) wait.fail(error);
  }

  // reach waits until so many messages were acknowledged.
  async reach(number) {
    if (this.error) throw this.error;
    const wait = { number };
    const reached = new Promise((done, fail) => Object.assign(wait, { done, fail }));
    (this.waiting ??= []).push(wait);
    if (this.sent.filter(Boolean).length >= number) wait.done();
    try {
      await reached;
    } finally {
      this.waiting.splice(this.waiting.indexOf(wait), 1);
    }
  }

  // disturb lets devices sleep, go and come while the others talk, and crashes each server once.
  async disturb() {
    const [first, steps] = [this.target - this.facts.messages, this.facts.disturbances];
    const crashes = new Map(this.facts.crashes.map((house, i) => [Math.floor(((i + 1) * steps) / (this.facts.crashes.length + 1)), house]));
    const asleep = [];
    for (let n = 0; n < steps; n++) {
      this.allowed = first + Math.floor(((n + 1) * this.facts.messages) / steps);
      await this.reach(first + Math.floor(((n + 0.3) * this.facts.messages) / steps));
      if (crashes.has(n)) await this.crash(crashes.get(n));
      while (asleep.length > this.devices().length / 4) await this.wake(asleep.shift());
      const device = this.pick(this.devices().filter((one) => one.awake));
      switch (n % 3) {
        case 0:
          await this.close(device);
          asleep.push(device);
          break;
        case 1:
          await this.cut(device);
          asleep.push(device);
          break;
        default:
          await this.replace(device);
      }
    }
    this.allowed = Infinity;
    for (const device of asleep) await this.wake(device);
  }

  // close shuts the window; what the browser keeps stays.
  async close(device) {
    device.awake = false;
    await device.speaking;
    await this.countLate(device);
    await this.ask(device, "rest");
    await this.keepLines(device);
    await device.page.close();
    this.slept.closed++;
    this.say(`${device.name} is closed`);
  }

  // cut takes the network away.
  async cut(device) {
    device.awake = false;
    await device.speaking;
    await device.context.setOffline(true);
    this.slept.cut++;
    this.say(`${device.name} has no network`);
  }

  // wake brings a device back from wherever it was.
  async wake(device) {
    if (device.awake) return;
    if (device.page.isClosed()) {
      await this.openWindow(device);
      await this.ask(device, "start", device.person.house, device.session);
    } else {
      await device.context.setOffline(false);
      await this.ask(device, "synced");
    }
    // The library waits five seconds for the keys of devices that came meanwhile, and then sends without them. That is enough, but on a
    // machine that runs fifteen browsers at once.
    const others = this.devices().filter((other) => other.ready);
    await this.ask(device, "trusts", others.map((other) => [other.person.id, other.session.device_id]));
    device.awake = true;
    await this.greet();
    this.say(`${device.name} is back`);
    this.speak(device);
  }

  // replace signs a device out, after it has read everything, and signs its person in on a new one. One device stays, to vouch.
  async replace(device) {
    const { person } = device;
    if (person.devices.filter((other) => other.awake && other.ready).length < 2) return;
    device.awake = false;
    await device.speaking;
    await this.audit(device, false);
    await this.countLate(device);
    await this.ask(device, "signOut");
    person.devices.splice(person.devices.indexOf(device), 1);
    await device.context.close();
    const next = await this.newDevice(person, this.slept.replaced % 2 === 0);
    await this.settle(next);
    await this.greet();
    this.slept.replaced++;
    this.say(`${next.name} came for ${device.name}`);
    this.speak(next);
  }

  // crash has the Go test kill a server and start it again.
  async crash(house) {
    this.say(`server ${house} crashes`);
    console.log(`crash ${house}`);
    await this.answers.next();
    this.slept.crashes++;
  }

  // audit has the device read all that was sent: what was sent since it was known to all, with the keys that the senders gave it; the
  // rest, if asked for, with the backup.
  async audit(device, all) {
    const sent = this.sent.filter(Boolean);
    const direct = this.sent.filter((message, n) => message && n >= device.since);
    this.read.direct += await this.readable(device, direct, false, "that were sent to it");
    if (!all) return;
    const before = sent.filter((message) => !direct.includes(message));
    this.read.backup += await this.readable(device, before, true, "from before it was there");
  }

  // readable notes what of the messages the device cannot read, and counts the others.
  async readable(device, messages, help, which) {
    if (messages.length === 0) return 0;
    const byRoom = {};
    for (const { room, id, body } of messages) (byRoom[room] ??= []).push([id, body]);
    const unread = await this.askFor(2 * STEP + 2 * RESTORE, device, "unread", byRoom, help, help ? RESTORE : STEP);
    if (unread.length > 0) {
      const { from } = messages.find(({ id }) => id === unread[0][0]);
      for (const one of this.devices()) await this.keepLines(one);
      this.fault(`${device.name} cannot read ${unread.length} of ${messages.length} messages ${which}, such as ${unread[0][0]} from ${from}: ${unread[0][1]}`, unread.length);
    }
    return messages.length - unread.length;
  }

  // countLate adds the messages that came before their keys.
  async countLate(device) {
    this.read.late += (await this.ask(device, "shown", 0)).late;
  }

  // look wants no message on the screen to be undecryptable in the end.
  async look(device) {
    const { bad, late } = await this.ask(device, "shown", STEP / 2);
    this.read.late += late;
    if (bad.length > 0) this.fault(`${device.name} shows ${bad.length} messages that cannot be read, such as ${bad[0]}`, bad.length);
  }

  fault(text, unreadable = 0) {
    this.faults.push(text);
    this.undecryptable = (this.undecryptable ?? 0) + unreadable;
    this.say("FAULT: " + text);
  }

  verdict() {
    const { direct, backup, late } = this.read;
    const { closed, cut, replaced, crashes } = this.slept;
    const good = this.faults.length === 0 && crashes === this.facts.crashes.length;
    this.say(`ENCRYPTION ${good ? "PASS" : "FAIL"}: ${this.sent.filter(Boolean).length} messages of ${this.people.length} people with ${this.facts.devices} devices each in ${this.rooms.length} rooms; ` +
      `${closed} times an app was closed, ${cut} times a network was away, ${replaced} devices went and others came, ${crashes} servers crashed; ` +
      `${direct} times read with keys from the senders, ${backup} times with the backup (${late} times the message was there before its key); undecryptable ${this.undecryptable ?? 0}`);
    return good;
  }
}
