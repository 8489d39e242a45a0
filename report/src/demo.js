// The demo's one question at the end of a long context, asked of two caches.
import { h, table } from "./dom.js";
import { fixed } from "./format.js";
import { sourcesOf } from "./sources.js";

const columns = [
  { title: "cache", words: true, value: (a) => a.kv },
  { title: "answer", words: true, value: (a) => a.text },
  { title: "first token after, s", value: (a) => a.first_s, text: fixed(1) },
  { title: "cache, MiB", value: (a) => a.kv_mib, text: fixed(1) },
];

export function demoSections(demos) {
  return demos
    .filter(({ result }) => result.question)
    .map((source) => {
      const { text, n_tokens, answers } = source.result.question;
      return h(
        "section",
        { class: "demo" },
        h("h2", {}, `One question after ${(n_tokens ?? 0).toLocaleString("en-GB")} tokens`),
        h("blockquote", {}, text ?? ""),
        table(columns, answers ?? []),
        sourcesOf([source]),
      );
    });
}
