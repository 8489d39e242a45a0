// Builds the page from the results in it.
import { resizeAll } from "./chart.js";
import { collect, readPage } from "./data.js";
import { demoSections } from "./demo.js";
import { h } from "./dom.js";
import { encodeSection } from "./encode.js";
import { layers } from "./figures/layers.js";
import { memory } from "./figures/memory.js";
import { side } from "./figures/parts.js";
import { position } from "./figures/position.js";
import { quality } from "./figures/quality.js";
import { recall } from "./figures/recall.js";
import { attend, modelSpeed } from "./figures/speed.js";
import { frame } from "./frame.js";
import { settingsTable } from "./settings.js";
import { facts, filesSection } from "./sources.js";
import { summary } from "./summary.js";
import { startTheme } from "./theme.js";

const none = { key: "", label: "", model: null, nCtx: null, floor: null, rows: [] };

function element(id) {
  return document.getElementById(id);
}

function showHead(page, datasets) {
  const models = [...new Set(datasets.map((d) => d.model).filter(Boolean))];
  if (models.length === 1) {
    element("title").textContent =
      `What a coded KV cache costs ${models[0].replace(/^.*\//, "").replace(/\.gguf$/, "")}`;
    document.title = element("title").textContent;
  }
  const latest = page.files
    .map(({ result }) => result.run)
    .filter(Boolean)
    .sort((a, b) => (b.date ?? "").localeCompare(a.date ?? ""))[0];
  element("subtitle").textContent = latest ? facts({ ...latest, seconds: null }).join(" · ") : "";
  element("footer").append(
    h(
      "p",
      {},
      "Made by tightkv report. Charts: Apache ECharts. Nothing on this page comes from the " +
        "network.",
    ),
  );
}

function pickDataset(datasets, show) {
  const picker = element("dataset");
  datasets.forEach((d, i) => picker.append(h("option", { value: i }, d.label)));
  element("dataset-label").hidden = datasets.length < 2;
  picker.addEventListener("change", show);
  return () => datasets[picker.value] ?? none;
}

function start() {
  const page = readPage();
  const found = collect(page.files);
  const parts = [
    summary(found),
    frame(quality),
    settingsTable(),
    frame(attend(found.attend)),
    frame(modelSpeed(found.models)),
    frame(memory(found.estimates, found.datasets)),
    frame(side),
    frame(layers),
    frame(position),
    frame(recall),
  ];
  const main = element("main");
  main.append(
    ...parts.map(({ section }) => section),
    ...[encodeSection(found.encode), ...demoSections(found.demos), filesSection(page)].filter(
      Boolean,
    ),
  );
  const show = () => parts.forEach((part) => part.show(dataset()));
  const dataset = pickDataset(found.datasets, show);
  showHead(page, found.datasets);
  startTheme(element("theme"), show);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (width < 600 !== innerWidth < 600) show();
    else resizeAll();
    width = innerWidth;
  });
}

start();
