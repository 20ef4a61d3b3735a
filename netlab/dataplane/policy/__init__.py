"""Network policy: what policies say (semantics.py), apart from any rules that a policy engine renders from them."""
