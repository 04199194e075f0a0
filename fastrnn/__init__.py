"""fastrnn: torch.nn's recurrent layers on fused kernels."""
