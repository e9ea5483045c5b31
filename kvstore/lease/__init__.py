"""Leases: keys that live as long as somebody renews them. Knows nothing of revisions."""
