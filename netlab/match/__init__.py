"""Does a rule match a packet? The naive evaluator is the reference and the explainer."""
