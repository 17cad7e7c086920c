"""HP-MCoRe: hierarchical pose-guided multi-stage contrastive regression (Qi et al., arXiv 2501.03674)."""
