// Opens the file named in a headless browser; prints its title, what it holds, errors and requests, as JSON.

import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";
import { pathToFileURL } from "node:url";

const browser = await puppeteer.launch({
  args: [...chromium.args, "--no-sandbox"],
  executablePath: await chromium.executablePath(),
  headless: "shell",
});
const page = await browser.newPage();
const errors = [];
const requests = [];
page.on("pageerror", (error) => errors.push(String(error)));
page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
page.on("request", (request) => requests.push(request.url().slice(0, 60)));
await page.goto(pathToFileURL(process.argv[2]).href, { waitUntil: "load" });
const found = await page.evaluate(() => ({
  title: document.title,
  videos: [...document.querySelectorAll("video")].map((video) => video.error?.message ?? "fine"),
  plots: [...document.querySelectorAll("svg")].filter((plot) => plot.getBoundingClientRect().height > 50)
    .length,
}));
const outside = requests.filter((url) => !/^(file|data):/.test(url));
console.log(JSON.stringify({ ...found, errors, outside }));
await browser.close();
