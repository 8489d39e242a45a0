"""Results as the commands write them, made up but plausible, for tests and for looking at the page.

report_samples.py DIR     writes them into DIR
"""
import json
import math
import os
import random
import sys

MACHINE = {"cpu": "A Processor @ 2.80GHz", "cores": 2, "memory_gib": 23.5, "isa": "avx512"}
MODEL = "some-model-f16.gguf"
#         kv                             bits  kld       same top
SETTINGS = [("default", 4.54, .0012, .979), ("small", 4.05, .0024, .969), ("smallest", 3.17, .0107, .941),
            ("safe", 5.1, .0009, .981), ("kv=turbo4,sink=0,tail=0", 4.14, .0121, .926),
            ("kv=turbo3,sink=0,tail=0", 3.14, .0468, .863), ("kv=polar433,sink=0,tail=0", 3.82, .0269, .896),
            ("kv=q8,sink=0,tail=0", 8.14, .000065, .995), ("kv=kivi4,sink=0,tail=0", 5.01, .0058, .947),
            ("kv=f16", 16.02, .0000008, .9996), ("stock:q8_0", 8.5, .00021, .991), ("stock:q4_0", 4.5, .0112, .929)]


def run(command, seconds=12.3):
    return {"command": f"tightkv {command}", "version": "0.1.0", "commit": "0123456789ab", "date": "2026-11-21T12:00:00Z",
            "seconds": seconds, "machine": MACHINE, "llama": "v0.5.0"}


def positions(rng, n_ctx, kld, same):
    n = 8
    return [{"first": i * n_ctx // n, "last": (i + 1) * n_ctx // n - 1, "n": n_ctx // n,
             "kld_mean": kld * (.4 + .15 * i) * rng.uniform(.9, 1.1), "same_top1": min(1, same + .002 * (3 - i))} for i in range(n)]


def layers(rng, kld):
    out = []
    for layer in range(12):
        heads = [{what: math.sqrt(kld) * scale * rng.uniform(.3, 1.7) * (3 if layer in (0, 11) else 1)
                  for what, scale in (("k_error", .1), ("v_error", .12), ("out_error", .04))} for _ in range(2)]
        mean = {what: sum(h[what] for h in heads) / 2 for what in heads[0]}
        out.append({"layer": layer, **mean, "heads": heads})
    return out


def eval_row(rng, n_ctx, kv, bits, kld, same):
    stock = kv.startswith("stock:")
    mib = 24 * n_ctx / 2048 * bits / 16
    recall = None if stock else max(0, .99 - 3 * kld)
    return {
        "kv": kv, "spec": None if stock else "k=turbo4c,v=turbo4", "bits_per_value": bits, "book_mib": 0, "kv_mib": mib,
        "breakdown": {"codes_mib": mib * .8, "side_mib": mib * .06, "exact_mib": mib * .13, "table_mib": mib * .01, "plain_mib": 0},
        "exact_fraction": 0 if stock else .13, "read_fraction": 1, "ppl": 21.3 * (1 + kld), "ppl_se": .4, "ppl_f16": 21.3,
        "ppl_change": 1.1 * kld, "ppl_change_ci": [.9 * kld, 1.3 * kld], "kld_mean": kld, "kld_ci": [.8 * kld, 1.2 * kld],
        "kld_median": .6 * kld, "kld_p99": 8 * kld, "kld_p999": 14 * kld, "kld_max": 60 * kld, "same_top1": same,
        "same_top1_ci": [same - .004, same + .003], "top5_overlap": same ** .5, "below_floor": kld < 1e-6,
        "by_position": positions(rng, n_ctx, kld, same),
        "greedy": {"n_prompts": 16, "n_tokens": 64, "mean_agree": 60 * same ** 8, "mean_agree_ci": [50 * same ** 8, 63 * same ** 8],
                   "full_agree": .7 * same},
        "recall": recall, "recall_f16": None if stock else .99, "recall_ci": None if stock else [recall - .02, min(1, recall + .02)],
        "n_questions": None if stock else 192,
        "recall_by_depth": None if stock else [{"first": i / 4, "last": (i + 1) / 4, "n": 48, "right": 47 - (i == 3 and kld > .01) * 6,
                                                "right_f16": 47} for i in range(4)],
        "recall_by_distance": None if stock else [{"first": i * n_ctx // 4, "last": (i + 1) * n_ctx // 4, "n": 48, "right": 47,
                                                   "right_f16": 48} for i in range(4)],
        "visual": None, "visual_f16": None, "visual_ci": None, "n_answers": None, "layers": None if stock else layers(rng, kld)}


def evaluation(n_ctx):
    rng = random.Random(n_ctx)
    return {"tightkv": "eval", "run": run(f"eval -m {MODEL} --text a-text.txt -c {n_ctx} --json", 431.2), "model": MODEL,
            "weights": "F16", "text": "a-text.txt", "recall_file": None, "visual_file": None, "n_ctx": n_ctx, "n_windows": 6,
            "forward_seconds": 380,
            "noise_floor": {"kld_mean": 1e-6, "kld_ci": [.9e-6, 1.1e-6], "kld_median": 4e-7, "kld_p99": 1e-5, "kld_p999": 3e-5,
                            "same_top1": .9995},
            "rows": [eval_row(rng, n_ctx, *s) for s in SETTINGS[:None if n_ctx < 4096 else 4]]}


def questions(kind, file, right):
    """An evaluation of recall or of visual tokens and nothing else."""
    row = {key: None for key in evaluation(2048)["rows"][0]}
    return {**evaluation(2048), "run": run(f"eval -m {MODEL} --{kind} {file} --json"), "text": None, "n_windows": None,
            "noise_floor": None, f"{kind}_file": file,
            "rows": [{**row, "kv": "default", "bits_per_value": 4.3, "kv_mib": 7.5, kind: right, f"{kind}_f16": .99,
                      f"{kind}_ci": [right - .02, right + .02], "n_questions" if kind == "recall" else "n_answers": 100}]}


def attend(kv, ctx, speed_up):
    f16 = .6
    return {"tightkv": "bench attend", "run": run(f"bench attend --kv {kv} -c {ctx} --against llama --json"), "kv": kv, "n_ctx": ctx,
            "n_kv_heads": 8, "group": 4, "head_dim": 128, "threads": 1, "bits_per_value": 4.3, "us_per_kvhead_token": f16 / speed_up,
            "stock": {"f16": f16, "q8_0": .44, "q4_0": .59}, "speedup_vs_f16": speed_up, "read_gb_per_s": 13.5,
            "bandwidth_fraction": .71}


def bench_model(kv, gain):
    return {"tightkv": "bench model", "run": run(f"bench model -m {MODEL} --kv {kv} --depth 0,4096,16384 --json"), "model": MODEL,
            "kv": kv, "threads": 2,
            "rows": [{"depth": d, "pp_tok_s": 1524 - d / 16, "tg_tok_s": 205 - d / 200, "stock_pp_tok_s": (1524 - d / 16) / pp,
                      "stock_tg_tok_s": (205 - d / 200) / tg}
                     for d, pp, tg in ((0, 1.04, .95), (4096, 2.5 * gain, 2.9 * gain), (16384, 4.1 * gain, 6.9 * gain))]}


def estimate(ctx):
    f16 = 12 * 2 * 2 * 128 * 2 * ctx
    rows = [("stock:f16", 16), ("stock:q8_0", 8.5), ("stock:q4_0", 4.5), *((kv, b - .3 + 2000 / ctx) for kv, b, *_ in SETTINGS[:4])]
    return {"tightkv": "estimate", "run": run(f"estimate {MODEL} --ctx {ctx} --json", .02), "model": MODEL, "arch": "llama",
            "ctx": ctx, "layers": [], "rows": [{"kv": kv, "bytes": {}, "total_bytes": f16 * b / 16, "bits_per_value": b}
                                               for kv, b in rows]}


def encode(kv, rate):
    return {"tightkv": "bench encode", "run": run(f"bench encode --kv {kv} --json"), "kv": kv, "head_dim": 128,
            "f16_gb_per_s": rate, "k_f16_gb_per_s": .98 * rate, "v_f16_gb_per_s": 1.02 * rate,
            "vectors_per_s": rate * 1e9 / 256}


def advice(leave_at_f16=None):
    levels = [("no_loss", .002, "safe", 1.9, .0001), ("small", .01, "default", 3.6, .0012), ("usable", .05, "smallest", 5.1, .0107)]
    return {"tightkv": "advise", "run": run(f"advise {MODEL} --json"), "model": MODEL, "text": "a-text.txt", "ctx": 16384,
            "leave_at_f16": leave_at_f16,
            "levels": [{"level": key, "kld_limit": limit, "spec": spec, "smaller": smaller, "kld_mean": kld,
                        "why": f"a reason for {spec}"} for key, limit, spec, smaller, kld in levels]}


def demo():
    rows = [("stock f16", 16, 0, 1, 1), ("stock q4_0", 4.5, .011, .93, .94), ("default", 4.4, .0013, .978, 1.)]
    return {"tightkv": "demo", "run": run("demo --json", 180), "model": "demo.gguf",
            "rows": [{"kv": kv, "bits_per_value": bits, "kv_mib": 192 * bits / 16, "kld_mean": kld, "same_top1": same, "recall": right,
                      "speed": [{"depth": d, "pp_tok_s": 500, "tg_tok_s": (2 if bits == 4.4 and d else 1) * 200 / (1 + d / 2048)}
                                for d in (0, 2048, 16384)]} for kv, bits, kld, same, right in rows],
            "question": {"text": "The code of the harbour is", "n_tokens": 12000,
                         "answers": [{"kv": "stock f16", "text": " 4711.", "first_s": 40.2, "kv_mib": 141.2},
                                     {"kv": "default", "text": " 4711.", "first_s": 18.9, "kv_mib": 39.1}]}}


def all_results():
    """{file name: result}"""
    out = {f"eval-{n}.json": evaluation(n) for n in (2048, 8192)}
    for kv, by_ctx in (("default", (14, 32, 40.9, 46)), ("kv=turbo3", (15, 33, 44.8, 50)), ("kv=q8", (8, 13, 15.9, 16))):
        for ctx, speed_up in zip((1024, 4096, 16384, 65536), by_ctx):
            out[f"attend-{kv.replace('=', '-')}-{ctx}.json"] = attend(kv, ctx, speed_up)
    out |= {"model-default.json": bench_model("default", 1), "model-small.json": bench_model("small", 1.1), "demo.json": demo()}
    out |= {f"estimate-{ctx}.json": estimate(ctx) for ctx in (2048, 8192, 32768, 131072)}
    return out | {f"encode-{i}.json": encode(kv, rate) for i, (kv, rate) in enumerate((("default", 1.64), ("kv=q8", 3.08)))}


def write(folder, results):
    for name, result in results.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            json.dump(result, f)


if __name__ == "__main__":
    os.makedirs(sys.argv[1], exist_ok=True)
    write(sys.argv[1], all_results())
