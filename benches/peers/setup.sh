#!/usr/bin/env bash
# Make .venv-peers, the environment of the peers that benches/bench_peers.py runs; `make setup` comes first.
# With the cache that `make setup` filled it takes seconds and about 1 GB of disk (6 GB as `du` counts hard links).
set -euo pipefail
cd "$(dirname "$0")/../.."
.venv/bin/uv venv --quiet --clear --python .venv/bin/python .venv-peers
.venv/bin/uv pip install --quiet --compile-bytecode --python .venv-peers/bin/python \
  --requirement benches/peers/requirements.txt --override benches/peers/overrides.txt
.venv-peers/bin/python -c 'import bergson, dattri, trak' >/dev/null
echo "ready: python benches/bench_peers.py"
