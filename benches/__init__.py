"""fastrnn's speed against torch.nn and ONNX Runtime, on this machine and with these versions.

    python -m pytest benches                        # everything, a few minutes
    python -m pytest benches --quick                # a rough look
    python -m pytest benches -k "char-lm and lstm"  # a selection
    python -m pytest benches --threads 1 --save one-thread
    python -m pytest benches --benchmark-disable    # verify only, time nothing
    python -m benches.report benches/results/one-thread.json --markdown

A case is first verified (``verify.py``) and only then timed (``timing.py``); a wrong result fails and is never timed.
Every run writes ``benches/out/latest.json`` and ``.png``; ``--save NAME`` writes ``benches/results/NAME`` instead.
"""
