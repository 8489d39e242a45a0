// The four questions that a reader comes with, answered in plain words at the top.
import { choices, spokenOf } from "./choice.js";
import { modelName } from "./data.js";
import { code, h } from "./dom.js";
import { mib, percent, roughKld, roughTimes, signedPercent, tokens } from "./format.js";
import { settingName } from "./names.js";

export function summary(collected) {
  const section = h("section", { id: "summary", class: "cards" });

  function show(dataset) {
    const row = spokenOf(dataset);
    const cards = [
      row ? smaller(dataset, row) : null,
      row ? worse(dataset, row) : null,
      faster(collected, dataset, row),
      forMe(collected.advice, dataset),
    ];
    section.replaceChildren(...cards.filter(Boolean));
    section.hidden = section.children.length === 0;
  }
  return { section, show };
}

function card(id, question, figure, label, ...sentences) {
  return h(
    "article",
    { id },
    h("h2", {}, question),
    figure ? h("p", { class: "figure" }, figure, " ", h("small", {}, label)) : null,
    sentences.filter(Boolean).map((s) => h("p", {}, s)),
  );
}

function smaller(dataset, row) {
  if (!(row.bits_per_value > 0)) return null;
  // Bits of visual tokens alone say nothing of the whole cache.
  const f16 = dataset.visualOnly ? NaN : (row.kv_mib * 16) / row.bits_per_value;
  const size =
    f16 > 0
      ? `The cache takes ${mib(row.kv_mib)} instead of ${mib(f16)}${dataset.nCtx ? ` at ${tokens(dataset.nCtx)} tokens` : ""}.`
      : null;
  const book =
    row.book_mib > 0 ? `Codebooks of ${mib(row.book_mib)} come on top, once for the model.` : null;
  return card(
    "smaller",
    "How much smaller?",
    roughTimes(16 / row.bits_per_value),
    `smaller than f16, with ${row.name}`,
    `${row.bits_per_value.toFixed(2)} bits a value instead of 16, scales and exact rows counted.`,
    size,
    book,
  );
}

function worse(dataset, row) {
  if (!Number.isFinite(row.kld_mean)) return null;
  const q4 = dataset.rows.find((r) => /^stock[: ]q4_0$/.test(r.kv));
  const differ = Number.isFinite(row.same_top1) ? Math.round(1000 * (1 - row.same_top1)) : null;
  const figure = differ === null ? roughKld(row.kld_mean) : `${differ} in 1000`;
  return card(
    "worse",
    "How much worse?",
    figure,
    differ === null
      ? `divergence from f16, with ${row.name}`
      : `of the most likely next tokens change against f16, with ${row.name}`,
    q4 && Number.isFinite(q4.same_top1) && differ !== null
      ? `Stock q4_0 changes ${Math.round(1000 * (1 - q4.same_top1))} in 1000 at ${q4.bits_per_value.toFixed(1)} bits.`
      : null,
    `Divergence from f16 ${roughKld(row.kld_mean)}${q4?.kld_mean > 0 ? `, stock q4_0 ${roughKld(q4.kld_mean)}` : ""}` +
      `${Number.isFinite(row.ppl_change) ? `; perplexity ${signedPercent(row.ppl_change)}` : ""}.`,
    row.below_floor
      ? "That is not above the noise floor: no loss could be measured."
      : floorSentence(dataset.floor),
    recallSentence(row),
  );
}

function floorSentence(floor) {
  return Number.isFinite(floor?.kld_mean)
    ? `Noise floor, f16 through the same path: ${roughKld(floor.kld_mean)}.`
    : null;
}

function recallSentence(row) {
  if (!Number.isFinite(row.recall) || !Number.isFinite(row.recall_f16)) return null;
  const asked = row.n_questions ? ` of ${row.n_questions} questions` : "";
  return `Facts in the context: ${percent(row.recall)}${asked} answered right, ${percent(row.recall_f16)} with f16.`;
}

function faster(collected, dataset, row) {
  const bench = deepest(collected.models, dataset, row);
  const attend = collected.attend
    .filter(({ result: r }) => r.kv === row?.kv && Number.isFinite(r.speedup_vs_f16))
    .sort((a, b) => (b.result.n_ctx ?? 0) - (a.result.n_ctx ?? 0))[0]?.result;
  const alone = attend
    ? `Attention alone: ${roughTimes(attend.speedup_vs_f16)} with ${tokens(attend.n_ctx ?? 0)} tokens in the cache.`
    : null;
  if (!bench)
    return attend
      ? card(
          "faster",
          "How much faster?",
          roughTimes(attend.speedup_vs_f16),
          "attention with the coded cache",
          alone,
        )
      : null;
  const { kv, deep, empty } = bench;
  return card(
    "faster",
    "How much faster?",
    roughTimes(deep.tg_tok_s / deep.stock_tg_tok_s),
    `decoding with ${tokens(deep.depth)} tokens in the cache, with ${kv}`,
    Number.isFinite(deep.pp_tok_s / deep.stock_pp_tok_s)
      ? `Reading a prompt there: ${roughTimes(deep.pp_tok_s / deep.stock_pp_tok_s)}.`
      : null,
    empty
      ? `With an empty cache: ${roughTimes(empty.tg_tok_s / empty.stock_tg_tok_s)}, for weights are read either way.`
      : null,
    alone,
  );
}

// The deepest measured row of a bench of this model and setting, else of any bench.
function deepest(benches, dataset, row) {
  const rank = (b) => 2 * (b.kv === row?.kv) + (b.model === modelName(dataset.model));
  const timed = benches
    .map((b) => ({ b, rows: b.rows.filter((r) => Number.isFinite(r.tg_tok_s / r.stock_tg_tok_s)) }))
    .filter(({ rows }) => rows.length);
  if (timed.length === 0) return null;
  const { b: bench, rows } = timed.sort((x, y) => rank(y.b) - rank(x.b))[0];
  const sorted = [...rows].sort((x, y) => y.depth - x.depth);
  return {
    kv: settingName(bench.kv),
    deep: sorted[0],
    empty: sorted.at(-1).depth === 0 && sorted.length > 1 ? sorted.at(-1) : null,
  };
}

const advised = "As tightkv advise measured it on this model.";

function forMe(advice, dataset) {
  const question = "Which setting for me?";
  const { chosen, source, limits, leave } = choices(advice, dataset);
  if (leave) return card("for-me", question, null, null, String(leave), advised);
  if (chosen.length === 0) return null;
  const facts = ({ smaller, kld }) =>
    [
      smaller > 0 ? `${roughTimes(smaller)} smaller` : null,
      Number.isFinite(kld) ? `KLD ${roughKld(kld)}` : null,
    ].filter(Boolean);
  const lines = chosen.map((c) =>
    h(
      "li",
      {},
      h("b", {}, c.name),
      ": ",
      h("code", {}, c.kv),
      ` – ${facts(c).join(", ")}`,
      c.why ? h("small", {}, c.why) : null,
    ),
  );
  const rule = source
    ? advised
    : `The smallest setting measured here that should stay within ${limits.join(", ")} of f16 ` +
      "on other texts too, and forgets no facts.";
  const article = card("for-me", question, null, null);
  const command = `tightkv run --kv ${quoted(chosen[Math.min(1, chosen.length - 1)].kv)} -- …`;
  article.append(h("ul", {}, lines), h("p", { class: "muted" }, `${rule} Try it: `, code(command)));
  return article;
}

function quoted(kv) {
  return /^[\w.,=:+-]+$/.test(kv) ? kv : `'${kv.replaceAll("'", "'\\''")}'`;
}
