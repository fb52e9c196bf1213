// Drives a real browser through sign-in and sign-out:   node browser.mjs '{"client":URL,"leave":URL,"picture":FILE}'
// Prints what it sees, and ends with status 0 when all went as it should.

import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

const facts = JSON.parse(process.argv[2]);
const say = (text) => console.log(text);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync),
  headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run", "--host-resolver-rules=MAP element.example 127.0.0.1"],
});

let failed = false;
try {
  const context = await browser.newContext({ viewport: { width: 900, height: 560 }, locale: "en-GB" });
  // The provider's page would load a typeface from elsewhere.
  await context.route((url) => !["127.0.0.1", "element.example"].includes(url.hostname), (route) => route.abort());
  const page = await context.newPage();
  page.setDefaultTimeout(60_000);
  page.on("pageerror", (error) => say(`page: ${error.message}`));

  await page.goto(facts.client);
  await page.click("text=Continue with Staff Directory");
  await page.fill("input[name=login]", "anna");
  await page.fill("input[name=password]", "any");
  await page.click("button[type=submit]");
  await page.waitForSelector("h1:has-text('Continue to')");
  say(`asked: ${await page.textContent("main p")}`);
  if (facts.picture) await page.screenshot({ path: facts.picture });
  // By keyboard alone: the button is the first thing that can be reached.
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#user:not(:empty)");
  const user = await page.textContent("#user");
  say(`signed in as ${user}`);
  if (user !== "@anna.blanc-example.com:interior") throw new Error(`signed in as ${user}`);
  if (!(await page.textContent("#came")).startsWith("chl_")) throw new Error("the client got no login token");

  await page.goto(facts.leave);
  await page.click("button:has-text('Sign out')");
  await page.click("button:has-text('Yes, sign me out')");
  await page.waitForSelector("h1:has-text('Signed out')");
  say("signed out here and there");

  await page.goto(facts.client);
  await page.click("text=Continue with Staff Directory");
  await page.waitForSelector("input[name=login]");
  say("the provider asks again");
} catch (error) {
  failed = true;
  console.log(error.stack);
} finally {
  await browser.close();
}
process.exit(failed ? 1 : 0);
