// Divergence against bits: every setting of a dataset on one chart.
import {
  axis,
  base,
  decades,
  floorLine,
  errorBars,
  legendHeight,
  logAxis,
  plus,
  tip,
} from "../chart.js";
import { kld, percent, range, signedPercent } from "../format.js";
import { families, familyLabels } from "../names.js";

// Near 16 bits nothing is coded: that is the noise floor, drawn as a line.
const mostBits = 12;
const symbols = {
  preset: "circle",
  turbo: "triangle",
  polar: "diamond",
  kivi: "roundRect",
  plain: plus,
  kvarn: "pin",
  other: "arrow",
  stock: "rect",
};

export const quality = {
  id: "quality",
  title: "Quality against size",
  words:
    "How far the next-token distribution moves from that of an f16 cache (Kullback–Leibler " +
    "divergence, mean over the second half of each window, lower is better) against the bits " +
    "that a cached value takes, scales and exact rows included. Down and to the left is better; the thin line joins " +
    "the settings that none other beats in both. Bars are 95% confidence intervals.",
  make(dataset, picked, colours) {
    const rows = dataset.rows.filter(
      (r) => Number.isFinite(r.kld_mean) && Number.isFinite(r.bits_per_value),
    );
    const shown = rows.filter((r) => r.bits_per_value <= mostBits);
    if (shown.length === 0) return null;
    return {
      option: option(dataset, shown, colours),
      height: innerWidth < 600 ? 460 : 480,
      columns,
      rows,
      sources: rows.flatMap((r) => r.sources),
      note: floorNote(dataset, rows),
    };
  },
};

const columns = [
  { title: "setting", words: true, value: (r) => r.name },
  { title: "bits", value: (r) => r.bits_per_value, text: (v) => v.toFixed(3) },
  { title: "KLD mean", value: (r) => r.kld_mean, text: kld },
  { title: "from", value: (r) => r.kld_ci?.[0], text: kld },
  { title: "to", value: (r) => r.kld_ci?.[1], text: kld },
];

export function floorNote(dataset, rows) {
  const floor = dataset.floor?.kld_mean;
  if (!Number.isFinite(floor)) return "The noise floor was not measured here.";
  const below = rows.filter((r) => r.below_floor).map((r) => r.name);
  return (
    `Noise floor: uncoded f16 through the same path differs from stock by ${kld(floor)}. What lies at or under it cannot be told from no loss` +
    `${below.length ? ` (hollow marks: ${below.join(", ")})` : ""}.`
  );
}

function colourOf(family, colours) {
  return family === "stock" ? colours.stock : colours.series[families.indexOf(family)];
}

function option(dataset, rows, colours) {
  const floor = dataset.floor?.kld_mean;
  const lowest = Math.min(...rows.map((r) => r.kld_mean).filter((v) => v > 0));
  const drawn = (value) => Math.max(value, lowest / 10); // a logarithmic axis has no zero
  const y = decades([
    ...rows.map((r) => drawn(r.kld_mean)),
    ...rows.flatMap((r) => r.kld_ci?.[1] ?? []),
    ...(floor > 0 ? [floor / 2] : []),
  ]);
  const bits = rows.map((r) => r.bits_per_value);
  const x = { min: Math.floor(Math.min(...bits)), max: Math.ceil(Math.max(...bits) + 0.2) };
  const bars = rows
    .filter((r) => r.kld_ci?.length === 2)
    .map((r) => ({
      x: r.bits_per_value,
      low: Math.max(r.kld_ci[0], y.min),
      high: r.kld_ci[1],
      colour: colourOf(r.family, colours),
    }));
  const present = families.filter((f) => rows.some((r) => r.family === f));
  const made = {
    ...base(colours),
    grid: {
      top: legendHeight(
        present.map((f) => familyLabels[f]),
        colours.width,
      ),
      left: 66,
      right: 24,
      bottom: 50,
    },
    xAxis: axis(colours, { type: "value", name: "bits per value", ...x }),
    yAxis: logAxis(colours, { name: "KLD from f16", nameGap: 48, ...y }),
    series: [
      frontier(rows, drawn, colours),
      errorBars(bars),
      ...present.map((f) => familySeries(f, rows, drawn, x.min + 0.6 * (x.max - x.min), colours)),
    ],
  };
  if (floor > 0) made.series.push(floorLine(floor, colours, y.min));
  made.legend.data = present.map((f) => familyLabels[f]);
  made.tooltip.formatter = ({ data }) => settingTip(data.row);
  return made;
}

function familySeries(family, rows, drawn, right, colours) {
  const colour = colourOf(family, colours);
  const side = (row) => (row.bits_per_value > right ? "left" : "right");
  const mark = (row) => ({
    value: [row.bits_per_value, drawn(row.kld_mean)],
    row,
    label: { position: family === "stock" ? "bottom" : side(row) },
    itemStyle: row.below_floor
      ? { color: colours.panel, borderColor: colour, borderWidth: 2 }
      : { color: colour },
  });
  return {
    type: "scatter",
    name: familyLabels[family],
    symbol: symbols[family],
    symbolSize: family === "preset" ? 13 : 10,
    itemStyle: { color: colour },
    data: rows.filter((r) => r.family === family).map(mark),
    z: 3,
    label: {
      show: true,
      color: colours.text,
      fontSize: 12,
      fontWeight: family === "preset" ? "bold" : "normal",
      formatter: ({ data }) => data.row.name,
    },
    labelLayout: { hideOverlap: true, dy: family === "stock" ? 0 : -8 },
  };
}

// The settings that no other beats both in bits and in divergence.
function frontier(rows, drawn, colours) {
  const best = [];
  for (const row of [...rows].sort(
    (a, b) => a.bits_per_value - b.bits_per_value || a.kld_mean - b.kld_mean,
  ))
    if (best.length === 0 || row.kld_mean < best.at(-1).kld_mean) best.push(row);
  return {
    type: "line",
    silent: true,
    symbol: "none",
    step: "end",
    z: 0,
    tooltip: { show: false },
    lineStyle: { color: colours.muted, width: 1, opacity: 0.6 },
    data: best.map((r) => [r.bits_per_value, drawn(r.kld_mean)]),
  };
}

export function settingTip(r) {
  const value = (v, text) => (Number.isFinite(v) ? text(v) : null);
  return tip(r.name, [
    ["bits per value", value(r.bits_per_value, (v) => v.toFixed(2))],
    ["KLD mean", value(r.kld_mean, kld)],
    ["95% interval", range(r.kld_ci, kld)],
    ["KLD 99.9%", value(r.kld_p999, kld)],
    ["same top token", value(r.same_top1, percent)],
    ["perplexity", value(r.ppl_change, signedPercent)],
    ["noise floor", r.below_floor ? "not above it" : null],
  ]);
}
