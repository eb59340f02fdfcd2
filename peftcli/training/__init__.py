"""From an attached delta to a trained one: steps, measurements, checkpoints, proofs."""
