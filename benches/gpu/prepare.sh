#!/usr/bin/env bash
# Builds what a bare GPU machine needs into target/gpu (which git ignores): our abi3 wheel, the wheels of what training
# needs, and the source of fast_jl, the rival projection, which is compiled there. Run it here, then on the GPU machine:
#
#     run(command="bash benches/gpu/run.sh", carry=["target/gpu"], timeout_s=600)
#
# (the tool of a workplace that lends one; on a machine of your own: make setup && bash benches/gpu/run.sh)
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=target/gpu
python=.venv/bin/python
rm -rf "$folder"
mkdir -p "$folder/wheels" "$folder/sources"
"$python" -m maturin build --release --quiet --out "$folder/wheels"
# what training needs and the lent machine lacks (CPython 3.12 there)
platforms=(manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64)
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  "${platforms[@]/#/--platform=}" --dest "$folder/wheels" trl datasets dill multiprocess xxhash duckdb orjson \
  || echo "some wheels could not be fetched: the tests that need them are skipped" >&2
# its setup.py asks for a CUDA folder even to be looked at; nothing is compiled here
CUDA_HOME=/nonexistent TORCH_CUDA_ARCH_LIST=9.0 "$python" -m pip download --quiet --no-deps --no-build-isolation \
  --no-binary=:all: --dest "$folder/sources" 'fast_jl==0.1.3' || echo "fast_jl could not be fetched: its column stays empty" >&2
du -sh "$folder"
