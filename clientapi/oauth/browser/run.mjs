// Drives a real browser through the account pages:   node run.mjs '{"url": …, "provider": PORT, "pictures": FOLDER}'
// Prints what it sees, and ends with status 0 when all of it held.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { openProvider } from "./provider.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const { url: house, provider: providerPort, pictures } = JSON.parse(process.argv[2]);
const begun = Date.now();
const say = (text) => console.log(`${((Date.now() - begun) / 1000).toFixed(1)} s  ${text}`);

const bundle = (await build({ entryPoints: [join(here, "client.js")], bundle: true, format: "esm", write: false, define: { global: "globalThis" }, external: ["*.wasm"] })).outputFiles[0].text;
const crypto = readFileSync(join(here, "node_modules/@matrix-org/matrix-sdk-crypto-wasm/pkg/matrix_sdk_crypto_wasm_bg.wasm"));
const site = createServer((request, response) => {
  if (request.url === "/crypto.wasm") return response.writeHead(200, { "Content-Type": "application/wasm" }).end(crypto);
  if (request.url === "/client.js") return response.writeHead(200, { "Content-Type": "text/javascript" }).end(bundle);
  response.writeHead(200, { "Content-Type": "text/html" }).end('<!DOCTYPE html><link rel="icon" href="data:,"><script type="module" src="/client.js"></script>');
});
await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
const app = `http://127.0.0.1:${site.address().port}`;
const upstream = await openProvider(providerPort, house);

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync),
  headless: true, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run"],
});

// person opens a browser of somebody's own. What a page complains of (a policy that it breaks, say) ends the test.
const complaints = [];
async function person(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1120, height: 860 }, locale: "en-GB", ...options });
  context.setDefaultTimeout(20_000);
  context.on("weberror", (error) => complaints.push(error.error().message));
  context.on("console", (message) => {
    if (message.type() === "error" && message.page()?.url().startsWith(house) && !/status of 4\d\d/.test(message.text())) complaints.push(message.text());
  });
  return context;
}

const picture = async (page, name) => pictures && page.screenshot({ path: join(pictures, `${name}.png`), animations: "disabled" });
const call = (page, name, ...args) => page.evaluate(([name, args]) => window.app[name](...args), [name, args]);

async function opened(context, path = "/") {
  const page = await context.newPage();
  await page.goto(app + path);
  await page.waitForFunction(() => window.app);
  return page;
}

async function signIn(page, name, password) {
  await page.getByLabel("Username or e-mail address").fill(name);
  await page.getByLabel("Password").fill(password);
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
}

// letIn presses the button that lets the app in, and gives the tokens that it gets.
async function letIn(page) {
  await page.getByRole("button", { name: "Continue" }).click();
  await page.waitForURL(`${app}/callback**`);
  await page.waitForFunction(() => window.app);
  return call(page, "finish");
}

const scenarios = {
  async "a client registers itself, signs in, refreshes and signs out"() {
    const page = await opened(await person());
    await page.goto(await call(page, "begin", house));
    await page.getByRole("heading", { name: "Sign in" }).waitFor();
    await picture(page, "oauth-signin");
    await signIn(page, "alice", "wrong");
    await page.getByRole("alert").getByText("The username or the password is wrong.").waitFor();
    // By keyboard alone: the name is there still, and the focus is on the password.
    await page.keyboard.type("password of alice");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "Continue to Element?" }).waitFor();
    await picture(page, "oauth-consent");
    const tokens = await letIn(page);
    assert.equal(tokens.token_type, "Bearer", JSON.stringify(tokens));
    const who = await call(page, "whoami", tokens.access_token);
    assert.equal(who.user_id, "@alice:interior");

    const fresh = await call(page, "refresh", tokens.refresh_token);
    assert.equal((await call(page, "whoami", fresh.access_token)).code, 200);
    assert.equal((await call(page, "whoami", tokens.access_token)).code, 401, "the old token outlives the new one's use");
    await call(page, "revoke", fresh.access_token);
    assert.equal((await call(page, "whoami", fresh.access_token)).code, 401, "signed out, and still let in");
    assert.equal((await call(page, "refresh", fresh.refresh_token)).refused, "invalid_grant");
  },

  async "what is wrong is refused with the right error"() {
    const context = await person();
    const page = await opened(context);
    const begin = async () => {
      await page.goto(`${app}/`);
      await page.waitForFunction(() => window.app);
      return new URL(await call(page, "begin", house));
    };
    await page.goto((await begin()).href);
    await signIn(page, "alice", "password of alice");
    const reused = await letIn(page);
    assert.ok(reused.access_token);
    assert.equal((await call(page, "again")).refused, "invalid_grant", "a code that was used");
    assert.equal((await call(page, "whoami", reused.access_token)).code, 401, "the session of a code that was used twice");

    const stolen = await (await page.goto((await begin()).href), letIn(page));
    const next = await call(page, "refresh", stolen.refresh_token);
    await call(page, "whoami", next.access_token);
    assert.equal((await call(page, "refresh", stolen.refresh_token)).refused, "invalid_grant", "a refresh token that was used");
    assert.equal((await call(page, "whoami", next.access_token)).code, 401, "the session of a refresh token that was used twice");

    const foreign = await begin();
    foreign.searchParams.set("redirect_uri", "https://evil.example/callback");
    assert.equal((await page.goto(foreign.href)).status(), 400);
    await page.getByText("invalid_redirect_uri").waitFor();
    await picture(page, "oauth-error");

    const noProof = await begin();
    noProof.searchParams.delete("code_challenge");
    await page.goto(noProof.href);
    await page.waitForFunction(() => window.app);
    assert.deepEqual(await call(page, "finish"), { refused: "invalid_request" }, "a request without PKCE");

    await page.goto((await begin()).href);
    await page.getByRole("button", { name: "Cancel" }).click();
    await page.waitForURL(`${app}/callback**`);
    await page.waitForFunction(() => window.app);
    assert.deepEqual(await call(page, "finish"), { refused: "access_denied" });

    // An answer that belongs to another request.
    await page.goto((await begin()).href);
    await page.getByRole("button", { name: "Continue" }).click();
    await page.waitForURL(`${app}/callback**`);
    await page.goto(page.url().replace(/state=[^&]*/, "state=wrong"));
    await page.reload();
    await page.waitForFunction(() => window.app);
    assert.deepEqual(await call(page, "finish"), { refused: "wrong state" });
  },

  async "a newcomer registers, and manages sessions"() {
    const context = await person();
    const page = await opened(context);
    await page.goto(await call(page, "begin", house, "create"));
    await page.getByRole("heading", { name: "Create your account" }).waitFor();
    await picture(page, "oauth-register");
    await page.getByLabel("Username").fill("bob");
    await page.getByLabel("Password", { exact: true }).fill("a good long password");
    await page.getByLabel("Password, once more").fill("a good long password");
    await page.getByRole("button", { name: "Create account" }).click();
    const tokens = await letIn(page);
    assert.equal((await call(page, "whoami", tokens.access_token)).user_id, "@bob:interior");

    const account = await context.newPage();
    await account.goto(`${house}/account?action=org.matrix.profile`);
    await account.getByLabel("Name that others see").fill("Bob Martin");
    await account.getByRole("button", { name: "Save" }).click();
    await account.getByRole("status").getByText("Saved.").waitFor();
    await account.getByRole("link", { name: "Sessions" }).click();
    await account.getByRole("heading", { name: "Your sessions" }).waitFor();
    await picture(account, "oauth-sessions");
    await account.getByRole("link", { name: /Element/ }).click();
    await account.getByLabel("Name").fill("Bob’s laptop");
    await account.getByRole("button", { name: "Rename" }).click();
    await account.getByRole("heading", { name: "Bob’s laptop" }).waitFor();
    await account.getByRole("link", { name: "End session" }).click();
    await account.getByRole("button", { name: "End session" }).click();
    await account.getByText("The session is ended.").waitFor();
    assert.equal((await call(page, "whoami", tokens.access_token)).code, 401, "the session was ended, and is still let in");

    await account.goto(`${house}/account?action=org.matrix.cross_signing_reset`);
    await picture(account, "oauth-reset");
    await account.getByRole("button", { name: "Allow the reset" }).click();
    await account.getByText("Allowed for the next ten minutes").waitFor();
    await account.getByRole("button", { name: "Sign out" }).click();
    await account.getByRole("heading", { name: "Sign in" }).waitFor();
  },

  async "a device without a browser is let in by its code"() {
    const device = await opened(await person());
    const grant = await call(device, "link", house);
    const linked = call(device, "linked");
    // The person's browser runs no scripts at all: the pages need none.
    const page = await (await person({ javaScriptEnabled: false })).newPage();
    await page.goto(grant.verification_uri);
    await page.getByLabel("Code").fill(grant.user_code.toLowerCase());
    await page.getByRole("button", { name: "Continue" }).click();
    await signIn(page, "alice", "password of alice");
    await page.getByText(grant.user_code).waitFor();
    await picture(page, "oauth-device");
    await page.getByRole("button", { name: "Continue" }).click();
    await page.getByRole("heading", { name: "The device is let in" }).waitFor();
    const tokens = await linked;
    assert.equal((await call(device, "whoami", tokens.access_token)).user_id, "@alice:interior", JSON.stringify(tokens));
  },

  async "a new device comes in by a QR code"() {
    const context = await person();
    const one = await opened(context);
    await one.goto(await call(one, "begin", house));
    await signIn(one, "alice", "password of alice");
    const tokens = await letIn(one);
    const other = await opened(await person());
    const code = await call(one, "show", house, tokens.access_token, "@alice:interior");
    const [page] = await Promise.all([call(one, "approve"), call(other, "scan", code, house)]);
    assert.equal(await call(one, "checkCode"), await call(other, "checkCode"), "somebody stands between the two devices");
    const shared = Promise.all([call(one, "share"), call(other, "complete")]);
    const approval = await context.newPage(); // where the person is signed in
    await approval.goto(page);
    await approval.getByRole("button", { name: "Continue" }).click();
    await approval.getByRole("heading", { name: "The device is let in" }).waitFor();
    const [, got] = await shared;
    assert.equal(got.secrets.cross_signing.master_key, "a secret");
    assert.equal((await call(other, "whoami", got.tokens.access_token)).user_id, "@alice:interior");
  },

  async "two devices meet"() {
    const [one, other] = [await opened(await person()), await opened(await person())];
    await call(other, "come", await call(one, "meet", house, "from the one"));
    assert.equal(await call(other, "receive"), "from the one");
    await call(other, "send", "from the other");
    assert.equal(await call(one, "receive"), "from the other");
    await call(one, "part");
    assert.equal(await call(other, "receive"), undefined, "the meeting place is there still");
  },

  async "somebody signs in with the ministry's provider, and out again"() {
    const context = await person();
    const page = await opened(context);
    await page.goto(await call(page, "begin", house));
    await picture(page, "oauth-providers");
    await page.getByRole("link", { name: "Continue with Ministry of the Interior" }).click();
    await page.getByPlaceholder("Enter any login").fill("claire.dupont");
    await page.getByPlaceholder("and password").fill("anything");
    await page.getByRole("button").click();
    await page.getByRole("button", { name: "Continue" }).click(); // what the provider asks
    await page.getByRole("heading", { name: "Continue to Element?" }).waitFor();
    const tokens = await letIn(page);
    const who = await call(page, "whoami", tokens.access_token);
    assert.equal(who.user_id, "@claire.dupont-ministry.example:interior", JSON.stringify(who));
    const account = await context.newPage();
    await account.goto(`${house}/account`);
    await account.getByRole("button", { name: "Sign out" }).click();
    await account.getByRole("button", { name: /Yes/ }).click(); // the provider asks, too
    await account.getByRole("heading", { name: "Sign in" }).waitFor();
    assert.equal((await call(page, "whoami", tokens.access_token)).code, 401, "signed out at the provider, and still let in");
  },

  async "in the dark, in French, on a phone"() {
    const page = await (await person({ colorScheme: "dark", locale: "fr-FR", viewport: { width: 390, height: 800 } })).newPage();
    await page.goto(`${house}/account/login`);
    await page.getByRole("heading", { name: "Se connecter" }).waitFor();
    assert.equal(await page.locator("html").getAttribute("lang"), "fr");
    await picture(page, "oauth-dark");
    await page.getByRole("link", { name: "Deutsch" }).click();
    await page.getByRole("heading", { name: "Anmelden" }).waitFor();
    const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
    assert.ok(!wide, "the page is wider than a phone");
  },
};

let status = 0;
try {
  for (const [name, scenario] of Object.entries(scenarios)) {
    await scenario();
    assert.deepEqual(complaints, [], `${name}: the browser complains`);
    say(name);
  }
} catch (error) {
  say(`FAILED: ${error.stack}`);
  for (const context of browser.contexts()) for (const page of context.pages()) say(`${page.url()}\n${(await page.locator("body").innerText({ timeout: 1000 }).catch(() => "")).slice(0, 800)}`);
  status = 1;
}
await browser.close();
await upstream.close();
site.close();
process.exit(status);
