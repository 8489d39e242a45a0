#!/usr/bin/env python3
"""Server soak: llama-server with the plug-in under parallel requests, context shifts, cancelled requests and slot
saves and restores. Each answer must be the one that the stock server gives to the same request alone. With the f16
spec both compute the same logits but for rounding, so an answer may leave the stock one only where the stock server
itself had two tokens within --tie of each other.

    soak.py --server llama-server --plugin libggml-tightkv.so --model model.gguf [--seconds 60] [--kv SPEC]

Exit status 0 when every answer agreed and the server lived, 1 otherwise. Python's standard library only.
"""
import argparse
import concurrent.futures
import http.client
import json
import math
import os
import random
import socket
import subprocess
import sys
import tempfile
import time

WORDS = ("the old house by river stood empty since winter and nobody knew why its windows were lit at night "
         "a captain wrote in his log that wind turned north while men mended sails below deck with tired hands "
         "every city keeps one street where bakers work before dawn and smell of bread reaches harbour first").split()


class Server:
    """One llama-server on a free port; `env` is what it has beyond this process's environment."""

    def __init__(self, args, env, slots):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        command = [args.server, "-m", args.model, "--host", "127.0.0.1", "--port", str(self.port), "-t",
                   str(args.threads), "-c", str(args.ctx), "-np", "4", "--context-shift", "--slot-save-path",
                   slots, "--no-webui"] + args.server_args
        self.log = open(os.path.join(slots, "log"), "w", encoding="utf-8")
        clean = {k: v for k, v in os.environ.items() if k not in ("GGML_BACKEND_PATH", "TIGHTKV_KV")}
        clean["OMP_WAIT_POLICY"] = "passive"  # spinning threads starve each other on a busy machine
        self.process = subprocess.Popen(command, env={**clean, **env}, stdout=self.log, stderr=self.log)
        for _ in range(300):
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}, see {self.log.name}")
            try:
                if self.post("GET", "/health")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise RuntimeError("the server did not come up")

    def post(self, method, path, body=None, timeout=120):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None,
                               {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def complete(self, request):
        status, body = self.post("POST", "/completion", request)
        if status != 200:
            raise RuntimeError(f"status {status}: {body[:200]!r}")
        return json.loads(body)

    def cancel(self, request, n_bytes):
        """Begins a streamed answer and hangs up in the middle of it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("POST", "/completion", json.dumps({**request, "stream": True}),
                           {"Content-Type": "application/json"})
        connection.getresponse().read(n_bytes)
        connection.close()

    def slot(self, i, action, name):
        status, body = self.post("POST", f"/slots/{i}?action={action}", {"filename": name})
        if status != 200:
            raise RuntimeError(f"slot {action}: status {status}: {body[:200]!r}")

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


def request(rng, n_words, n_predict, slot=-1):
    text = " ".join(rng.choice(WORDS) for _ in range(n_words))
    return {"prompt": text, "n_predict": n_predict, "temperature": 0, "seed": 1, "cache_prompt": True,
            "id_slot": slot, "n_probs": 2, "ignore_eos": True}


def tokens(answer):
    """[(token id, its lead over the runner-up in nats)]"""
    out = []
    for step in answer["completion_probabilities"]:
        top = step["top_logprobs"]
        lead = top[0]["logprob"] - top[1]["logprob"] if len(top) > 1 else math.inf
        out.append((step["id"], lead))
    return out


def differs(stock, other, tie):
    """The first place where the answers part for no good reason, -1 when there is none."""
    for i, ((a, lead), (b, _)) in enumerate(zip(stock, other)):
        if a != b:
            return -1 if lead < tie else i
    return -1 if len(stock) == len(other) else min(len(stock), len(other))


def one_round(rng, server, checks, slot_ctx):
    """Four requests at once, one cancelled among them; then slot 0 saved, erased, restored and asked again."""
    jobs = [request(rng, rng.randint(5, slot_ctx // 4), rng.randint(4, 24)) for _ in range(3)]
    jobs.append(request(rng, slot_ctx // 2, slot_ctx * 2 // 3))  # shifts its context
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        dropped = pool.submit(server.cancel, request(rng, 30, slot_ctx // 3), rng.randint(100, 3000))
        for job, answer in zip(jobs, pool.map(server.complete, jobs)):
            checks.append((job, tokens(answer)))
        dropped.result()
    first = request(rng, slot_ctx // 3, 8, slot=0)
    checks.append((first, tokens(server.complete(first))))
    server.slot(0, "save", "soak.bin")
    server.complete(request(rng, slot_ctx // 3, 8, slot=0))
    server.slot(0, "restore", "soak.bin")
    more = {**first, "prompt": first["prompt"] + " " + " ".join(rng.choice(WORDS) for _ in range(5))}
    checks.append((more, tokens(server.complete(more))))


def soak(args, slots):
    rng = random.Random(args.seed)
    checks = []
    env = {"GGML_BACKEND_PATH": args.plugin, "TIGHTKV_KV": args.kv}
    if "TIGHTKV_SANITIZER_RUNTIME" in os.environ:
        env["LD_PRELOAD"] = os.environ["TIGHTKV_SANITIZER_RUNTIME"]
    server = Server(args, env, slots)
    try:
        end = time.monotonic() + args.seconds
        rounds = 0
        while rounds == 0 or time.monotonic() < end:
            one_round(rng, server, checks, args.slot_ctx)
            rounds += 1
        if server.process.poll() is not None:
            raise RuntimeError(f"the server ended with {server.process.returncode}")
    finally:
        server.stop()
    with open(server.log.name, encoding="utf-8", errors="replace") as log:
        if "tightkv: KV cache" not in log.read():
            raise RuntimeError("the plug-in took no part")
    print(f"{rounds} rounds, {len(checks)} answers")
    return checks


def compare(args, slots, checks):
    server = Server(args, {}, slots)
    wrong = 0
    try:
        for job, answer in checks:
            stock = tokens(server.complete({**job, "cache_prompt": False}))
            at = differs(stock, answer, args.tie)
            if at >= 0:
                wrong += 1
                lead = stock[at][1] if at < len(stock) else math.nan
                print(f"differs at token {at} of {len(stock)} (stock led by {lead:.3f}): {job['prompt'][:60]!r}...")
    finally:
        server.stop()
    print(f"{len(checks) - wrong} of {len(checks)} answers are the stock server's")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--server", required=True)
    parser.add_argument("--plugin", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--kv", default="k=f16,v=f16")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ctx", type=int, default=1024)
    parser.add_argument("--slot-ctx", type=int, default=256, help="context of one slot")
    parser.add_argument("--tie", type=float, default=0.05, help="lead in nats below which either token is right")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--crash-only", action="store_true", help="do not compare answers (for lossy specs)")
    parser.add_argument("server_args", nargs="*", help="after --: more arguments for the server")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as slots:
        try:
            checks = soak(args, slots)
            wrong = 0 if args.crash_only else compare(args, slots, checks)
        except (RuntimeError, OSError, http.client.HTTPException, subprocess.TimeoutExpired) as error:
            print(f"soak: {error}", file=sys.stderr)
            wrong = 1
        if wrong:
            with open(os.path.join(slots, "log"), encoding="utf-8", errors="replace") as log:
                sys.stderr.write("".join(log.readlines()[-30:]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
