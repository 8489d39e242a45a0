// Under each figure: the commands that give its numbers again, and the machine, date and commit
// they came from.
import { code, h } from "./dom.js";
import { date } from "./format.js";

const shownAtOnce = 1;

export function sourcesOf(sources) {
  const unique = [...new Set(sources)];
  if (unique.length === 0) return null;
  const items = unique.map(sourceElement);
  const rest = items.slice(shownAtOnce);
  return h(
    "div",
    { class: "sources" },
    items.slice(0, shownAtOnce),
    rest.length
      ? h(
          "details",
          {},
          h("summary", {}, `and ${rest.length} more run${rest.length > 1 ? "s" : ""}`),
          rest,
        )
      : null,
  );
}

function sourceElement({ file, result }) {
  const run = result.run ?? {};
  return h(
    "div",
    { class: "source", title: file },
    code(String(run.command ?? file)),
    h("span", {}, facts(run).join(" · ")),
  );
}

export function facts(run) {
  const m = run.machine ?? {};
  return [
    m.cpu,
    m.cores ? `${m.cores} core${m.cores > 1 ? "s" : ""}` : null,
    m.memory_gib ? `${m.memory_gib} GiB` : null,
    m.isa,
    date(run.date),
    run.commit ? `commit ${run.commit}` : run.version ? `version ${run.version}` : null,
    run.llama ? `llama.cpp ${run.llama}` : null,
    Number.isFinite(run.seconds)
      ? `${run.seconds < 10 ? Number(run.seconds.toPrecision(2)) : Math.round(run.seconds)} s`
      : null,
  ].filter(Boolean);
}

export function filesSection(page) {
  const used = page.files.map((source) =>
    h("div", { class: "file" }, h("b", {}, source.file), sourceElement(source)),
  );
  const skipped = page.skipped.map(({ file, why }) => h("li", {}, h("b", {}, file), `: ${why}`));
  return h(
    "section",
    { id: "files" },
    h("h2", {}, "Where the numbers come from"),
    skipped.length
      ? h("div", { class: "skipped" }, h("p", {}, "Left out:"), h("ul", {}, skipped))
      : null,
    h("details", {}, h("summary", {}, `${used.length} result${used.length > 1 ? "s" : ""}`), used),
  );
}
