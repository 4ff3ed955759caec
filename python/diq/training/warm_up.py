"""Stage: train a warm-up adapter on a random part of a dataset, for influence at its checkpoints.

LESS (Xia et al. 2024, section 4.1) warms up on 5 % of the data for four epochs, looks at the checkpoint after each, and
weighs each by the mean learning rate of its epoch; TracIn (Pruthi et al. 2020) is the sum over checkpoints.
"""

from __future__ import annotations

from pathlib import Path

from diq.base.config import MAX_LENGTH
from diq.base.errors import RunFailedError
from diq.base.options import verb
from diq.base.text import amount
from diq.selection.select import select
from diq.training.options import WarmUpOptions
from diq.training.output_folder import OutputFolder, checkpoint_step
from diq.training.train import train


@verb(WarmUpOptions)
def warm_up(options: WarmUpOptions) -> list[Path]:
    """Train an adapter on a random part of a dataset; its checkpoints are what ``score_influence`` takes.

    The selection and the training are recorded like any other, and the same call again finds both.

    Returns:
        The checkpoint after each epoch, in order.

    Raises:
        UsageError: the share is out of range, or no sample.
        RunFailedError: the checkpoints are gone.
    """
    name = f"{options.dataset}-warmup-{options.share}"
    made = select(
        options.dataset, strategy="random", ratio=options.share, seed=options.seed, store=options.store_file, name=name
    )
    default = _default_folder(options.store_file, options.model_name or str(options.model), name, options.seed)
    folder = Path(options.output or default)
    trained = train(
        str(made.selection_id),
        model=options.model,
        output=folder,
        store=options.store_file,
        epochs=options.epochs,
        seed=options.seed,
        max_length=options.max_length or MAX_LENGTH,
        template=options.template or "auto",
        chat_template_kwargs=options.chat_template_kwargs,
        turns=options.turns,
        dtype=options.dtype,
        device=options.device,
        devices=options.devices,
        attention=options.attention,
        model_name=options.model_name,
        validation_set=options.validation_set,
        progress=options.progress,
    )
    per_epoch = trained.steps // options.epochs
    found = [one for one in OutputFolder(folder).checkpoints() if checkpoint_step(one) % per_epoch == 0][::-1]
    if len(found) < options.epochs:
        raise RunFailedError(
            f"the warm-up in `{folder}` has {len(found)} of its {amount(options.epochs, 'checkpoint')}",
            "delete the folder, and the same command trains it again",
        )
    return found


def _default_folder(store: Path, model: str, name: str, seed: int) -> Path:
    short = model.rstrip("/").rpartition("/")[2]
    return store.with_suffix(".warmup") / f"{short}-{name}-{seed}"
