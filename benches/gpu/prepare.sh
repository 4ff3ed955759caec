#!/usr/bin/env bash
# Builds what a bare GPU machine needs into target/gpu (which git ignores): our abi3 wheel, and the source of fast_jl,
# the rival projection, which is compiled there. Run it here, then on the GPU machine:
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
# its setup.py asks for a CUDA folder even to be looked at; nothing is compiled here
CUDA_HOME=/nonexistent TORCH_CUDA_ARCH_LIST=9.0 "$python" -m pip download --quiet --no-deps --no-build-isolation \
  --no-binary=:all: --dest "$folder/sources" 'fast_jl==0.1.3' || echo "fast_jl could not be fetched: its column stays empty" >&2
du -sh "$folder"
