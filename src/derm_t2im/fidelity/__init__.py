"""How good, varied and original a synthetic set is: one metric a file, arrays in, numbers out."""
