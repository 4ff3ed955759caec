"""The paper's formulas of training and inference (Eq. 7-9)."""

from __future__ import annotations

# the paper's formulas ------------------------------------------------------------------------------------------------


def paper_training(*, layers: int, hidden: int, tokens: float, samples: float, epochs: float) -> float:
    """FLOPs of full fine-tuning by Eq. 7: ``6 L H^2 T |D| E``.

    Args:
        layers: L.
        hidden: H.
        tokens: T, of a sample.
        samples: |D|.
        epochs: E.

    Source: arXiv 2508.01450, appendix F.
    """
    return 6 * layers * hidden**2 * tokens * samples * epochs


def paper_inference(*, layers: int, hidden: int, tokens: float, samples: float) -> float:
    """FLOPs of inference by Eq. 8: ``2 L H^2 T |D|``; arguments as for Eq. 7."""
    return 2 * layers * hidden**2 * tokens * samples


def paper_lora(
    *, layers: int, hidden: int, tokens: float, samples: float, epochs: float, matrices: int = 3, rank: int = 8
) -> float:
    """FLOPs of LoRA fine-tuning by Eq. 9: ``12 k L H r T |D| E``.

    This is what the adapters' own matrices cost (six times their weights), without the frozen model that they sit in.

    Args:
        layers: L.
        hidden: H.
        tokens: T, of a sample.
        samples: |D|.
        epochs: E.
        matrices: k, adapted matrices a layer.
        rank: r.
    """
    return 12 * matrices * layers * hidden * rank * tokens * samples * epochs
