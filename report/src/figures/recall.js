// Facts asked for again: by how deep they stand in the context, or by how long ago they were.
import { axis, base, legendHeight, tip } from "../chart.js";
import { percent, tokens } from "../format.js";
import { firstShown, lineSeries, styles } from "./lines.js";

const views = {
  recall_by_depth: { label: "depth", name: "depth of the fact in the context", text: percent },
  recall_by_distance: {
    label: "distance",
    name: "tokens from the fact to its question",
    text: tokens,
  },
};

export const recall = {
  id: "recall",
  title: "Recall of facts",
  words:
    "The share of questions about facts in the context that are answered right, every token of " +
    "the answer the most likely one. The grey dashed line is the f16 cache on the same " +
    "questions.",
  pickers: () => [
    { name: "view", label: "By", options: Object.entries(views).map(([key, v]) => [key, v.label]) },
  ],
  make(dataset, picked, colours) {
    const settings = dataset.rows.filter((r) => r[picked.view]?.length);
    if (settings.length === 0) return null;
    const view = views[picked.view];
    const rows = settings.flatMap((r) =>
      r[picked.view].filter((b) => b.n > 0).map((b) => ({ ...b, setting: r.name })),
    );
    return {
      ...chart(settings, rows, picked.view, view, colours),
      columns: columns(view),
      rows,
      sources: settings.flatMap((r) => r.sources),
    };
  },
};

function columns(view) {
  return [
    { title: "setting", words: true, value: (b) => b.setting },
    { title: "from", value: (b) => b.first, text: view.text },
    { title: "to", value: (b) => b.last, text: view.text },
    { title: "questions", value: (b) => b.n },
    { title: "right", value: (b) => b.right },
    { title: "right with f16", value: (b) => b.right_f16 },
  ];
}

function chart(settings, rows, key, view, colours) {
  const look = styles(settings, colours);
  const parts = [...new Set(rows.map((b) => b.first))].sort((a, b) => a - b);
  const share = (buckets, what) =>
    parts.map((first) => {
      const b = buckets.find((bucket) => bucket.first === first);
      return b?.n > 0 && Number.isFinite(b[what]) ? b[what] / b.n : null;
    });
  const f16 = { colour: colours.muted, dash: "dashed", symbol: "none" };
  const option = {
    ...base(colours),
    grid: {
      top: legendHeight([...settings.map((s) => s.name), "stock f16"], colours.width),
      left: 66,
      right: 20,
      bottom: 50,
    },
    xAxis: axis(colours, {
      type: "category",
      boundaryGap: false,
      name: `${view.name}, from`,
      data: parts.map(view.text),
    }),
    yAxis: axis(colours, {
      type: "value",
      name: "answered right",
      nameGap: 48,
      scale: true,
      max: 1,
      axisLabel: { color: colours.muted, formatter: percent },
    }),
    series: [
      ...settings.map((s, i) => lineSeries(s.name, look[i], share(s[key], "right"))),
      lineSeries("stock f16", f16, share(settings[0][key], "right_f16")),
    ],
  };
  option.legend.selected = firstShown(settings);
  option.tooltip.formatter = ({ seriesName, name, value }) =>
    tip(seriesName, [
      ["from", name],
      ["right", percent(value)],
    ]);
  return { option, height: 380 };
}
