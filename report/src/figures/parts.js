// What the bytes of a cache are: codes, side data, rows kept exact.
import { axis, base, legendHeight, nameAxis, tip } from "../chart.js";
import { fixed, mib } from "../format.js";

const parts = {
  codes_mib: "codes",
  side_mib: "scales, means, headers",
  exact_mib: "sink, tail, open pages (exact)",
  table_mib: "tables",
  plain_mib: "uncoded layers",
};
const units = {
  bits: { label: "bits per value", text: (v) => `${v.toFixed(3)} bits` },
  mib: { label: "MiB", text: mib },
};

export const side = {
  id: "parts",
  title: "What the bytes are",
  words:
    "Bits per value count everything: the codes, their scales and headers, and the rows that " +
    "stay exact. Codebooks belong to the model and are counted beside it.",
  pickers: () => [
    { name: "unit", label: "In", options: Object.entries(units).map(([key, u]) => [key, u.label]) },
  ],
  make(dataset, picked, colours) {
    const rows = dataset.rows.filter((r) => r.breakdown && Number.isFinite(r.breakdown.codes_mib));
    if (rows.length === 0) return null;
    const unit = units[picked.unit];
    return {
      option: option(rows, picked.unit, unit, colours),
      height: 66 + 26 * rows.length + legendHeight(Object.values(parts), colours.width),
      columns,
      rows,
      sources: rows.flatMap((r) => r.sources),
    };
  },
};

const columns = [
  { title: "setting", words: true, value: (r) => r.name },
  ...Object.entries(parts).map(([key, title]) => ({
    title: `${title}, MiB`,
    value: (r) => r.breakdown[key],
    text: fixed(3),
  })),
  { title: "book, MiB", value: (r) => r.book_mib, text: fixed(3) },
  { title: "in all, MiB", value: (r) => r.kv_mib, text: fixed(3) },
  { title: "bits", value: (r) => r.bits_per_value, text: fixed(3) },
];

function valueOf(row, key, unit) {
  const value = row.breakdown[key] ?? 0;
  if (unit === "mib") return value;
  const sum = Object.keys(parts).reduce((total, part) => total + (row.breakdown[part] ?? 0), 0);
  return (row.bits_per_value * value) / sum;
}

function option(rows, unit, { label, text }, colours) {
  const shown = [...rows]
    .sort((a, b) => b.bits_per_value - a.bits_per_value)
    .filter((r) => r.bits_per_value < 12);
  const made = {
    ...base(colours),
    grid: {
      top: legendHeight(Object.values(parts), colours.width),
      left: 8,
      right: 24,
      bottom: 44,
      containLabel: true,
    },
    xAxis: axis(colours, { type: "value", name: label }),
    yAxis: nameAxis(
      colours,
      shown.map((r) => r.name),
      { inverse: true },
    ),
    series: Object.entries(parts).map(([key, name], i) => ({
      type: "bar",
      stack: "all",
      name,
      barMaxWidth: 16,
      itemStyle: { color: colours.series[i], borderColor: colours.panel, borderWidth: 1 },
      data: shown.map((r) => valueOf(r, key, unit)),
    })),
  };
  made.tooltip.formatter = ({ seriesName, name, value }) => tip(name, [[seriesName, text(value)]]);
  return made;
}
