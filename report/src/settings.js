// The table of every setting of a dataset; a click on a heading sorts it.
import { h, table } from "./dom.js";
import { fixed, kld, percent, range, signedPercent } from "./format.js";
import { sourcesOf } from "./sources.js";

const columns = [
  {
    title: "setting",
    words: true,
    value: (r) => r.name,
    note: (r) => r.error ?? (r.below_floor ? "not above the noise floor" : null),
  },
  {
    key: "bits_per_value",
    title: "bits",
    hint: "bits per cached value, everything counted",
    text: fixed(2),
  },
  { key: "kv_mib", title: "MiB", hint: "of the cache at this context", text: fixed(2) },
  {
    key: "book_mib",
    title: "books, MiB",
    hint: "codebooks: with the model, whatever the context",
    text: fixed(2),
  },
  {
    key: "ppl_change",
    title: "perplexity",
    hint: "against f16",
    text: signedPercent,
    ci: "ppl_change_ci",
  },
  {
    key: "kld_mean",
    title: "KLD mean",
    hint: "from the f16 cache, over the second half of each window",
    text: kld,
    ci: "kld_ci",
  },
  { key: "kld_median", title: "median", hint: "KLD", text: kld },
  { key: "kld_p99", title: "99%", hint: "KLD that 1 token in 100 exceeds", text: kld },
  { key: "kld_p999", title: "99.9%", hint: "KLD that 1 token in 1000 exceeds", text: kld },
  { key: "kld_max", title: "max", hint: "KLD of the worst token", text: kld },
  {
    key: "same_top1",
    title: "same top",
    hint: "tokens whose most likely successor is f16's",
    text: percent,
    ci: "same_top1_ci",
  },
  {
    key: "top5_overlap",
    title: "top 5",
    hint: "of the five most likely successors, in common with f16",
    text: percent,
  },
  {
    title: "greedy",
    hint: "tokens written alone until the first that differs from f16's, mean",
    value: (r) => r.greedy?.mean_agree,
    text: (v, r) => `${v.toFixed(1)}${r.greedy.n_tokens ? ` of ${r.greedy.n_tokens}` : ""}`,
    note: (r) => range(r.greedy?.mean_agree_ci, fixed(1)),
  },
  {
    key: "recall",
    title: "recall",
    hint: "facts of the context answered right; f16 in brackets",
    text: against("recall_f16"),
    ci: "recall_ci",
  },
  {
    key: "visual",
    title: "visual",
    hint: "answers from visual tokens right; f16 in brackets",
    text: against("visual_f16"),
    ci: "visual_ci",
  },
  {
    key: "exact_fraction",
    title: "exact",
    hint: "share of the rows read that are exact",
    text: percent,
  },
  {
    key: "read_fraction",
    title: "read",
    hint: "share of the rows that a query reads",
    text: percent,
  },
];

function against(key) {
  return (value, row) =>
    percent(value) + (Number.isFinite(row[key]) ? ` (${percent(row[key])})` : "");
}

function complete(column) {
  const { key, ci, text } = column;
  if (!key) return column;
  const plain = (v) => text(v, {});
  return {
    ...column,
    value: (r) => (Number.isFinite(r[key]) ? r[key] : null),
    note: ci ? (r) => range(r[ci], plain) : null,
  };
}

export function settingsTable() {
  const body = h("div", {});
  const section = h(
    "section",
    { id: "settings" },
    h("h2", {}, "Every setting"),
    h(
      "p",
      { class: "words" },
      "Press a heading to sort. Small figures are 95% confidence intervals. Figures are strict: " +
        "a query reads no more exact rows than the setting promises. They are of the second half " +
        "of each window, where every token has a context behind it.",
    ),
    body,
  );

  function show(dataset) {
    const shown = columns
      .map(complete)
      .filter(
        (c, i) =>
          i === 0 ||
          dataset.rows.some(
            (r) => (c.value(r) ?? null) !== null && !(c.key === "book_mib" && r.book_mib === 0),
          ),
      );
    section.hidden = dataset.rows.length === 0;
    body.replaceChildren(
      table(shown, dataset.rows, {
        id: "settings-table",
        describe: (r) => ({ "data-kv": r.kv }),
        foot: dataset.floor ? [{ name: "noise floor", ...dataset.floor }] : [],
      }),
      sourcesOf(dataset.rows.flatMap((r) => r.sources)) ?? "",
    );
  }
  return { section, show };
}
