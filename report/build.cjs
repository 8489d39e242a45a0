// Bundles the page into one HTML file with the marker @RESULTS@ for the command to fill.
//   node build.cjs MODULES OUT      MODULES: the node_modules folder of package-lock.json
const fs = require("fs");
const path = require("path");

const [modules, out] = process.argv.slice(2).map((word) => path.resolve(word));
const esbuild = require(path.join(modules, "esbuild"));

function bundle(entry, more) {
  const made = esbuild.buildSync({
    entryPoints: [entry],
    absWorkingDir: __dirname,
    nodePaths: [modules],
    bundle: true,
    minify: true,
    write: false,
    legalComments: "none",
    logLevel: "warning",
    ...more,
  });
  const text = made.outputFiles[0].text.trim();
  if (text.includes("@RESULTS@") || /<\/(script|style)/i.test(text))
    throw new Error(`${entry}: the bundle would end its own element`);
  return text;
}

// What the licences of the bundled packages ask for.
function notices() {
  const read = (name) => fs.readFileSync(path.join(modules, name), "utf8").trim();
  const text =
    `This page holds:\n\n${read("echarts/NOTICE")}\nLicensed under the Apache License 2.0 ` +
    `(https://www.apache.org/licenses/LICENSE-2.0).\n\nzrender, under this licence:\n\n${read("zrender/LICENSE")}`;
  return `<!--\n${text.replaceAll("--", "- -")}\n-->\n`;
}

const parts = {
  STYLE: bundle("src/style.css"),
  SCRIPT: bundle("src/main.js", { format: "iife", target: "es2022" }),
};
const page = fs
  .readFileSync(path.join(__dirname, "index.html"), "utf8")
  .replace(/@(STYLE|SCRIPT)@/g, (marker, name) => parts[name]);
fs.mkdirSync(path.dirname(out), { recursive: true });
fs.writeFileSync(
  out,
  page.replace("<html", () => `${notices()}<html`),
);
