#!/usr/bin/env python3
"""Writes docs/results.md from docs/results.md.in and the JSON in docs/results.

results.py [--check] [DOCS]     --check writes nothing: exit status 1 when docs/results.md is not what they give, or when
                                a result was not written by tightkv itself and does not say "transcribed"

In the template, NAMES are file names without .json, with shell patterns, in order:
  {{table NAMES: column, ...}}     a line for every row of each file, or for the file where it has no rows
  {{value NAME [kv=SETTING] key}}  one figure
  {{run NAME}}                     its command, machine, date and commit
"""
import fnmatch
import json
import os
import re
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "docs")


def small(digits):
    """As number(), but what would round to nothing as a power of ten."""
    return lambda v: f"{v:.1e}" if 0 < abs(v) < .5 * 10 ** -digits else number(digits)(v)


def number(digits):
    return lambda v: f"{v:.{digits}f}".replace("0.", ".", 1) if abs(v) < 1 else f"{v:.{digits}f}"


def percent(digits):
    return lambda v: f"{100 * v:.{digits}f}%"


def signed(v):
    return f"{100 * v:+.2f}%".replace("-", "−").replace("+0.", "+.").replace("−0.", "−.")


def times(v):
    return f"{v:.2f}×" if v < 3 else f"{v:.1f}×"


def setting(kv):
    name = kv.replace("stock:", "stock ").removeprefix("kv=").replace(",", ", ")
    return f"**{name}**" if name == "default" else name


def stock_us(stock):
    return ", ".join(number(3)(stock[t]) if stock.get(t) else "-" for t in ("f16", "q8_0", "q4_0"))


def against(kind):
    def text(row):
        ours, stock = row[f"{kind}_tok_s"], row[f"stock_{kind}_tok_s"]
        return f"{ours:.0f}, {stock:.0f} ({times(ours / stock)})"
    return text


# Column: (heading, key or function of the line, text of the value).
COLUMNS = {
    "kv": ("setting", "kv", setting),
    "bits": ("bits in all", "bits_per_value", number(2)),
    "mib": ("MiB", "kv_mib", number(1)),
    "kld": ("KLD mean", "kld_mean", small(6)),
    "kld_ci": ("95% interval", lambda r: r.get("kld_ci") and " to ".join(map(small(6), r["kld_ci"])), str),
    "median": ("median", "kld_median", small(5)),
    "p999": ("99.9%", "kld_p999", small(4)),
    "top": ("same top-1", "same_top1", percent(2)),
    "ppl": ("perplexity over f16", "ppl_change", signed),
    "n_ctx": ("context", "n_ctx", str),
    "n_windows": ("windows", "n_windows", str),
    "noise_floor": ("noise floor", "noise_floor.kld_mean", small(6)),
    "n_questions": ("questions", "n_questions", str),
    "recall": ("right", "recall", percent(1)),
    "recall_f16": ("right with f16", "recall_f16", percent(1)),
    "recall_file": ("questions of", "recall_file", str),
    "n_answers": ("questions", "n_answers", str),
    "greedy": ("tokens that agree", lambda r: r["greedy"]["mean_agree"], number(1)),
    "greedy_full": ("prompts that agree", lambda r: r["greedy"]["full_agree"], percent(0)),
    "visual": ("right", "visual", percent(1)),
    "visual_f16": ("right with f16", "visual_f16", percent(1)),
    "shape": ("context, group, threads", lambda r: f"{r['n_ctx'] // 1024}K, {r['group']}, {r['threads']}", str),
    "us": ("µs a (KV head, token)", "us_per_kvhead_token", number(4)),
    "stock_us": ("stock f16, q8_0, q4_0", "stock", stock_us),
    "speedup": ("over stock f16", "speedup_vs_f16", times),
    "bandwidth": ("of read bandwidth", "bandwidth_fraction", percent(0)),
    "depth": ("tokens in the cache", "depth", str),
    "prefill": ("prefill, tokens/s: tightkv, stock f16", against("pp"), str),
    "decode": ("decode, tokens/s: tightkv, stock f16", against("tg"), str),
    "encode": ("GB/s of f16", "f16_gb_per_s", number(2)),
    "encode_k": ("keys", "k_f16_gb_per_s", number(2)),
    "encode_v": ("values", "v_f16_gb_per_s", number(2)),
    "vectors": ("vectors/s", "vectors_per_s", number(0)),
    "ctx": ("tokens", "ctx", str),
    "total": ("MiB", lambda r: r["total_bytes"] / 2**20, number(1)),
}


BELOW_FLOOR = "\n\n\\* not above the noise floor: no loss could be measured."


def load(folder):
    """{name: result}"""
    results = {}
    for file in sorted(os.listdir(folder)):
        if file.endswith(".json"):
            with open(os.path.join(folder, file), encoding="utf-8") as f:
                results[file.removesuffix(".json")] = parse(file, f.read())
    return results


def parse(file, text):
    try:
        return json.loads(text)
    except ValueError as error:
        raise SystemExit(f"results.py: docs/results/{file} is no JSON ({error}); was its run cut short?") from None


def not_run(results):
    """Names of results that lack the time that tightkv writes into all of its own."""
    return [name for name, r in results.items() if r.get("run", {}).get("seconds") is None and not r.get("transcribed")]


def lines_of(result):
    """Each row with what stands beside the rows; the row's own keys count."""
    beside = {key: value for key, value in result.items() if key != "rows"}
    return [{**beside, **row} for row in result["rows"]] if "rows" in result else [beside]


def floor_of(result, columns):
    """What f16 through the plug-in differs from stock: a line of its own below every table of divergences."""
    floor = result.get("noise_floor")
    return [{"kv": "noise floor", **floor}] if floor and {"kld", "greedy"} & set(columns) else []


def cell(column, line):
    _, key, text = COLUMNS[column]
    try:
        value = key(line) if callable(key) else line.get(key)
    except (KeyError, TypeError, ZeroDivisionError):  # not measured
        value = None
    return "-" if value is None else text(value)


def mark(column, line):
    return " *" if column == "kv" and line.get("below_floor") else ""


def natural(name):
    """Sorts 8192 before 16384."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def select(results, patterns):
    names = [n for p in patterns.split() for n in sorted(fnmatch.filter(results, p), key=natural)]
    if not names:
        raise SystemExit(f"results.py: no docs/results/{patterns}.json; scripts/measure.sh makes it")
    return [results[n] for n in dict.fromkeys(names)]


def table(results, patterns, columns):
    columns = [c.strip() for c in columns.split(",")]
    lines = [line for result in select(results, patterns) for line in lines_of(result) + floor_of(result, columns)]
    rows = [[cell(c, line) + mark(c, line) for c in columns] for line in lines]
    head = [[COLUMNS[c][0] for c in columns], ["---"] * len(columns)]
    text = "\n".join("| " + " | ".join(row) + " |" for row in head + rows).replace("| --- ", "|---").replace("|--- |", "|---|")
    return text + BELOW_FLOOR if any(mark(c, line) for c in columns for line in lines) else text


def value(results, name, kv, key):
    result = select(results, name)[0]
    lines = [line for line in lines_of(result) if kv is None or line.get("kv") == kv]
    column = next((c for c, (_, k, _) in COLUMNS.items() if k == key), None)
    found = lines[0] if lines else {}
    for part in key.split("."):
        found = (found or {}).get(part)
    if found is None:
        return "(not measured)"
    return COLUMNS[column][2](found) if column else number(6)(found) if isinstance(found, float) else str(found)


def run(results, name):
    r = select(results, name)[0]["run"]
    m = r["machine"]
    memory = f", {m['memory_gib']:g} GiB" if m.get("memory_gib") else ""
    commit = f", commit {r['commit']}" if r.get("commit") else ""
    return f"`{r['command']}` ({m['cpu']}, {m['cores']} cores{memory}, {m['isa']}; {r['date'][:10]}{commit})"


def fill(template, results):
    template = re.sub(r"\{\{table ([^:}]+):([^}]+)\}\}", lambda m: table(results, m[1], m[2]), template)
    template = re.sub(r"\{\{value (\S+)(?: kv=(\S+))? (\S+)\}\}", lambda m: value(results, *m.groups()), template)
    return re.sub(r"\{\{run (\S+)\}\}", lambda m: run(results, m[1]), template)


def main():
    check = "--check" in sys.argv[1:]
    docs = next((arg for arg in sys.argv[1:] if arg != "--check"), ROOT)
    results = load(os.path.join(docs, "results"))
    by_hand = not_run(results)
    if check and by_hand:
        print(f"docs/results: {', '.join(by_hand)}: run.seconds is null, so tightkv did not write it; measure it again "
              'or say "transcribed": true')
        return 1
    with open(os.path.join(docs, "results.md.in"), encoding="utf-8") as f:
        text = fill(f.read(), results)
    path = os.path.join(docs, "results.md")
    if not check:
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return 0
    with open(path, encoding="utf-8") as f:
        same = f.read() == text
    if not same:
        print("docs/results.md is not what docs/results/*.json and docs/results.md.in give: run make results")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
