// The results in the page, sorted into what the figures draw.
import { familyOf, isPreset, isStock, settingName } from "./names.js";

export function readPage() {
  const page = JSON.parse(document.getElementById("results").textContent);
  return { ...page, files: page.files.map(({ file, result }) => ({ file, result: tidy(result) })) };
}

// A result may come from another version: what every figure relies on is made sure of here, the
// rest may be missing.
function tidy(result) {
  const rows = Array.isArray(result.rows)
    ? result.rows.filter((row) => row && typeof row === "object")
    : [];
  const named = (thing) => ({ ...thing, kv: String(thing.kv ?? "?") });
  return { ...named(result), run: result.run ?? {}, rows: rows.map(named) };
}

export function collect(files) {
  const of = (kind) => files.filter(({ result }) => result.tightkv === kind);
  const demos = of("demo");
  return {
    datasets: [...evalDatasets(of("eval")), ...demos.map(demoDataset)],
    attend: of("bench attend"),
    models: [...of("bench model").map(modelBench), ...demos.flatMap(demoBenches)],
    encode: of("bench encode"),
    estimates: of("estimate"),
    advice: of("advise"),
    demos,
  };
}

// A setting on a dataset: the row of the JSON with its names and where it came from.
function setting(row, source, floor) {
  return {
    ...row,
    name: settingName(row.kv),
    family: familyOf(row.kv),
    stock: isStock(row.kv),
    preset: isPreset(row.kv),
    sources: [source],
    floor: floor ?? null,
  };
}

// What makes figures comparable. Facts and pictures are read without the text, at sizes of their
// own, so each file of them is a dataset.
function keyOf(r) {
  const parts = [r.model, r.weights, r.text, r.n_ctx, r.n_windows, r.recall_file, r.visual_file];
  return JSON.stringify(parts.map((part) => part ?? null));
}

// Rows that are comparable belong together, whichever file they came in.
function evalDatasets(files) {
  const found = new Map();
  for (const source of files) {
    const r = source.result;
    const key = keyOf(r);
    if (!found.has(key))
      found.set(key, {
        key,
        label: datasetLabel(r),
        model: r.model,
        nCtx: r.n_ctx ?? null,
        visualOnly: Boolean(r.visual_file),
        floor: null,
        rows: [],
      });
    const dataset = found.get(key);
    dataset.floor ??= Number.isFinite(r.noise_floor?.kld_mean) ? r.noise_floor : null;
    for (const row of r.rows) addRow(dataset.rows, setting(row, source, r.noise_floor));
  }
  const datasets = [...found.values()];
  for (const dataset of datasets)
    dataset.rows.sort((a, b) => (b.bits_per_value ?? 0) - (a.bits_per_value ?? 0));
  return datasets.sort((a, b) => diverging(b) - diverging(a) || b.rows.length - a.rows.length);
}

// What most figures draw: the dataset with most of it is shown first.
function diverging(dataset) {
  return dataset.rows.filter((row) => Number.isFinite(row.kld_mean)).length;
}

// Of a setting measured twice the later run counts; what only the earlier one measured stays.
function addRow(rows, row) {
  const at = rows.findIndex((other) => other.kv === row.kv);
  if (at < 0) {
    rows.push(row);
    return;
  }
  const [older, newer] = [rows[at], row].sort((a, b) =>
    runDate(a).localeCompare(runDate(b)),
  );
  const measured = Object.entries(newer).filter(
    ([, value]) => value !== null && value !== undefined,
  );
  const sources = [...newer.sources, ...older.sources];
  rows[at] = { ...older, ...Object.fromEntries(measured), sources };
}

function runDate(row) {
  return row.sources[0].result.run?.date ?? "";
}

function datasetLabel(r) {
  const model = [modelName(r.model), r.weights].filter(Boolean).join(", ");
  const context = r.n_ctx ? `${r.n_ctx.toLocaleString("en-GB")} tokens` : null;
  const windows = r.n_windows ? `${r.n_windows} window${r.n_windows > 1 ? "s" : ""}` : null;
  const recall = r.recall_file ? `recall of ${r.recall_file}` : null;
  const visual = r.visual_file ? `visual tokens of ${r.visual_file}` : null;
  return [model, context, r.text, windows, recall, visual].filter(Boolean).join(" · ");
}

// The models of a picker: that of the dataset on show comes first.
export function modelsFirst(models, dataset) {
  const own = modelName(dataset.model);
  return [...new Set(models)].sort((a, b) => (b === own) - (a === own)).map((name) => [name, name]);
}

export function modelName(path) {
  return (path ?? "a model").replace(/^.*\//, "").replace(/\.gguf$/, "");
}

function demoDataset(source) {
  const r = source.result;
  const rows = r.rows
    .filter((row) => row.kv !== "stock f16")
    .map((row) => setting(row, source, null));
  return {
    key: `demo ${source.file}`,
    label: `${modelName(r.model)} · demo: quality at 2K, size at 16K`,
    model: r.model,
    nCtx: 16384,
    floor: null,
    rows,
  };
}

function modelBench(source) {
  const r = source.result;
  return { source, model: modelName(r.model), kv: r.kv, threads: r.threads ?? null, rows: r.rows };
}

// The demo's speeds, in the form of bench model: each cache against stock f16 at the same depth.
function demoBenches(source) {
  const rows = source.result.rows;
  const stock = rows.find((row) => row.kv === "stock f16")?.speed ?? [];
  return rows
    .filter((row) => row.kv !== "stock f16")
    .map((row) => ({
      source,
      model: modelName(source.result.model),
      kv: row.kv,
      threads: source.result.run?.machine?.cores ?? null,
      rows: (row.speed ?? []).map((speed, i) => ({
        ...speed,
        stock_pp_tok_s: stock[i]?.pp_tok_s,
        stock_tg_tok_s: stock[i]?.tg_tok_s,
      })),
    }));
}
