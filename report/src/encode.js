// How fast rows are coded when they enter the cache.
import { h, table } from "./dom.js";
import { count, fixed } from "./format.js";
import { settingName } from "./names.js";
import { sourcesOf } from "./sources.js";

const columns = [
  { title: "setting", words: true, value: (r) => settingName(r.kv) },
  { title: "head size", value: (r) => r.head_dim },
  { title: "GB/s of f16", value: (r) => r.f16_gb_per_s, text: fixed(2) },
  { title: "keys", value: (r) => r.k_f16_gb_per_s, text: fixed(2) },
  { title: "values", value: (r) => r.v_f16_gb_per_s, text: fixed(2) },
  { title: "vectors/s", value: (r) => r.vectors_per_s, text: count },
];

export function encodeSection(files) {
  if (files.length === 0) return null;
  return h(
    "section",
    { id: "encode" },
    h("h2", {}, "Encoding"),
    h(
      "p",
      { class: "words" },
      "What coding costs when rows enter the cache, on one thread, rotation included. Higher is " +
        "better.",
    ),
    table(
      columns,
      files.map(({ result }) => result),
    ),
    sourcesOf(files),
  );
}
