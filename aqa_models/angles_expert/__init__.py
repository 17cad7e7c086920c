"""The angles expert: kernels and a small network on body-frame angles, one model for all exercises."""
