"""Two-stage self-supervised motion assessment (Nekoui & Cheng, BMVC 2021)."""
