// How much faster than stock f16: attention alone, and a whole model.
import { modelsFirst } from "../data.js";
import { fixed, times } from "../format.js";
import { isPreset, isStock, settingName } from "../names.js";
import { overContext } from "./lines.js";

function named(kv) {
  return { name: settingName(kv), stock: isStock(kv), preset: isPreset(kv), points: [] };
}

function seriesOf(map, kv) {
  if (!map.has(kv)) map.set(kv, named(kv));
  return map.get(kv);
}

const speedUp = { name: "× stock f16", text: times, reference: { value: 1, name: "stock f16" } };

function shapeOf({ result: r }) {
  const threads = r.threads ? `${r.threads} thread${r.threads > 1 ? "s" : ""}` : null;
  return (
    [
      r.n_kv_heads ? `${r.n_kv_heads} KV heads of ${r.head_dim}` : null,
      r.group ? `${r.group} queries each` : null,
      threads,
    ]
      .filter(Boolean)
      .join(", ") || "shape not told"
  );
}

export function attend(files) {
  const timed = files.filter(({ result }) => Number.isFinite(result.speedup_vs_f16));
  const shapes = [...new Set(timed.map(shapeOf))];
  return {
    id: "attend",
    title: "Attention, one decode step",
    words:
      "Reading the cache is what slows decoding down as the context grows. How many times faster" +
      " one step of attention is over a coded cache than over llama.cpp's f16 cache, both timed " +
      "in turn in the same run. Higher is better.",
    pickers: () => [{ name: "shape", label: "Shape", options: shapes.map((s) => [s, s]) }],
    make(dataset, picked, colours) {
      const here = timed.filter((f) => shapeOf(f) === picked.shape);
      if (here.length === 0) return null;
      const found = new Map();
      for (const { result: r } of here)
        seriesOf(found, r.kv).points.push({ x: r.n_ctx ?? 0, y: r.speedup_vs_f16 });
      for (const [kv, points] of stockPoints(here)) seriesOf(found, kv).points.push(...points);
      return {
        ...overContext([...found.values()], "tokens in the cache", speedUp, colours),
        columns: attendColumns,
        rows: here.map(({ result }) => result),
        sources: here,
      };
    },
  };
}

const attendColumns = [
  { title: "setting", words: true, value: (r) => settingName(r.kv) },
  { title: "tokens", value: (r) => r.n_ctx },
  { title: "bits", value: (r) => r.bits_per_value, text: fixed(2) },
  { title: "µs a KV head and token", value: (r) => r.us_per_kvhead_token, text: fixed(4) },
  { title: "stock f16", value: (r) => r.stock?.f16, text: fixed(4) },
  { title: "speed-up", value: (r) => r.speedup_vs_f16, text: times },
  {
    title: "of read bandwidth",
    value: (r) => r.bandwidth_fraction,
    text: (v) => `${(100 * v).toFixed(0)}%`,
  },
];

// The stock quantised types were timed beside every setting: their median at each context.
function stockPoints(files) {
  const found = new Map();
  for (const { result: r } of files) {
    for (const [type, us] of Object.entries(r.stock ?? {})) {
      if (type === "f16" || !(us > 0)) continue;
      const kv = `stock:${type}`,
        x = r.n_ctx ?? 0;
      if (!found.has(kv)) found.set(kv, new Map());
      found.get(kv).set(x, [...(found.get(kv).get(x) ?? []), r.stock.f16 / us]);
    }
  }
  return [...found].map(([kv, at]) => [kv, [...at].map(([x, ys]) => ({ x, y: median(ys) }))]);
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

const phases = { tg: "Decode", pp: "Prefill" };

export function modelSpeed(benches) {
  const models = benches.map((b) => b.model);
  return {
    id: "model-speed",
    title: "A whole model",
    words:
      "Tokens a second against the same model with stock llama.cpp's f16 cache, by what is " +
      "already in the cache. Weights are read either way, so this gains less than attention " +
      "alone. Higher is better; 1× is no change.",
    pickers: (dataset) => [
      { name: "model", label: "Model", options: modelsFirst(models, dataset), follows: true },
      { name: "phase", label: "Phase", options: Object.entries(phases) },
    ],
    make(dataset, { model, phase }, colours) {
      const rows = benches
        .filter((b) => b.model === model)
        .flatMap((bench) => bench.rows.map((row) => speedRow(bench, row, phase)))
        .filter((row) => Number.isFinite(row.ratio));
      if (rows.length === 0) return null;
      const found = new Map();
      for (const row of rows) seriesOf(found, row.kv).points.push({ x: row.depth, y: row.ratio });
      return {
        ...overContext([...found.values()], "tokens in the cache", speedUp, colours),
        columns: modelColumns,
        rows,
        sources: rows.map((row) => row.source),
      };
    },
  };
}

function speedRow(bench, row, phase) {
  const speed = row[`${phase}_tok_s`],
    stock = row[`stock_${phase}_tok_s`];
  return {
    kv: bench.kv,
    source: bench.source,
    threads: bench.threads,
    depth: row.depth,
    speed,
    stock,
    ratio: speed / stock,
  };
}

const modelColumns = [
  { title: "setting", words: true, value: (r) => settingName(r.kv) },
  { title: "tokens in the cache", value: (r) => r.depth },
  { title: "threads", value: (r) => r.threads },
  { title: "tokens/s", value: (r) => r.speed, text: fixed(1) },
  { title: "stock f16", value: (r) => r.stock, text: fixed(1) },
  { title: "speed-up", value: (r) => r.ratio, text: times },
];
