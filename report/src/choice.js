// Which setting to take, by the rule of tightkv advise: on another text a setting may diverge
// several times as far as the interval measured here, and levels are limits of that.
import { modelName } from "./data.js";

const otherTexts = 4;

const levels = [
  { key: "no_loss", name: "No measurable loss", limit: 0.002 },
  { key: "small", name: "Small loss", limit: 0.01 },
  { key: "usable", name: "Smallest usable", limit: 0.05 },
];

// Divergence above the noise floor that another text may show.
function cost(row) {
  return otherTexts * ((row.kld_ci?.[1] ?? row.kld_mean) - (row.floor?.kld_mean ?? 0));
}

// Recall that is lower than f16's beyond chance rules a setting out, whatever its divergence.
function forgets(row) {
  const known = row.recall_ci?.length === 2 && Number.isFinite(row.recall_f16);
  return known && row.recall_ci[1] < row.recall_f16;
}

function measured(dataset) {
  const ours = dataset.rows.filter(
    (r) => !r.stock && Number.isFinite(r.kld_mean) && r.bits_per_value < 15.5 && !forgets(r),
  );
  ours.sort((a, b) => a.bits_per_value - b.bits_per_value);
  return levels.map(({ name, limit }) => {
    const row = ours.find((r) => r.below_floor || cost(r) <= limit);
    return row
      ? { name, kv: row.kv, smaller: 16 / row.bits_per_value, kld: row.kld_mean, why: null }
      : null;
  });
}

function advised({ result }) {
  return levels.map(({ key, name }) => {
    const level = result.levels?.find?.((l) => l?.level === key);
    return level?.spec
      ? { name, kv: level.spec, smaller: level.smaller, kld: level.kld_mean, why: level.why }
      : null;
  });
}

// What tightkv advise said of the model, else the smallest of the measured settings within each
// limit; a level that adds nothing to the one before it is left out.
export function choices(advice, dataset) {
  const found = advice.find((a) => modelName(a.result.model) === modelName(dataset.model));
  const all = (found ? advised(found) : measured(dataset)).filter(Boolean);
  return {
    chosen: all.filter((c, i) => i === 0 || c.kv !== all[i - 1].kv),
    source: found ?? null,
    leave: found?.result.leave_at_f16 ?? null,
    limits: levels.map(({ limit }) => limit),
  };
}

// The setting that the summary speaks of: the default preset, else the first of ours.
export function spokenOf(dataset) {
  return dataset.rows.find((r) => r.kv === "default") ?? dataset.rows.find((r) => !r.stock) ?? null;
}
