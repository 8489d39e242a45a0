// Which setting to take: what tightkv advise said of the model, else the smallest of the measured
// ones within each bound.

const tiers = [
  { name: "As good as f16", bound: 0.0002 },
  { name: "Small loss", bound: 0.002 },
  { name: "Smallest usable", bound: 0.02 },
];

// Recall that is lower than f16's beyond chance rules a setting out, whatever its divergence.
function forgets(row) {
  return (
    row.recall_ci?.length === 2 &&
    Number.isFinite(row.recall_f16) &&
    row.recall_ci[1] < row.recall_f16
  );
}

export function choices(dataset) {
  const ours = dataset.rows.filter(
    (r) => !r.stock && Number.isFinite(r.kld_mean) && r.bits_per_value > 0,
  );
  return tiers.map(({ name, bound }) => {
    const allowed = Math.max(bound, dataset.floor?.kld_mean ?? 0);
    const fit = ours.filter(
      (r) => (r.below_floor || r.kld_mean <= allowed) && r.bits_per_value < 15.5 && !forgets(r),
    );
    fit.sort((a, b) => a.bits_per_value - b.bits_per_value);
    return { name, bound: allowed, row: fit[0] ?? null };
  });
}

// The setting that the summary speaks of: the default preset, else the middle choice, else whatever
// is ours.
export function spokenOf(dataset) {
  return (
    dataset.rows.find((r) => r.kv === "default") ??
    choices(dataset)[1].row ??
    dataset.rows.find((r) => !r.stock) ??
    null
  );
}
