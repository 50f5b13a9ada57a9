// Looks at the gateway's pages with a real browser: argument 1 is a JSON file that says which. Each page is judged by axe-core, and
// its picture is taken, at the width of a phone and of a desk, in the light and in the dark. Then a user with a keyboard alone and one
// without JavaScript go all the way. What is wrong goes to standard output, a line of JSON for each finding.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const wrong = (page, what, detail) => console.log(JSON.stringify({ page, what, detail }));
const rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const looks = ["phone", "desk"].flatMap((width) => ["light", "dark"].map((scheme) => ({ width, scheme })));
const viewports = { phone: { width: 390, height: 844 }, desk: { width: 1280, height: 900 } };

const browser = await chromium.launch({
  executablePath: job.chromium,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

// open makes a user with a new browser.
async function open(options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.on("console", (m) => {
    if (m.type() === "error" && /Content Security Policy/i.test(m.text())) wrong(page.url(), "content security policy", m.text());
  });
  page.on("pageerror", (e) => wrong(page.url(), "script error", String(e)));
  return { context, page };
}

async function login(page) {
  await page.fill('input[name="username"]', job.user);
  await page.fill('input[name="password"]', job.password);
  await page.click('button, input[type="submit"]');
}

// The steps by which some pages are reached from their address.
const steps = {
  connected: async (page) => {
    await page.click('button[value="allow"]');
    await login(page);
    await page.waitForSelector("text=You are connected");
  },
  refused: (page) => page.click('button[value="deny"]'),
  signedIn: async (page) => {
    await login(page);
    await page.waitForSelector("text=Your connections");
  },
  cut: async (page) => {
    await steps.signedIn(page);
    await page.click('a[aria-label^="Cut "]');
    await page.waitForSelector("button.danger");
  },
  signedOut: async (page) => {
    await steps.signedIn(page);
    await page.click(".who button");
    await page.waitForSelector("text=You are signed out");
  },
};

async function judge({ name, url, step }) {
  for (const { width, scheme } of looks) {
    // The pages let no script in but their own: axe has to be let past that.
    const { context, page } = await open({ viewport: viewports[width], colorScheme: scheme, bypassCSP: true });
    await page.goto(url);
    if (step) await steps[step](page);
    await page.screenshot({ path: join(job.pictures, `${name}-${width}-${scheme}.png`), fullPage: true });
    await page.evaluate(axe);
    const found = await page.evaluate((values) => window.axe.run({ runOnly: { type: "tag", values } }), rules);
    for (const v of found.violations) {
      wrong(name, `axe: ${v.id} (${width}, ${scheme})`, v.nodes.map((n) => `${n.html} ${n.failureSummary}`).join("; "));
    }
    if (found.passes.length < 10) wrong(name, "axe judged next to nothing", found.passes.length);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    if (overflow > 0) wrong(name, `wider than the screen (${width})`, overflow);
    await context.close();
  }
}

// A user with a keyboard alone: Tab to the button, Enter, and on.
async function keyboard(url) {
  const { context, page } = await open({ viewport: viewports.desk });
  await page.goto(url);
  for (let i = 0; i < 30; i++) {
    await page.keyboard.press("Tab");
    const focused = await page.evaluate(() => {
      const e = document.activeElement;
      return { value: e?.value, outline: getComputedStyle(e).outlineStyle };
    });
    if (focused.outline === "none") wrong("keyboard", "focus cannot be seen", focused);
    if (focused.value === "allow") break;
  }
  await page.keyboard.press("Enter");
  await page.waitForSelector('input[name="password"]');
  await page.focus('input[name="username"]');
  await page.keyboard.type(job.user);
  await page.keyboard.press("Tab");
  await page.keyboard.type(job.password);
  await page.keyboard.press("Enter");
  await page.waitForURL((u) => u.href.startsWith(job.back));
  if (!/[?&]code=/.test(page.url())) wrong("keyboard", "no code", page.url());
  await context.close();
}

async function withoutScripts(consent, connect) {
  const { context, page } = await open({ javaScriptEnabled: false, viewport: viewports.phone });
  await page.goto(consent);
  await page.click('button[value="allow"]');
  await login(page);
  await page.waitForURL((u) => u.href.startsWith(job.back));
  if (!/[?&]code=/.test(page.url())) wrong("without scripts", "no code", page.url());
  await page.goto(connect);
  await page.click('button[value="allow"]');
  if (await page.$('input[name="password"]')) await login(page);
  await page.waitForSelector("text=You are connected");
  if (!(await page.inputValue("textarea")).startsWith("eyJ")) wrong("without scripts", "the session page shows no token", "");
  if (await page.isVisible("#copy")) wrong("without scripts", "a button that does nothing", "");
  await context.close();
}

// The one script there is: it copies the session token, under the real policy.
async function copy(connect) {
  const { context, page } = await open({ permissions: ["clipboard-read", "clipboard-write"] });
  await page.goto(connect);
  await steps.connected(page);
  await page.click("#copy");
  await page.waitForSelector("text=Copied");
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  if (copied !== (await page.inputValue("textarea"))) wrong("copy", "something else was copied", "");
  await context.close();
}

try {
  for (const page of job.pages) await judge(page);
  await keyboard(job.consent);
  await withoutScripts(job.consent, job.connect);
  await copy(job.connect);
  console.log(JSON.stringify({ done: job.pages.length * looks.length }));
} finally {
  await browser.close();
}
