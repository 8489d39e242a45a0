// What the cache takes against the context: counted from the model's header, or measured by an
// evaluation.
import { modelName, modelsFirst } from "../data.js";
import { fixed, mib } from "../format.js";
import { isPreset, isStock, settingName } from "../names.js";
import { overContext } from "./lines.js";

export function memory(estimates, datasets) {
  const counted = estimates.flatMap((source) =>
    source.result.rows.map((row) => ({
      model: modelName(source.result.model),
      kv: row.kv,
      ctx: source.result.ctx,
      mib: row.total_bytes / 2 ** 20,
      bits: row.bits_per_value,
      sources: [source],
    })),
  );
  const whole = datasets.filter((d) => !d.visualOnly);
  const measured = whole.flatMap((d) =>
    d.rows.map((row) => ({
      model: modelName(d.model),
      kv: row.kv,
      ctx: d.nCtx,
      mib: row.kv_mib,
      bits: row.bits_per_value,
      sources: row.sources,
    })),
  );
  // A model that was counted is drawn from the counts alone: one origin for one figure.
  const models = [...new Set([...counted, ...measured].map((p) => p.model))];
  const pointsOf = (model) => {
    const of = (points) => points.filter((p) => p.model === model && p.mib > 0 && p.ctx > 0);
    return of(counted).length ? of(counted) : of(measured);
  };
  const drawn = models.filter((m) => pointsOf(m).length);
  return {
    id: "memory",
    title: "Memory against context",
    words:
      "What the cache takes when the context is full, everything counted: codes, scales, exact " +
      "rows, open pages. Lower is better.",
    pickers: (dataset) => [
      { name: "model", label: "Model", options: modelsFirst(drawn, dataset), follows: true },
    ],
    make(dataset, picked, colours) {
      const points = pointsOf(picked.model);
      if (points.length === 0) return null;
      const found = new Map();
      for (const p of points) {
        if (!found.has(p.kv))
          found.set(p.kv, {
            name: settingName(p.kv),
            stock: isStock(p.kv),
            preset: isPreset(p.kv),
            points: [],
          });
        found.get(p.kv).points.push({ x: p.ctx, y: p.mib });
      }
      return {
        ...overContext(
          [...found.values()],
          "tokens of context",
          { name: "MiB", log: true, text: mib },
          colours,
        ),
        columns,
        rows: points,
        sources: points.flatMap((p) => p.sources),
      };
    },
  };
}

const columns = [
  { title: "setting", words: true, value: (r) => settingName(r.kv) },
  { title: "tokens", value: (r) => r.ctx },
  { title: "MiB", value: (r) => r.mib, text: fixed(2) },
  { title: "bits", value: (r) => r.bits, text: fixed(2) },
];
