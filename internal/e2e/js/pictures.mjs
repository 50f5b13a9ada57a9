// Takes the pictures of the documentation with a real browser: argument 1 is a JSON file that says which. Beside each picture it writes the page as the
// gateway sent it. What is wrong goes to standard output, a line of JSON for each finding.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright-core";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const say = (line) => console.log(JSON.stringify(line));
const browser = await chromium.launch({
  executablePath: job.chromium,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

// signIn is what a browser knows of somebody who has signed in.
async function signIn() {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(job.base + "/admin/");
  await page.fill('input[name="username"]', job.user);
  await page.fill('input[name="password"]', job.password);
  await page.click('button, input[type="submit"]');
  await page.waitForURL(job.base + "/admin/");
  const state = await context.storageState();
  await context.close();
  return state;
}

async function shoot({ name, url, width, scheme, signedIn }, known) {
  const context = await browser.newContext({ viewport: { width, height: 400 }, colorScheme: scheme, deviceScaleFactor: 1, storageState: signedIn ? known : undefined });
  const page = await context.newPage();
  const answer = await page.goto(url);
  if (answer.status() !== 200 || answer.request().redirectedFrom()) say({ page: name, what: "another page", detail: `${answer.status()} ${page.url()}` });
  writeFileSync(join(job.pictures, `${name}.html`), await answer.text());
  await page.screenshot({ path: join(job.pictures, `${name}.png`), fullPage: true });
  await context.close();
}

try {
  const known = await signIn();
  for (const shot of job.shots) await shoot(shot, known);
  say({ done: job.shots.length });
} finally {
  await browser.close();
}
process.exit(0);
