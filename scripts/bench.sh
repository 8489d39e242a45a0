#!/bin/sh
# The benchmarks of docs/results.md on this machine: attention against stock llama.cpp, the encoders, a model.
#   bench.sh [THREADS]
set -eu
cd "$(dirname "$0")/.."
threads=${1:-1}
tightkv=build/bin/tightkv

for kv in turbo4 q8 polar433 polar f16; do
    echo "== attention, kv=$kv, 16384 tokens, 8 KV heads of 128, group of 4, $threads thread(s)"
    $tightkv bench attend --kv "kv=$kv,sink=0,tail=0" --ctx 16384 --n-kv-heads 8 --group 4 --head-dim 128 \
        --threads "$threads" --against llama
done
for kv in turbo4 polar433 polar; do
    echo "== encoding, kv=$kv"
    $tightkv bench encode --kv "kv=$kv"
done
echo "== the embedded model"
for kv in kv=turbo4 default; do
    $tightkv bench model -m models/tightkv-lm-46m-q4_k_m.gguf --kv "$kv" --depth 0,4096,16384 --threads "$(nproc)"
done
