"""Ours against what else computes influence: same model, same samples, one run, ratios.

Each peer is a small script in ``benches/peers`` and a process of its own; those of other projects run in
``.venv-peers``, which ``bash benches/peers/setup.sh`` makes. Right answer first: every peer's dots are compared with a
float64 oracle (one sample at a time, plain autograd) before any time is taken. Then the peers take a pass each, in
turn, round after round. What did not run is in the table, with its reason.

    python benches/bench_peers.py [--rounds 5] [--threads 2] [--only diq_exact bergson]
    python benches/bench_peers.py --smoke
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from bench_exact import BUDGET, SHAPES, build, tokens
from diq.models.tokens import Tokens

PEERS = Path(__file__).parent / "peers"
SMOKE = (64, 2, 4, 2, 512)
QKV = ("q_proj.weight", "k_proj.weight", "v_proj.weight")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row of the table: a script with its options; ``subset`` samples are timed where a pass takes minutes."""

    name: str
    script: str
    options: tuple[str, ...] = ()
    foreign: bool = True
    subset: int | None = None


@dataclass(slots=True)
class Result:
    """What came of a candidate: either figures or a reason."""

    candidate: Candidate
    seconds: list[float] = field(default_factory=list)
    final: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def candidates(options: argparse.Namespace) -> list[Candidate]:
    budget = ("--budget", str(options.budget))
    less = ("--dim", str(options.dim))
    return [
        Candidate("diq, exact", "diq_exact.py", budget, foreign=False),
        Candidate("autograd loop", "autograd_loop.py", foreign=False),
        Candidate("bergson, exact in memory", "bergson_scorer.py", budget),
        Candidate("bergson, embedding frozen", "bergson_scorer.py", (*budget, "--cheap-root")),
        Candidate("dattri, gradient function", "dattri_tracin.py", (*budget, "--pieces")),
        Candidate("dattri, TracInAttributor", "dattri_tracin.py", budget),
        Candidate("LESS loop, 16 a projection", "less_loop.py", less, subset=16),
        Candidate("LESS loop, 1 a projection", "less_loop.py", (*less, "--together", "1"), subset=options.single),
    ]


class Worker:
    """A peer's process, asked for one pass at a time."""

    def __init__(self, candidate: Candidate, inputs: Path, options: argparse.Namespace) -> None:
        python = str(options.peers_python) if candidate.foreign else sys.executable
        command = [python, str(PEERS / candidate.script), str(inputs), "--serve", "--threads", str(options.threads)]
        if candidate.subset is not None:
            command += ["--subset", str(candidate.subset)]
        threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        quiet = {
            "TQDM_DISABLE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        self.errors = tempfile.TemporaryFile(mode="w+", prefix="bench-peers-")  # noqa: SIM115  (closed in stop)
        self.process = subprocess.Popen(
            [*command, *candidate.options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=os.environ | threads | quiet,
        )
        self.timeout_s = options.timeout
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            # an import may print before the script takes stdout away from it
            if line.startswith("{"):
                self.lines.put(line)
        self.lines.put("")

    def answer(self) -> dict[str, Any]:
        """The next line of the protocol.

        Raises:
            RuntimeError: the peer died or takes too long; the message is the reason.
        """
        try:
            line = self.lines.get(timeout=self.timeout_s)
        except queue.Empty:
            raise RuntimeError(f"no answer within {self.timeout_s} s") from None
        if line:
            return dict(json.loads(line))
        code = self.process.wait()
        if code < 0:
            raise RuntimeError(f"killed by signal {-code}" + (": out of memory?" if code == -9 else ""))
        self.errors.seek(0)
        last = [one.strip() for one in self.errors.read().splitlines() if one.strip()]
        raise RuntimeError(last[-1] if last else f"exit status {code}")

    def ask(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("pass\n")
        self.process.stdin.flush()
        return self.answer()

    def finish(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.answer()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()


def write_inputs(folder: Path, shape: tuple[int, ...], options: argparse.Namespace, n: int) -> None:
    """Save a model, the samples, and the dots that some of them must have."""
    model = build(*shape)
    # at the usual initial scale (0.02) attention is flat, and a peer that forgot queries and keys would pass the check
    factor = (options.logits / (0.02**2 * shape[0])) ** 0.5
    with torch.no_grad():
        for name, one in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                one.mul_(factor)
    model.save_pretrained(folder / "model")
    samples = tokens(n + options.validation, shape[-1])
    train, validation = samples[:n], samples[n:]
    checked = np.arange(min(options.check, n))
    arrays: dict[str, Any] = {"checked": checked}
    for name, part in (("train", train), ("validation", validation)):
        arrays[f"{name}_ids"] = np.concatenate([one.ids for one in part])
        arrays[f"{name}_offsets"] = np.cumsum([0, *(len(one.ids) for one in part)])
        arrays[f"{name}_starts"] = np.asarray([one.answer_start for one in part])
    exact = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float64).eval()
    mean = torch.stack([flat_gradient(exact, one) for one in validation]).mean(dim=0)
    gradients = [flat_gradient(exact, train[row]) for row in checked]
    arrays["oracle"] = np.asarray([float(one @ mean) for one in gradients])
    arrays["noise"] = np.asarray([float(one.norm() * mean.norm()) for one in gradients])
    np.savez(folder / "samples.npz", **arrays)


def flat_gradient(model: Any, sample: Tokens) -> torch.Tensor:
    """The oracle: gradient of a sample's mean answer loss for the q/k/v weights, by nothing but autograd."""
    weights = [one for name, one in model.named_parameters() if name.endswith(QKV)]
    ids = torch.from_numpy(sample.ids.astype(np.int64))
    logits = model(input_ids=ids.unsqueeze(0), use_cache=False).logits[0]
    answer = torch.arange(sample.answer_start, len(ids))
    losses = -torch.log_softmax(logits[answer - 1], dim=-1)[torch.arange(len(answer)), ids[answer]]
    return torch.cat([one.flatten() for one in torch.autograd.grad(losses.mean(), weights)])


def measure(inputs: Path, chosen: list[Candidate], options: argparse.Namespace) -> list[Result]:
    results = [Result(one) for one in chosen]
    started = (start(result, inputs, options) for result in results)
    # one after the other, so that nobody's preparation is timed beside another's; a smoke run has no time for that
    workers = [admit(*pair) for pair in zip(results, list(started) if options.smoke else started, strict=True)]
    try:
        for turn in range(options.rounds):
            for place, (result, worker) in enumerate(zip(results, workers, strict=True)):
                # a subset is timed where a pass takes minutes
                rounds = options.rounds if result.candidate.subset is None else options.slow_rounds
                if worker is None or turn >= rounds:
                    continue
                print(f"  round {turn + 1}: {result.candidate.name}", file=sys.stderr)
                try:
                    result.seconds.append(worker.ask()["seconds"])
                    if turn + 1 == rounds:
                        result.final = worker.finish()
                except (RuntimeError, OSError) as error:
                    result.reason, result.seconds = str(error), []
                    worker.stop()
                    workers[place] = None
    finally:
        for worker in workers:
            if worker is not None:
                worker.stop()
    return results


def start(result: Result, inputs: Path, options: argparse.Namespace) -> Worker | None:
    if result.candidate.foreign and not options.peers_python.exists():
        result.reason = f"`{options.peers_python}` is missing: bash benches/peers/setup.sh"
        return None
    return Worker(result.candidate, inputs, options)


def admit(result: Result, worker: Worker | None) -> Worker | None:
    """Wait until a peer has proved its dots."""
    if worker is None:
        return None
    print(f"  {result.candidate.name}: checking", file=sys.stderr)
    try:
        first = worker.answer()
        if first["event"] == "ready":
            return worker
        result.final, result.reason = first, "its dots are wrong; no time is taken"
    except RuntimeError as error:
        result.reason = str(error)
    worker.stop()
    return None


def report(results: list[Result]) -> None:
    """One table; every ratio is time per sample over ours of the same round."""
    ours = next((one for one in results if one.candidate.script == "diq_exact.py" and one.seconds), None)
    print(
        f"{'':27} {'median s':>9} {'min':>8} {'max':>8} {'rounds':>6} {'n':>4} {'tokens/n':>8} {'samples/s':>9} "
        f"{'tokens/s':>8} {'x ours':>7} {'min-max':>15} {'V s':>7} {'peak MB':>7} {'pearson':>8} "
        f"{'spearman':>8} {'error':>8}"
    )
    for result in results:
        check = result.final.get("check")
        quality = ""
        if check:
            # an exact peer's largest error in standard deviations of the dots; a projection's in what theory says
            noise = check["projection_noise"]
            error = f"{check['largest_error']:8.1e}" if noise is None else f"{noise:7.2f}n"
            quality = f"{check['pearson']:8.5f} {check['spearman']:8.5f} {error}"
        if not result.seconds:
            print(f"{result.candidate.name:27} did not run: {result.reason} {quality}".rstrip())
            continue
        final, median = result.final, statistics.median(result.seconds)
        ratio = spread = ""
        if ours is not None:
            shares = [
                (mine / final["samples"]) / (theirs / ours.final["samples"])
                for mine, theirs in zip(result.seconds, ours.seconds, strict=False)
            ]
            ratio, spread = f"{statistics.median(shares):.2f}", f"{min(shares):.2f}-{max(shares):.2f}"
        print(
            f"{result.candidate.name:27} {median:9.3f} {min(result.seconds):8.3f} {max(result.seconds):8.3f} "
            f"{len(result.seconds):6d} {final['samples']:4d} "
            f"{final['tokens'] / final['samples']:8.0f} {final['samples'] / median:9.3f} "
            f"{final['tokens'] / median:8.0f} {ratio:>7} {spread:>15} {final['prepare_s']:7.2f} "
            f"{final['peak_mb']:7d} {quality}"
        )


def notes(results: list[Result]) -> None:
    versions: dict[str, str] = {"python": platform.python_version()}
    for result in results:
        versions |= result.final.get("versions", {})
        if result.final:
            print(f"  {result.candidate.name}: {result.final['note']}")
    print(f"  versions: {', '.join(f'{name} {version}' for name, version in versions.items())}")


def processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow-rounds", type=int, default=1, help="of the LESS loop: 27.8M parameters take minutes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=96, help="of the small model; a quarter for the large one")
    parser.add_argument("--validation", type=int, default=16, help="samples of the validation set")
    parser.add_argument("--check", type=int, default=16, help="samples compared with the oracle")
    parser.add_argument("--budget", type=int, default=BUDGET, help="padded tokens a batch, of every peer that takes it")
    parser.add_argument("--dim", type=int, default=4096, help="of the LESS loop's projection")
    parser.add_argument(
        "--single", type=int, default=1, help="samples timed with a projection each; it costs the same for every length"
    )
    parser.add_argument("--logits", type=float, default=3.5, help="rough spread of the attention logits")
    parser.add_argument("--models", nargs="*", choices=[*SHAPES, "smoke"], default=list(SHAPES))
    parser.add_argument("--only", nargs="*", help="rows whose name or script contains one of these")
    parser.add_argument("--peers-python", type=Path, default=Path(".venv-peers/bin/python"))
    parser.add_argument("--timeout", type=float, default=1800, help="seconds that a peer may take for one answer")
    parser.add_argument("--keep", type=Path, help="write the inputs there and leave them, for a peer run by hand")
    parser.add_argument("--json", type=Path, help="write every figure there")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, 16 samples, one round: does it all run?")
    options = parser.parse_args()
    if options.smoke:
        options.models, options.samples, options.rounds, options.dim, options.check = ["smoke"], 16, 1, 512, 8
        options.validation = 4
        # all peers start at once, on machines that may be busy
        options.threads = 1
    options.slow_rounds = min(options.slow_rounds, options.rounds)
    torch.set_num_threads(options.threads)
    chosen = [
        one
        for one in candidates(options)
        if not options.only or any(word in f"{one.name} {one.script}" for word in options.only)
    ]
    machine = f"{processor()}, {platform.system()} {platform.machine()}"
    print(f"{machine}, {options.threads} threads, {options.rounds} rounds in turn")
    record: dict[str, Any] = {"machine": machine, "threads": options.threads, "models": {}}
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as scratch:
        for title in options.models:
            shape = SMOKE if title == "smoke" else SHAPES[title]
            n = options.samples if shape[0] < 512 else max(16, options.samples // 4)
            folder = (options.keep or Path(scratch)) / title.replace(" ", "-")
            write_inputs(folder, shape, options, n)
            results = measure(folder, chosen, options)
            print(f"\n{title}: {n} samples against {options.validation}, hidden {shape[0]}, {shape[1]} layers")
            report(results)
            notes(results)
            record["models"][title] = [
                {"name": one.candidate.name, "reason": one.reason} | one.final | {"seconds": one.seconds}
                for one in results
            ]
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
