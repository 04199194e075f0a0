"""fastrnn's speed against torch.nn, ONNX Runtime and OpenVINO, on this machine and with these versions.

    python -m pytest benches                        # everything, a few minutes
    python -m pytest benches --quick                # a rough look
    python -m pytest benches -k "char-lm and lstm"  # a selection
    python -m pytest benches --threads 1 --save one-thread
    python -m pytest benches --benchmark-disable    # verify only, time nothing
    python -m benches.report benches/results/one-thread.json --markdown

A case is first verified and only then timed (``fastrnn/bench``); a wrong result fails and is never timed.
Peers that are not installed are left out; OpenVINO multiplies bfloat16 where a case does. A case whose id ends in
``as-bf16`` has float32 tensors under PyTorch's switch ``torch.backends.mkldnn.rnn.fp32_precision``, and is timed
against fastrnn's own float32 too. The machine's limit is what a register tile reaches from L1 (``limits.py``).

Every run writes ``benches/out/latest.json`` and ``.png``; ``--save NAME`` writes ``benches/results/NAME`` instead.
"""
