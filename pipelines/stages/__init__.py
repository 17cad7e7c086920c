"""Ray Data stages: each reads clip rows and adds columns; only base.py knows Ray."""
