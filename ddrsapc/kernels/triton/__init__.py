"""The Triton kernels. Importing a module of this package imports Triton; `ddrsapc.kernels.ops` does so when it must."""
