"""Adam's moments by name: real checkpoints, each compared with the optimizer that wrote it, and bad input."""

from __future__ import annotations

import importlib
import json
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import Forked, build_llama, write_jsonl
from diq.base.errors import DiqError, InputError, ModelError, UsageError
from diq.gradients.adam_state import AdamMoments, read_adam_moments, read_learning_rate, read_learning_rates

VOCABULARY = 60
BETAS = (0.8, 0.95)
EPS = 1e-6

# torch tells a process that saves a sharded checkpoint alone that it is alone
SAVED_ALONE = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def square_llama(*, tied: bool = True, layers: int = 2) -> Any:
    """All four projections are 32x32 and have biases, so that an order of parameters can be wrong and still fit."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        attention_bias=True,
        mlp_bias=True,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def with_lora(model: nn.Module, *, name: str = "default") -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM")
    return get_peft_model(model, config, adapter_name=name)


Live = dict[str, dict[str, Any]]


def live_state(model: nn.Module, optimizer: Any) -> Live:
    """What the optimizer holds for each parameter object, by the parameter's name."""
    optimizer = getattr(optimizer, "optimizer", optimizer)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: {
            key: value.clone() if isinstance(value, Tensor) else value
            for key, value in optimizer.state[parameter].items()
        }
        for group in optimizer.param_groups
        for parameter in group["params"]
        if optimizer.state.get(parameter)
    }


def assert_same(moments: AdamMoments, live: Live) -> None:
    assert moments.first.keys() == moments.second.keys() == moments.steps.keys() == live.keys()
    for name, entry in live.items():
        assert torch.equal(moments.first[name], entry["exp_avg"]), name
        assert torch.equal(moments.second[name], entry["exp_avg_sq"]), name
        assert moments.steps[name] == int(entry["step"]), name


def train(
    model: Any, output: Path, *, steps: int = 4, epochs: int = 2, optimizer: Any = None, **options: Any
) -> tuple[Path, Live, list[float]]:
    """Train with HF's Trainer; the last checkpoint, the live state and the learning rate of each step."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    generator = torch.Generator().manual_seed(1)
    rows = [
        {"input_ids": ids, "labels": ids}
        for ids in torch.randint(3, VOCABULARY, (2 * steps // epochs, 8), generator=generator)
    ]
    settings = {
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "adam_epsilon": EPS,
        "logging_steps": 1,
    }
    args = TrainingArguments(
        output_dir=str(output),
        num_train_epochs=epochs,
        per_device_train_batch_size=2,
        save_strategy="epoch",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **{**settings, **options},
    )
    rates: list[float] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            rates.append(more["optimizer"].param_groups[0]["lr"])

    trainer = Trainer(model=model, args=args, train_dataset=rows, callbacks=[Watch()], optimizers=(optimizer, None))
    trainer.train()
    checkpoint = output / f"checkpoint-{trainer.state.global_step}"
    return checkpoint, live_state(trainer.model, trainer.optimizer), rates


def step_by_hand(
    model: Any, optimizer: Any, *, steps: int = 3, backward: Callable[[Tensor], Any] | None = None
) -> None:
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        ids = torch.randint(3, VOCABULARY, (2, 8), generator=generator)
        loss = model(input_ids=ids, labels=ids).loss
        backward(loss) if backward else loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def adamw(model: nn.Module, **options: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        [one for one in model.parameters() if one.requires_grad], lr=1e-2, betas=BETAS, eps=EPS, **options
    )


def save_state(folder: Path, state: Any, name: str = "optimizer.pt") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / name)
    return folder


# HF Trainer --------------------------------------------------------------------------------------------------------


def test_lora_of_a_trainer(tmp_path: Path) -> None:
    from peft import PeftModel

    checkpoint, live, _ = train(with_lora(square_llama()), tmp_path)
    # loaded as for scoring: other weights, nothing requires gradients
    loaded = PeftModel.from_pretrained(square_llama(), checkpoint)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    moments = read_adam_moments(checkpoint, loaded)
    assert_same(moments, live)
    assert len(live) == 2 * 4 * 2
    assert moments.step == 4
    assert moments.betas == BETAS
    assert moments.eps == EPS
    # the schedule has ended: this is why the epoch's mean is the weight
    assert moments.learning_rate == 0
    earlier = read_adam_moments(checkpoint.with_name("checkpoint-2"), loaded)
    assert earlier.step == 2
    assert earlier.learning_rate == pytest.approx(0.5e-2)
    # loaded for more training, and under another name
    assert_same(
        read_adam_moments(checkpoint, PeftModel.from_pretrained(square_llama(), checkpoint, is_trainable=True)), live
    )
    renamed = PeftModel.from_pretrained(square_llama(), checkpoint, adapter_name="warmup")
    found = read_adam_moments(checkpoint, renamed).first
    assert {name.replace("warmup", "default") for name in found} == live.keys()


@pytest.mark.parametrize("tied", [True, False])
def test_full_training_of_a_trainer(tmp_path: Path, tied: bool) -> None:
    """Norms and biases are in a second group: the model's order would be wrong, and nearly fits."""
    checkpoint, live, _ = train(square_llama(tied=tied), tmp_path)
    loaded = square_llama(tied=tied).requires_grad_(False)
    assert_same(read_adam_moments(checkpoint, loaded), live)
    assert ("lm_head.weight" in live) is not tied
    # what reading by position would give: other parameters' moments, in shapes that fit
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    in_model_order = [name for name, _ in loaded.named_parameters()]
    wrong = [
        name
        for i, name in enumerate(in_model_order)
        if state[i]["exp_avg"].shape == live[name]["exp_avg"].shape
        and not torch.equal(state[i]["exp_avg"], live[name]["exp_avg"])
    ]
    assert len(wrong) > 3


def test_parts_of_a_model(tmp_path: Path) -> None:
    model = square_llama()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "layers.1" in name or name.endswith("norm.weight")
    checkpoint, live, _ = train(model, tmp_path)
    assert_same(read_adam_moments(checkpoint, model), live)
    # nobody can know which parameters these were
    with pytest.raises(ModelError, match=r"moments of 7 \+ 12 parameters, LlamaForCausalLM would have") as caught:
        read_adam_moments(checkpoint, square_llama().requires_grad_(False))
    assert "requires_grad" in caught.value.hint


def test_lora_with_trained_norms_and_another_head(tmp_path: Path) -> None:
    """modules_to_save puts full copies, also of norms, among the adapter's parameters."""
    from peft import LoraConfig, PeftModel, get_peft_model

    config = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["input_layernorm", "lm_head"], task_type="CAUSAL_LM"
    )
    checkpoint, live, _ = train(get_peft_model(square_llama(tied=False), config), tmp_path)
    loaded = PeftModel.from_pretrained(square_llama(tied=False), checkpoint)
    assert_same(read_adam_moments(checkpoint, loaded), live)
    assert len(live) == 2 * 2 * 2 + 2 + 1


def test_layer_norms_and_qk_norms(tmp_path: Path) -> None:
    """Types and names that the grouping goes by: nn.LayerNorm, and norms inside of the attention."""
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    gpt2 = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=1, eos_token_id=2
    )
    qwen3 = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, head_dim=8, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    for folder, make in (("gpt2", lambda: GPT2LMHeadModel(gpt2)), ("qwen3", lambda: Qwen3ForCausalLM(qwen3))):
        checkpoint, live, _ = train(make(), tmp_path / folder)
        assert_same(read_adam_moments(checkpoint, make().requires_grad_(False)), live)


def test_the_grouping_of_older_transformers(tmp_path: Path) -> None:
    """A norm whose type was not on a list was decayed."""
    model = square_llama()
    with_decay = [parameter for name, parameter in model.named_parameters() if "bias" not in name]
    without = [parameter for name, parameter in model.named_parameters() if "bias" in name]
    optimizer = torch.optim.AdamW([{"params": with_decay, "weight_decay": 0.1}, {"params": without}], lr=1e-2)
    step_by_hand(model, optimizer)
    checkpoint = save_state(tmp_path, optimizer.state_dict())
    assert_same(read_adam_moments(checkpoint, square_llama()), live_state(model, optimizer))


def test_our_own_training(
    tmp_path: Path, tiny_llama_folder: Path, make_samples: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel

    from diq.models.network import load_causal_lm
    from diq.models.source import find_model

    stage, worker = importlib.import_module("diq.training.train"), importlib.import_module("diq.training.worker")
    kept: list[Any] = []
    inner = worker.make_trainer

    def make_trainer(*arguments: Any, **options: Any) -> Any:
        kept.append(inner(*arguments, **options))
        return kept[-1]

    monkeypatch.setattr(worker, "make_trainer", make_trainer)
    selection = write_jsonl(tmp_path / "s.jsonl", [{"messages": one} for one in make_samples(6, longest=8)])
    stage.train(
        str(selection), model=str(tiny_llama_folder), output=tmp_path / "adapter", store=tmp_path / "none.duckdb",
        epochs=2, batch_size=2, learning_rate=1e-2, device="cpu",
    )  # fmt: skip
    network = load_causal_lm(find_model(str(tiny_llama_folder)), dtype="float32", device="cpu")
    loaded = PeftModel.from_pretrained(network, tmp_path / "adapter")
    checkpoint = tmp_path / "adapter" / "checkpoint-6"
    assert_same(read_adam_moments(checkpoint, loaded), live_state(kept[0].model, kept[0].optimizer))
    assert read_learning_rates(checkpoint).steps == (4, 6)
    assert 0 < (read_learning_rate(checkpoint) or 0) < (read_learning_rate(checkpoint.with_name("checkpoint-3")) or 0)
    with pytest.raises(UsageError, match=r"no optimizer state, but 2 checkpoints") as caught:
        read_adam_moments(tmp_path / "adapter", loaded)
    assert "checkpoint-6" in caught.value.hint


# accelerate, names, FSDP -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [True, False])
def test_accelerate(tmp_path: Path, lora: bool) -> None:
    from accelerate import Accelerator

    def make() -> Any:
        return with_lora(square_llama()) if lora else square_llama()

    model = make()
    accelerator = Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, adamw(model))
    step_by_hand(prepared, optimizer, backward=accelerator.backward)
    accelerator.save_state(str(tmp_path / "state"))
    assert (tmp_path / "state" / "optimizer.bin").is_file()
    moments = read_adam_moments(tmp_path / "state", make().requires_grad_(False))
    assert_same(moments, live_state(model, optimizer))
    assert moments.learning_rate == 1e-2


def test_names_in_the_groups_are_used(tmp_path: Path) -> None:
    """From torch 2.7 an optimizer of named parameters stores the names; any order is then right."""
    model = square_llama()
    names = list(model.named_parameters())
    optimizer = torch.optim.AdamW(names[::-1], lr=1e-2)
    if "param_names" not in optimizer.state_dict()["param_groups"][0]:
        pytest.skip("torch before 2.7 stores no names")
    step_by_hand(model, optimizer)
    checkpoint = save_state(tmp_path, optimizer.state_dict())
    assert_same(read_adam_moments(checkpoint, square_llama()), live_state(model, optimizer))


def test_frozen_parameters_in_the_optimizer(tmp_path: Path) -> None:
    """AdamW(model.parameters()) numbers the frozen ones too; they have no moments."""
    model = with_lora(square_llama())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step_by_hand(model, optimizer)
    checkpoint = save_state(tmp_path, optimizer.state_dict())
    assert_same(read_adam_moments(checkpoint, with_lora(square_llama())), live_state(model, optimizer))


def named(live: Live, rename: Callable[[str], str]) -> dict[str, Any]:
    group = {"lr": 1e-2, "betas": BETAS, "eps": EPS, "params": [rename(name) for name in live]}
    return {"state": {rename(name): entry for name, entry in live.items()}, "param_groups": [group]}


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name,
        lambda name: f"_fsdp_wrapped_module.{name}",
        lambda name: f"module.module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: name.replace("layers.1.", "layers.1._fsdp_wrapped_module._checkpoint_wrapped_module."),
        lambda name: name.removeprefix("base_model.model."),
        lambda name: name.replace(".default.", "."),
        lambda name: "module." + name.replace(".default.", ".warmup.").replace(".warmup.", ".default."),
    ],
)
def test_names_with_prefixes(tmp_path: Path, rename: Callable[[str], str]) -> None:
    model = with_lora(square_llama())
    optimizer = adamw(model)
    step_by_hand(model, optimizer)
    live = live_state(model, optimizer)
    checkpoint = save_state(tmp_path, named(live, rename), "optimizer.bin")
    moments = read_adam_moments(checkpoint, with_lora(square_llama()).requires_grad_(False))
    assert_same(moments, live)
    assert (moments.betas, moments.eps, moments.learning_rate) == (BETAS, EPS, 1e-2)


def test_a_state_without_groups(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As one gathers it by hand from DeepSpeed."""
    model = square_llama()
    optimizer = adamw(model)
    step_by_hand(model, optimizer)
    live = live_state(model, optimizer)
    checkpoint = save_state(tmp_path, {"state": live})
    with caplog.at_level("WARNING"):
        moments = read_adam_moments(checkpoint, square_llama())
    assert_same(moments, live)
    assert (moments.betas, moments.eps, moments.learning_rate) == ((0.9, 0.999), 1e-8, None)
    assert "no betas" in caplog.text


def test_a_tied_name(tmp_path: Path) -> None:
    """A state may know a tied weight by the name that the model lists no more."""
    model = square_llama()
    optimizer = adamw(model)
    step_by_hand(model, optimizer)
    live = live_state(model, optimizer)
    rename = {"model.embed_tokens.weight": "lm_head.weight"}
    checkpoint = save_state(tmp_path, named(live, lambda name: rename.get(name, name)))
    assert_same(read_adam_moments(checkpoint, square_llama()), live)


def test_several_adapters_need_exact_names(tmp_path: Path) -> None:
    model = with_lora(square_llama())
    optimizer = adamw(model)
    step_by_hand(model, optimizer)
    live = live_state(model, optimizer)
    loaded = with_lora(square_llama())
    loaded.add_adapter("other", loaded.peft_config["default"])
    exact = save_state(tmp_path / "exact", named(live, lambda name: name))
    moments = read_adam_moments(exact, loaded, names=list(live))
    assert_same(moments, live)
    vague = save_state(tmp_path / "vague", named(live, lambda name: name.replace(".default.", ".")))
    with pytest.raises(ModelError, match="which PeftModelForCausalLM has not"):
        loaded.base_model.set_adapter(["default", "other"])
        read_adam_moments(vague, loaded)


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    import torch.distributed as dist
    from accelerate.state import AcceleratorState

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
    # what accelerate found out about this process group is not to be met by other tests
    AcceleratorState._reset_state(reset_partial_state=True)


def fsdp2(model: Any) -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for layer in model.get_submodule(
        "base_model.model.model.layers" if hasattr(model, "peft_config") else "model.layers"
    ):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def fsdp1(model: Any) -> Any:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    policy = ModuleWrapPolicy({LlamaDecoderLayer})
    return FullyShardedDataParallel(model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu"))


def whole(live: Live) -> Live:
    """Without torch.distributed's wrappers."""
    return {
        name.replace("_fsdp_wrapped_module.", ""): {
            key: getattr(value, "full_tensor", lambda value=value: value)() for key, value in entry.items()
        }
        for name, entry in live.items()
    }


@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`:UserWarning")
@pytest.mark.filterwarnings("ignore:FSDP.state_dict_type:FutureWarning")
# torch's FSDP1 cannot train some of a layer's parameters on a CPU
@pytest.mark.parametrize(("version", "lora"), [(1, False), (2, False), (2, True)])
@pytest.mark.parametrize("kind", ["FULL_STATE_DICT", "SHARDED_STATE_DICT"])
def test_fsdp_as_accelerate_saves_it(tmp_path: Path, version: int, lora: bool, kind: str) -> None:
    from accelerate import FullyShardedDataParallelPlugin, PartialState
    from accelerate.utils.fsdp_utils import save_fsdp_optimizer

    def make() -> Any:
        return with_lora(square_llama()) if lora else square_llama()

    # accelerate logs through it
    PartialState(cpu=True)
    model = fsdp1(make()) if version == 1 else fsdp2(make())
    optimizer = adamw(model)
    step_by_hand(model, optimizer)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=version, state_dict_type=kind)
    save_fsdp_optimizer(plugin, SimpleNamespace(process_index=0), optimizer, model, str(tmp_path / "checkpoint"))
    there = "optimizer.bin" if kind == "FULL_STATE_DICT" else "optimizer_0"
    assert (tmp_path / "checkpoint" / there).exists()
    moments = read_adam_moments(tmp_path / "checkpoint", make().requires_grad_(False))
    assert_same(moments, whole(live_state(model, optimizer)))
    assert (moments.betas, moments.eps, moments.learning_rate) == (BETAS, EPS, 1e-2)


@SAVED_ALONE
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("around", [True, False])
def test_a_sharded_folder_of_torch(tmp_path: Path, flat: bool, around: bool) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    model = with_lora(square_llama())
    optimizer = adamw(model)
    step_by_hand(model, optimizer)
    state = get_optimizer_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=flat))
    # with the weights in the same checkpoint, as torchtitan saves it
    everything = {"model": model.state_dict(), "optim": state} if around else state
    dcp.save(everything, checkpoint_id=tmp_path / "step-3", no_dist=True)
    moments = read_adam_moments(tmp_path / "step-3", with_lora(square_llama()).requires_grad_(False))
    assert_same(moments, live_state(model, optimizer))
    assert (moments.betas, moments.eps, moments.learning_rate) == (BETAS, EPS, 1e-2)


@SAVED_ALONE
def test_a_sharded_folder_with_numbers(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    model = square_llama()
    optimizer = adamw(model)
    step_by_hand(model, optimizer)
    dcp.save({"optimizer": optimizer.state_dict()}, checkpoint_id=tmp_path / "optimizer_0", no_dist=True)
    moments = read_adam_moments(tmp_path, square_llama())
    assert_same(moments, live_state(model, optimizer))
    assert moments.betas == BETAS


def save_shard(rank: int, folder: Path) -> None:
    """The life of one of two processes that train a model together."""
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = fsdp2(with_lora(square_llama()))
    optimizer = adamw(model)
    step_by_hand(model, optimizer)
    state = {"optimizer": get_optimizer_state_dict(model, optimizer)}
    dcp.save(state, checkpoint_id=folder / "checkpoint" / "optimizer_0")
    live = whole(live_state(model, optimizer))
    if dist.get_rank() == 0:
        torch.save(live, folder / "live.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_shards_of_two_processes(tmp_path: Path) -> None:
    workers = []
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
        workers.append(Forked(save_shard, rank, tmp_path, folder=tmp_path / str(rank)))
    done = [one.wait() for one in workers]
    assert [one.returncode for one in done] == [0, 0], done
    assert len(list((tmp_path / "checkpoint" / "optimizer_0").glob("*.distcp"))) == 2
    moments = read_adam_moments(tmp_path / "checkpoint", with_lora(square_llama()).requires_grad_(False))
    assert_same(moments, torch.load(tmp_path / "live.pt", weights_only=True))


# learning rates ----------------------------------------------------------------------------------------------------


def test_learning_rates_of_a_trainer(tmp_path: Path) -> None:
    checkpoint, _, used = train(with_lora(square_llama()), tmp_path, steps=9, epochs=3, lr_scheduler_type="cosine")
    assert len(used) == 9
    for epoch in (1, 2, 3):
        rates = read_learning_rates(checkpoint.with_name(f"checkpoint-{3 * epoch}"))
        assert rates.steps == (3 * epoch - 2, 3 * epoch)
        assert rates.n_logged == 3
        assert rates.last == pytest.approx(used[3 * epoch - 1])
        assert rates.epoch_mean == pytest.approx(sum(used[3 * epoch - 3 : 3 * epoch]) / 3)
        assert read_learning_rate(checkpoint.with_name(f"checkpoint-{3 * epoch}")) == rates.epoch_mean


def trainer_state(folder: Path, **state: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


def test_rates_between_logs_are_linear(tmp_path: Path) -> None:
    logged = [{"step": step, "learning_rate": step * 1e-3, "loss": 1.0} for step in (1, 4, 7, 10)]
    folder = trainer_state(tmp_path, global_step=10, epoch=2.0, log_history=[*logged, {"step": 10, "eval_loss": 1}])
    rates = read_learning_rates(folder)
    assert rates.steps == (6, 10)
    assert rates.n_logged == 2
    assert rates.epoch_mean == pytest.approx(8e-3)


def test_a_checkpoint_inside_of_an_epoch(tmp_path: Path) -> None:
    logged = [{"step": step, "learning_rate": step * 1e-3} for step in range(1, 21)]
    # later logs, as a resumed training leaves them, do not count
    rates = read_learning_rates(trainer_state(tmp_path, global_step=15, epoch=1.5, log_history=logged))
    assert rates.steps == (11, 15)
    assert rates.epoch_mean == pytest.approx(13e-3)
    assert rates.last == pytest.approx(15e-3)


def test_no_log_is_no_rate(tmp_path: Path) -> None:
    assert read_learning_rate(tmp_path) is None
    folder = trainer_state(tmp_path / "empty", global_step=3, epoch=1.0, log_history=[])
    assert read_learning_rates(folder).epoch_mean is None
    (folder / "trainer_state.json").write_text('{"global_step": 3')
    with pytest.raises(InputError, match="cannot be read"):
        read_learning_rates(folder)


def test_the_weights_that_less_published(tmp_path: Path) -> None:
    """Its README weights four epochs, in all 422 steps, 3 % of them warm-up, at 2e-5 and linear decay."""
    published = [1.6877e-05, 1.2859e-05, 7.7030e-06, 2.5616e-06]
    warm = 13
    rates = [2e-5 * (step / warm if step < warm else (422 - step) / (422 - warm)) for step in range(423)]
    # transformers of that time logged the rate of the step after
    logged = [{"step": step, "learning_rate": rates[step]} for step in range(1, 423)]
    for epoch, (weight, step) in enumerate(zip(published, (105, 211, 317, 422), strict=True), start=1):
        state = {"global_step": step, "epoch": float(epoch), "log_history": logged}
        found = read_learning_rate(trainer_state(tmp_path / str(epoch), **state))
        assert found == pytest.approx(weight, rel=0.02)


# bad input ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint of a whole model, and its state."""
    model = square_llama()
    optimizer = adamw(model)
    step_by_hand(model, optimizer, steps=1)
    return save_state(tmp_path / "good", optimizer.state_dict()), optimizer.state_dict()


def refused(checkpoint: Path, model: nn.Module | None = None, **options: Any) -> DiqError:
    with pytest.raises(DiqError) as caught:
        read_adam_moments(checkpoint, model or square_llama(), **options)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400
    return caught.value


def test_missing_things(tmp_path: Path, good: tuple[Path, dict[str, Any]]) -> None:
    error = refused(tmp_path / "nowhere")
    assert "there is no checkpoint" in error.message
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").touch()
    error = refused(tmp_path / "adapter")
    assert "found adapter_model.safetensors" in error.message
    assert "save_only_model" in error.hint
    both = save_state(save_state(tmp_path / "both", good[1]), good[1], "optimizer.bin")
    assert "2 optimizer states" in refused(both).message
    assert_same(read_adam_moments(both / "optimizer.pt", square_llama()), read_as_live(good[0]))


def read_as_live(checkpoint: Path) -> Live:
    moments = read_adam_moments(checkpoint, square_llama())
    return {
        name: {"exp_avg": moments.first[name], "exp_avg_sq": moments.second[name], "step": moments.steps[name]}
        for name in moments.first
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("global_step100/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "DeepSpeed"),
        ("zero_to_fp32.py", "DeepSpeed"),
        ("optimizer_0_rank1.bin", "one optimizer file a process"),
        ("rank0-of-8-optimizer.pt", "one optimizer file a process"),
    ],
)
def test_layouts_that_are_not_read(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    error = refused(tmp_path)
    assert words in error.message
    assert error.hint


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated(good: tuple[Path, dict[str, Any]], keep: float) -> None:
    file = good[0] / "optimizer.pt"
    data = file.read_bytes()
    file.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    error = refused(good[0])
    assert isinstance(error, InputError)
    assert "cannot be read" in error.message


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_code_is_not_run(tmp_path: Path) -> None:
    checkpoint = save_state(tmp_path / "torch", {"state": {0: _Bomb(tmp_path / "ran")}})
    assert re.search(r"cannot be read: it is a pickle that names `.*`, which may run code", refused(checkpoint).message)
    folder = tmp_path / "sharded" / "optimizer_0"
    folder.mkdir(parents=True)
    (folder / ".metadata").write_bytes(pickle.dumps(_Bomb(tmp_path / "ran")))
    error = refused(tmp_path / "sharded")
    assert "its table of contents names" in error.message
    assert not (tmp_path / "ran").exists()


@SAVED_ALONE
def test_damaged_shards(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    model = square_llama()
    optimizer = adamw(model)
    step_by_hand(model, optimizer, steps=1)
    folder = tmp_path / "optimizer_0"
    dcp.save({"optimizer": optimizer.state_dict()}, checkpoint_id=folder, no_dist=True)
    (shard,) = folder.glob("*.distcp")
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    assert "cannot be read" in refused(tmp_path).message
    shard.unlink()
    error = refused(tmp_path)
    assert "No such file" in error.message
    assert ".distcp" in error.hint
    (folder / ".metadata").write_bytes(b"")
    assert "cannot be read" in refused(tmp_path).message


def test_another_model(good: tuple[Path, dict[str, Any]]) -> None:
    error = refused(good[0], square_llama(layers=1))
    assert isinstance(error, ModelError)
    assert "has moments of 34 parameters" in error.message
    error = refused(good[0], with_lora(square_llama()))
    assert "would have" in error.message
    # same count, other shapes
    wide = build_llama(layers=2)
    error = refused(save_state(good[0].with_name("wide"), adamw_state(wide)), gqa_sibling())
    assert "the moment in its place" in error.message


def gqa_sibling() -> Any:
    """build_llama's model with four instead of two key-value heads."""
    from transformers import LlamaForCausalLM

    config = build_llama(layers=2).config
    config.num_key_value_heads = 4
    return LlamaForCausalLM(config)


def adamw_state(model: Any) -> Any:
    optimizer = adamw(model)
    step_by_hand(model, optimizer, steps=1)
    return optimizer.state_dict()


def test_named_state_of_another_model(tmp_path: Path) -> None:
    model = square_llama()
    optimizer = adamw(model)
    step_by_hand(model, optimizer, steps=1)
    live = live_state(model, optimizer)
    checkpoint = save_state(tmp_path, named(live, lambda name: name))
    error = refused(checkpoint, square_llama(layers=1))
    assert "model.layers.1" in error.message
    assert "which LlamaForCausalLM has not" in error.message
    error = refused(checkpoint, square_llama(layers=3))
    assert "but none of model.layers.2" in error.message
    del live["model.norm.weight"]
    checkpoint = save_state(tmp_path / "less", named(live, lambda name: name))
    assert "but none of model.norm.weight" in refused(checkpoint).message
    # what is there can be had
    moments = read_adam_moments(checkpoint, square_llama(), names=["model.layers.0.self_attn.q_proj.weight"])
    assert list(moments.first) == ["model.layers.0.self_attn.q_proj.weight"]
    assert "has no parameter nonsense" in refused(checkpoint, names=["nonsense"]).message
    live["model.layers.0.self_attn.q_proj.weight"]["exp_avg"] = torch.zeros(3, 3)
    checkpoint = save_state(tmp_path / "shape", named(live, lambda name: name))
    assert "32x32 in the model, but its moment" in refused(checkpoint).message
    twice = named(live, lambda name: name)
    twice["state"]["module.model.embed_tokens.weight"] = twice["state"]["model.embed_tokens.weight"]
    checkpoint = save_state(tmp_path / "twice", twice)
    assert "twice" in refused(checkpoint).message


def test_two_ways_that_fit_are_no_way(tmp_path: Path) -> None:
    """Two rules that form groups of the same sizes and shapes, but not of the same parameters."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a_norm = nn.Linear(4, 4, bias=False)
            self.b = TwoRMSNorm()

    class TwoRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 4))

    model = Block()
    optimizer = torch.optim.AdamW([{"params": [model.a_norm.weight]}, {"params": [model.b.weight]}], lr=1e-2)
    for parameter in model.parameters():
        parameter.grad = torch.randn(4, 4)
    optimizer.step()
    error = refused(save_state(tmp_path, optimizer.state_dict()), model)
    assert "in 2 ways" in error.message
    assert "param" in error.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state["state"][0].pop("exp_avg"), "not Adam's state"),
        (lambda state: state["state"][0].update(max_exp_avg_sq=torch.ones(1)), "AMSGrad"),
        (lambda state: state["state"][0]["exp_avg"].fill_(torch.nan), "not finite"),
        (lambda state: state["state"][0]["exp_avg_sq"].fill_(-1), "negative"),
        (lambda state: state["state"].pop(0), "but none of model.embed_tokens.weight"),
        (lambda state: state["state"].clear(), "holds no optimizer state"),
        (lambda state: state.pop("state"), "holds no optimizer state"),
        (lambda state: state.pop("param_groups"), "not their groups"),
        (lambda state: state["param_groups"][0]["params"].pop(), "does not list each parameter once|not list"),
        (lambda state: state["state"].update(name=state["state"][0]), "numbers some parameters and names others"),
        (lambda state: state["param_groups"].append({"params": [], "betas": (0.5, 0.5)}), ""),
        (lambda state: state["param_groups"][0].update(param_names=["a"]), "1 names for"),
    ],
)
def test_states_that_are_not_adams(
    tmp_path: Path, good: tuple[Path, dict[str, Any]], change: Callable[[Any], Any], words: str
) -> None:
    import re

    change(good[1])
    error_or_none: DiqError | None = None
    try:
        read_adam_moments(save_state(tmp_path / "changed", good[1]), square_llama())
    except DiqError as error:
        error_or_none = error
    if words:
        assert error_or_none is not None
        assert re.search(words, error_or_none.message)
        assert "\n" not in error_or_none.message


def test_groups_that_differ(tmp_path: Path) -> None:
    model = square_llama()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": others, "betas": (0.5, 0.9)}], lr=1e-2)
    step_by_hand(model, optimizer, steps=1)
    assert "differ in betas" in refused(save_state(tmp_path, optimizer.state_dict())).message


def test_other_optimizers(tmp_path: Path) -> None:
    model = square_llama()
    for optimizer in (
        torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9),
        torch.optim.Adafactor(model.parameters(), lr=1e-2),
        torch.optim.AdamW(model.parameters(), lr=1e-2, amsgrad=True),
    ):
        step_by_hand(model, optimizer, steps=1)
        folder = save_state(tmp_path / type(optimizer).__name__, optimizer.state_dict())
        assert isinstance(refused(folder), InputError)
    assert "holds no optimizer state but a list" in refused(save_state(tmp_path / "list", [1, 2])).message


def test_the_old_format_of_torch_save(tmp_path: Path, good: tuple[Path, dict[str, Any]]) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    torch.save(good[1], folder / "optimizer.pt", _use_new_zipfile_serialization=False)
    assert_same(read_adam_moments(folder, square_llama()), read_as_live(good[0]))


def test_moments_outlive_their_file(good: tuple[Path, dict[str, Any]]) -> None:
    moments = read_adam_moments(good[0], square_llama())
    before = {name: one.clone() for name, one in moments.first.items()}
    file = good[0] / "optimizer.pt"
    with file.open("r+b") as opened:
        opened.write(b"\0" * file.stat().st_size)
    assert all(torch.equal(one, before[name]) for name, one in moments.first.items())
