#!/usr/bin/env bash
# Speed and memory on one GPU, beside peft and transformers: a step of every method, one layer, evaluation.
#
#   benchmarks/gpu.sh OUT.json [SIZE]      # SIZE: 1b (default), 3b or 8b, with random weights
#
# It takes less than ten minutes with 1b. Without a GPU it says so, and measures nothing.
# DEVICE=cpu benchmarks/gpu.sh OUT.json tiny tries it out.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:?usage: benchmarks/gpu.sh OUT.json [SIZE]}")
size=${2:-1b}
python=${PYTHON:-.venv/bin/python}
device=${DEVICE:-cuda}

if [ "$device" = cuda ] && ! "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    echo "no GPU: nothing was measured"
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
model=$work/model
common="--device $device --dtype bfloat16 --rounds 3"
if [ "$size" = tiny ]; then
    step="--batch-size 4 --micro-batch-rows 2 --gemm-tokens 64" layer=--tiny rows=2
else
    step="--batch-size 64 --micro-batch-rows 16 --max-tokens 4096 --gemm-tokens 4096" layer= rows=64
fi

"$python" -m benchmarks.random_model "$model" --size "$size" --device "$device"
# shellcheck disable=SC2086 # the variables hold several options
"$python" -m benchmarks.step --model "$model" $common $step --json "$work/step.json" \
    --suites builtin:tiny_commonsense builtin:tiny_arithmetic
# shellcheck disable=SC2086
"$python" -m benchmarks.linear $common $layer --json "$work/linear.json"
# shellcheck disable=SC2086
"$python" -m benchmarks.evaluation --model "$model" --data builtin --rows $rows $common --json "$work/evaluation.json"

"$python" - "$out" "$work" <<'PY'
import json
import sys
from pathlib import Path

out, work = map(Path, sys.argv[1:])
names = ("step", "linear", "evaluation")
out.write_text(json.dumps({name: json.loads((work / f"{name}.json").read_text()) for name in names}, indent=1) + "\n")
PY
echo "wrote $out"
