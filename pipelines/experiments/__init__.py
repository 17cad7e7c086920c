"""The tables of the two-stage paper: rows over subject splits, beside the paper's figures and floors."""
