// Uses the pages of operators with a real browser: argument 1 is a JSON file that says which. Each page is judged by axe-core, and its picture is
// taken, at the width of a phone and of a desk, in the light and in the dark. Then operators go all the way: with a mouse, without JavaScript, with a keyboard alone. What is
// wrong goes to standard output, a line of JSON for each finding.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const say = (line) => console.log(JSON.stringify(line));
const wrong = (page, what, detail) => say({ page, what, detail });
const rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const looks = ["phone", "desk"].flatMap((width) => ["light", "dark"].map((scheme) => ({ width, scheme })));
const viewports = { phone: { width: 390, height: 844 }, desk: { width: 1280, height: 900 } };
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

// check has the test do its part, and waits until it has.
async function check(what) {
  say({ check: what });
  await answers.next();
}

const browser = await chromium.launch({
  executablePath: job.chromium,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

// open makes somebody with a new browser.
async function open(options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.on("console", (m) => {
    if (m.type() === "error" && /Content Security Policy/i.test(m.text())) wrong(page.url(), "content security policy", m.text());
  });
  page.on("pageerror", (e) => wrong(page.url(), "script error", String(e)));
  return { context, page };
}

// signIn opens a page as somebody who is not signed in, and comes back to it.
async function signIn(page, url, user = job.user, password = job.password) {
  await page.goto(url);
  await page.fill('input[name="username"]', user);
  await page.fill('input[name="password"]', password);
  await page.click('button, input[type="submit"]');
  await page.waitForURL(url);
}

async function judge(page, name, url, { width, scheme }) {
  await page.goto(url);
  const path = join(job.pictures, `${name}-${width}-${scheme}.png`);
  await page.screenshot({ path, fullPage: true });
  await page.evaluate(axe);
  const found = await page.evaluate((values) => window.axe.run({ runOnly: { type: "tag", values } }), rules);
  for (const v of found.violations) {
    wrong(name, `axe: ${v.id} (${width}, ${scheme})`, v.nodes.map((n) => `${n.html} ${n.failureSummary}`).join("; ").slice(0, 2000));
  }
  if (found.passes.length < 10) wrong(name, "axe judged next to nothing", found.passes.length);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  if (wide > 0) wrong(name, `wider than the screen (${width})`, wide);
}

async function judgeAll() {
  for (const look of looks) {
    // The pages let no script in: axe has to be let past that.
    const { context, page } = await open({ viewport: viewports[look.width], colorScheme: look.scheme, bypassCSP: true });
    await signIn(page, job.base + "/admin/");
    for (const { name, url } of job.pages) await judge(page, name, url, look);
    await context.close();
  }
}

const submit = (page) => page.click("form.ask button");
const expect = async (page, text) => {
  if (!(await page.locator("body").innerText()).includes(text)) wrong(page.url(), "missing", text);
};

// An operator finds a grant by a word, narrows the list, opens the grant and revokes it; then all of a user's; all without JavaScript.
async function operator() {
  const { context, page } = await open({ javaScriptEnabled: false, viewport: viewports.desk });
  await signIn(page, job.base + "/admin/grants");
  await page.fill('input[name="text"]', job.find);
  await page.click('form[role="search"] button');
  await page.selectOption('select[name="health"]', "valid");
  await page.click('form[role="search"] button');
  const url = new URL(page.url());
  if (url.searchParams.get("text") !== job.find || url.searchParams.get("health") !== "valid") wrong("operator", "the filter is not in the address", page.url());
  const rows = await page.locator("tbody tr").count();
  if (rows !== job.found) wrong("operator", "rows found", rows);
  await page.click("tbody tr:first-child td:nth-child(2) a");
  await expect(page, "Upstream account");
  await check("before");
  await page.click("text=Revoke…");
  await page.fill('input[name="reason"]', "found in a test");
  await submit(page);
  await expect(page, "The grant is revoked.");
  await check("one");

  // Some that are chosen.
  await page.goto(job.base + "/admin/grants?health=valid&text=" + encodeURIComponent(job.chooseText));
  for (const box of await page.locator('tbody input[type="checkbox"]').all()) await box.check();
  await page.click("text=Revoke the chosen…");
  await expect(page, "Revoke 2 grants?");
  await submit(page);
  await expect(page, "2 grants are revoked.");
  await check("chosen");

  // All that match.
  await page.goto(job.base + "/admin/grants?user_id=" + encodeURIComponent(job.userID));
  await page.click("text=Revoke all that match…");
  await page.fill('input[name="reason"]', "left the company");
  await submit(page);
  await expect(page, "None of these grants is accepted any more");
  await check("many");
  for (let i = 0; i < 100 && !(await page.locator(".title .badge").innerText()).includes("Done"); i++) await page.click("text=Refresh");
  await expect(page, "Done");

  // What was done stands in the audit trail, with who did it.
  await context.close();
}

// The same with a keyboard alone: from the list to the grant, to the question, to the deed.
async function keyboard() {
  const { context, page } = await open({ viewport: viewports.desk });
  await signIn(page, job.base + "/admin/grants?health=valid");
  const to = async (what, found) => {
    for (let i = 0; i < 80; i++) {
      await page.keyboard.press("Tab");
      const focused = await page.evaluate(() => {
        const e = document.activeElement;
        return { text: e?.innerText ?? "", outline: getComputedStyle(e).outlineStyle, href: e?.href ?? "" };
      });
      if (focused.outline === "none") wrong("keyboard", "focus cannot be seen", focused);
      if (found(focused)) return;
    }
    wrong("keyboard", "not reached", what);
  };
  await page.keyboard.press("Tab");
  if (!(await page.evaluate(() => document.activeElement.innerText)).includes("Skip")) wrong("keyboard", "the first stop is not the way past the navigation", "");
  await to("grant", (f) => /\/admin\/grants\/[^?/]+$/.test(f.href));
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/admin\/grants\/[^?/]+$/);
  await to("revoke", (f) => f.text.includes("Revoke…"));
  await page.keyboard.press("Enter");
  await page.waitForSelector("form.ask");
  await to("button", (f) => f.text === "Revoke");
  await page.keyboard.press("Enter");
  await page.waitForSelector('[role="status"]');
  await expect(page, "The grant is revoked.");
  await check("keyboard");
  await context.close();
}

// A user on their own page.
async function user() {
  const { context, page } = await open({ javaScriptEnabled: false, viewport: viewports.phone });
  await signIn(page, job.base + "/connections", job.other, job.otherPassword);
  await page.goto(job.base + "/admin/grants");
  await expect(page, "This is for the operators of the gateway");
  await page.goto(job.base + "/connections");
  await page.click('a[href*="cut?grant="]');
  await page.click("main form button");
  await expect(page, "Cut.");
  await check("user");
  await context.close();
}

try {
  await judgeAll();
  await operator();
  await keyboard();
  await user();
  say({ done: job.pages.length * looks.length });
} finally {
  await browser.close();
}
process.exit(0);
