"""The comparison of losses behind ``scripts/reproduce.py``: what is trained, measured, tabulated and drawn.

A *row* is a loss or a variant, as in the paper's tables; a *cell* is one training of a row with one β and one seed.
"""
