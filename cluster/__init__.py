"""Where the work runs: connecting to Ray and submitting jobs. No science."""
