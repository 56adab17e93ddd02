// Opens a page, draws strokes on its sheet with the mouse, and prints what the page makes of each drawing, as JSON.
// Arguments: the browser, the page, drawings as JSON ([[[x, y], ...], ...] each), and where a screenshot goes.
import { createRequire } from "node:module";
import path from "node:path";

const [browserPath, url, drawings, screenshot] = process.argv.slice(2);
const require = createRequire(path.join(process.env.NNBACKEND_NODE_MODULES, "..", "package.json"));
const { default: puppeteer } = await import(require.resolve("puppeteer-core"));

const browser = await puppeteer.launch({ executablePath: browserPath, args: ["--no-sandbox", "--disable-gpu"] });
try {
  const page = await browser.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("requestfailed", (request) => problems.push(`not loaded: ${request.url()}`));
  await page.goto(url);
  await page.waitForSelector("body[data-ready]", { timeout: 30_000 });
  const sheet = await (await page.$("#pad")).boundingBox();
  const results = [];
  for (const strokes of JSON.parse(drawings)) {
    await page.click("#clear");
    await page.waitForFunction(() => window.result === undefined);
    for (const [first, ...rest] of strokes) {
      await page.mouse.move(sheet.x + first[0], sheet.y + first[1]);
      await page.mouse.down();
      for (const [x, y] of rest) await page.mouse.move(sheet.x + x, sheet.y + y, { steps: 6 });
      await page.mouse.up();
    }
    await page.waitForFunction(() => window.result !== undefined);
    const text = await page.$eval("#answer", (element) => element.textContent);
    results.push({ ...(await page.evaluate(() => window.result)), text });
  }
  await page.screenshot({ path: screenshot });
  console.log(JSON.stringify({ results, problems }));
} finally {
  await browser.close();
}
