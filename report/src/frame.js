// The frame around every figure: heading, words, pickers, chart, its numbers as a table, and where
// they came from.
import { draw } from "./chart.js";
import { h, select, table } from "./dom.js";
import { sourcesOf } from "./sources.js";
import { colours } from "./theme.js";

// A figure: { id, title, words, pickers(dataset), make(dataset, picked, colours) }. make() gives {
// option, height, columns, rows, sources, note } or null when there is nothing to draw.
export function frame(figure) {
  const pickers = h("div", { class: "pickers" });
  const chart = h("div", { class: "chart", role: "img", "aria-label": figure.title });
  const under = h("div", { class: "under" });
  const section = h(
    "section",
    { id: figure.id },
    h("h2", {}, figure.title),
    h("p", { class: "words" }, figure.words),
    pickers,
    chart,
    under,
  );
  const picked = {};

  function show(dataset) {
    pickers.replaceChildren(...pickerElements(figure, dataset, picked, () => show(dataset)));
    const made = figure.make(dataset, picked, { ...colours(), width: under.clientWidth });
    section.hidden = !made;
    if (!made) return;
    draw(chart, made.option, made.height);
    under.replaceChildren(
      ...[
        made.note ? h("p", { class: "note" }, made.note) : null,
        h("details", {}, h("summary", {}, "The numbers"), table(made.columns, made.rows)),
        sourcesOf(made.sources),
      ].filter(Boolean),
    );
  }
  return { section, show };
}

// One <select> for each picker that offers a choice. A choice that is no longer offered falls back
// to the first, and so does one that follows the dataset when another dataset is shown.
function pickerElements(figure, dataset, picked, changed) {
  const shown = [];
  const moved = picked.dataset !== dataset.key;
  picked.dataset = dataset.key;
  for (const { name, label, options, follows } of figure.pickers?.(dataset) ?? []) {
    if ((follows && moved) || !options.some(([value]) => value === picked[name]))
      picked[name] = options[0]?.[0];
    const element = select(options, picked[name], (value) => {
      picked[name] = value;
      changed();
    });
    if (options.length > 1) shown.push(h("label", {}, `${label} `, element));
  }
  return shown;
}
