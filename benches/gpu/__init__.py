"""fastrnn on a GPU: are its results right, what does a barrier cost, how fast is it beside torch.nn on cuDNN.

    make gpu                                           # everything, under nine minutes on an H100
    make gpu ARGS="--part checks --only gru"           # a selection
    python -m benches.gpu.report                       # tables and picture of the results in benches/results

It runs from a checkout, with nothing but PyTorch, Triton and NumPy installed.
"""
