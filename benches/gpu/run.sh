#!/usr/bin/env bash
# Tests and benches that need a GPU, and one table of all numbers: bash benches/gpu/run.sh [--tiny --device cpu]
# Uses the wheel of prepare.sh where there is one (a bare machine), else the environment that make setup made.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${OUT:-target/gpu-out}
mkdir -p "$out"
rows=$out/rows.jsonl
rm -f "$rows"
# long and short batches in turn would fragment the card's memory
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True PYTORCH_ALLOC_CONF=expandable_segments:True
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
python=python3
if compgen -G 'target/gpu/wheels/*.whl' >/dev/null; then
  site=$(mktemp -d)
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" target/gpu/wheels/*.whl || exit 1
  for source in target/gpu/sources/*.tar.gz; do
    [ -e "$source" ] && command -v nvcc >/dev/null || continue
    # its setup.py asks for an architecture that CUDA 13 no longer builds
    unpacked=$(mktemp -d)
    tar -xzf "$source" -C "$unpacked" --strip-components 1
    sed -i 's/7\.0+PTX/9.0/' "$unpacked/setup.py"
    timeout 240 "$python" -m pip install --quiet --no-index --no-deps --no-build-isolation --no-cache-dir \
      --target "$site" "$unpacked" >"$out/build.log" 2>&1 || echo "$source did not build: $(tail -n 1 "$out/build.log")"
  done
  export PYTHONPATH=$site
else
  python=.venv/bin/python
fi
status=0
# a lease has minutes: STEPS="tests" or STEPS="kernels" runs a part
for step in ${STEPS:-tests kernels exact}; do
  case $step in
    tests) "$python" -m pytest -q -p no:cacheprovider tests/gpu 2>&1 | tee "$out/tests.log" ;;
    kernels) "$python" benches/gpu/bench_kernels.py --rows "$rows" "$@" ;;
    exact) "$python" benches/gpu/bench_exact.py --rows "$rows" "$@" ;;
  esac || status=1
done
"$python" benches/gpu/table.py "$rows" | tee "$out/table.txt"
exit $status
