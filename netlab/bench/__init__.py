"""What a lookup costs: the model counts, the kernel is measured, and a formula fitted to yardsticks stands between them."""
