"""Random projections and fused dots: the slow obvious form beside the fast ones.

``reference`` defines every result in numpy and float64; ``projections`` and ``dots`` are what the rest of diq calls and
choose between the Rust core (CPU), Triton and plain torch. ``docs/projections.md`` defines the random matrices.
"""
