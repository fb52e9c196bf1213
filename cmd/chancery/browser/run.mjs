// Drives real browsers for the Go tests:   node run.mjs SCENARIO '{"houses":[{"url","people":{...}}], ...}'
// Prints what it sees, and ends with status 0 when the scenario held.

import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { elementCall, elementSoak } from "./elementcall.mjs";
import { Encryption } from "./encryption.mjs";
import { portrait } from "./portrait.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const [scenario, facts] = [process.argv[2], JSON.parse(process.argv[3])];
const PATIENCE = 60_000;
const begun = Date.now();
const stamp = () => `${((Date.now() - begun) / 1000).toFixed(1)} s  `;
const say = (text) => console.log(stamp() + text);
const unsaid = []; // what quiet windows said

const browserPath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
let browser;

const launch = (...more) => chromium.launch({
    executablePath: process.env.CHROMIUM || browserPath,
    headless: true,
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
      "--no-first-run", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--autoplay-policy=no-user-gesture-required",
      "--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows", ...more,
    ],
  });

// window opens a page of its own, as another person's browser would be.
// What a quiet one says is printed only if the scenario fails.
async function window(name, size = { width: 960, height: 800 }, { from = browser, quiet = false } = {}) {
  const context = await from.newContext({ permissions: ["camera", "microphone"], viewport: size, reducedMotion: quiet ? "reduce" : null });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  const hear = quiet ? (text) => unsaid.push(`${stamp()}${text.slice(0, 400)}`) : say;
  page.on("pageerror", (error) => hear(`${name}: ${error.message}`));
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && hear(`${name} [${message.type()}]: ${message.text()}`));
  return page;
}

// enter signs a person in on the demo's page.
async function enter(name, url, user, from) {
  const page = await window(name, undefined, { from });
  await page.goto(url);
  await page.click(`[data-user="${user}"]`);
  await page.waitForSelector('[data-action="join-call"]:not([disabled])');
  say(`${name} is at the desk`);
  return page;
}

async function joinCall(page, name) {
  await page.click('[data-action="join-call"]');
  await page.waitForSelector(".tile.mirrored:not(.dark)");
  say(`${name} is in the call`);
}

// frames reads how many frames each person's tile has shown, and a sum over the pixels of the present one.
const frames = (page) => page.$$eval(".tile", (tiles) => Object.fromEntries(tiles.filter((tile) => !tile.classList.contains("mirrored")).map((tile) => {
  const video = tile.querySelector("video");
  let sum = 0;
  if (video.videoWidth) {
    const canvas = document.createElement("canvas");
    canvas.width = 64;
    canvas.height = 36;
    const context = canvas.getContext("2d");
    context.drawImage(video, 0, 0, 64, 36);
    for (const [i, value] of context.getImageData(0, 0, 64, 36).data.entries()) sum += value * ((i % 251) + 1);
  }
  return [tile.dataset.identity, { shown: video.getVideoPlaybackQuality().totalVideoFrames, width: video.videoWidth, sum }];
})));

// moving waits until the page shows that many others, each with pictures that change.
async function moving(page, name, others) {
  const deadline = Date.now() + PATIENCE;
  let last = {};
  for (;;) {
    const before = await frames(page);
    await page.waitForTimeout(400);
    last = await frames(page);
    const alive = Object.entries(last).filter(([identity, now]) => now.width > 0 && before[identity] && now.shown > before[identity].shown && now.sum !== before[identity].sum);
    if (alive.length === others && Object.keys(last).length === others) {
      say(`${name} sees ${alive.map(([identity]) => identity).join(" and ")} moving`);
      return;
    }
    if (Date.now() > deadline) throw new Error(`${name} sees ${alive.length} of ${others} others moving: ${JSON.stringify(last)}`);
  }
}

// sit opens a window in which encrypted.js runs.
async function sit(name, url) {
  const { outputFiles } = await build({ entryPoints: [join(here, "encrypted.js")], bundle: true, format: "esm", write: false, logLevel: "error", define: { global: "globalThis" } });
  const wasm = readFileSync(join(here, "node_modules/@matrix-org/matrix-sdk-crypto-wasm/pkg/matrix_sdk_crypto_wasm_bg.wasm"));
  const page = await window(name);
  await page.route("**/_test/**", (route) => {
    const path = new URL(route.request().url()).pathname;
    if (path.endsWith(".wasm")) return route.fulfill({ contentType: "application/wasm", body: wasm });
    if (path.endsWith(".js")) return route.fulfill({ contentType: "text/javascript", body: outputFiles[0].text });
    return route.fulfill({ contentType: "text/html", body: '<!doctype html><script type="module" src="/_test/encrypted.js"></script>' });
  });
  await page.goto(url + "/_test/");
  await page.waitForFunction(() => globalThis.readsText);
  return page;
}

// inTime gives up on a promise after a while.
const inTime = (promise, what) => Promise.race([
  promise,
  new Promise((_, fail) => setTimeout(() => fail(new Error(`${what}: not within ${PATIENCE} ms`)), PATIENCE)),
]);

// within runs one of the window's words, and gives up after a while.
const within = (page, word, ...more) => inTime(page.evaluate(([name, args]) => globalThis[name](...args), [word, more]), `${word} ${JSON.stringify(more)}`);

// keep writes a picture of the page into the folder CHANCERY_PICTURES, where that is set.
async function keep(page, name) {
  if (process.env.CHANCERY_PICTURES) await page.screenshot({ path: join(process.env.CHANCERY_PICTURES, name + ".png") });
}

// speakEncrypted lets two people of two houses meet in an encrypted room and speak.
async function speakEncrypted(slide) {
  const anna = await sit("Anna", facts.interior);
  const claire = await sit("Claire", facts.finance);
  const host = await within(anna, "signIn", facts.interior, facts.anna, facts.annaPassword, slide);
  const guest = await within(claire, "signIn", facts.finance, facts.claire, facts.clairePassword, slide);
  say(`both are signed in, with crypto${slide ? " and sliding sync" : ""}`);
  const room = await within(anna, "createEncryptedRoom", guest);
  await within(claire, "joinWhenInvited", room);
  await within(anna, "memberJoined", room, guest);
  say("both are in the encrypted room");
  for (const [from, to, body] of [[anna, claire, "for your eyes only"], [claire, anna, "read, and burnt"]]) {
    await within(from, "say", room, body);
    const got = await within(to, "readsText", room, body);
    if (!got.encrypted) throw new Error(`“${body}” came in plain text`);
    say(`“${body}” was read`);
  }
  return { anna, claire, room, host, guest };
}

// desk is what the scenarios of Element Call need of this file.
const desk = { facts, say, window, within: inTime, ask: within, picture: keep, patience: PATIENCE };

const scenarios = {
  // Three people of two ministries are in one call; each sees the two others move. Then one is removed from the room.
  async call() {
    const { interior, finance, anna, jonas, claire } = facts;
    const people = [["Anna", interior, anna], ["Claire", finance, claire], ["Jonas", interior, jonas]];
    const pages = {};
    for (const [name, url, user] of people) {
      pages[name] = await enter(name, url, user);
      let failed = 0;
      if (name === "Jonas") { // whose first attempt comes to nothing: the page tries again
        await pages[name].route("**/sfu/get", (route) => (failed++ ? route.continue() : route.abort()));
      }
      await joinCall(pages[name], name);
      if (name === "Jonas" && failed < 2) throw new Error(`Jonas asked for a token ${failed} times, want at least two`);
    }
    for (const [name] of people) await moving(pages[name], name, 2);
    if (facts.screenshot) await pages.Anna.screenshot({ path: facts.screenshot });

    say("Claire is removed from the room");
    const ended = pages.Claire.waitForSelector(".stage", { state: "detached" });
    const kicked = Date.now();
    const answer = await fetch(`${interior}/_matrix/client/v3/rooms/${encodeURIComponent(facts.room)}/kick`, {
      method: "POST",
      headers: { Authorization: `Bearer ${facts.kicker}`, "Content-Type": "application/json" },
      body: JSON.stringify({ user_id: facts.claireId }),
    });
    if (!answer.ok) throw new Error(`kick: ${answer.status} ${await answer.text()}`);
    // Her media must stop at the others: the tile goes, or its frames stand still.
    const identityPart = facts.claireId + ":";
    let count = -1;
    let stopped = 0;
    while (Date.now() - kicked < 15_000) {
      const tile = Object.entries(await frames(pages.Anna)).find(([identity]) => identity.startsWith(identityPart));
      if (!tile) break;
      if (tile[1].shown !== count) {
        count = tile[1].shown;
        stopped = Date.now();
      } else if (Date.now() - stopped > 1000) break;
      await pages.Anna.waitForTimeout(50);
    }
    const took = (stopped || Date.now()) - kicked;
    say(`Claire's media stopped ${took} ms after the kick`);
    if (took > facts.kickWithin) throw new Error(`Claire's media went on for ${took} ms after the kick, want at most ${facts.kickWithin}`);
    await ended;
    say("Claire is out of the call");
    await moving(pages.Anna, "Anna", 1);
    await moving(pages.Jonas, "Jonas", 1);
  },

  // An encrypted message crosses the federation and is read, and so is the answer.
  async encrypted() {
    await speakEncrypted(false);
  },

  // Many devices of several people, who come, go and are away, read everything that is said.
  async encryption() {
    if (!(await new Encryption(facts, say, () => browser.newContext()).run())) throw new Error("not everything could be read");
  },

  // The same with sliding sync on both sides; then windows, subscriptions, names, counts, typing, receipts.
  async sliding() {
    const { anna, claire, room, host, guest } = await speakEncrypted(true);
    await within(anna, "rename", room, "Treaty");
    await within(claire, "named", room, "Treaty");
    say("the room's new name came");
    await within(anna, "types", room);
    await within(claire, "seesTyping", room, host);
    say("typing came");
    await within(anna, "say", room, "one more");
    await within(claire, "readsText", room, "one more");
    await within(claire, "reads", room);
    await within(anna, "seesRead", room, guest);
    say("the receipt came");
    const spoken = ["one", "two", "three", "four"];
    const plain = await within(claire, "plainRoom", "Notes", spoken);
    const again = await sit("Claire, on another device", facts.finance);
    await within(again, "signIn", facts.finance, facts.claire, facts.clairePassword, true);
    const [before, after] = await within(again, "expands", plain, spoken);
    if (before.join() !== "four" || after.join() !== spoken.join()) throw new Error(`the list showed “${before}”, the subscription “${after}”`);
    say("a subscription brought the older messages, in their order");
    await within(again, "named", room, "Treaty");
    say("the window grew to all rooms");
  },

  // Element Call itself: three people of two ministries; and two who come and go for long.
  elementCall: () => elementCall(desk),
  elementSoak: () => elementSoak(desk),

  // The page of live calls, while two people are in one: both are there with what they send and how they do, and gone when it ends.
  async operators() {
    for (const scheme of ["light", "dark"]) {
      const page = await window("the operator", { width: scheme === "light" ? 1024 : 1280, height: 620 });
      const wrong = [];
      page.on("console", (message) => message.type() === "error" && wrong.push(message.text()));
      page.on("pageerror", (error) => wrong.push(error.message));
      await page.emulateMedia({ colorScheme: scheme });
      await page.goto(facts.page + "/calls");
      for (const user of [facts.anna, facts.ben]) {
        const row = page.locator("tbody tr", { hasText: user });
        for (const has of [/camera · VP8 · \d+p/, /microphone · opus/, /bit\/s/, /\d ms/]) await row.filter({ hasText: has }).waitFor();
        const cells = await row.locator("td").allInnerTexts();
        for (const n of [2, 3]) if (!/^[\d.]+\s[kM]bit\/s$/.test(cells[n])) throw new Error(`${user} sends and gets: ${cells.join(" | ")}`);
        say(cells.join(" | ").replaceAll("\n", ", "));
      }
      const sums = await page.locator("#sums div").allInnerTexts();
      if (!sums.join().includes("1\ncall,") || !sums.join().includes("2\nparticipants")) throw new Error(`sums: ${sums}`);
      const hidden = await page.evaluate(() => document.querySelector("section").scrollWidth - document.querySelector("section").clientWidth);
      if (hidden > 0) throw new Error(`the table is ${hidden} pixels wider than the page`);
      await keep(page, "operators-" + scheme);
      if (scheme === "light") { // what is scrolled, focused or selected stays so while the page goes on
        await page.setViewportSize({ width: 390, height: 620 });
        await page.keyboard.press("Tab");
        const state = page.locator("#state");
        const later = async () => {
          const before = await state.innerText();
          await page.waitForFunction((then) => document.getElementById("state").innerText !== then, before);
        };
        await page.evaluate(() => (document.querySelector("section").scrollLeft = 120));
        await later();
        const kept = await page.evaluate(() => [document.querySelector("section").scrollLeft, document.activeElement.tagName]);
        if (kept.join() !== "120,SECTION") throw new Error(`after a look the table is scrolled by ${kept[0]} and the keyboard in ${kept[1]}, want 120 and SECTION`);
        await page.evaluate(() => document.getSelection().selectAllChildren(document.querySelector("td.who div")));
        await state.filter({ hasText: "Held while text is selected" }).waitFor();
        if (!(await page.evaluate(() => String(document.getSelection()))).startsWith("@")) throw new Error("what was selected is gone");
        await page.evaluate(() => document.getSelection().removeAllRanges());
        await state.filter({ hasText: /^As of/ }).waitFor();
      }
      if (scheme === "dark") {
        const ended = await fetch(facts.page + "/calls", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ do: "end", room: facts.room }) });
        if (!ended.ok) throw new Error(await ended.text());
        await page.getByText("No call is open.").waitFor();
        await keep(page, "operators-none");
      }
      if (wrong.length) throw new Error(wrong.join("; "));
      await page.context().close();
    }
  },

  // Two windows side by side in one call, chatting: the picture for the README.
  async picture() {
    const size = { width: 940, height: 900 };
    const seats = [
      { name: "Anna", url: facts.interior, user: facts.anna, person: { wall: [150, 168, 205], hair: [92, 58, 40], skin: [236, 190, 160], coat: [44, 62, 120] } },
      { name: "Claire", url: facts.finance, user: facts.claire, person: { wall: [205, 196, 170], hair: [40, 34, 38], skin: [214, 164, 130], coat: [22, 104, 84] } },
    ];
    const folder = mkdtempSync(join(tmpdir(), "chancery-picture-"));
    const browsers = [];
    try {
      const pages = [];
      for (const seat of seats) {
        const file = join(folder, seat.name + ".y4m");
        writeFileSync(file, portrait(seat.person));
        const own = await launch("--use-file-for-fake-video-capture=" + file);
        browsers.push(own);
        const page = await enter(seat.name, seat.url, seat.user, own);
        await page.setViewportSize(size);
        pages.push(page);
      }
      for (const [i, page] of pages.entries()) await joinCall(page, seats[i].name);
      const lines = [[0, "Claire, can you see the draft from here?"], [1, "Clear as day. Picture and sound are quick."], [1, "clerk, how fast is this?"], [0, "Then let us go through it. I have ten minutes."]];
      for (const [who, text] of lines) {
        await pages[who].fill("textarea", text);
        await pages[who].keyboard.press("Enter");
        await pages[1 - who].waitForSelector(`.message .text:has-text(${JSON.stringify(text)})`);
        await pages[0].waitForTimeout(900);
      }
      for (const [i, page] of pages.entries()) await moving(page, seats[i].name, 1);
      const shots = [];
      for (const page of pages) shots.push((await page.screenshot()).toString("base64"));
      const table = await window("table", { width: size.width * 2 + 72, height: size.height + 48 });
      await table.setContent(`<body style="margin:0;display:flex;gap:24px;padding:24px;background:linear-gradient(120deg,#dfe3f3,#dcebe5)">
        ${shots.map((shot) => `<img src="data:image/png;base64,${shot}" style="width:${size.width}px;height:${size.height}px;border-radius:14px;box-shadow:0 12px 40px rgb(20 22 40/22%)">`).join("")}</body>`);
      await table.screenshot({ path: facts.out });
      say(`the picture is ${facts.out}`);
    } finally {
      for (const own of browsers) await own.close();
      rmSync(folder, { recursive: true, force: true });
    }
  },
};

let failed = false;
try {
  browser = await launch();
  await scenarios[scenario]();
} catch (error) {
  failed = true;
  if (unsaid.length) console.log(`the last that was said in the windows:\n${unsaid.slice(-200).join("\n")}`);
  console.log(error.stack);
} finally {
  await browser?.close();
}
process.exit(failed ? 1 : 0);
