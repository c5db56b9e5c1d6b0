"""Learned priors against their competitors: one set of scans for all, tuned alike on validation subjects."""
